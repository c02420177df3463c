"""Dice and NSD: values by hand, agreement with DeepMind's package, empty masks, bad input."""

from __future__ import annotations

import time

import numpy as np
import pytest

from adapters.metrics import volume_scores


def box(shape: tuple[int, ...], *sides: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def ellipsoid(shape: tuple[int, ...], centre: np.ndarray, radii: np.ndarray) -> np.ndarray:
    grid = np.indices(shape).reshape(3, -1).T
    return ((((grid - centre) / radii) ** 2).sum(axis=1) < 1).reshape(shape)


def by_deepmind(prediction: np.ndarray, label: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> float:
    surface_distance = pytest.importorskip("surface_distance")
    distances = surface_distance.compute_surface_distances(label, prediction, spacing)
    return surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["ellipsoids", "noise"])
def test_nsd_equals_deepminds_package(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(16, 36, 3))
    spacing = tuple(rng.uniform(0.5, 4, 3))
    tolerance = rng.uniform(0.5, 5)
    if kind == "noise":
        prediction, label = rng.random(shape) < 0.1, rng.random(shape) < 0.1
    else:
        prediction, label = (
            ellipsoid(shape, np.array(shape) / 2 + rng.normal(0, 2, 3), np.array(shape) * rng.uniform(0.15, 0.6, 3))
            for _ in range(2)
        )
    scores = volume_scores(prediction, label, spacing, tolerance=tolerance)
    assert scores["nsd"] == pytest.approx(by_deepmind(prediction, label, spacing, tolerance), abs=1e-6)
    overlap = 2 * (prediction & label).sum() / (prediction.sum() + label.sum())
    assert scores["dice"] == pytest.approx(overlap, abs=1e-6)


def test_dice_by_hand() -> None:
    label = box((10, 10, 10), (2, 6), (2, 6), (2, 6))
    prediction = box((10, 10, 10), (2, 6), (2, 6), (4, 8))
    assert volume_scores(prediction, label, (1, 1, 1))["dice"] == pytest.approx(0.5)


@pytest.mark.parametrize(("axis", "inside"), [(0, False), (1, True), (2, True)])
def test_spacing_follows_the_axes(axis: int, inside: bool) -> None:
    """A mask moved by two voxels: 6 mm along the thick axis are beyond the tolerance of 5 mm, 2 mm are not."""
    label = box((20, 20, 20), (6, 12), (6, 12), (6, 12))
    nsd = volume_scores(np.roll(label, 2, axis), label, (3.0, 1.0, 1.0))["nsd"]
    assert (nsd == 1.0) is inside


def test_tolerance_decides() -> None:
    label = box((20, 20, 20), (6, 12), (6, 12), (6, 12))
    moved = np.roll(label, 3, 2)
    assert volume_scores(moved, label, (1, 1, 1), tolerance=3.0)["nsd"] == 1.0
    assert volume_scores(moved, label, (1, 1, 1), tolerance=2.9)["nsd"] < 1.0


def test_masks_at_the_border_score_as_in_the_middle() -> None:
    label, prediction = box((4, 4, 4), (0, 4), (0, 4), (0, 4)), box((4, 4, 4), (0, 4), (0, 4), (0, 2))
    padded = [np.pad(mask, 5) for mask in (prediction, label)]
    assert volume_scores(prediction, label, (1, 2, 3), tolerance=1) == volume_scores(*padded, (1, 2, 3), tolerance=1)


@pytest.mark.parametrize(
    ("prediction", "label", "expected"), [(False, False, 1.0), (True, False, 0.0), (False, True, 0.0)]
)
def test_empty_masks_have_stated_values(prediction: bool, label: bool, expected: float) -> None:
    masks = [np.full((4, 4, 4), filled) for filled in (prediction, label)]
    assert volume_scores(*masks, (1, 1, 1)) == {"dice": expected, "nsd": expected}


def test_integers_count_as_masks() -> None:
    label = box((6, 6, 6), (1, 4), (1, 4), (1, 4))
    assert volume_scores(label.astype(np.uint8) * 2, label, (1, 1, 1)) == {"dice": 1.0, "nsd": 1.0}


MASK = np.ones((4, 4, 4), dtype=bool)


@pytest.mark.parametrize(
    ("prediction", "label", "spacing", "tolerance", "message"),
    [
        (MASK[None], MASK, (1, 1, 1), 5, r"prediction has shape \(1, 4, 4, 4\)"),
        (MASK, MASK[:3], (1, 1, 1), 5, "bring both onto one grid"),
        (MASK.astype(float), MASK, (1, 1, 1), 5, "prediction is of type float64"),
        (MASK, MASK, (1, 1), 5, "expected three positive numbers of mm"),
        (MASK, MASK, (1, 0, 1), 5, "expected three positive numbers of mm"),
        (MASK, MASK, (1, 1, 1), -1, "tolerance is -1 mm"),
        (MASK, MASK, (1, 1, 1), float("nan"), "tolerance is nan mm"),
    ],
)
def test_bad_arguments(prediction, label, spacing, tolerance, message) -> None:
    with pytest.raises(ValueError, match=message):
        volume_scores(prediction, label, spacing, tolerance=tolerance)


@pytest.mark.slow
def test_a_scan_takes_less_than_a_second() -> None:
    label = ellipsoid((160, 160, 160), np.array([80, 80, 80]), np.array([50, 60, 55]))
    prediction = np.roll(label, 2, 0)
    volume_scores(prediction, label, (1, 1, 1))
    start = time.perf_counter()
    volume_scores(prediction, label, (1, 1, 1))
    assert time.perf_counter() - start < 1.0
