"""Clicks: the type that carries its frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.prompts import Clicks, move_points, pad_clicks

EYE = np.eye(4)
LPS_2MM = np.array([[-2.0, 0, 0, 10], [0, -2, 0, 20], [0, 0, 5, -30], [0, 0, 0, 1]])


def test_points_and_labels_are_kept_as_given() -> None:
    clicks = Clicks.from_points([[1, 2, 3], [0.5, 0, 7]], [1, 0], affine=EYE, shape=(4, 4, 8))
    assert len(clicks) == 2
    assert clicks.frame == "image"
    np.testing.assert_array_equal(clicks.points, [[1, 2, 3], [0.5, 0, 7]])
    np.testing.assert_array_equal(clicks.labels, [1, 0])
    assert clicks.points.dtype == np.float64
    assert clicks.labels.dtype == np.int64


def test_labels_left_out_are_on_the_lesion() -> None:
    np.testing.assert_array_equal(Clicks.from_points([[1, 2, 3]], affine=EYE).labels, [1])


def test_no_click_is_allowed() -> None:
    clicks = Clicks.from_points([], [], affine=EYE, shape=(4, 4, 4))
    points, labels = clicks.as_tensors()
    assert len(clicks) == 0
    assert points.shape == (1, 0, 3)
    assert labels.shape == (1, 0)


def test_clicks_do_not_change_with_the_callers_array() -> None:
    points = np.ones((1, 3))
    clicks = Clicks.from_points(points, affine=EYE)
    points[:] = 9
    np.testing.assert_array_equal(clicks.points, [[1, 1, 1]])
    with pytest.raises(ValueError, match="read-only"):
        clicks.points[0] = 9


def test_world_is_ras_mm() -> None:
    clicks = Clicks.from_points([[1, 2, 3]], affine=LPS_2MM)
    np.testing.assert_allclose(clicks.to_world().points, [[8, 16, -15]])
    assert clicks.to_world().frame == "world"


def test_to_voxel_of_another_grid() -> None:
    crop = EYE.copy()
    crop[:3, 3] = (4, 10, -20)
    clicks = Clicks.from_points([[1, 2, 3]], affine=LPS_2MM).to_voxel(crop, shape=(8, 8, 8))
    assert clicks.frame == "crop"
    np.testing.assert_allclose(clicks.points, [[4, 6, 5]])


@pytest.mark.parametrize("edge", [-0.5, 3.5])
def test_the_grid_reaches_half_a_voxel_beyond_the_centres(edge: float) -> None:
    clicks = Clicks.from_points([[edge, 0, 0]], affine=EYE, shape=(4, 4, 4))
    assert clicks.points[0, 0] == edge


def test_padding_may_lie_anywhere() -> None:
    assert len(Clicks.from_points([[-1, -1, -1]], [-1], affine=EYE, shape=(4, 4, 4))) == 1


def test_with_click_adds_one_and_keeps_the_others() -> None:
    one = Clicks.from_points([[1, 2, 3]], affine=EYE, shape=(4, 4, 4))
    two = one.with_click([0, 0, 1], 0)
    assert len(one) == 1
    np.testing.assert_array_equal(two.points, [[1, 2, 3], [0, 0, 1]])
    np.testing.assert_array_equal(two.labels, [1, 0])
    with pytest.raises(ValueError, match=r"click 1 at \[0.0, 0.0, 4.0\] is outside"):
        one.with_click([0, 0, 4])


def test_as_tensors() -> None:
    points, labels = Clicks.from_points([[1, 2, 3], [4, 5, 6]], [1, 0], affine=EYE, frame="crop").as_tensors()
    assert points.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert points.tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert labels.tolist() == [[1, 0]]


def test_pad_clicks_fills_with_minus_one() -> None:
    batch = [
        (np.ones((2, 3)), np.array([1, 0])),
        (np.zeros((0, 3)), np.zeros(0)),
        (np.full((1, 3), 5.0), np.array([1])),
    ]
    points, labels = pad_clicks(batch)
    assert points.shape == (3, 2, 3)
    assert labels.tolist() == [[1, 0], [-1, -1], [1, -1]]
    assert points[2].tolist() == [[5, 5, 5], [0, 0, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": [1, 2, 3]}, r"points have shape \(3,\), expected \(N, 3\)"),
        ({"points": [[1, 2]]}, r"points have shape \(1, 2\), expected \(N, 3\)"),
        ({"points": "abc"}, "points are 'abc', expected a list of"),
        ({"points": [[1, 2, 3], [1, 2]]}, "expected a list of"),
        ({"points": [[1, 2, np.nan]]}, r"click 0 is \[1.0, 2.0, nan\], expected finite coordinates"),
        ({"labels": [1, 0]}, "1 points but 2 labels, expected one label for each point"),
        ({"labels": [2]}, "label 2 of click 0, expected 1"),
        ({"labels": [0.5]}, "label 0.5 of click 0, expected 1"),
        ({"labels": [[1]]}, r"labels have shape \(1, 1\)"),
        ({"labels": ["on"]}, "expected a list of 1, 0 or -1"),
        ({"points": [[4, 0, 0]]}, r"click 0 at \[4.0, 0.0, 0.0\] is outside the grid of shape \(4, 5, 6\)"),
        ({"points": [[0, -0.6, 0]]}, "is outside the grid"),
        ({"affine": None}, "clicks in the 'image' frame need the affine of their grid"),
        ({"affine": np.eye(3)}, r"affine of the 'image' frame has shape \(3, 3\), expected \(4, 4\)"),
        ({"affine": np.diag([1, 1, 0, 1])}, "is singular"),
        ({"affine": np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])}, "is singular"),
        ({"affine": np.diag([1, 1, np.inf, 1])}, "is not finite"),
        ({"affine": np.diag([1, 1, 1, 2])}, "last row"),
        ({"affine": "x"}, r"expected a \(4, 4\) matrix of numbers"),
        ({"frame": "voxel"}, "frame 'voxel' is unknown, expected one of image, crop, world"),
        ({"frame": "world"}, "clicks in the world frame have no grid"),
        ({"shape": (4, 5)}, "expected three sizes"),
        ({"shape": (4, 5, 0)}, "expected three sizes"),
    ],
)
def test_bad_clicks(change: dict, message: str) -> None:
    good = {"points": [[1, 2, 3]], "labels": [1], "affine": EYE, "shape": (4, 5, 6)}
    with pytest.raises(ValueError, match=message):
        Clicks.from_points(**(good | change))


def test_a_click_in_the_wrong_frame() -> None:
    voxels, world = Clicks.from_points([[1, 2, 3]], affine=EYE), Clicks.from_points([[1, 2, 3]], frame="world")
    assert voxels.expect("image") is voxels
    with pytest.raises(
        ValueError, match=r"clicks are in the 'image' frame, expected 'crop'; convert them with to_voxel"
    ):
        voxels.expect("crop")
    with pytest.raises(ValueError, match=r"clicks are in the 'image' frame, expected 'world'; .* to_world"):
        voxels.expect("world")
    with pytest.raises(ValueError, match="clicks are in the 'world' frame, expected voxels"):
        world.as_tensors()
    with pytest.raises(ValueError, match="frame is 'world', expected a voxel frame"):
        world.to_voxel(EYE, frame="world")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="affine of the 'crop' frame is singular"):
        world.to_voxel(np.zeros((4, 4)) + np.diag([0, 0, 0, 1]))


def test_bad_batches() -> None:
    with pytest.raises(ValueError, match="an empty batch"):
        pad_clicks([])
    with pytest.raises(ValueError, match="item 1: 1 points but 2 labels"):
        pad_clicks([(np.ones((1, 3)), np.ones(1)), (np.ones((1, 3)), np.ones(2))])


matrices = st.builds(
    lambda seed, spacing: _affine(np.random.default_rng(seed), spacing),
    st.integers(0, 2**31),
    st.tuples(*[st.floats(0.2, 8.0)] * 3),
)


def _affine(rng: np.random.Generator, spacing: tuple[float, float, float]) -> np.ndarray:
    """Any rotation or reflection, times a spacing, plus an origin."""
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * spacing
    affine[:3, 3] = rng.uniform(-300, 300, size=3)
    return affine


@settings(max_examples=100, deadline=None)
@given(matrices, matrices, st.lists(st.tuples(*[st.floats(-0.5, 500)] * 3), min_size=0, max_size=5))
def test_there_and_back(first: np.ndarray, second: np.ndarray, points: list) -> None:
    clicks = Clicks.from_points(points, affine=first)
    back = clicks.to_voxel(second).to_world().to_voxel(first, frame="image")
    np.testing.assert_allclose(back.points, clicks.points, atol=1e-6)
    np.testing.assert_allclose(
        move_points(clicks.points, first, None), clicks.to_voxel(second).to_world().points, atol=1e-6
    )
