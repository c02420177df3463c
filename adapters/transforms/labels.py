"""The one reader of labels: what values they hold, which of these are whole numbers, and whether a lesion is there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

__all__ = ["check_lesion", "has_lost_header", "in_words", "label_values", "whole_label"]

_NOISE = 1e-3
_SINGLE = 1e-6  # of a value: what a header's slope leaves of a whole number in float32


def label_values(label: Any) -> list[float]:
    """The values of a label, in order; plane by plane, because sorting a whole scan takes seconds."""
    values: set[float] = set()
    array = np.asarray(label)
    for plane in array.reshape(-1, *array.shape[-2:]):
        with np.errstate(invalid="ignore"):
            small = plane.astype(np.uint8)
        whole = np.array_equal(small, plane)
        values.update(np.flatnonzero(np.bincount(small.ravel())).tolist() if whole else np.unique(plane).tolist())
    return sorted(values)


def in_words(values: Sequence[float]) -> str:
    """The first ten of some values, for an error."""
    return ", ".join(f"{value:.7g}" for value in values[:10]) + (", ..." if len(values) > 10 else "")


def whole_label(label: Any, name: str) -> tuple[Any, list[float]]:
    """A label of whole numbers, and its values.

    Resampling and saving leave noise: a value within 0.001 of a whole number that the label holds too is taken for it,
    and so is what differs from a whole number by the rounding of float32 alone. Others are refused, for half a lesion
    may be in them: 0.5 beside 1, or 0.9999 in the place of 1.

    Args:
        label: a tensor of any shape.
        name: what to call it in an error.

    Returns:
        The label, rounded where that changes something.

    Raises:
        ValueError: it holds other values, which are named.
    """
    values = label_values(label)
    rounded = {value: float(np.rint(value)) for value in values if np.isfinite(value)}
    whole = sorted(
        {
            number
            for value, number in rounded.items()
            if number in rounded or abs(value - number) <= _SINGLE * max(1.0, abs(number))
        }
    )
    if set(whole) == set(values):
        return label, values
    for value in values:
        if not any(abs(value - number) <= _NOISE for number in whole):
            raise ValueError(
                f"label {name} holds {in_words(values)}, and {value:.7g} is no whole number: expected one for each "
                "structure, such as 0 and 1; resample labels to the nearest neighbour, and save them as integers"
            )
    return label.round(), whole


def check_lesion(
    values: Sequence[float], lesion: Collection[float], name: str, *, required: bool, others: Collection[float] = ()
) -> None:
    """Refuse a label that does not hold the lesion.

    Args:
        values: that the label holds.
        lesion: values of the lesion, one of which is enough.
        name: what to call the label in an error.
        required: whether a label without a lesion is refused too if it is empty, or holds other structures alone.
        others: values of other structures. A label with values that are neither was made for another purpose.

    Raises:
        ValueError: it does not hold the lesion.
    """
    if set(values) & set(lesion):
        return
    if required or set(values) - {0.0, *others}:
        raise ValueError(
            f"label {name} has no voxel of value {' or '.join(f'{value:g}' for value in lesion)}, it holds "
            f"{in_words(values)}; give the value of the lesion in this label"
            + (", or leave the case out" if required else " and, if it holds any, those of other structures")
        )


def has_lost_header(label_affine: np.ndarray, image_affine: np.ndarray) -> bool:
    """Whether a label's affine is what programs write that know none: an identity, its origin 0 or 1.

    Args:
        label_affine: (n + 1, n + 1).
        image_affine: (n + 1, n + 1) of its image, which has a true one.
    """
    linear, origin = label_affine[:-1, :-1], label_affine[:-1, -1]
    is_identity = np.allclose(np.abs(linear), np.eye(len(linear))) and np.isin(np.abs(origin), (0, 1)).all()
    return bool(is_identity and not np.allclose(label_affine, image_affine))
