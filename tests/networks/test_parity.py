"""Our network computes what the authors' implementation of 3DSAM-adapter computes, number by number.

The reference values (tests/data/parity) come from the authors' code, with weights made by a formula (parity_state).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clicking import clicked
from parity_state import state_from_manifest, volume
from torch import Tensor

from adapters.checkpoints import load_published
from adapters.networks import BACKBONES, ImageFeatures, SAMAdapter3D
from adapters.networks.description import describe_network

PARITY = Path(__file__).resolve().parents[1] / "data" / "parity"
TOLERANCE = 1e-5  # 2-norm of the difference over the 2-norm of the reference, float32


class Case:
    """One network, its input and the authors' numbers for it."""

    def __init__(self, name: str, **settings: Any) -> None:
        manifest = PARITY / f"{name}.json"
        self.config = json.loads(manifest.read_text())["config"]
        self.reference = dict(np.load(PARITY / f"{name}.npz"))
        self.checkpoint = state_from_manifest(manifest)
        self.network: SAMAdapter3D = load_published(self.checkpoint, **settings)
        self.image = volume(self.config["crop"], int(self.reference["seed"]))
        with torch.no_grad():
            self.features: ImageFeatures = self.network.encode(self.image)

    def error(self, ours: Tensor, name: str) -> float:
        theirs = torch.from_numpy(self.reference[name])
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype == torch.float32
        return float((ours - theirs).norm() / theirs.norm())

    def clicks(self, name: str) -> tuple[Tensor, Tensor]:
        clicks = torch.from_numpy(self.reference[f"{name}.clicks_dhw"])[None]
        return clicks, torch.ones(clicks.shape[:2], dtype=torch.long)

    @torch.no_grad()
    def prompted(self, name: str) -> Tensor:
        return self.network.prompt_head(self.features.levels[-1], *self.clicks(name), self.image.shape[2:])

    @torch.no_grad()
    def logits(self, name: str) -> Tensor:
        prompts = None if name == "auto" else clicked(*self.clicks(name))
        return self.network.logits(self.features, self.image, prompts)


@pytest.fixture(scope="module")
def small() -> Case:
    return Case("small", window_size=4, prompt_heads=4)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_small_features(small: Case, level: int) -> None:
    assert small.error(small.features.levels[level - 1], f"level{level}") <= TOLERANCE


@pytest.mark.parametrize("case", ["one_click", "three_clicks", "ten_clicks"])
def test_small_prompted_feature(small: Case, case: str) -> None:
    assert small.error(small.prompted(case), f"{case}.prompted") <= TOLERANCE


@pytest.mark.parametrize("case", ["auto", "one_click", "three_clicks", "ten_clicks"])
def test_small_logits(small: Case, case: str) -> None:
    assert small.error(small.logits(case), f"{case}.logits") <= TOLERANCE


def test_small_with_gradients_recorded(small: Case) -> None:
    """Training takes another path through the attention (all windows at once) than inference."""
    logits = small.network(small.image, clicked(*small.clicks("three_clicks")))
    assert logits.requires_grad
    assert small.error(logits.detach(), "three_clicks.logits") <= TOLERANCE


def test_small_in_a_batch_with_padding(small: Case) -> None:
    """Items of a batch with different numbers of clicks are as if they were alone."""
    one, three = small.clicks("one_click")[0], small.clicks("three_clicks")[0]
    clicks = torch.cat([torch.cat([one, torch.zeros(1, 2, 3)], dim=1), three])
    labels = torch.tensor([[1, -1, -1], [1, 1, 1]])
    with torch.no_grad():
        logits = small.network(small.image.expand(2, -1, -1, -1, -1), clicked(clicks, labels))
    assert small.error(logits[:1], "one_click.logits") <= TOLERANCE
    assert small.error(logits[1:], "three_clicks.logits") <= TOLERANCE


def test_what_we_added_changes_no_bit(small: Case) -> None:
    """Label embedding and correction prompt at their start: the very same logits as without them."""
    network, (clicks, labels) = small.network, small.clicks("three_clicks")
    correction = network.mask_decoder.correction
    embedding = network.prompt_head.label_embed.weight
    assert not embedding[1].any()
    assert embedding[0].any()  # a click off the lesion matters from the start
    with_all = small.logits("three_clicks")
    try:
        network.mask_decoder.correction = None
        without = small.logits("three_clicks")
    finally:
        network.mask_decoder.correction = correction
    assert torch.equal(with_all, without)
    with torch.no_grad():
        mask = torch.randn_like(small.image)
        assert torch.equal(network.logits(small.features, small.image, clicked(clicks, labels, mask)), with_all)
        assert not torch.equal(network.logits(small.features, small.image, clicked(clicks, 1 - labels)), with_all)


def test_decode_gives_the_lesions_log_odds(small: Case) -> None:
    """Lesion less background, of the published logits."""
    with torch.no_grad():
        decoded = small.network.decode(small.features, small.image, clicked(*small.clicks("one_click")))
    theirs = torch.from_numpy(small.reference["one_click.logits"])
    assert decoded.shape == (1, 1, *small.image.shape[2:])
    torch.testing.assert_close(decoded, theirs[:, 1:] - theirs[:, :1], rtol=0, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"window_size": 8, "prompt_heads": 4}, id="windows"),
        pytest.param({"window_size": 4, "prompt_heads": 8}, id="prompt heads"),
    ],
)
def test_the_comparison_notices_a_wrong_setting(small: Case, wrong: dict[str, int]) -> None:
    network = load_published(small.checkpoint, **wrong)
    with torch.no_grad():
        logits = network(small.image, clicked(*small.clicks("three_clicks")))
    assert small.error(logits, "three_clicks.logits") > 100 * TOLERANCE


@pytest.fixture(scope="module")
def vit_b() -> Case:
    return Case("vit_b")


def _feature(tensor: Tensor) -> Tensor:
    return tensor[:, ::8, ::4, ::4, ::4]


def _logits(tensor: Tensor) -> Tensor:
    return tensor[:, :, ::8, ::8, ::8]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compute", "name"),
    [
        *((lambda c, i=i: _feature(c.features.levels[i]), f"level{i + 1}") for i in range(4)),
        *(
            pair
            for case in ("one_click", "ten_clicks")
            for pair in (
                (lambda c, case=case: _feature(c.prompted(case)), f"{case}.prompted"),
                (lambda c, case=case: _logits(c.logits(case)), f"{case}.logits"),
            )
        ),
    ],
)
def test_vit_b(vit_b: Case, compute: Callable[[Case], Tensor], name: str) -> None:
    assert vit_b.error(compute(vit_b), name) <= TOLERANCE


@pytest.mark.slow
def test_vit_b_is_recognised(vit_b: Case) -> None:
    described = describe_network(vit_b.network)
    encoder = described["parts"]["image_encoder"]
    assert described["backbone"] == "vit_b"
    assert {**BACKBONES["vit_b"].sizes, "global_blocks": [2, 5, 8, 11]}.items() <= encoder.items()
    assert (encoder["crop_size"], encoder["enlargement"], encoder["levels"]) == (vit_b.config["crop"], 4, 4)
