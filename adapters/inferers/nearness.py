"""The rule of nearness: parts of a mask that no click is near are no lesion that was meant (`reach`)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["beyond_reach"]


def beyond_reach(
    lesion: np.ndarray,
    on_lesion: np.ndarray,
    spacing: np.ndarray,
    reach: float,
    *,
    spared: np.ndarray | None = None,
) -> np.ndarray:
    """Which voxels belong to connected parts of a mask that come nowhere near a click on the lesion.

    Args:
        lesion: (D, H, W) or (H, W) bool, the mask.
        on_lesion: (N, n) clicks on the lesion, in voxels of the mask.
        spacing: (n,) mm of a voxel along each axis.
        reach: mm; a part with a voxel within this distance of a click (give or take half a voxel) is near.
        spared: as ``lesion``; parts that share a voxel with it count as near.

    Returns:
        bool, of the mask's shape.
    """
    parts, number = ndimage.label(lesion)
    size = np.asarray(parts.shape)
    far = np.ones(number + 1, dtype=bool)
    far[0] = False
    for point in on_lesion:
        low = np.clip(np.floor(point - reach / spacing), 0, size - 1).astype(int)
        high = np.clip(np.ceil(point + reach / spacing), 0, size - 1).astype(int) + 1
        box = parts[tuple(slice(*ends) for ends in zip(low, high, strict=True))]
        places = np.argwhere(box)
        near = np.linalg.norm((places + low - point) * spacing, axis=1) <= reach + spacing.max() / 2
        far[box[tuple(places[near].T)]] = False
    if spared is not None:
        far[parts[spared]] = False
    return far[parts]
