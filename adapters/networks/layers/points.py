"""Points on a grid of samples: what lies at them, and maps of them; for n = 2 or 3 axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.networks.layers.tracing import recorded

__all__ = ["click_maps", "sample_centres", "sample_feature"]


def sample_feature(feature: Tensor, points: Tensor, crop_shape: Sequence[int]) -> Tensor:
    """Linear samples of a feature map at points.

    Args:
        feature: (B, C, *grid), covering the whole crop.
        points: (B, N, n) voxel coordinates in the crop, in the order of its axes, centres at integers.
        crop_shape: voxels of the crop along each axis.

    Returns:
        (B, N, C).
    """
    size = torch.as_tensor(crop_shape, dtype=feature.dtype, device=feature.device)
    # grid_sample takes the axes in reverse, x first, and one axis of samples for each of the feature's
    grid = (2.0 * (points.to(feature.dtype) + 0.5) / size - 1.0).flip(-1)
    grid = grid.view(*grid.shape[:2], *[1] * (len(crop_shape) - 1), len(crop_shape))
    return F.grid_sample(feature, grid, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)


def sample_centres(shape: Sequence[int], grid: Sequence[int], like: Tensor) -> list[Tensor]:
    """For each axis the centres (grid,) of the samples of a grid that covers a crop, in voxels of the crop.

    Args:
        shape: voxels of the crop along each axis.
        grid: samples along each axis.
        like: a tensor of the device and type that the result shall have.
    """
    return [
        (torch.arange(samples, device=like.device, dtype=like.dtype) + 0.5) * (voxels / samples) - 0.5
        for voxels, samples in zip(shape, grid, strict=True)
    ]


def click_maps(clicks: Tensor, labels: Tensor, shape: Sequence[int], grid: Sequence[int], sigma: float) -> Tensor:
    """Gaussian bumps round the clicks on and off the lesion.

    Args:
        clicks: (B, N, n) voxel coordinates in the crop, in the order of its axes, centres at integers.
        labels: (B, N): 1, 0, or -1 for padding.
        shape: voxels of the crop along each axis.
        grid: samples of the map along each axis; it covers the crop.
        sigma: standard deviation, in crop voxels.

    Returns:
        (B, 2, *grid): the highest bump at each place of the clicks with label 1, then with label 0.
    """
    profiles = [
        torch.exp(-0.5 * ((clicks[:, :, axis, None] - centres) / sigma) ** 2)
        for axis, centres in enumerate(sample_centres(shape, grid, clicks))
    ]

    def bumps(weight: Tensor, number: slice) -> Tensor:
        """(B, n, *grid) of the clicks with these numbers, each times its weight (B, n)."""
        bump = weight
        for axis, profile in enumerate(profiles):
            bump = bump[..., None] * profile[:, number].view(*weight.shape, *[1] * axis, -1)
        return bump

    maps = []
    for label in (1, 0):
        weight = (labels == label).to(clicks.dtype)
        if recorded():
            maps.append(bumps(weight, slice(None)).amax(dim=1))
            continue
        highest = clicks.new_zeros(clicks.shape[0], *grid)
        for n in range(clicks.shape[1]):  # one at a time, for the memory's sake
            highest = torch.maximum(highest, bumps(weight[:, n : n + 1], slice(n, n + 1))[:, 0])
        maps.append(highest)
    return torch.stack(maps, dim=1)
