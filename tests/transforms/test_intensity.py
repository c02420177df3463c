"""Intensities as the network sees them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, NormalizeIntensityd, ScaleIntensityRanged

from adapters.transforms import WindowIntensityd


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
