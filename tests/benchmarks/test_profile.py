"""Where the time goes adds up, and the products are those that the network asks torch for."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from adapters.networks import SAMAdapter3D, build_sam_adapter3d
from tests.benchmarks import where_time_goes
from tests.benchmarks.common import make_image, make_network, make_prompts
from tests.benchmarks.profile import KINDS, flops, measure_floor, measure_profile
from tests.reference import literal

FORMS = ("literal", "fast")
PUBLISHED: dict[str, Any] = {"mask_decoder": {"correction": False}}


def on_meta(variant: str, crop_size: int, **options: Any) -> SAMAdapter3D:
    with torch.device("meta"):
        return build_sam_adapter3d(variant, crop_size, **options)


def nodes(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    path = (*path, tree["name"])
    yield path, tree
    for part in tree["parts"]:
        yield from nodes(part, path)


# --- time


@pytest.fixture(scope="module")
def profiles() -> dict[str, dict[str, Any]]:
    return {form: measure_profile(form, "tiny", 16) for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
def test_all_time_is_in_a_kind_and_in_a_part(form: str, profiles: dict[str, dict[str, Any]]) -> None:
    profile = profiles[form]
    assert tuple(profile["kinds"]) == KINDS
    assert 0 < profile["cores"] < torch.get_num_threads() + 1
    for sums in (profile["kinds"], profile["operators"]):
        assert sum(sums.values()) == pytest.approx(profile["seconds"], rel=1e-6)
    assert profile["tree"]["seconds"] == pytest.approx(profile["seconds"], rel=1e-6)
    for _, node in nodes(profile["tree"]):
        inside = [part["seconds"] for part in node["parts"]]
        assert max(inside, default=0) <= node["seconds"]
        assert sum(inside) + sum(node["kinds"].values()) == pytest.approx(node["seconds"], rel=1e-6)
    by_kind = [kinds for _, node in nodes(profile["tree"]) for kinds in node["kinds"].items()]
    for kind in KINDS:
        assert math.fsum(s for name, s in by_kind if name == kind) == pytest.approx(profile["kinds"][kind])


@pytest.mark.parametrize("form", FORMS)
def test_both_forms_have_the_same_parts(form: str, profiles: dict[str, dict[str, Any]]) -> None:
    parts = {"/".join(path[1:]): node for path, node in nodes(profiles[form]["tree"])}
    assert set(parts) == {
        "",
        "encoder",
        "encoder/patch embedding",
        "encoder/blocks",
        "encoder/blocks/adapters",
        "encoder/blocks/windowed attention",
        "encoder/blocks/MLP",
        "encoder/necks",
        "prompt head",
        "decoder",
    }
    assert {"linear layers", "activations"} <= set(parts["encoder/blocks/MLP"]["kinds"])
    assert {"linear layers", "attention"} <= set(parts["encoder/blocks/windowed attention"]["kinds"])
    assert {"linear layers", "attention"} <= set(parts["prompt head"]["kinds"])
    assert "linear layers" not in parts["encoder/blocks"]["kinds"]
    assert "attention" not in parts["decoder"]["kinds"]


def test_only_the_literal_form_forms_an_attention_matrix(profiles: dict[str, dict[str, Any]]) -> None:
    assert profiles["literal"]["kinds"]["softmax"] > 0
    assert profiles["fast"]["kinds"]["softmax"] == 0


def test_hardly_any_operator_is_of_no_kind(profiles: dict[str, dict[str, Any]]) -> None:
    for profile in profiles.values():
        unknown = profile["kinds"]["other"] - profile["operators"]["between operators"]
        assert unknown < 0.05 * profile["seconds"]


# --- products


class Products(TorchFunctionMode):
    """Counts the operations of all products that our code asks torch for, whatever torch makes of them.

    A product of two numbers that is summed up is two operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is F.scaled_dot_product_attention:
            queries, keys, values = args
            self.operations += 2 * queries.shape[:-1].numel() * keys.shape[-2] * (keys.shape[-1] + values.shape[-1])
        elif function in (F.conv2d, F.conv3d):
            self.operations += 2 * result.numel() * args[1][0].numel()  # (in of a group, ...) of one output channel
        elif function in (F.linear, torch.mm, torch.bmm, Tensor.matmul):
            self.operations += 2 * result.numel() * args[0].shape[-1]
        elif function in (torch.einsum, Tensor.addmm_, Tensor.baddbmm_):
            self.operations += 2 * result.numel() * args[1].shape[-1]
        return result


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("crop_size", [16, 24])  # 24: windows that hang over the tokens
@pytest.mark.parametrize("clicks", [1, 3])
def test_flops_are_those_of_the_products_that_are_asked_for(form: str, crop_size: int, clicks: int) -> None:
    network = make_network("tiny", crop_size, **PUBLISHED).eval().requires_grad_(False)
    image, prompts = make_image(crop_size, 1), make_prompts(crop_size, 1, clicks)
    with torch.no_grad(), Products() as products:
        if form == "literal":
            literal.literal_forward(network, image, prompts.points, prompts.labels)
        else:
            network(image, prompts.points, prompts.labels)
    counted = flops(network, crop_size, form, clicks)
    assert sum(sum(kinds.values()) for kinds in counted.values()) == products.operations


def test_flops_by_hand() -> None:
    network = on_meta("vit_b", 128, **PUBLISHED)
    tokens, fine, taps = 32**3, 64**3, 27
    literal, fast = (flops(network, 128, form) for form in FORMS)
    same = {
        "adapters": {
            "linear layers": 12 * 2 * tokens * 2 * 768 * 384,
            "convolutions": 12 * 2 * tokens * taps * 384,
        },
        "MLP": {"linear layers": 12 * 2 * tokens * 2 * 768 * 3072},
        "necks": {"linear layers": 4 * 2 * tokens * 768 * 256, "convolutions": 4 * 2 * tokens * taps * 256 * 256},
    }
    for counted in (literal, fast):
        assert {part: counted[part] for part in same} == same
        assert counted["windowed attention"]["linear layers"] == 12 * 2 * tokens * 4 * 768 * 768
    # 64 windows of 512 tokens, 12 heads of width 64; the fused product has 24 coordinates more
    relative = 2 * 512 * 24 * 64
    for counted, width in ((literal, 64), (fast, 88)):
        assert counted["windowed attention"]["attention"] == 12 * 64 * 12 * (relative + 4 * 512 * 512 * width)
    assert literal["patch embedding"] == {"convolutions": 2 * 512 * 32 * 32 * 768 * 3 * 256 + 2 * tokens * 768 * 16}
    folding = 2 * 768 * (6 * 16 * 16 + 6 * 16 * 6 + 16 * 6)
    assert fast["patch embedding"] == {"convolutions": 2 * tokens * 768 * 6**3 + folding}
    both = 4 * 2 * tokens * taps * (256 * 128 + 128 * 128) + 2 * fine * taps * 128 * 2
    assert literal["decoder"] == {"convolutions": both + 2 * fine * taps * 513 * 128}
    before = 2 * 128 * tokens * (taps * 128 + taps * 64 + 9 * 4 * 32 + 3 * 8 * 32)
    assert fast["decoder"] == {"convolutions": both + 2 * fine * taps * 128 + 4 * before}


@pytest.mark.parametrize(
    ("crop_size", "options", "message"),
    [
        (16, {}, "has a correction prompt"),
        (16, {**PUBLISHED, "prompt_head": {"prompt_levels": [3, 4]}}, "prompts several levels"),
        (30, PUBLISHED, r"\(30, 30, 30\) does not fit the patches"),
    ],
)
def test_networks_that_are_not_counted(crop_size: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flops(on_meta("tiny", 16, **options), crop_size)


def test_the_floor_is_the_fewest_products_at_the_best_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {
        "linear": iter([{"in": 4.0, "out": 1.0}, {"in": 3.0, "out": 2.0}, {"in": 9.0, "out": 9.0}]),
        "convolution": iter([{"in": 2.0, "out": 5.0}, {"in": 2.0, "out": 5.0}, {"in": 1.0, "out": 6.0}]),
    }
    monkeypatch.setattr(
        "tests.benchmarks.profile.measure_linear", lambda library, *_: {"layers_s": next(seconds[library])}
    )
    measured = measure_floor("tiny", 16)
    block = 2 * 4**3 * 13 * 96 * 96  # a block's linear layers: half down, half up, 3, 1, 4 in, 4 out
    assert measured["gflop_per_s"] == pytest.approx(
        {"linear": block / 4e9, "convolution": block / 6e9, "best": block / 2e9}
    )
    rate = block / 2
    linear = {part: kinds.get("linear layers", 0) / rate for part, kinds in measured["flops"]["fast"].items()}
    outside = linear["prompt head"]
    assert measured["floor_s"]["click"]["linear layers"] == pytest.approx(sum(linear.values()))
    assert measured["floor_s"]["encoder"]["linear layers"] == pytest.approx(sum(linear.values()) - outside)
    fewest = sum(
        min(sum(measured["flops"][form][part].values()) for form in FORMS) for part in measured["flops"]["literal"]
    )
    assert sum(measured["floor_s"]["click"].values()) == pytest.approx(fewest / rate)


# --- the script


def test_tables_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, picture, page = tmp_path / "measured.json", tmp_path / "picture.png", tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- profile -->\nold\n<!-- end of profile -->\n\nText.\n")

    def run(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["where_time_goes", *options])
        where_time_goes.main()
        return capsys.readouterr().out

    monkeypatch.setattr(where_time_goes, "in_fresh_process", lambda measurement, arguments: measurement(**arguments))
    printed = run("--variant", "tiny", "--crop_size", "16", "--output", str(output))
    measured = json.loads(output.read_text())
    of_literal, of_fast = (measured[form]["seconds"] for form in FORMS)
    assert f"| all | {of_literal:.1f} | 100% | {of_fast:.1f} | 100% |" in printed
    assert all(f"\n| {kind} | " in printed for kind in KINDS)
    assert f"| best | {measured['floor']['gflop_per_s']['best']:.0f} |" in printed
    assert "| MLP | linear layers | 0.1 | 0.1 |" in printed
    floor = sum(measured["floor"]["floor_s"]["click"].values())
    assert f"| click: all products | {floor:.1f} | {of_literal / floor:.2f} | " in printed
    assert run("--measured", str(output), "--picture", str(picture), "--page", str(page)) == printed
    tables = f"<!-- profile -->\n\n{printed.strip()}\n\n<!-- end of profile -->"
    assert page.read_text() == f"# Page\n\n{tables}\n\nText.\n"
    assert picture.stat().st_size > 20_000
