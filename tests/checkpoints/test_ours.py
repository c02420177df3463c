"""Our files: bit for bit through a round trip, and never into a network that they are not of."""

from __future__ import annotations

import copy
import io
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from clicking import clicked
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_sam import SMALL_SAM, make_sam, same, snapshot
from torch import Tensor, nn

from adapters.checkpoints import load_adapter, load_model, load_sam, load_weights, save_adapter, save_model
from adapters.networks import FAMILIES, Family, PromptableNetwork, SAMAdapter3D, build_sam_adapter3d
from adapters.networks.description import METADATA_KEY, describe_network

State = dict[str, Tensor]


def randomised(network: SAMAdapter3D, *, trained_only: bool = False) -> SAMAdapter3D:
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad or not trained_only:
                parameter.normal_()
    return network


def small(**overrides: Any) -> SAMAdapter3D:
    return build_sam_adapter3d(SMALL_SAM, **{"crop_size": 16, **overrides})


# -- model.pt ---------------------------------------------------------------------------------------------------


def test_round_trip(tmp_path: Path, network: SAMAdapter3D) -> None:
    randomised(network)
    path = save_model(network, tmp_path / "model.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]
    other = small()
    assert load_model(path, other) is other
    assert same(network.state_dict(), other.state_dict())
    built = load_model(str(path))
    assert same(network.state_dict(), built.state_dict())
    assert describe_network(built) == describe_network(network)
    assert not built.training


def test_prompted_levels_are_rebuilt(tmp_path: Path, network: SAMAdapter3D) -> None:
    made = randomised(small(prompt_head={"prompt_levels": [1, 3, 4]}))
    path = save_model(made, tmp_path / "model.pt")
    built = load_model(path)
    assert list(built.prompt_head.shallower) == ["1", "3"]
    assert same(made.state_dict(), built.state_dict())
    with pytest.raises(
        ValueError, match=r"made with prompt_head\.prompt_levels=\[1, 3, 4\], but the network has .*=\[4\]:"
    ):
        load_model(path, network)


def test_any_number_of_prompt_layers_is_rebuilt(tmp_path: Path) -> None:
    made = randomised(small(prompt_head={"num_layers": 3}))
    built = load_model(save_model(made, tmp_path / "model.pt"))
    assert len(built.prompt_head.layers) == 3
    assert same(made.state_dict(), built.state_dict())


def test_the_file_is_a_plain_state_dict(tmp_path: Path, network: SAMAdapter3D) -> None:
    """As MONAI reads it: names and tensors only, strictly into the network."""
    randomised(network)
    state = torch.load(save_model(network, tmp_path / "model.pt"), weights_only=True)
    assert list(state) == list(network.state_dict())
    assert all(isinstance(tensor, Tensor) for tensor in state.values())
    fresh = small()
    assert str(fresh.load_state_dict(state, strict=True)) == "<All keys matched successfully>"
    assert same(fresh.state_dict(), network.state_dict())


def test_any_way_of_saving_carries_the_description(network: SAMAdapter3D) -> None:
    """A checkpoint written by Ignite or by hand, from a copy or inside a wrapper, is checked as well."""
    for wrap in (lambda n: n, copy.deepcopy, nn.Sequential):
        buffer = io.BytesIO()
        torch.save(wrap(network).state_dict(), buffer)
        buffer.seek(0)
        state = torch.load(buffer, weights_only=True)
        target = wrap(build_sam_adapter3d("tiny", crop_size=16))
        with pytest.raises(ValueError, match=r"variant custom \(width 32.*but the network is of variant tiny"):
            target.load_state_dict(state)


def test_variant_with_other_settings_is_rebuilt(tmp_path: Path) -> None:
    made = randomised(
        build_sam_adapter3d(
            "tiny",
            crop_size=32,
            enlargement=2,
            image_encoder={"window_size": 2},
            prompt_head={"num_heads": 2, "num_queries": 5},
            mask_decoder={"correction": False},
        )
    )
    built = load_model(save_model(made, tmp_path / "model.pt"))
    assert describe_network(built) == describe_network(made)
    assert describe_network(made)["backbone"] == "tiny"
    assert same(made.state_dict(), built.state_dict())
    image, clicks = torch.randn(1, 1, 32, 32, 32), torch.tensor([[[3.0, 9.0, 20.0]]])
    with torch.no_grad():
        assert torch.equal(built(image, clicked(clicks)), made.eval()(image, clicked(clicks)))


@pytest.mark.parametrize("decoder", [{}, {"correction_channels": 5}])
def test_a_variant_is_rebuilt(tmp_path: Path, decoder: dict[str, Any]) -> None:
    made = randomised(build_sam_adapter3d("tiny", crop_size=16, mask_decoder=decoder))
    built = load_model(save_model(made, tmp_path / "model.pt"))
    assert describe_network(built) == describe_network(made)
    assert same(made.state_dict(), built.state_dict())


def test_a_dictionary_built_anew_goes_into_a_network_of_its_shapes(tmp_path: Path, network: SAMAdapter3D) -> None:
    torch.save(OrderedDict(network.state_dict().items()), tmp_path / "small.pt")
    assert same(load_model(tmp_path / "small.pt", small()).state_dict(), network.state_dict())
    with pytest.raises(
        ValueError, match=r"small\.pt does not say what network it is of: build the network and pass it"
    ):
        load_model(tmp_path / "small.pt")
    with pytest.raises(ValueError, match=r"lacks tensors image_encoder\.blocks\.4\."):
        load_model(tmp_path / "small.pt", build_sam_adapter3d("tiny", crop_size=32))


OTHERS: dict[str, tuple[Callable[[], SAMAdapter3D], str]] = {
    "variant": (
        lambda: build_sam_adapter3d("tiny", crop_size=16),
        r"model\.pt holds weights of variant custom \(width 32, 4 blocks, 2 heads\), but the network is of variant tin",
    ),
    "windows": (
        lambda: small(image_encoder={"window_size": 4}),
        r"made with image_encoder\.window_size=2, but the network has image_encoder\.window_size=4: build the n",
    ),
    "prompt heads": (lambda: small(prompt_head={"num_heads": 4}), r"prompt_head\.num_heads=2, but .*num_heads=4"),
    "crop": (lambda: small(crop_size=32), r"crop_size=16, but the network has image_encoder\.crop_size=32: build the"),
    "enlargement": (lambda: small(crop_size=32, enlargement=2), r"enlargement=4, but .* image_encoder\.enlargement=2"),
    "heads": (lambda: small(image_encoder={"num_heads": 4}), r"2 heads\), but the network is .* 4 heads\): build"),
    "queries": (lambda: small(prompt_head={"num_queries": 3}), r"prompt_head\.num_queries=10, but .*num_queries=3"),
    "no correction": (
        lambda: small(mask_decoder={"correction": False}),
        r"mask_decoder\.correction=True, but .*=False",
    ),
    "correction": (lambda: small(mask_decoder={"correction_channels": 5}), "correction_channels=16, but .*channels=5"),
    "two": (
        lambda: small(image_encoder={"window_size": 4}, mask_decoder={"correction_channels": 5}),
        r"window_size=2, mask_decoder\.correction_channels=16, but the network has image_encoder\.window_size=4, m",
    ),
}


@pytest.mark.parametrize(("build", "message"), OTHERS.values(), ids=OTHERS)
def test_another_network_is_refused_and_left_alone(
    tmp_path: Path, network: SAMAdapter3D, build: Callable[[], SAMAdapter3D], message: str
) -> None:
    path = save_model(network, tmp_path / "model.pt")
    other = build()
    before = snapshot(other)
    with pytest.raises(ValueError, match=message):
        load_model(path, other)
    assert same(before, other.state_dict())


@pytest.mark.parametrize("given", [True, False], ids=["into a network", "alone"])
def test_a_later_format_is_refused(tmp_path: Path, network: SAMAdapter3D, given: bool) -> None:
    """Whatever else it says."""
    state = network.state_dict()
    state._metadata[""][METADATA_KEY] = json.dumps({"format_version": 3, "network": "of the future"})
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="format version 3, this library reads up to 2: update monai-sam-adapters"):
        load_model(tmp_path / "model.pt", network if given else None)
    with pytest.raises(ValueError, match="the state dict has format version 3"):
        network.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=False)


def _changed(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(description: dict[str, Any]) -> None:
        for key in path[:-1]:
            description = description[key]
        description[path[-1]] = value

    return change


ABSURD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "family": (_changed("family", value="sam9"), "cannot be made: the family 'sam9' is unknown, expected one of"),
    "depth": (_changed("parts", "image_encoder", "depth", value=4 * 10**6), "a network of more tensors than there are"),
    "width": (_changed("parts", "image_encoder", "embed_dim", value=2 * 10**9), "(lacks|has shape|cannot be made)"),
    "beyond": (_changed("parts", "prompt_head", "mlp_dim", value=10**30), "cannot be made"),
    "negative": (_changed("parts", "prompt_head", "mlp_dim", value=-1), "cannot be made"),
    "other sizes": (
        _changed("parts", "mask_decoder", "channels", value=16),
        r"has shape .*: expected \(16, 16, 3, 3, 3",
    ),
    "a word": (_changed("parts", "image_encoder", "depth", value="four"), "cannot be made"),
    "an argument of the future": (
        _changed("parts", "image_encoder", "rotary", value=True),
        "unexpected keyword argument 'rotary'.*: update monai-sam-adapters",
    ),
    "no parts": (lambda d: d.pop("parts"), "in its metadata what network it is of, but not in a form .*KeyError"),
    "parts of another kind": (_changed("parts", "image_encoder", value=3), "not in a form that this library knows"),
    "a part of the user's own": (
        _changed("parts", "prompt_head", value=None),
        "how to make its prompt_head: build the n",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), ABSURD.values(), ids=ABSURD)
def test_what_a_file_says_is_checked_before_anything_is_made(
    tmp_path: Path, network: SAMAdapter3D, spoil: Callable[[dict[str, Any]], Any], message: str
) -> None:
    state = network.state_dict()
    description = describe_network(network)
    spoil(description)
    state._metadata[""][METADATA_KEY] = json.dumps(description)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "metadata",
    [
        "none",
        {"": 3},
        *(
            {"": {METADATA_KEY: text}}
            for text in (
                5,
                "5",
                "[]",
                "{",
                "{}",
                "[" * 100_000,
                '{"format_version": "two"}',
                '{"format_version": 1e400}',
            )
        ),
        *(
            {
                "": {
                    METADATA_KEY: json.dumps(
                        {"format_version": 2, "family": "samadapter3d", "arguments": {}, **changes}
                    )
                }
            }
            for changes in (
                {"backbone": [], "parts": {}},
                {"family": {}, "backbone": None, "parts": {}},
                {"backbone": "custom", "parts": {"image_encoder": {"depth": 1}}},
                {"backbone": None, "parts": [1]},
                {"backbone": None, "parts": {}, "arguments": 3},
            )
        ),
        {"": {"sam_adapter3d": {"format_version": 1, "sizes": 5}}},
        {"": {"sam_adapter3d": {"format_version": 1, "sizes": {}}}},
    ],
    ids=lambda metadata: str(metadata)[:60],
)
@pytest.mark.parametrize("given", [True, False], ids=["into a network", "alone"])
def test_metadata_of_a_stranger(tmp_path: Path, network: SAMAdapter3D, metadata: Any, given: bool) -> None:
    state = OrderedDict(network.state_dict())
    state._metadata = metadata  # type: ignore[attr-defined]
    torch.save(state, tmp_path / "model.pt")
    said = r"model\.pt (says in its metadata .*, but not in a form|has metadata that no network wrote)"
    with pytest.raises(ValueError, match=said) as caught:
        load_model(tmp_path / "model.pt", network if given else None)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_refused_by_every_reader(tmp_path: Path, network: SAMAdapter3D) -> None:
    """Those of PyTorch's own too, by which MONAI Label and MONAI's handlers load."""
    for number in (torch.nan, torch.inf):
        state = copy.deepcopy(network.state_dict())
        state["mask_decoder.fuse.weight"].view(-1)[0] = number
        torch.save(state, tmp_path / "model.pt")
        before = snapshot(network)
        wrapped = nn.Sequential(network)
        inside = {f"0.{name}": tensor for name, tensor in state.items()}
        for load in (
            lambda: load_model(tmp_path / "model.pt"),
            lambda: load_weights(tmp_path / "model.pt", network),
            lambda: network.load_state_dict(state, strict=False),  # noqa: B023
            lambda: wrapped.load_state_dict(inside),  # noqa: B023
        ):
            with pytest.raises(ValueError, match=r"mask_decoder\.fuse\.weight of .* holds NaN or infinite values"):
                load()
        assert same(before, network.state_dict())


def test_weights_of_a_network_that_is_not_ours(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    other = nn.Linear(2, 2)
    load_weights(tmp_path / "model.pt", other)
    assert torch.equal(other.weight, network.weight)
    for content, message in (
        ({"weight": torch.full((2, 2), torch.nan), "bias": torch.zeros(2)}, "weight of .*model.pt holds NaN"),
        ({"weight": torch.zeros(2, 2)}, "model.pt is of another network: .*Missing key"),
        ([1], "model.pt holds a list: expected a plain state dict"),
    ):
        torch.save(content, tmp_path / "model.pt")
        with pytest.raises(ValueError, match=message):
            load_weights(tmp_path / "model.pt", other)
    with pytest.raises(FileNotFoundError, match=r"the weights .*none.pt do not exist: train the bundle"):
        load_weights(tmp_path / "none.pt", other)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.pop("mask_decoder.fuse.weight"), r"lacks tensor mask_decoder\.fuse\.weight"),
        (lambda s: s.update(new=torch.zeros(1)), "unexpected tensor new"),
        (lambda s: s.update({"mask_decoder.fuse.weight": torch.zeros(2)}), r"has shape \(2,\): expected \(8, 33, 3"),
        (lambda s: s["image_encoder.pos_embed"].fill_(torch.inf), r"pos_embed of .* holds NaN or infinite values"),
    ],
)
def test_bad_tensors(tmp_path: Path, network: SAMAdapter3D, spoil: Callable[[State], Any], message: str) -> None:
    state = copy.deepcopy(network.state_dict())
    spoil(state)
    torch.save(state, tmp_path / "model.pt")
    before = snapshot(network)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "model.pt", network)
    assert same(before, network.state_dict())


def test_incomplete_without_metadata(tmp_path: Path, network: SAMAdapter3D) -> None:
    state = dict(network.state_dict())
    del state["mask_decoder.branches.0.conv1.weight"]
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"lacks tensor mask_decoder\.branches\.0\.conv1\.weight: it is incomplete"):
        load_model(tmp_path / "model.pt", network)


def test_sam_is_no_model(sam_file: Path) -> None:
    with pytest.raises(ValueError, match="no state dict of this library's but SAM's checkpoint: read it with load_sam"):
        load_model(sam_file)


def test_overwriting(tmp_path: Path, network: SAMAdapter3D) -> None:
    path = save_model(network, tmp_path / "model.pt")
    content = path.read_bytes()
    randomised(network)
    with pytest.raises(ValueError, match=r"model\.pt exists already"):
        save_model(network, path, overwrite=False)
    assert path.read_bytes() == content
    save_model(network, path)
    assert same(load_model(path).state_dict(), network.state_dict())


def test_components_of_the_users_own(tmp_path: Path, network: SAMAdapter3D) -> None:
    """Another prompt head: no arguments to tell, so the tensors' shapes decide."""
    network.prompt_head = nn.Linear(3, 3)
    assert describe_network(network)["parts"]["prompt_head"] is None
    path = save_model(network, tmp_path / "model.pt")
    other = small()
    other.prompt_head = nn.Linear(3, 3)
    assert same(load_model(path, other).state_dict(), network.state_dict())
    other.prompt_head = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"prompt_head\.weight of .* has shape \(3, 3\): expected \(2, 3\)"):
        load_model(path, other)


# -- adapter.safetensors ----------------------------------------------------------------------------------------


@pytest.fixture
def trained(sam_file: Path, network: SAMAdapter3D) -> SAMAdapter3D:
    load_sam(sam_file, network)
    return randomised(network, trained_only=True)


def test_adapter_round_trip(tmp_path: Path, sam_file: Path, trained: SAMAdapter3D) -> None:
    path = save_adapter(trained, tmp_path / "adapter.safetensors", sam_file)
    assert same(load_adapter(path, sam_file).state_dict(), trained.state_dict())
    other = small()
    assert load_adapter(path, sam_file, other) is other
    assert same(other.state_dict(), trained.state_dict())


def test_adapter_holds_the_trained_tensors_only(tmp_path: Path, sam_file: Path, trained: SAMAdapter3D) -> None:
    stored = load_file(save_adapter(trained, tmp_path / "adapter.safetensors", sam_file))
    names = {name for name, parameter in trained.named_parameters() if parameter.requires_grad}
    gains = {f"image_encoder.blocks.{i}.attn.rel_pos_gain" for i in range(4)}
    assert set(stored) == names | gains


def test_adapter_needs_its_own_sam(tmp_path: Path, sam_file: Path, trained: SAMAdapter3D) -> None:
    path = save_adapter(trained, tmp_path / "adapter.safetensors", sam_file)
    torch.save(make_sam(seed=1).state_dict(), tmp_path / "other.pth")
    before = snapshot(trained)
    with pytest.raises(ValueError, match=r"needs another SAM file than .*other\.pth: the sha256 .* is .*, expected"):
        load_adapter(path, tmp_path / "other.pth", trained)
    assert same(before, trained.state_dict())
    with pytest.raises(
        ValueError, match=r"differs from .*other\.pth: it started from another SAM file, or was trained"
    ):
        save_adapter(trained, tmp_path / "second.safetensors", tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth does not exist"):
        load_adapter(path, tmp_path / "nowhere.pth")
    assert not (tmp_path / "second.safetensors").exists()


def test_adapter_of_a_fully_trained_network_is_refused(tmp_path: Path, sam_file: Path, trained: SAMAdapter3D) -> None:
    randomised(trained)
    with pytest.raises(ValueError, match=r"trained with trainable='all'; .* or keep all of it with save_model"):
        save_adapter(trained, tmp_path / "adapter.safetensors", sam_file)


def test_adapter_of_another_variant(tmp_path: Path, sam_file: Path, trained: SAMAdapter3D) -> None:
    path = save_adapter(trained, tmp_path / "adapter.safetensors", sam_file)
    with pytest.raises(ValueError, match=r"variant custom \(width 32.* but the network is of variant tiny"):
        load_adapter(path, sam_file, build_sam_adapter3d("tiny", crop_size=16))


def test_truncated_and_foreign_adapters(tmp_path: Path, sam_file: Path, trained: SAMAdapter3D) -> None:
    path = save_adapter(trained, tmp_path / "adapter.safetensors", sam_file)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="it is truncated or no safetensors file"):
        load_adapter(path, sam_file)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="is a safetensors file but no adapter: expected one that save_adapter wrote"):
        load_adapter(path, sam_file)


def test_the_number_of_levels_is_kept_and_checked(tmp_path: Path) -> None:
    made = build_sam_adapter3d(replace(SMALL_SAM, levels=2), crop_size=16)
    path = save_model(made, tmp_path / "model.pt")
    loaded = load_model(path)
    assert len(loaded.image_encoder.necks) == 2
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(image), made.eval()(image))
    with pytest.raises(ValueError, match=r"image_encoder\.levels=2, mask_decoder\.levels=2, but the network has"):
        small().load_state_dict(made.state_dict())


@pytest.mark.parametrize(
    ("arguments", "equal"),
    [
        ({"global_blocks": (1, 9)}, {"global_blocks": [1]}),
        ({"global_blocks": (0, 1, 2, 3)}, {"global_blocks": [], "sam_window": 8}),
        ({"sam_window": 8}, {"global_blocks": [], "sam_window": 8}),
        ({"recompute": True}, {}),
    ],
)
def test_encoders_that_are_the_same_say_the_same(arguments: dict[str, Any], equal: dict[str, Any]) -> None:
    one, other = small(image_encoder=arguments, crop_size=(16, 32, 32)), small(image_encoder=equal)
    assert describe_network(one) == describe_network(other)
    other.load_state_dict(one.state_dict())


# -- files that 0.1 wrote -----------------------------------------------------------------------------------------

VERSION_1: dict[str, Any] = {
    "format_version": 1,
    "variant": "custom",
    "sizes": {
        "embed_dim": 32, "depth": 4, "num_heads": 2, "global_blocks": [1], "table_size": 8, "sam_window": 4,
        "out_channels": 16, "prompt_mlp_dim": 32, "head_channels": 8, "window_size": 2, "prompt_heads": 2,
        "correction_channels": 16,
    },
    "crop_size": 16,
    "enlargement": 4,
    "correction": True,
}  # fmt: skip
"""What 0.1 wrote of the small network."""


def version_1(network: SAMAdapter3D, **changes: Any) -> State:
    state = network.state_dict()
    metadata = state._metadata[""]  # type: ignore[attr-defined]
    del metadata[METADATA_KEY]
    sizes = VERSION_1["sizes"] | changes.pop("sizes", {})
    metadata["sam_adapter3d"] = VERSION_1 | {"sizes": sizes} | changes
    return state


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ({}, {}),
        ({"prompt_head": {"num_queries": 5, "prompt_levels": (4, 1, 3)}}, {}),
        ({"prompt_head": {"num_layers": 3}}, {}),  # which 0.1 wrote and could not read
        ({"image_encoder": {"levels": 2}, "mask_decoder": {"levels": 2}}, {"sizes": {"levels": 2}}),
        ({"mask_decoder": {"correction": False}}, {"correction": False}),
        ({"crop_size": 32, "enlargement": 2}, {"crop_size": 32, "enlargement": 2}),
    ],
)
def test_a_file_of_version_1(tmp_path: Path, arguments: dict[str, Any], changes: dict[str, Any]) -> None:
    made = randomised(small(**arguments))
    torch.save(version_1(made, **changes), tmp_path / "model.pt")
    built = load_model(tmp_path / "model.pt")
    assert describe_network(built) == describe_network(made)
    assert same(built.state_dict(), made.state_dict())
    other = small(**arguments)
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert same(other.state_dict(), made.state_dict())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"window_size": 4},
            r"made with image_encoder\.window_size=4, but the network has image_encoder\.window_size=2",
        ),
        ({"prompt_heads": 4}, r"made with prompt_head\.num_heads=4, but the network has prompt_head\.num_heads=2"),
        ({"embed_dim": 64}, r"variant custom \(width 64.*, but the network is of variant custom \(width 32"),
    ],
)
def test_a_file_of_version_1_keeps_its_checks(network: SAMAdapter3D, sizes: dict[str, int], message: str) -> None:
    for strict in (True, False):
        with pytest.raises(ValueError, match=message):
            network.load_state_dict(version_1(small(), sizes=sizes), strict=strict)
    later = version_1(small(), format_version=9)
    with pytest.raises(ValueError, match="format version 9, this library reads up to 2: update"):
        network.load_state_dict(later)


def test_an_adapter_of_version_1(tmp_path: Path, sam_file: Path, trained: SAMAdapter3D) -> None:
    path = save_adapter(trained, tmp_path / "adapter.safetensors", sam_file)
    with safe_open(path, framework="pt") as file:
        sha256 = file.metadata()["sam_sha256"]
    metadata = {"format": "sam_adapter3d", "library_version": "0.1.0", "identity": json.dumps(VERSION_1)}
    save_file(load_file(path), path, {**metadata, "sam_sha256": sha256})
    assert same(load_adapter(path, sam_file).state_dict(), trained.state_dict())


# -- a family that moves in -----------------------------------------------------------------------------------------


class Threshold(PromptableNetwork):
    """A family with arguments and no parts."""

    family = "threshold"
    takes: frozenset[str] = frozenset()

    def __init__(self, width: int = 2, *, sharpness: float = 1.0) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.rows = nn.Parameter(torch.randn(width))

    def encode(self, image: Tensor) -> Tensor:
        return image

    def logits(self, features: Tensor, image: Tensor, prompts: Any = None) -> Tensor:
        return self.sharpness * features - self.rows.sum()


def test_a_family_that_moves_in(tmp_path: Path, network: SAMAdapter3D, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "threshold", Family("for tests", __name__, "Threshold", "Threshold"))
    made = FAMILIES["threshold"].build(3, sharpness=2.5)
    built = load_model(save_model(made, tmp_path / "model.pt"))
    assert isinstance(built, Threshold)
    assert (built.sharpness, built.rows.tolist()) == (2.5, made.rows.tolist())
    with pytest.raises(ValueError, match=r"made with sharpness=2\.5, but the network has sharpness=1\.0"):
        load_model(tmp_path / "model.pt", Threshold(3))
    with pytest.raises(ValueError, match="of the family threshold, but the network is of the family samadapter3d"):
        load_model(tmp_path / "model.pt", network)
    monkeypatch.delitem(FAMILIES, "threshold")
    with pytest.raises(ValueError, match="the family 'threshold' is unknown"):
        load_model(tmp_path / "model.pt")
