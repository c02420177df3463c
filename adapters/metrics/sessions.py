"""What a session of clicks is worth: a score after each click, brought down to one number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def area_under_clicks(scores: Sequence[float]) -> float:
    """Area under a score over the clicks, by trapezoids, divided by its width: the curve's mean height.

    A method that is perfect from the first click on has 1. Ten clicks span nine intervals; the curve of a single click
    is that click's score.

    Args:
        scores: (N,) after 1, 2, ... N clicks, N at least 1.

    Raises:
        ValueError: no scores, or others than finite numbers.

    Example:
        >>> area_under_clicks([0.0, 0.5, 1.0])
        0.5
    """
    values = _as_curve(scores)
    return float(values[0] if len(values) == 1 else ((values[1:] + values[:-1]) / 2).mean())


def clicks_needed(scores: Sequence[float], threshold: float = 0.8) -> int:
    """The first click after which a score is reached; one click more than there were where it never is.

    A score that is reached and lost again counts as reached.

    Args:
        scores: (N,) after 1, 2, ... N clicks, N at least 1.
        threshold: the score to reach.

    Raises:
        ValueError: no scores, or others than finite numbers.

    Example:
        >>> clicks_needed([0.5, 0.8, 0.7]), clicks_needed([0.5, 0.6, 0.7])
        (2, 4)
    """
    reached = np.flatnonzero(_as_curve(scores) >= threshold)
    return int(reached[0]) + 1 if len(reached) else len(scores) + 1


def _as_curve(scores: Sequence[float]) -> np.ndarray:
    values = np.asarray(scores, dtype=float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"scores are {scores!r}, expected one finite number for each click, at least one")
    return values
