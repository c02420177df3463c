"""A session of clicks brought down to one number."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.metrics import area_under_clicks, clicks_needed


@pytest.mark.parametrize(
    ("scores", "area"),
    [([0.7], 0.7), ([0.5, 0.7], 0.6), ([0.0, 1.0, 1.0], 0.75), ([1.0] * 10, 1.0), (np.linspace(0, 1, 10), 0.5)],
)
def test_area_under_clicks(scores: list[float], area: float) -> None:
    assert area_under_clicks(scores) == pytest.approx(area)


@pytest.mark.parametrize(
    ("scores", "threshold", "clicks"),
    [
        ([0.9], 0.8, 1),
        ([0.7, 0.8, 0.9], 0.8, 2),
        ([0.7, 0.85, 0.6], 0.8, 2),
        ([0.7, 0.75, 0.79], 0.8, 4),
        ([0.7], 0.8, 2),
        ([0.4, 0.5], 0.5, 2),
    ],
)
def test_clicks_needed(scores: list[float], threshold: float, clicks: int) -> None:
    assert clicks_needed(scores, threshold) == clicks


@pytest.mark.parametrize("function", [area_under_clicks, clicks_needed])
@pytest.mark.parametrize("scores", [[], [0.5, float("nan")], [[0.5]]])
def test_bad_scores(function, scores: list) -> None:
    with pytest.raises(ValueError, match="expected one finite number for each click"):
        function(scores)
