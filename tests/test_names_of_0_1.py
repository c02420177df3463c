"""Modules of 0.1 that other programs import keep their names for one more version, and say the new ones."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

from adapters.networks import build_sam_adapter3d
from adapters.prompts.tensors import PromptTensors


@pytest.mark.parametrize(
    ("module", "names", "new"),
    [
        ("adapters.clicks", ["check_affine", "check_points", "move_points"], "adapters.prompts"),
        ("adapters.engines.report", ["html_report"], "adapters.scoring.report"),
    ],
)
def test_the_old_name_says_the_new_one(module: str, names: list[str], new: str) -> None:
    sys.modules.pop(module, None)
    with pytest.warns(DeprecationWarning, match=f"{module} is called {new} since 0.2"):
        old = importlib.import_module(module)
    for name in names:
        assert getattr(old, name) is getattr(importlib.import_module(new), name)


def test_decode_takes_clicks_and_labels() -> None:
    network = build_sam_adapter3d("tiny", 32).eval()
    image, clicks, labels = torch.randn(1, 1, 32, 32, 32), torch.rand(1, 3, 3) * 31, torch.tensor([[1, 0, 1]])
    with torch.no_grad():
        features = network.encode(image)
        with pytest.warns(DeprecationWarning, match=r"logits\(features, image, PromptTensors\(clicks, labels\)\)"):
            old = network.decode(features, image, clicks, labels)
        assert torch.equal(old, network.logits(features, image, PromptTensors(clicks, labels)))
        assert network.decode(features, image, PromptTensors(clicks, labels)).shape == (1, 1, 32, 32, 32)
