"""The one rule of rounding: values at and between voxel centres, and at the borders of the grid."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.prompts.voxels import voxels_under


@pytest.mark.parametrize(
    ("coordinate", "voxel"),
    [
        (-0.5, 0),
        (-0.2, 0),
        (0.0, 0),
        (0.49, 0),
        (0.5, 1),
        (1.5, 2),
        (11.5, 12),
        (12.5, 13),
        (13.49, 13),
        (19.0, 19),
        (19.4, 19),
        (19.5, 19),
    ],
)
def test_values(coordinate: float, voxel: int) -> None:
    assert voxels_under([[coordinate, 3.0]], (20, 5)).tolist() == [[voxel, 3]]


def test_no_points_have_no_voxels() -> None:
    assert voxels_under([], (4, 5, 6)).shape == (0, 3)


@pytest.mark.parametrize("point", [[-0.51, 0, 0], [0, 5.51, 0], [0, 0, np.nan]])
def test_points_outside_are_refused(point: list[float]) -> None:
    with pytest.raises(ValueError, match=r"lies outside the grid of \(4, 6, 8\) voxels, expected each coordinate"):
        voxels_under([[1, 1, 1], point], (4, 6, 8))
