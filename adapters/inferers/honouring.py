"""The last word is the user's: the voxel under a click on the lesion is in the mask, that under one off it is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from adapters.inferers.blending import BACKGROUND_LOG_ODDS
from adapters.inferers.inputs import half_precision
from adapters.prompts.coordinates import ON_LESION

__all__ = ["honour", "standing_clicks"]

RADIUS = 3.0
"""Voxels of the network's grid within which a click that the network goes against changes the log-odds."""
_CERTAIN = -BACKGROUND_LOG_ODDS
_ON_VOXEL = 1e-3  # voxels


def standing_clicks(clicked: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which clicks no later one on the same voxel speaks against.

    Args:
        clicked: (N, n) centres of the clicked voxels.
        labels: (N,) of the clicks in their order.

    Returns:
        (N,) bool.
    """
    places = [tuple(place) for place in np.round(clicked, 3).tolist()]
    last = dict(zip(places, labels.tolist(), strict=True))
    return np.array([last[place] == label for place, label in zip(places, labels.tolist(), strict=True)], dtype=bool)


def honour(
    log_odds: torch.Tensor, clicked: np.ndarray, labels: np.ndarray, ratio: Sequence[float], threshold: float
) -> None:
    """Change the log-odds where they go against a click, smoothly, and make the voxels under all clicks certain.

    Round a click on the wrong side of the threshold the log-odds are raised, or lowered, by a bump that falls to zero
    within `RADIUS` or, where it is nearer, at the next click of the other label. What the network is sure of gives way
    for half of that radius, what it doubts for nearly all of it.

    Args:
        log_odds: (1, *size) float16 on the scan's grid; changed in place.
        clicked: (N, n) centres of the clicked voxels, in voxels of the scan, no voxel with both labels. Those of an
            image that was resampled may lie between voxels of the scan: then all that the inverse interpolates between
            become certain.
        labels: (N,) 1 on the lesion, 0 off it.
        ratio: (n,) voxels of the scan per voxel of the network's grid.
        threshold: log-odds above which a voxel is lesion.
    """
    values = log_odds[0]
    size, step = np.asarray(values.shape), np.asarray(ratio, dtype=float)
    signs = np.where(labels == ON_LESION, 1, -1)
    goals = np.where(signs > 0, max(_CERTAIN, threshold + 1), min(-_CERTAIN, threshold - 1))
    for place, sign, goal in zip(clicked, signs, goals, strict=True):
        nearest = np.clip(np.round(place), 0, size - 1).astype(int)
        there = float(values[tuple(nearest.tolist())])
        if sign * (there - threshold) > 0:
            continue
        others = np.linalg.norm((clicked[signs != sign] - place) / step, axis=1)
        radius = min(RADIUS, others.min(initial=RADIUS))
        box = _box(place, radius * step, size)
        axes = zip(np.ogrid[box], place, step, strict=True)
        distance = sum(((axis - middle) / (radius * along)) ** 2 for axis, middle, along in axes)
        bump = (goal - there) * np.clip(1 - distance, 0, None) ** 2
        values[box] = half_precision(values[box].float() + torch.from_numpy(bump).to(values.device, torch.float32))
    for place, goal in zip(clicked, goals.tolist(), strict=True):
        values[_box(place, 1 - _ON_VOXEL, size)] = goal


def _box(place: np.ndarray, radius: float | np.ndarray, size: np.ndarray) -> tuple[slice, ...]:
    """The voxels of a grid that are at most so many voxels from a place along each axis."""
    low = np.clip(np.ceil(place - radius), 0, size - 1).astype(int).tolist()
    high = np.clip(np.floor(place + radius), 0, size - 1).astype(int).tolist()
    return tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
