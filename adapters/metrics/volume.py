"""Dice, normalised surface Dice and HD95 of one predicted mask, with stated values for empty masks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice


def volume_scores(
    prediction: np.ndarray, label: np.ndarray, spacing: Sequence[float], *, tolerance: float = 5.0
) -> dict[str, float]:
    """Dice and normalised surface Dice (NSD) of one mask, through MONAI.

    NSD is the share of both surfaces that lies within the tolerance of the other one. Surfaces and their areas are
    those of DeepMind's ``surface-distance`` package, with which it agrees to rounding.

    Empty masks have stated values: both empty 1.0, one of them empty 0.0, for either score.

    Args:
        prediction: (D, H, W) bool or integers, anything but 0 is lesion.
        label: (D, H, W) the truth on the same grid, bool or integers, anything but 0 is lesion.
        spacing: mm of a voxel along each axis, in the arrays' axis order.
        tolerance: mm by which a surface may be off and still count as right.

    Returns:
        ``dice`` and ``nsd``, each 0 to 1.

    Raises:
        ValueError: arrays that are not three-dimensional masks of the same shape, a spacing that is not three
            positive numbers, a tolerance below 0.

    Example:
        >>> truth = np.zeros((8, 8, 8), dtype=bool)
        >>> truth[2:6, 2:6, 2:6] = True
        >>> volume_scores(truth, truth, (1.0, 1.0, 1.0))
        {'dice': 1.0, 'nsd': 1.0}
    """
    predicted, truth, mm = _checked(prediction, label, spacing)
    if not (np.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance is {tolerance!r} mm, expected a number of at least 0")

    if not (predicted.any() and truth.any()):
        value = float(not predicted.any() and not truth.any())
        return {"dice": value, "nsd": value}
    y_pred, y = _cut(predicted, truth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # monai 1.6 calls a deprecated argument of its own
        nsd = compute_surface_dice(
            y_pred, y, class_thresholds=[float(tolerance)], include_background=True, spacing=mm, use_subvoxels=True
        )
    return {"dice": float(compute_dice(y_pred, y)), "nsd": float(nsd)}


def hd95(prediction: np.ndarray, label: np.ndarray, spacing: Sequence[float]) -> float:
    """95th percentile of the Hausdorff distance of one mask, through MONAI: the larger of the two directions.

    Distances are those between the centres of the outermost voxels. Empty masks have stated values: both empty 0 mm;
    one of them empty the largest distance that the grid holds, between the centres of opposite corners.

    Args:
        prediction: (D, H, W) bool or integers, anything but 0 is lesion.
        label: (D, H, W) the truth on the same grid, bool or integers, anything but 0 is lesion.
        spacing: mm of a voxel along each axis, in the arrays' axis order.

    Returns:
        mm.

    Raises:
        ValueError: arrays that are not three-dimensional masks of the same shape, a spacing that is not three
            positive numbers.

    Example:
        >>> truth = np.zeros((8, 8, 8), dtype=bool)
        >>> truth[2:6, 2:6, 2:6] = True
        >>> hd95(np.roll(truth, 1, axis=0), truth, (3.0, 1.0, 1.0))
        3.0
    """
    predicted, truth, mm = _checked(prediction, label, spacing)
    if not (predicted.any() and truth.any()):
        nothing = not predicted.any() and not truth.any()
        return 0.0 if nothing else float(np.linalg.norm((np.array(truth.shape) - 1) * mm))
    y_pred, y = _cut(predicted, truth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # monai 1.6 calls a deprecated argument of its own
        return float(compute_hausdorff_distance(y_pred, y, include_background=True, percentile=95, spacing=mm))


def _checked(
    prediction: np.ndarray, label: np.ndarray, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Both as masks, and the spacing."""
    predicted, truth = _as_mask(prediction, "prediction"), _as_mask(label, "label")
    if predicted.shape != truth.shape:
        raise ValueError(f"prediction has shape {predicted.shape} but label {truth.shape}: bring both onto one grid")
    return predicted, truth, _as_mm(spacing)


def _as_mm(spacing: Sequence[float]) -> list[float]:
    mm = [float(value) for value in spacing]
    if len(mm) != 3 or not all(np.isfinite(value) and value > 0 for value in mm):
        raise ValueError(f"spacing is {spacing!r}, expected three positive numbers of mm in the arrays' axis order")
    return mm


def _cut(predicted: np.ndarray, truth: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Both masks (1, 1, D, H, W) within the box that holds them."""
    box = _bounding_box(predicted | truth)
    y_pred, y = (torch.from_numpy(np.ascontiguousarray(mask[box]))[None, None] for mask in (predicted, truth))
    return y_pred, y


def _as_mask(volume: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(volume)
    if array.ndim != 3:
        raise ValueError(f"{name} has shape {array.shape}, expected (D, H, W): take one item and one channel of it")
    if array.dtype.kind not in "bui":
        raise ValueError(f"{name} is of type {array.dtype}, expected a mask of bool or integers: threshold it first")
    return array != 0


def _bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The box of a mask that is not empty. No margin: MONAI pads what it is given by a voxel."""
    box = []
    for axis in range(mask.ndim):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)
