"""Simulated users: where they click, and that they do it again with the same seed."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from scipy import ndimage

from adapters.prompts import (
    USERS,
    Prompts,
    centre_click,
    click_policy,
    margin_click,
    next_click,
    random_clicks,
    stray_clicks,
    surrounding_click,
)


def ball(shape: tuple[int, int, int], centre: tuple[int, int, int], radius: float) -> np.ndarray:
    grid = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    return (grid**2).sum(axis=0) <= radius**2


LESION = ball((24, 28, 32), (10, 12, 20), 7)
EMPTY = np.zeros((24, 28, 32), dtype=bool)


def placed(clicks: Prompts) -> tuple[np.ndarray, np.ndarray]:
    assert clicks.frame == "image"
    return clicks.points, np.asarray(clicks.labels)


def on(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    return mask[tuple(points.astype(int).T)]


@pytest.mark.parametrize("name", ["random", "centre", "surrounding", "margin"])
def test_clicks_on_the_lesion(name: str, rng: np.random.Generator) -> None:
    points, labels = placed(click_policy(name)(LESION, rng, 10))
    assert points.shape == (10, 3)
    assert points.dtype == np.float64
    assert on(LESION, points).all()
    np.testing.assert_array_equal(labels, np.ones(10))
    assert labels.dtype == np.int64


@pytest.mark.parametrize("name", [*USERS])
def test_the_same_seed_gives_the_same_clicks(name: str) -> None:
    draw = [click_policy(name)(LESION, np.random.default_rng(seed), 1).points for seed in (5, 5)]
    np.testing.assert_array_equal(*draw)


@pytest.mark.parametrize("name", ["random", "stray", "surrounding", "margin"])
def test_another_seed_gives_other_clicks(name: str) -> None:
    first, second = (click_policy(name)(LESION, np.random.default_rng(seed), 10).points for seed in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("name", ["random", "centre", "surrounding", "margin", "iterative"])
def test_no_lesion_no_click(name: str, rng: np.random.Generator) -> None:
    points, labels = placed(click_policy(name)(EMPTY, rng, 1))
    assert points.shape == (0, 3)
    assert labels.shape == (0,)


@pytest.mark.parametrize("name", ["random", "stray", "centre", "surrounding", "margin"])
def test_zero_clicks(name: str, rng: np.random.Generator) -> None:
    assert len(click_policy(name)(LESION, rng, 0).points) == 0


def test_random_draws_with_replacement(rng: np.random.Generator) -> None:
    label = np.zeros((4, 4, 4), dtype=np.uint8)
    label[1, 2, 3] = 2
    points, _ = placed(random_clicks(label, rng, 5))
    np.testing.assert_array_equal(points, [[1, 2, 3]] * 5)


def test_random_reaches_every_voxel_of_the_lesion_equally(rng: np.random.Generator) -> None:
    label = np.zeros((3, 3, 3), dtype=bool)
    label[0, 0, :2] = label[2, 2, 1:] = True
    points, _ = placed(random_clicks(torch.from_numpy(label), rng, 4000))
    _, counts = np.unique(points, axis=0, return_counts=True)
    assert len(counts) == 4
    assert np.abs(counts - 1000).max() < 120


def test_stray_clicks_lie_anywhere_and_are_positive_as_published(rng: np.random.Generator) -> None:
    points, labels = placed(stray_clicks(LESION, rng, 2000))
    np.testing.assert_array_equal(labels, np.ones(2000))
    assert points.min(axis=0).tolist() == [0, 0, 0]
    assert points.max(axis=0).tolist() == [23, 27, 31]
    assert abs(on(LESION, points).mean() - LESION.mean()) < 0.02


def test_stray_clicks_with_their_true_labels(rng: np.random.Generator) -> None:
    points, labels = placed(stray_clicks(LESION, rng, 2000, as_positive=False))
    np.testing.assert_array_equal(labels, on(LESION, points))
    assert set(labels) == {0, 1}


def test_centre_of_a_ball() -> None:
    np.testing.assert_array_equal(centre_click(LESION).points, [[10, 12, 20]])


def test_centre_lies_on_a_lesion_whose_centre_of_mass_does_not() -> None:
    ring = ball((24, 28, 32), (12, 14, 16), 11) & ~ball((24, 28, 32), (12, 14, 16), 6)
    assert not ring[tuple(np.round(ndimage.center_of_mass(ring)).astype(int))]
    assert on(ring, centre_click(ring).points).all()


def test_centre_minds_the_spacing() -> None:
    slab = np.zeros((20, 20, 20), dtype=bool)
    slab[2:9, 2:16, 2:5] = True  # 7 x 14 x 3 voxels; innermost by voxels: k = 3 only
    points, _ = placed(centre_click(slab, spacing=(1.0, 1.0, 10.0)))  # by mm the first axis is the narrow one
    assert points[0, 0] == 5


def test_surroundings_are_deep_and_the_margin_is_shallow(rng: np.random.Generator) -> None:
    depth = ndimage.distance_transform_edt(LESION)
    assert on(depth, surrounding_click(LESION, rng, 200).points).min() >= 0.5 * depth.max()
    assert on(depth, margin_click(LESION, rng, 200).points).max() == 1


def test_a_lesion_at_the_edge_of_the_volume_has_its_margin_there(rng: np.random.Generator) -> None:
    full = np.ones((5, 5, 5), dtype=bool)
    points, _ = placed(margin_click(full, rng, 300))
    assert ((points == 0) | (points == 4)).any(axis=1).all()
    np.testing.assert_array_equal(centre_click(full).points, [[2, 2, 2]])


def test_next_click_without_a_prediction_is_the_centre() -> None:
    points, labels = placed(next_click(LESION))
    np.testing.assert_array_equal(points, [[10, 12, 20]])
    np.testing.assert_array_equal(labels, [1])


def test_next_click_on_missed_lesion() -> None:
    missed = ball(LESION.shape, (10, 12, 24), 2)
    points, labels = placed(next_click(LESION, LESION & ~missed))
    np.testing.assert_array_equal(points, [[10, 12, 24]])
    np.testing.assert_array_equal(labels, [1])


def test_next_click_on_a_false_alarm() -> None:
    alarm = ball(LESION.shape, (20, 22, 5), 3)
    points, labels = placed(next_click(LESION, LESION | alarm))
    np.testing.assert_array_equal(points, [[20, 22, 5]])
    np.testing.assert_array_equal(labels, [0])


def test_next_click_goes_to_the_largest_region_and_not_to_the_largest_sum() -> None:
    label = np.zeros((20, 20, 20), dtype=bool)
    prediction = label.copy()
    label[1:4, 1:4, 1:4] = True  # 27 missed
    label[1:4, 1:4, 8:11] = True  # 27 missed, apart
    prediction[12:16, 12:16, 12:14] = True  # 32 false alarms in one piece
    points, labels = placed(next_click(label, prediction))
    assert labels.tolist() == [0]
    assert prediction[tuple(points[0].astype(int))]


def test_regions_are_joined_by_faces_only() -> None:
    label = np.zeros((12, 12, 12), dtype=bool)
    label[0:3, 0:3, 0:3] = label[3:6, 3:6, 3:6] = True  # joined by a corner: two of 27
    label[8:11, 8:11, 7:11] = True  # 36
    points, _ = placed(next_click(label))
    assert (points[0] >= 7).all()


def test_missed_and_false_regions_that_touch_stay_apart() -> None:
    label = np.zeros((12, 12, 12), dtype=bool)
    label[2:6, 2:6, 2:6] = True
    prediction = np.zeros_like(label)
    prediction[6:9, 2:6, 2:6] = True
    points, labels = placed(next_click(label, prediction))
    assert labels.tolist() == [1]
    assert label[tuple(points[0].astype(int))]


def test_no_error_no_click() -> None:
    points, labels = placed(next_click(LESION, LESION))
    assert points.shape == (0, 3)
    assert labels.shape == (0,)


@pytest.mark.parametrize("jitter", [0.3, 1.0])
def test_jitter_draws_inside_the_region(jitter: float, rng: np.random.Generator) -> None:
    depth = ndimage.distance_transform_edt(LESION)
    points = np.concatenate([next_click(LESION, EMPTY, rng, jitter=jitter).points for _ in range(60)])
    assert on(depth, points).min() >= max((1 - jitter) * depth.max(), 1)
    assert len(np.unique(points, axis=0)) > 20


def test_probabilities_are_cut_at_a_half() -> None:
    missed = ball(LESION.shape, (10, 12, 24), 2)
    probability = torch.from_numpy(np.where(LESION & ~missed, 0.9, 0.3))
    np.testing.assert_array_equal(next_click(LESION, probability).points, [[10, 12, 24]])


def test_iterating_ends_at_the_label(rng: np.random.Generator) -> None:
    """A perfect corrector, which repairs a ball round each click, needs only a few."""
    prediction, policy = EMPTY.copy(), click_policy("iterative")
    for _ in range(40):
        points, _ = placed(policy(LESION, rng, prediction=prediction))
        if len(points) == 0:
            break
        repaired = ball(LESION.shape, tuple(points[0].astype(int)), 6)
        prediction = np.where(repaired, LESION, prediction)
    np.testing.assert_array_equal(prediction, LESION)


def test_next_click_is_fast() -> None:
    label = ball((96, 96, 96), (48, 48, 48), 40)
    prediction = ball((96, 96, 96), (60, 48, 48), 40)
    next_click(label, prediction)
    start = time.process_time()
    next_click(label, prediction)
    assert time.process_time() - start < 0.15


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: random_clicks(LESION[None], rng), r"label has shape \(1, 24, 28, 32\), expected \(D, H, W\)"),
        (lambda rng: random_clicks(LESION, rng, -1), "number of clicks is -1"),
        (lambda rng: stray_clicks(LESION, rng, 1.5), "number of clicks is 1.5"),
        (lambda rng: next_click(LESION, LESION[1:]), "expected the same grid"),
        (lambda rng: next_click(LESION, EMPTY, jitter=0.5), "jitter is 0.5 but rng is None"),
        (lambda rng: next_click(LESION, EMPTY, rng, jitter=2), "jitter is 2, expected 0"),
        (lambda rng: click_policy("corner"), "click policy 'corner' is unknown, expected one of random, stray, centre"),
        (lambda rng: click_policy("iterative")(LESION, rng, 3), "one click, got n=3"),
    ],
)
def test_bad_arguments(call, message: str, rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=message):
        call(rng)
