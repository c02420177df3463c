"""Which voxel a point lies in: the one rule of rounding, for figures, metrics and whatever else looks under a click."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def voxels_under(points: Any, shape: Sequence[int]) -> np.ndarray:
    """The voxels that points lie in.

    Voxel centres lie at integers, so voxel i reaches from i - 0.5 to i + 0.5. A point between two voxels belongs to the
    upper one; one on the grid's last border belongs to the last voxel. (``np.round`` would take the even one of two.)

    Args:
        points: (N, n) voxels of a grid (frame ``image`` or ``crop``), in its axis order.
        shape: (n,) size of the grid in voxels.

    Returns:
        (N, n) indices.

    Raises:
        ValueError: a point outside the grid, which reaches from -0.5 to its size - 0.5.

    Example:
        >>> voxels_under([[-0.5, 12.5], [0.49, 19.5]], (10, 20)).tolist()
        [[0, 13], [0, 19]]
    """
    size = np.asarray(shape)
    places = np.asarray(points, dtype=float).reshape(-1, len(size))
    outside = ~((places >= -0.5) & (places <= size - 0.5)).all(axis=1)
    if outside.any():
        raise ValueError(
            f"point {places[outside][0].tolist()} lies outside the grid of {tuple(shape)} voxels, expected each "
            "coordinate from -0.5 to the size - 0.5: give voxels in the grid's order of axes"
        )
    return np.minimum(np.floor(places + 0.5).astype(int), size - 1)
