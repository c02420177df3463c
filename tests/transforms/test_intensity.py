"""Intensities as the network sees them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, NormalizeIntensityd, ScaleIntensityRanged

from adapters.transforms import WindowIntensityd
from adapters.transforms.intensity import not_hounsfield


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32, torch.float64])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2)], ids=str)
def test_as_two_of_monais_transforms(dtype: torch.dtype, order: tuple[int, ...]) -> None:
    values = torch.arange(-1024, 3072).reshape(1, 8, 16, 32).permute(order).to(dtype)
    scan = MetaTensor(values.clone(), affine=torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0])))
    both = Compose(
        [
            ScaleIntensityRanged("image", -54, 247, -54, 247, clip=True),
            NormalizeIntensityd("image", subtrahend=59.53867, divisor=55.457336),
        ]
    )
    windowed = WindowIntensityd("image", -54, 247, subtrahend=59.53867, divisor=55.457336)({"image": scan})["image"]
    assert isinstance(windowed, MetaTensor)
    assert torch.equal(windowed.affine, scan.affine)
    torch.testing.assert_close(windowed, both({"image": scan})["image"].float(), rtol=1e-6, atol=1e-6)
    assert torch.equal(scan.as_tensor(), values)  # not written into


def test_a_range_of_ones_own() -> None:
    """A window to -1 and 1, of what is no MetaTensor."""
    windowed = WindowIntensityd("image", -160, 240, subtrahend=40, divisor=200)(
        {"image": np.array([-999, -160, 40, 999])}
    )
    assert windowed["image"].tolist() == [-1.0, -1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("low", "high", "divisor", "message"),
    [
        (5, 5, 1, "the window is 5 to 5: expected finite ends, the lower one first"),
        (0, float("nan"), 1, "the window is 0 to nan"),
        (0, 1, 0, "divisor is 0: expected finite numbers, a positive divisor"),
        (0, 1, float("inf"), "divisor is inf"),
    ],
)
def test_refused(low: float, high: float, divisor: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowIntensityd("image", low, high, divisor=divisor)


def _torso(seed: int = 0) -> torch.Tensor:
    """Air, fat, muscle and some bone, with noise, in HU."""
    tissues = torch.tensor([-1000.0, -100.0, 50.0, 900.0])
    chosen = torch.multinomial(torch.tensor([0.4, 0.2, 0.395, 0.005]), 20**3, replacement=True, generator=_rng(seed))
    return (tissues[chosen] + 10 * torch.randn(20**3, generator=_rng(seed))).reshape(1, 20, 20, 20)


def _rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


HU = {
    "a torso": _torso(),
    "whole numbers": _torso().round().to(torch.int16),
    "air cut off": _torso().clamp(min=-200),
    "the window alone": _torso().clamp(-160, 240),
    "padding of -3024": torch.where(torch.rand(20, 20, 20, generator=_rng(1)) < 0.9, -3024.0, _torso()),
    "fat and muscle": _torso()[_torso().abs() < 200],
    "a brain without its skull": 35 + 25 * torch.randn(1000, generator=_rng(2)),
    "a part of a liver": 110 + 14 * torch.randn(1000, generator=_rng(5)),
    "a lung": torch.cat(
        [-850 + 40 * torch.randn(950, generator=_rng(3)), 30 + 20 * torch.randn(50, generator=_rng(4))]
    ),
}
NOT_HU = {
    "0 to 1": (((_torso() + 160) / 400).clamp(0, 1), "lie between 0 and 1, a sliver of the window from -160 to 240 HU"),
    "-1 to 1": ((_torso() / 1000).clamp(-1, 1), "lie between -1 and 0.92"),
    "mean 0, deviation 1": ((_torso() - _torso().mean()) / _torso().std(), "a sliver"),
    "0 to 255": ((_torso() + 160).clamp(0, 400) * 255 / 400, "between 0 and 255, and HU have fat and air below 0"),
    "no offset": (_torso() + 1100, "and HU have fat and air below 0"),
    "no offset, padded": (torch.where(_torso() < -990, -2000.0, _torso() + 1100), "HU have fat and air below 0"),
    "offset twice": (
        _torso() - 1024,
        "nearly all of its values lie below -160 HU, as if an offset had been taken off tw",
    ),
    "MR": (_torso().abs() * 3, "HU have fat and air below 0"),
    "far above": (torch.tensor([-500.0] + [700.0, 1100.0] * 200), "nearly all of its values lie above 240 HU"),
}


@pytest.mark.parametrize("window", [(-160, 240), (-48, 163), (-1000, 200), (-20, 1200)])
@pytest.mark.parametrize("name", HU)
def test_hounsfield_units(name: str, window: tuple[float, float]) -> None:
    assert not_hounsfield(HU[name], window) is None


@pytest.mark.parametrize("name", NOT_HU)
def test_other_units(name: str) -> None:
    values, reason = NOT_HU[name]
    assert reason in (not_hounsfield(values, (-160, 240)) or "")
