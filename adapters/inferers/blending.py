"""Crops put together: overlapping log-odds are blended with weights that fall towards the crops' faces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.data.utils import compute_importance_map

from adapters.inferers.grid import Grid, Window

BACKGROUND_LOG_ODDS = -20.0
"""Log-odds of the lesion where no crop was predicted."""


class PredictedCrop(NamedTuple):
    """A crop's log-odds (1, *window.size) and its window on the grid."""

    window: Window
    log_odds: torch.Tensor


def blending_weights(size: Sequence[int], device: torch.device) -> torch.Tensor:
    """Weights (1, *size), 1 in the middle and falling towards the faces."""
    return compute_importance_map(tuple(size), mode="gaussian", device=device)[None]


def standing(window: Window, crops: Sequence[PredictedCrop], mask: torch.Tensor | None) -> torch.Tensor:
    """The log-odds (1, *window.size) that stand in a window: of crops, else of a mask, else 0 (unknown).

    Args:
        window: on the grid.
        crops: what is predicted, one at least.
        mask: (1, *window.size) log-odds, where there is a mask.
    """
    device = crops[0].log_odds.device
    weights = blending_weights(window.size, device)
    total = torch.zeros((1, *window.size), device=device)
    weight = torch.zeros_like(total)
    for crop in crops:
        if (shared := window.overlap(crop.window)) is None:
            continue
        into, out_of = ((slice(None), *part) for part in shared)
        total[into] += crop.log_odds[out_of] * weights[out_of]
        weight[into] += weights[out_of]
    unknown = torch.zeros_like(total) if mask is None else mask
    return torch.where(weight > 0, total / weight.clamp(min=1e-12), unknown)


def blended(
    grid: Grid, crops: Sequence[PredictedCrop], beside: torch.Tensor, device: torch.device
) -> tuple[torch.Tensor, tuple[slice, ...]]:
    """Crops put together on the scan's grid.

    Args:
        grid: that the crops lie on.
        crops: one at least.
        beside: log-odds, of a shape that expands to (1, *grid.scan_size), where there is no crop.
        device: of the result.

    Returns:
        Log-odds (1, ...) of a box of the scan that holds all crops, and the box.
    """
    if len(crops) == 1:
        values, region = grid.to_scan(crops[0].log_odds, crops[0].window)
        return values.to(device), region
    regions = [grid.footprint(crop.window) for crop in crops]
    low = [min(region[axis].start for region in regions) for axis in range(len(grid.size))]
    high = [max(region[axis].stop for region in regions) for axis in range(len(grid.size))]
    total = torch.zeros((2, *np.subtract(high, low)), device=device)
    for window, log_odds in crops:
        weights = blending_weights(window.size, log_odds.device)
        values, region = grid.to_scan(torch.cat([log_odds * weights, weights]), window)
        inner = tuple(slice(r.start - n, r.stop - n) for r, n in zip(region, low, strict=True))
        total[(slice(None), *inner)] += values.to(device)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    beside = beside.to(device).expand(1, *grid.scan_size)[(slice(None), *box)]
    return torch.where(total[1:] > 0, total[:1] / total[1:].clamp(min=1e-12), beside), box
