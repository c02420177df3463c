"""What all families share: the checks of prompts for 2 and 3 axes, log-odds, and how a family is found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from adapters.networks import FAMILIES, SAMAdapter3D, build_network, check_prompts, log_odds, taken
from adapters.networks.families import build_described
from adapters.prompts.tensors import PromptTensors

CROPS = {2: (16, 24), 3: (16, 24, 20)}
ALL = frozenset({"points", "boxes", "text", "mask"})


def image(axes: int, batch: int = 1) -> Tensor:
    return torch.zeros(batch, 1, *CROPS[axes])


def points(*places: list[float], labels: list[float] | None = None) -> dict[str, Tensor]:
    return {
        "points": torch.tensor([places]) if places else torch.zeros(1, 0, 3),
        "labels": torch.tensor([labels or [1] * len(places)]),
    }


def prompts(axes: int, **kinds: Any) -> PromptTensors:
    return PromptTensors(**{"points": torch.zeros(1, 0, axes), "labels": torch.zeros(1, 0), **kinds})


@pytest.mark.parametrize("axes", [2, 3])
def test_good_prompts_come_back(axes: int) -> None:
    boxes = torch.stack([torch.zeros(2, axes) + torch.tensor([[1.0], [3.5]]), torch.full((2, axes), torch.nan)])[None]
    text, mask = torch.randn(1, 2, 8), torch.randn(1, 1, *CROPS[axes])
    given = PromptTensors(torch.full((1, 2, axes), 3.0), torch.tensor([[1.0, -1.0]]), boxes, text, mask)
    checked = check_prompts(image(axes), given, ALL)
    assert checked is not None
    assert checked.labels.dtype == torch.long
    assert checked.labels.tolist() == [[1, -1]]
    assert all(a is b for a, b in zip(checked[2:], given[2:], strict=True))
    assert torch.equal(checked.points, given.points)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("takes", [ALL, frozenset()], ids=["takes all", "takes none"])
def test_no_prompt_at_all_is_automatic(axes: int, takes: frozenset[str]) -> None:
    nothing = prompts(
        axes,
        points=torch.full((1, 2, axes), 1e6),
        labels=torch.full((1, 2), -1),
        boxes=torch.full((1, 3, 2, axes), torch.nan),
        text=torch.zeros(1, 0, 8),
    )
    for given in (None, prompts(axes), nothing, prompts(axes, boxes=torch.zeros(1, 0, 2, axes))):
        assert check_prompts(image(axes), given, takes) is None


def test_padded_points_beside_a_mask_are_none() -> None:
    given = prompts(3, points=torch.zeros(1, 2, 3), labels=torch.full((1, 2), -1), mask=torch.zeros(1, 1, *CROPS[3]))
    checked = check_prompts(image(3), given, ALL)
    assert checked is not None
    assert checked.points.shape == (1, 0, 3)
    assert checked.mask is not None


BAD: dict[str, tuple[int, dict[str, Any], str]] = {
    "no batch": (3, {"points": torch.zeros(1, 3)}, r"points have shape \(1, 3\): expected \(1, N, 3\)"),
    "another batch": (3, {"points": torch.zeros(2, 1, 3)}, r"points have shape \(2, 1, 3\): expected \(1, N, 3\)"),
    "2D points in 3D": (3, points([1.0, 2.0]), r"points have shape \(1, 1, 2\): expected \(1, N, 3\)"),
    "3D points in 2D": (2, points([1.0, 2.0, 3.0]), r"points have shape \(1, 1, 3\): expected \(1, N, 2\)"),
    "fewer labels": (
        3,
        {"points": torch.zeros(1, 2, 3), "labels": torch.ones(1, 1)},
        r"labels have shape \(1, 1\): expected \(1, 2\), one for each point",
    ),
    "labels without points": (3, {"labels": torch.ones(1, 2)}, r"labels have shape \(1, 2\): expected \(1, 0\)"),
    "before the crop": (
        3,
        points([3.0, -0.75, 5.0]),
        r"point \[3.0, -0.75, 5.0\] lies outside .* \(16, 24, 20\) voxels",
    ),
    "behind the crop": (2, points([3.0, 23.6]), r"outside the crop of \(16, 24\) .* order of its axes, height, width"),
    "in another order": (3, points([20.0, 4.0, 5.0]), "in the order of its axes, depth, height, width"),
    "no number": (3, points([3.0, float("nan"), 5.0]), r"nan, 5.0\] lies outside"),
    "unknown label": (3, points([3.0, 4.0, 5.0], labels=[2]), r"labels hold \[2\]: expected 1, 0, or -1 for padding"),
    "part of a label": (3, points([3.0, 4.0, 5.0], labels=[0.5]), r"labels hold \[0.5\]: expected 1, 0, or -1"),
    "padding other than -1": (3, points([3.0, 4.0, 5.0], labels=[-2]), r"labels hold \[-2\]"),
    "boxes of corners in a row": (2, {"boxes": torch.zeros(1, 1, 4)}, r"boxes .* expected \(1, M, 2, 2\), the lowest"),
    "box upside down": (
        2,
        {"boxes": torch.tensor([[[[5.0, 5.0], [4.0, 9.0]]]])},
        r"box \[\[5.0, 5.0\], \[4.0, 9.0\]\] d",
    ),
    "box beyond": (2, {"boxes": torch.tensor([[[[5.0, 5.0], [4.0, 29.0]]]])}, "not lie in the crop of .*16, 24"),
    "half a padded box": (2, {"boxes": torch.tensor([[[[5.0, 5.0], [9.0, float("nan")]]]])}, "or NaN for padding"),
    "text without a batch": (3, {"text": torch.zeros(2, 8)}, r"text has shape \(2, 8\): expected \(1, T, C\)"),
    "mask without a channel": (
        3,
        {"mask": torch.zeros(1, *CROPS[3])},
        r"mask has shape \(1, 16, 24, 20\): expected \(1, 1, 16, 24, 20\)",
    ),
    "both logits as a mask": (3, {"mask": torch.zeros(1, 2, *CROPS[3])}, "one channel of the lesion's log-odds"),
}


@pytest.mark.parametrize(("axes", "kinds", "message"), BAD.values(), ids=BAD)
def test_bad_prompts(axes: int, kinds: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_prompts(image(axes), prompts(axes, **kinds), ALL)


KINDS: dict[str, Any] = {
    "points": points([3.0, 4.0, 5.0]),
    "boxes": {"boxes": torch.zeros(1, 1, 2, 3)},
    "text": {"text": torch.zeros(1, 1, 8)},
    "mask": {"mask": torch.zeros(1, 1, *CROPS[3])},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_the_network_does_not_take(kind: str) -> None:
    given = prompts(3, **KINDS[kind])
    with pytest.raises(ValueError, match=f"the prompts hold {kind}, the network takes .*: leave them out"):
        check_prompts(image(3), given, ALL - {kind})
    assert check_prompts(image(3), given, frozenset({kind})) is not None
    assert taken(given, ALL - {kind}) is None


def test_what_a_network_takes_is_left() -> None:
    given = prompts(3, **{name: value for kind in KINDS.values() for name, value in kind.items()})
    left = taken(given, frozenset({"boxes", "mask"}))
    assert left is not None
    assert left.points.shape == (1, 0, 3)
    assert left.text is None
    assert left.boxes is given.boxes
    assert left.mask is given.mask
    assert taken(None, ALL) is None


def test_log_odds() -> None:
    logits = torch.randn(2, 2, 4, 4)
    torch.testing.assert_close(log_odds(logits).sigmoid(), logits.softmax(dim=1)[:, 1:])
    assert log_odds(logits[:, :1]) is not None
    assert torch.equal(log_odds(logits[:, :1]), logits[:, :1])
    with pytest.raises(ValueError, match=r"logits have shape \(2, 3, 4, 4\): expected one channel of log-odds, or two"):
        log_odds(torch.zeros(2, 3, 4, 4))
    for spoilt in (torch.tensor([[[torch.nan]]]), torch.full((1, 2, 3), torch.inf)):
        with pytest.raises(ValueError, match="the network gives NaN or infinite values: its weights cannot be right"):
            log_odds(spoilt)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_what_the_table_says(name: str) -> None:
    network = FAMILIES[name].network_class()
    assert network.family == name
    assert callable(FAMILIES[name].build)
    assert len(FAMILIES[name].about) < 100


def test_a_network_by_name() -> None:
    with torch.device("meta"):
        network = build_network("samadapter3d", "vit_b", crop_size=64, mask_decoder={"correction": False})
    assert isinstance(network, SAMAdapter3D)
    assert (network.spatial_dims, network.in_channels, network.takes) == (3, 1, {"points", "mask"})
    assert network.image_encoder.crop_depth == 64
    assert network.mask_decoder.correction is None
    with pytest.raises(ValueError, match="unknown family 'sam': expected one of samadapter3d, click_channels"):
        build_network("sam", "vit_b")


def test_a_description_without_a_part_builds_nothing() -> None:
    description = {"family": "click_channels", "arguments": {}, "parts": {"backbone": None}}
    with pytest.raises(ValueError, match="does not say how to make its backbone: build the network and pass it"):
        build_described(description)
