"""Prompts: the type that carries its frame."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.prompts import Prompts, move_points, prompt_tensors

EYE = np.eye(4)


class Crop(NamedTuple):
    start: tuple[int, ...]
    size: tuple[int, ...]


LPS_2MM = np.array([[-2.0, 0, 0, 10], [0, -2, 0, 20], [0, 0, 5, -30], [0, 0, 0, 1]])


def test_points_and_labels_are_kept_as_given() -> None:
    clicks = Prompts([[1, 2, 3], [0.5, 0, 7]], [1, 0], affine=EYE, shape=(4, 4, 8))
    assert len(clicks) == 2
    assert clicks.frame == "image"
    np.testing.assert_array_equal(clicks.points, [[1, 2, 3], [0.5, 0, 7]])
    np.testing.assert_array_equal(clicks.labels, [1, 0])
    assert clicks.points.dtype == np.float64
    assert clicks.labels.dtype == np.int64


def test_labels_left_out_are_on_the_lesion() -> None:
    np.testing.assert_array_equal(Prompts([[1, 2, 3]], affine=EYE).labels, [1])


def test_no_click_is_allowed() -> None:
    clicks = Prompts([], [], affine=EYE, shape=(4, 4, 4))
    tensors = clicks.as_tensors()
    assert len(clicks) == 0
    assert tensors.points.shape == (1, 0, 3)
    assert tensors.labels.shape == (1, 0)
    assert tensors[2:] == (None, None, None)


def test_clicks_do_not_change_with_the_callers_array() -> None:
    points = np.ones((1, 3))
    clicks = Prompts(points, affine=EYE)
    points[:] = 9
    np.testing.assert_array_equal(clicks.points, [[1, 1, 1]])
    with pytest.raises(ValueError, match="read-only"):
        clicks.points[0] = 9


def test_world_is_ras_mm() -> None:
    clicks = Prompts([[1, 2, 3]], affine=LPS_2MM)
    np.testing.assert_allclose(clicks.to_world().points, [[8, 16, -15]])
    assert clicks.to_world().frame == "world"


def test_to_voxel_of_another_grid() -> None:
    crop = EYE.copy()
    crop[:3, 3] = (4, 10, -20)
    clicks = Prompts([[1, 2, 3]], affine=LPS_2MM).to_voxel(crop, shape=(8, 8, 8))
    assert clicks.frame == "crop"
    np.testing.assert_allclose(clicks.points, [[4, 6, 5]])


@pytest.mark.parametrize("edge", [-0.5, 3.5])
def test_the_grid_reaches_half_a_voxel_beyond_the_centres(edge: float) -> None:
    clicks = Prompts([[edge, 0, 0]], affine=EYE, shape=(4, 4, 4))
    assert clicks.points[0, 0] == edge


def test_padding_may_lie_anywhere() -> None:
    assert len(Prompts([[-1, -1, -1]], [-1], affine=EYE, shape=(4, 4, 4))) == 1


def test_with_click_adds_one_and_keeps_the_others() -> None:
    one = Prompts([[1, 2, 3]], affine=EYE, shape=(4, 4, 4))
    two = one.with_click([0, 0, 1], 0)
    assert len(one) == 1
    np.testing.assert_array_equal(two.points, [[1, 2, 3], [0, 0, 1]])
    np.testing.assert_array_equal(two.labels, [1, 0])
    with pytest.raises(ValueError, match=r"click 1 at \[0.0, 0.0, 4.0\] is outside"):
        one.with_click([0, 0, 4])


def test_as_tensors() -> None:
    clicks = Prompts([[1, 2, 3], [4, 5, 6]], [1, 0], affine=EYE, frame="crop")
    points, labels, boxes, text, mask = clicks.as_tensors()
    assert points.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert points.tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert labels.tolist() == [[1, 0]]
    assert boxes is text is mask is None


def test_a_batch_is_padded() -> None:
    batch = [
        Prompts([[1, 1, 1], [2, 2, 2]], [1, 0], boxes=[[[0, 0, 0], [1, 2, 3]]], phrases=["tumour", "left"]),
        Prompts(),
        Prompts([[5, 5, 5]], phrases=["cyst"]),
    ]
    tensors = prompt_tensors(batch, phrase_encoder=lambda phrases: torch.ones(len(phrases), 4))
    assert tensors.points.shape == (3, 2, 3)
    assert tensors.points[2].tolist() == [[5, 5, 5], [0, 0, 0]]
    assert tensors.labels.tolist() == [[1, 0], [-1, -1], [1, -1]]
    assert tensors.boxes is not None
    assert tensors.boxes[0].tolist() == [[[0, 0, 0], [1, 2, 3]]]
    assert tensors.boxes[1:].isnan().all()
    assert tensors.text is not None
    assert tensors.text.sum(dim=2).tolist() == [[4, 4], [0, 0], [4, 0]]


def test_phrases_are_not_dropped_in_silence() -> None:
    with pytest.raises(ValueError, match="the phrase 'cyst' was given, and the network takes none"):
        Prompts(phrases=["cyst"]).as_tensors()


@pytest.mark.parametrize(
    ("prompts", "kinds"),
    [
        (Prompts(), set()),
        (Prompts([[1, 2, 3]], [-1]), set()),
        (Prompts([[1, 2, 3], [0, 0, 0]], [-1, 0]), {"points"}),
        (Prompts(boxes=[[[0, 0, 0], [1, 1, 1]]], phrases=("liver",)), {"boxes", "text"}),
    ],
)
def test_kinds(prompts: Prompts, kinds: set[str]) -> None:
    assert prompts.kinds == kinds


def test_a_box_moves_with_its_grid() -> None:
    box = Prompts(boxes=[[[1, 2, 3], [4, 5, 6]]], affine=LPS_2MM, shape=(8, 8, 8))
    world = box.to_world()
    np.testing.assert_allclose(world.boxes, [[[2, 10, -15], [8, 16, 0]]])
    mirrored = np.diag([2.0, -2.0, 5.0, 1.0])
    np.testing.assert_allclose(box.to_voxel(mirrored).boxes, [[[1, -8, -3], [4, -5, 0]]])
    np.testing.assert_allclose(world.to_voxel(LPS_2MM).boxes, box.boxes)


def test_a_region_of_the_grid() -> None:
    prompts = Prompts(
        [[1, 2, 3], [10, 10, 10], [3.5, 3.6, 4]],
        [1, 1, 0],
        affine=LPS_2MM,
        boxes=[[[0, 0, 0], [3, 3, 3]], [[9, 9, 9], [10, 10, 10]], [[3, 3, 3], [12, 4, 4]]],
        phrases=("cyst",),
    )
    crop = prompts.inside(Crop((1, 1, -1), (4, 4, 6)))
    assert (crop.frame, crop.shape, crop.phrases) == ("crop", (4, 4, 6), ("cyst",))
    np.testing.assert_array_equal(crop.points, [[0, 1, 4], [2.5, 2.6, 5]])
    np.testing.assert_array_equal(crop.labels, [1, 0])
    np.testing.assert_array_equal(crop.boxes, [[[0, 0, 1], [2, 2, 4]], [[2, 2, 4], [3, 3, 5]]])
    np.testing.assert_allclose(crop.to_world().points, prompts.to_world().points[[0, 2]])


@pytest.mark.parametrize("n", [2, 3])
def test_prompts_of_two_and_three_axes(n: int) -> None:
    affine = np.diag([2.0] * n + [1])
    prompts = Prompts([[1] * n], boxes=[[[0] * n, [3] * n]], affine=affine, shape=(4,) * n)
    assert prompts.spatial_dims == n
    np.testing.assert_array_equal(prompts.to_world().points, [[2] * n])
    tensors = prompts.as_tensors()
    assert tensors.points.shape == (1, 1, n)
    assert tensors.boxes is not None
    assert tensors.boxes.shape == (1, 1, 2, n)


def test_of_no_prompt_the_grid_tells_the_axes() -> None:
    assert Prompts().spatial_dims == 3
    assert Prompts(shape=(4, 5)).points.shape == (0, 2)
    assert Prompts(affine=np.eye(3)).boxes.shape == (0, 2, 2)


def test_text_keeps_them_exactly() -> None:
    box = [[[0, 0, 0], [1, 1, 1]]]
    prompts = Prompts([[0.1, 1 / 3, 2]], [0], affine=LPS_2MM, shape=(4, 4, 4), boxes=box, phrases=("é",), target="b")
    back = Prompts.from_json(prompts.to_json())
    assert back.to_json() == prompts.to_json()
    np.testing.assert_array_equal(back.points, prompts.points)
    np.testing.assert_array_equal(back.affine, LPS_2MM)
    assert (back.frame, back.shape, back.phrases, back.target) == ("image", (4, 4, 4), ("é",), "b")


@pytest.mark.parametrize("text", ["", "[]", '{"point": 1}', "{"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected the text that Prompts\.to_json gives"):
        Prompts.from_json(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": [1, 2, 3]}, r"points have shape \(3,\), expected \(N, 3\)"),
        ({"points": [[1, 2]]}, r"points have shape \(1, 2\), expected \(N, 3\)"),
        ({"points": "abc"}, "points are 'abc', expected a list of"),
        ({"points": [[1, 2, 3], [1, 2]]}, "expected a list of"),
        ({"points": [[1, 2, np.nan]]}, r"click 0 is \[1.0, 2.0, nan\], expected finite coordinates"),
        ({"points": [[1, 2, 10**400]]}, "points are .*, expected a list of"),
        ({"labels": [10**400]}, "labels are .*, expected a list of 1, 0 or -1"),
        ({"boxes": [[[0, 0, 0], [1, 1, 10**400]]]}, "boxes are .*, expected numbers"),
        ({"affine": [[10**400] * 4] * 4}, r"expected a \(4, 4\) matrix of numbers"),
        ({"labels": [1, 0]}, "1 points but 2 labels, expected one label for each point"),
        ({"labels": [2]}, "label 2 of click 0, expected 1"),
        ({"labels": [0.5]}, "label 0.5 of click 0, expected 1"),
        ({"labels": [[1]]}, r"labels have shape \(1, 1\)"),
        ({"labels": ["on"]}, "expected a list of 1, 0 or -1"),
        ({"points": [[4, 0, 0]]}, r"click 0 at \[4.0, 0.0, 0.0\] is outside the grid of shape \(4, 5, 6\)"),
        ({"points": [[0, -0.6, 0]]}, "is outside the grid"),
        ({"affine": np.eye(3)}, r"affine of the 'image' frame has shape \(3, 3\), expected \(4, 4\)"),
        ({"affine": np.diag([1, 1, 0, 1])}, "is singular"),
        ({"affine": np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])}, "is singular"),
        ({"affine": np.diag([1, 1, np.inf, 1])}, "is not finite"),
        ({"affine": np.diag([1, 1, 1, 2])}, "last row"),
        ({"affine": "x"}, r"expected a \(4, 4\) matrix of numbers"),
        ({"frame": "voxel"}, "frame 'voxel' is unknown, expected one of image, crop, world"),
        ({"frame": "world"}, "prompts in the world frame have no grid"),
        ({"shape": (4, 5)}, "expected three sizes"),
        ({"shape": (4, 5, 0)}, "expected three sizes"),
        ({"boxes": [[[0, 0, 0], [1, 1]]]}, r"boxes are .*, expected numbers \(M, 2, 3\)"),
        ({"boxes": [[0, 0, 0]]}, r"boxes have shape \(1, 3\), expected \(M, 2, 3\)"),
        ({"boxes": [[[0, 0, 2], [1, 1, 1]]]}, "box 0 is .*, expected finite numbers, the lowest voxel first"),
        ({"boxes": [[[0, 0, 0], [1, 1, np.inf]]]}, "box 0 is .*, expected finite numbers"),
        (
            {"boxes": [[[0, 0, 0], [1, 1, 1]], [[0, 0, 0], [1, 1, 7]]]},
            r"box 1 at \[1.0, 1.0, 7.0\] is outside the grid",
        ),
        ({"phrases": "cyst"}, "phrases are 'cyst', expected a list of texts"),
        ({"phrases": [""]}, "expected a list of texts that are not empty"),
    ],
)
def test_bad_clicks(change: dict, message: str) -> None:
    good = {"points": [[1, 2, 3]], "labels": [1], "affine": EYE, "shape": (4, 5, 6)}
    with pytest.raises(ValueError, match=message):
        Prompts(**(good | change))


def test_a_click_in_the_wrong_frame() -> None:
    voxels, world = Prompts([[1, 2, 3]], affine=EYE), Prompts([[1, 2, 3]], frame="world")
    assert voxels.expect("image") is voxels
    with pytest.raises(
        ValueError, match=r"prompts are in the 'image' frame, expected 'crop'; convert them with to_voxel"
    ):
        voxels.expect("crop")
    with pytest.raises(ValueError, match=r"prompts are in the 'image' frame, expected 'world'; .* to_world"):
        voxels.expect("world")
    with pytest.raises(ValueError, match="prompts are in the 'world' frame, expected voxels"):
        world.as_tensors()
    with pytest.raises(ValueError, match="frame is 'world', expected a voxel frame"):
        world.to_voxel(EYE, frame="world")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="affine of the 'crop' frame is singular"):
        world.to_voxel(np.zeros((4, 4)) + np.diag([0, 0, 0, 1]))
    with pytest.raises(ValueError, match="prompts in the 'image' frame need the affine of their grid to be moved"):
        Prompts([[1, 2, 3]]).to_world()


def test_bad_batches() -> None:
    with pytest.raises(ValueError, match="an empty batch"):
        prompt_tensors([])
    with pytest.raises(ValueError, match=r"prompts have \[2, 3\] axes, expected one number for all"):
        prompt_tensors([Prompts([[1, 2]]), Prompts([[1, 2, 3]])])


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
    clicks = Prompts(points, affine=first)
    back = clicks.to_voxel(second).to_world().to_voxel(first, frame="image")
    np.testing.assert_allclose(back.points, clicks.points, atol=1e-6)
    np.testing.assert_allclose(
        move_points(clicks.points, first, None), clicks.to_voxel(second).to_world().points, atol=1e-6
    )
