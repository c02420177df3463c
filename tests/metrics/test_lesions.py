"""Lesions one by one: which voxel belongs to which, and scores by hand."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.metrics import Lesions, volume_scores

SHAPE, MM = (10, 10, 24), (2.0, 1.0, 1.0)


def cubes(*places: tuple[int, int], shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Boxes of 4 x 4 voxels in the first two axes, from and to the given places of the third."""
    mask = np.zeros(shape, dtype=bool)
    for start, stop in places:
        mask[3:7, 3:7, start:stop] = True
    return mask


LABEL = cubes((2, 6), (14, 20))


def test_the_largest_comes_first() -> None:
    lesions = Lesions(LABEL, MM)
    assert len(lesions) == 2
    assert lesions.ml == pytest.approx([96 * 0.002, 64 * 0.002])
    assert lesions.under(np.array([[4, 4, 15], [4, 4, 3], [4, 4, 10], [0, 0, 0], [4.4, 3.6, 13.5]])).tolist() == [
        1,
        2,
        0,
        0,
        1,
    ]


def test_voxels_that_touch_at_a_corner_are_one_lesion() -> None:
    label = np.zeros((8, 8, 8), dtype=bool)
    label[0:4, 0:4, 0:4] = label[4:8, 4:8, 4:8] = True
    assert len(Lesions(label, (1, 1, 1), smallest_ml=0)) == 1


@pytest.mark.parametrize(("smallest", "expected"), [(0.0, [96, 64, 1]), (0.1, [97, 64]), (0.15, [161]), (9.0, [161])])
def test_specks_belong_to_the_nearest_lesion(smallest: float, expected: list[int]) -> None:
    label = LABEL.copy()
    label[4, 4, 22] = True
    assert Lesions(label, MM, smallest_ml=smallest).ml == pytest.approx([n * 0.002 for n in expected])


def test_scores_by_hand() -> None:
    """Half of the first lesion, nothing of the second."""
    first, second = Lesions(LABEL, MM).scores(cubes((14, 17)), tolerance=1.0)
    assert first["dice"] == pytest.approx(2 * 48 / (48 + 96))
    assert 0 < first["nsd"] < 1
    assert second == {"dice": 0.0, "nsd": 0.0}


def test_a_false_alarm_lowers_the_nearest_lesion_only() -> None:
    lesions = Lesions(LABEL, MM)
    prediction = LABEL.copy()
    prediction[3:7, 3:7, 7:9] = True  # 2 voxels off the second lesion, 6 off the first
    first, second = lesions.scores(prediction)
    assert first == {"dice": 1.0, "nsd": 1.0}
    assert second["dice"] == pytest.approx(2 * 64 / (64 + 96))


def test_nearest_is_in_millimetres() -> None:
    """Four thick slices are farther than six thin voxels."""
    label = np.zeros((12, 4, 16), dtype=bool)
    label[8:12, :, 0:4] = label[0:4, :, 8:14] = True
    prediction = label.copy()
    prediction[3, :, 1] = True  # 5 slices from the one and 7 voxels from the other
    for spacing, expected in (((2.0, 1.0, 1.0), [False, True]), ((1.0, 1.0, 1.0), [True, False])):
        scores = Lesions(label, spacing, smallest_ml=0).scores(prediction)
        assert [score["dice"] == 1 for score in scores] == expected


def test_a_mask_over_both_is_cut_half_way() -> None:
    label = cubes((2, 6), (10, 14))
    scores = Lesions(label, MM).scores(cubes((2, 14)))
    assert [score["dice"] for score in scores] == pytest.approx([2 * 64 / (64 + 96)] * 2)


@pytest.mark.parametrize("seed", range(3))
def test_a_single_lesion_scores_as_its_volume(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prediction = np.roll(LABEL, int(rng.integers(1, 4)), int(rng.integers(3)))
    label = cubes((14, 20))
    (score,) = Lesions(label, MM).scores(prediction, tolerance=1.5)
    assert score == pytest.approx(volume_scores(prediction, label, MM, tolerance=1.5))


def test_no_lesion_and_no_prediction() -> None:
    nothing = np.zeros(SHAPE, dtype=bool)
    lesions = Lesions(nothing, MM)
    assert (len(lesions), lesions.ml, lesions.scores(LABEL)) == (0, [], [])
    assert lesions.under(np.array([[4, 4, 4]])).tolist() == [0]
    assert Lesions(LABEL, MM).scores(nothing) == [{"dice": 0.0, "nsd": 0.0}] * 2
    assert lesions.under(np.zeros((0, 3))).tolist() == []


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"label has shape \(10, 10\)"):
        Lesions(LABEL[..., 0], MM)
    with pytest.raises(ValueError, match="expected three positive numbers of mm"):
        Lesions(LABEL, (1, 1))
    with pytest.raises(ValueError, match="smallest_ml is -1"):
        Lesions(LABEL, MM, smallest_ml=-1)
    with pytest.raises(ValueError, match="bring both onto one grid"):
        Lesions(LABEL, MM).scores(LABEL[1:])
