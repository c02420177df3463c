"""Simulated users: seeded functions that place clicks on a labelled volume, as a person would.

All take the lesion as an array (D, H, W), or (H, W), in which anything but 0 is lesion. They return `Prompts` in voxels
of that array (frame ``image``, no affine). Without a lesion they return no click (N = 0), except ``stray``.
They differ in where they click:

========================= ==========================================================================================
name                      where
========================= ==========================================================================================
``random``                anywhere on the lesion, with replacement (training and test of 3DSAM-adapter)
``stray``                 anywhere in the volume (the 20 stray clicks of 3DSAM-adapter's training)
``centre``                at the lesion's innermost voxel
``surrounding``           on the lesion round its centre
``margin``                on the lesion's outermost layer of voxels
``iterative``             in the largest error of the last prediction (as in Medical SAM Adapter's training)
========================= ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from adapters.prompts.coordinates import OFF_LESION, ON_LESION
from adapters.prompts.prompts import Prompts

Volume = np.ndarray | torch.Tensor


def _as_mask(volume: Volume, name: str, threshold: float = 0.0) -> np.ndarray:
    array = volume.detach().cpu().numpy() if isinstance(volume, torch.Tensor) else np.asarray(volume)
    if array.ndim not in (2, 3):
        raise ValueError(
            f"{name} has shape {array.shape}, expected (D, H, W) or (H, W): take one item and one channel of it"
        )
    if array.dtype == bool:
        return array
    return array > threshold if array.dtype.kind == "f" and threshold else array != 0


def _check_number(n: int) -> int:
    if int(n) != n or n < 0:
        raise ValueError(f"number of clicks is {n}, expected a whole number of at least 0")
    return int(n)


def _placed(mask: np.ndarray, points: np.ndarray, label: int = ON_LESION) -> Prompts:
    return Prompts(points, np.full(len(points), label), shape=mask.shape)


def _no_click(mask: np.ndarray) -> Prompts:
    return Prompts(shape=mask.shape)


def _draw(mask: np.ndarray, rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, axes) voxels of a mask, drawn with replacement; (0, axes) if the mask is empty."""
    inside = np.flatnonzero(mask)
    if len(inside) == 0:
        return np.zeros((0, mask.ndim))
    return np.stack(np.unravel_index(inside[rng.integers(len(inside), size=n)], mask.shape), axis=1)


def _box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The bounding box of a mask, None if it is empty."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        if len(filled) == 0:
            return None
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)


def _corner(box: tuple[slice, ...]) -> np.ndarray:
    return np.array([side.start for side in box])


def _depth(mask: np.ndarray, spacing: Sequence[float] | None) -> np.ndarray:
    """Distance of each voxel to the nearest one off the mask; what lies beyond the array counts as off."""
    padded = np.pad(mask, 1)
    return ndimage.distance_transform_edt(padded, sampling=spacing)[(slice(1, -1),) * mask.ndim]


def _innermost(depth: np.ndarray) -> np.ndarray:
    """(axes,) the deepest voxel; of equally deep ones, that nearest to their middle."""
    deepest = np.argwhere(depth >= depth.max() * (1 - 1e-9))
    return deepest[np.argmin(((deepest - deepest.mean(axis=0)) ** 2).sum(axis=1))]


def random_clicks(label: Volume, rng: np.random.Generator, n: int = 1) -> Prompts:
    """Click anywhere on the lesion, with replacement, as in 3DSAM-adapter's training and test.

    Args:
        label: (D, H, W) or (H, W), anything but 0 is lesion.
        rng: where chance comes from.
        n: number of clicks.

    Returns:
        n clicks on the lesion, in voxels of ``label``; none without a lesion.

    Raises:
        ValueError: ``label`` has neither two nor three axes, or ``n`` is negative.
    """
    mask = _as_mask(label, "label")
    return _placed(mask, _draw(mask, rng, _check_number(n)))


def stray_clicks(label: Volume, rng: np.random.Generator, n: int = 1, *, as_positive: bool = True) -> Prompts:
    """Click anywhere in the volume, as the 20 stray clicks of 3DSAM-adapter's training.

    Args:
        label: (D, H, W) or (H, W), anything but 0 is lesion.
        rng: where chance comes from.
        n: number of clicks.
        as_positive: label them all 1, as the published network does, which has no labels. False: label them by
            what lies under them.

    Returns:
        n clicks, in voxels of ``label``.

    Raises:
        ValueError: ``label`` has neither two nor three axes, or ``n`` is negative.
    """
    mask = _as_mask(label, "label")
    points = rng.integers(mask.shape, size=(_check_number(n), mask.ndim))
    labels = None if as_positive else mask[tuple(points.T)].astype(np.int64)
    return Prompts(points, labels, shape=mask.shape)


def centre_click(
    label: Volume,
    rng: np.random.Generator | None = None,
    n: int = 1,
    *,
    spacing: Sequence[float] | None = None,
) -> Prompts:
    """Click at the lesion's innermost voxel: the one farthest from all that is not lesion.

    Unlike the centre of mass it always lies on the lesion. More than one click falls on the same voxel.

    Args:
        label: (D, H, W) or (H, W), anything but 0 is lesion.
        rng: not used, nothing here is left to chance.
        n: number of clicks.
        spacing: mm along each axis, for distances; None: all equal.

    Returns:
        n clicks on the lesion, in voxels of ``label``; none without a lesion.

    Raises:
        ValueError: ``label`` has neither two nor three axes, or ``n`` is negative.
    """
    mask, n = _as_mask(label, "label"), _check_number(n)
    box = _box(mask)
    if box is None:
        return _no_click(mask)
    return _placed(mask, np.tile(_innermost(_depth(mask[box], spacing)) + _corner(box), (n, 1)))


def surrounding_click(
    label: Volume,
    rng: np.random.Generator,
    n: int = 1,
    *,
    spacing: Sequence[float] | None = None,
) -> Prompts:
    """Click round the lesion's centre, still on the lesion: at least half as deep as the innermost voxel.

    Args:
        label: (D, H, W) or (H, W), anything but 0 is lesion.
        rng: where chance comes from.
        n: number of clicks, drawn with replacement.
        spacing: mm along each axis, for distances; None: all equal.

    Returns:
        n clicks on the lesion, in voxels of ``label``; none without a lesion.

    Raises:
        ValueError: ``label`` has neither two nor three axes, or ``n`` is negative.
    """
    mask, n = _as_mask(label, "label"), _check_number(n)
    box = _box(mask)
    if box is None:
        return _no_click(mask)
    depth = _depth(mask[box], spacing)
    return _placed(mask, _draw(depth >= 0.5 * depth.max(), rng, n) + _corner(box))


def margin_click(label: Volume, rng: np.random.Generator, n: int = 1) -> Prompts:
    """Click on the lesion's margin: its voxels with a face that touches something else.

    Args:
        label: (D, H, W) or (H, W), anything but 0 is lesion. Beyond the volume counts as something else.
        rng: where chance comes from.
        n: number of clicks, drawn with replacement.

    Returns:
        n clicks on the lesion, in voxels of ``label``; none without a lesion.

    Raises:
        ValueError: ``label`` has neither two nor three axes, or ``n`` is negative.
    """
    mask, n = _as_mask(label, "label"), _check_number(n)
    box = _box(mask)
    if box is None:
        return _no_click(mask)
    return _placed(mask, _draw(mask[box] & ~ndimage.binary_erosion(mask[box]), rng, n) + _corner(box))


def _largest_component(mask: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Size, mask (cut to its box) and corner (axes,) of the largest region of voxels joined by faces."""
    box = _box(mask)
    if box is None:
        return 0, np.zeros((0,) * mask.ndim, dtype=bool), np.zeros(mask.ndim, dtype=int)
    parts, number = ndimage.label(mask[box])
    sizes = np.bincount(parts.ravel(), minlength=number + 1)
    sizes[0] = 0
    largest = int(np.argmax(sizes))
    part = ndimage.find_objects(parts, max_label=largest)[largest - 1]
    return int(sizes[largest]), parts[part] == largest, _corner(box) + _corner(part)


def next_click(
    label: Volume,
    prediction: Volume | None = None,
    rng: np.random.Generator | None = None,
    *,
    jitter: float = 0.0,
    spacing: Sequence[float] | None = None,
) -> Prompts:
    """Correct the last prediction: one click in its largest region of error (as in Medical SAM Adapter's training).

    Missed lesion and false alarm are split into regions of voxels joined by faces. In the largest of them by number
    of voxels the click falls on the innermost voxel: label 1 in missed lesion, 0 in a false alarm. If both kinds
    have one of the same size, the missed lesion is corrected.

    Args:
        label: (D, H, W) or (H, W), anything but 0 is lesion.
        prediction: (D, H, W) or (H, W), the mask of the round before: bool or integers (anything but 0 is lesion), or
            probabilities (above 0.5 is lesion; threshold logits first). None: nothing predicted yet.
        rng: where chance comes from; needed if ``jitter`` is above 0.
        jitter: 0 takes the innermost voxel; otherwise one is drawn among those at least ``1 - jitter`` times as
            deep; 1 draws anywhere in the region.
        spacing: mm along each axis, for depths; None: all equal.

    Returns:
        One click in voxels of ``label``; none if there is no error.

    Raises:
        ValueError: an array of neither two nor three axes, shapes that differ, ``jitter`` outside 0 to 1 or without
            ``rng``.
    """
    if not 0 <= jitter <= 1:
        raise ValueError(f"jitter is {jitter}, expected 0 (innermost voxel) to 1 (anywhere in the region)")
    if jitter > 0 and rng is None:
        raise ValueError(f"jitter is {jitter} but rng is None: give a numpy.random.Generator, or jitter=0")
    truth = _as_mask(label, "label")
    predicted = np.zeros_like(truth) if prediction is None else _as_mask(prediction, "prediction", threshold=0.5)
    if truth.shape != predicted.shape:
        raise ValueError(f"label has shape {truth.shape} but prediction {predicted.shape}, expected the same grid")

    missed, false_alarm = _largest_component(truth & ~predicted), _largest_component(predicted & ~truth)
    click_label = ON_LESION if missed[0] >= false_alarm[0] else OFF_LESION
    size, region, corner = missed if click_label == ON_LESION else false_alarm
    if size == 0:
        return _no_click(truth)
    if rng is not None and jitter == 1:
        point = _draw(region, rng, 1)
    else:
        depth = _depth(region, spacing)
        if rng is not None and jitter > 0:
            point = _draw((depth >= (1 - jitter) * depth.max()) & region, rng, 1)
        else:
            point = _innermost(depth)[None]
    return _placed(truth, point + corner, click_label)


def _iterative(
    label: Volume,
    rng: np.random.Generator,
    n: int = 1,
    *,
    prediction: Volume | None = None,
    **options: Any,
) -> Prompts:
    if _check_number(n) != 1:
        raise ValueError(f"the iterative user answers a prediction with one click, got n={n}; call it once a round")
    return next_click(label, prediction, rng, **options)


USERS: Mapping[str, Callable[..., Prompts]] = {
    "random": random_clicks,
    "stray": stray_clicks,
    "centre": centre_click,
    "surrounding": surrounding_click,
    "margin": margin_click,
    "iterative": _iterative,
}


@dataclass(frozen=True)
class ClickPolicy:
    """A simulated user by name, so that a configuration or a command line can say which.

    Args:
        name: ``random``, ``stray``, ``centre``, ``surrounding``, ``margin`` or ``iterative``.
        options: keyword arguments of the user's function, as ``{"jitter": 0.5}`` for ``iterative``.

    Raises:
        ValueError: no user of that name.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in USERS:
            raise ValueError(f"click policy {self.name!r} is unknown, expected one of {', '.join(USERS)}")

    def __call__(
        self, label: Volume, rng: np.random.Generator, n: int = 1, *, prediction: Volume | None = None
    ) -> Prompts:
        """Place clicks.

        Args:
            label: (D, H, W) or (H, W), anything but 0 is lesion.
            rng: where chance comes from.
            n: number of clicks; 1 for ``iterative``, which is called once a round.
            prediction: (D, H, W) or (H, W), the mask of the round before; only ``iterative`` looks at it.

        Returns:
            The clicks, in voxels of ``label``.

        Raises:
            ValueError: as the user's function.
        """
        if self.name == "iterative":
            return USERS[self.name](label, rng, n, prediction=prediction, **self.options)
        return USERS[self.name](label, rng, n, **self.options)


def click_policy(name: str, **options: Any) -> ClickPolicy:
    """The simulated user of that name: ``click_policy("iterative", jitter=0.5)(label, rng, prediction=mask)``.

    Raises:
        ValueError: no user of that name.
    """
    return ClickPolicy(name, options)
