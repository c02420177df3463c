"""Dice, normalised surface Dice and HD95 of one predicted mask, with stated values for empty masks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage


def volume_scores(
    prediction: np.ndarray, label: np.ndarray, spacing: Sequence[float], *, tolerance: float = 5.0
) -> dict[str, float]:
    """Dice and normalised surface Dice (NSD) of one mask, through MONAI.

    NSD is the share of both surfaces that lies within the tolerance of the other one, as in DeepMind's
    ``surface-distance`` package. Both masks empty: 1.0 for either score; one of them empty: 0.0.

    Args:
        prediction: (D, H, W) bool or integers, anything but 0 is lesion.
        label: (D, H, W) the truth on the same grid, bool or integers, anything but 0 is lesion.
        spacing: mm of a voxel along each axis, in the arrays' axis order.
        tolerance: mm by which a surface may be off and still count as right.

    Returns:
        ``dice`` and ``nsd``, each 0 to 1.

    Raises:
        ValueError: no 3D masks of the same shape, a spacing that is not three positive numbers, a tolerance below 0.

    Example:
        >>> truth = np.zeros((8, 8, 8), dtype=bool)
        >>> truth[2:6, 2:6, 2:6] = True
        >>> volume_scores(truth, truth, (1.0, 1.0, 1.0))
        {'dice': 1.0, 'nsd': 1.0}
    """
    predicted, truth = as_masks(prediction, label)
    mm = as_mm(spacing)
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance is {tolerance!r} mm, expected a number of at least 0")
    if not (predicted.any() and truth.any()):
        return dict.fromkeys(("dice", "nsd"), float(predicted.any() == truth.any()))
    masks = _cut(predicted, truth)
    nsd = _measured(compute_surface_dice, *masks, spacing=mm, class_thresholds=[float(tolerance)], use_subvoxels=True)
    return {"dice": _measured(compute_dice, *masks), "nsd": nsd}


def hd95(prediction: np.ndarray, label: np.ndarray, spacing: Sequence[float]) -> float:
    """95th percentile of the Hausdorff distance of one mask, through MONAI: the larger of the two directions.

    Distances are those between the centres of the outermost voxels. Both masks empty: 0 mm. One of them empty: the
    largest distance that the grid holds, between the centres of opposite corners.

    Args:
        prediction: (D, H, W), like the rest as for `volume_scores`.
        label: (D, H, W).
        spacing: mm.

    Returns:
        mm.

    Raises:
        ValueError: no 3D masks of the same shape, a spacing that is not three positive numbers.

    Example:
        >>> truth = np.zeros((8, 8, 8), dtype=bool)
        >>> truth[2:6, 2:6, 2:6] = True
        >>> hd95(np.roll(truth, 1, axis=0), truth, (3.0, 1.0, 1.0))
        3.0
    """
    predicted, truth = as_masks(prediction, label)
    mm = as_mm(spacing)
    if not (predicted.any() and truth.any()):
        diagonal = float(np.linalg.norm((np.array(truth.shape) - 1) * mm))
        return 0.0 if predicted.any() == truth.any() else diagonal
    return _measured(compute_hausdorff_distance, *_cut(predicted, truth), spacing=mm, percentile=95)


def as_masks(prediction: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as bool; refuses what is not (D, H, W), no mask, or on two grids."""
    predicted, truth = as_mask(prediction, "prediction"), as_mask(label, "label")
    if predicted.shape != truth.shape:
        raise ValueError(f"prediction has shape {predicted.shape} but label {truth.shape}: bring both onto one grid")
    return predicted, truth


def as_mm(spacing: Sequence[float]) -> list[float]:
    """A spacing as three numbers; refuses any other."""
    mm = [float(value) for value in spacing]
    if len(mm) != 3 or not all(np.isfinite(value) and value > 0 for value in mm):
        raise ValueError(f"spacing is {spacing!r}, expected three positive numbers of mm in the arrays' axis order")
    return mm


def _measured(metric: Callable[..., torch.Tensor], y_pred: torch.Tensor, y: torch.Tensor, **options: Any) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # monai 1.6 calls a deprecated argument of its own
        return float(metric(y_pred, y, include_background=True, **options))


def _cut(predicted: np.ndarray, truth: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Both masks (1, 1, D, H, W) within the box that holds them, without a margin: MONAI pads them by a voxel."""
    (box,) = ndimage.find_objects((predicted | truth).view(np.uint8))
    y_pred, y = (torch.from_numpy(np.ascontiguousarray(mask[box]))[None, None] for mask in (predicted, truth))
    return y_pred, y


def as_mask(volume: np.ndarray, name: str) -> np.ndarray:
    """A volume as bool; refuses what is not (D, H, W) or no mask."""
    array = np.asarray(volume)
    if array.ndim != 3:
        raise ValueError(f"{name} has shape {array.shape}, expected (D, H, W): take one item and one channel of it")
    if array.dtype.kind not in "bui":
        raise ValueError(f"{name} is of type {array.dtype}, expected a mask of bool or integers: threshold it first")
    return array != 0
