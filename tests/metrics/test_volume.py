"""Dice, NSD and HD95: values by hand, agreement with DeepMind's package, empty masks, bad input."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import ndimage

from adapters.metrics import hd95, volume_scores


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


SHAPE = (9, 10, 11)
DEGENERATE = {
    "one voxel": box(SHAPE, (4, 5), (4, 5), (4, 5)),
    "the voxel beside it": box(SHAPE, (4, 5), (4, 5), (5, 6)),
    "a voxel in a corner": box(SHAPE, (0, 1), (0, 1), (0, 1)),
    "a line": box(SHAPE, (4, 5), (4, 5), (0, 11)),
    "a plane": box(SHAPE, (4, 5), (0, 10), (0, 11)),
    "everything": np.ones(SHAPE, dtype=bool),
    "a shell": np.pad(np.zeros((7, 8, 9), dtype=bool), 1, constant_values=True),
    "a chessboard": np.indices(SHAPE).sum(axis=0) % 2 == 0,
}


@pytest.mark.parametrize("tolerance", [0.0, 2.0])
@pytest.mark.parametrize("label", DEGENERATE)
def test_nsd_of_degenerate_masks_equals_deepminds_package(label: str, tolerance: float) -> None:
    spacing = (2.5, 1.0, 0.7)
    for name, prediction in DEGENERATE.items():
        nsd = volume_scores(prediction, DEGENERATE[label], spacing, tolerance=tolerance)["nsd"]
        expected = by_deepmind(prediction, DEGENERATE[label], spacing, tolerance)
        assert nsd == pytest.approx(expected, abs=1e-6), name


@pytest.mark.parametrize("predicted", [True, False])
def test_nsd_of_one_empty_mask_equals_deepminds_package(predicted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)  # that package still calls it so
    masks = [np.zeros(SHAPE, dtype=bool), DEGENERATE["a line"]]
    prediction, label = masks[::-1] if predicted else masks
    assert by_deepmind(prediction, label, (1, 1, 1), 5) == volume_scores(prediction, label, (1, 1, 1))["nsd"] == 0


def test_nsd_of_a_single_slice_equals_deepminds_package() -> None:
    label, prediction = box((1, 12, 12), (0, 1), (2, 9), (2, 9)), box((1, 12, 12), (0, 1), (3, 11), (2, 10))
    nsd = volume_scores(prediction, label, (3, 1, 1), tolerance=1)["nsd"]
    assert nsd == pytest.approx(by_deepmind(prediction, label, (3, 1, 1), 1), abs=1e-6)


@pytest.mark.parametrize(("axis", "mm"), [(0, 6.0), (1, 2.0), (2, 1.0)])
def test_hd95_of_a_plane_that_moved(axis: int, mm: float) -> None:
    """Two voxels along one axis, and all of the plane with them."""
    label = np.zeros((12, 12, 12), dtype=bool)
    label[tuple(slice(4, 5) if other == axis else slice(None) for other in range(3))] = True
    assert hd95(np.roll(label, 2, axis), label, (3.0, 1.0, 0.5)) == pytest.approx(mm)


def plain_hd95(prediction: np.ndarray, label: np.ndarray, spacing: tuple[float, ...]) -> float:
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (prediction, label)]
    ways = [
        np.percentile(ndimage.distance_transform_edt(~to, sampling=spacing)[from_], 95)
        for from_, to in (edges, edges[::-1])
    ]
    return max(ways)


@pytest.mark.parametrize("seed", range(4))
def test_hd95_equals_the_plain_computation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape, spacing = tuple(rng.integers(16, 30, 3)), tuple(rng.uniform(0.5, 4, 3))
    prediction, label = (
        ellipsoid(shape, np.array(shape) / 2 + rng.normal(0, 2, 3), np.array(shape) * rng.uniform(0.15, 0.6, 3))
        for _ in range(2)
    )
    assert hd95(prediction, label, spacing) == pytest.approx(plain_hd95(prediction, label, spacing), rel=1e-5)


def test_hd95_of_single_voxels() -> None:
    one, other = DEGENERATE["one voxel"], DEGENERATE["a voxel in a corner"]
    assert hd95(one, other, (1, 2, 3)) == pytest.approx(np.sqrt(4**2 + 8**2 + 12**2))
    assert hd95(one, one, (1, 2, 3)) == 0


@pytest.mark.parametrize(
    ("prediction", "label", "expected"),
    [(False, False, 0.0), (True, False, np.sqrt(9 + 36 + 81)), (False, True, np.sqrt(9 + 36 + 81))],
)
def test_hd95_of_empty_masks_is_the_diagonal(prediction: bool, label: bool, expected: float) -> None:
    masks = [np.full((4, 4, 4), filled) for filled in (prediction, label)]
    assert hd95(*masks, (1, 2, 3)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("label", "spacing", "message"),
    [
        (np.ones((3, 4, 4), dtype=bool), (1, 1, 1), "bring both onto one grid"),
        (np.ones((4, 4, 4)), (1, 1, 1), "label is of type float64"),
        (np.ones((4, 4, 4), dtype=bool), (1, -1, 1), "expected three positive numbers of mm"),
    ],
)
def test_bad_arguments_of_hd95(label: np.ndarray, spacing: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hd95(np.ones((4, 4, 4), dtype=bool), label, spacing)


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
