"""Phantoms: the volumes against the formula, the tissues' HU, the same patient on every grid."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import aff2axcodes
from scipy import ndimage

from adapters.datasets import TISSUES, Ellipsoid, phantom, phantom_tumours, write_phantoms

SMALL = {"shape": (64, 56, 40), "spacing": (5.0, 5.0, 6.0)}


def test_the_ellipsoid_formula() -> None:
    ball = Ellipsoid(np.zeros(3), np.array([3.0, 3.0, 3.0]), np.eye(3))
    assert ball.volume == pytest.approx(113.097, abs=1e-3)
    assert ball.contains(np.array([[3.0, 0, 0], [3.01, 0, 0]])).tolist() == [True, False]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("tumours", [1, 4])
@pytest.mark.parametrize(("shape", "spacing"), [((100, 90, 60), (3.0, 3.0, 4.0)), ((60, 60, 100), (4.0, 5.0, 2.5))])
def test_the_label_has_the_tumours_volume(
    seed: int, tumours: int, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    _, label, _ = phantom(seed, shape, spacing, orientation="RAS", tumours=tumours)
    extent = np.multiply(shape, spacing)
    true = sum(tumour.volume for tumour in phantom_tumours(seed, extent, tumours=tumours))
    assert label.sum() * np.prod(spacing) == pytest.approx(true, rel=0.02)
    assert ndimage.label(label)[1] == tumours
    assert set(np.unique(label)) == {0, 1}
    border = np.ones(shape, dtype=bool)
    border[1:-1, 1:-1, 1:-1] = False
    assert not label[border].any()


def test_the_same_arguments_give_the_same_arrays() -> None:
    first, second, other = (phantom(seed, **SMALL) for seed in (3, 3, 4))
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SPL", "ILA"])
def test_the_same_patient_in_every_orientation(orientation: str) -> None:
    _, straight, affine = phantom(1, (50, 50, 50), (4.0, 4.0, 4.0), orientation="RAS")
    _, label, turned = phantom(1, (50, 50, 50), (4.0, 4.0, 4.0), orientation=orientation)
    assert "".join(aff2axcodes(turned)) == orientation
    back = nib.as_closest_canonical(nib.Nifti1Image(label, turned))
    np.testing.assert_array_equal(np.asarray(back.dataobj), straight)
    np.testing.assert_allclose(back.affine, affine)


def test_the_tissues_have_their_hounsfield_units() -> None:
    shape, spacing = (120, 120, 60), (3.0, 3.0, 5.0)
    image, label, affine = phantom(0, shape, spacing, orientation="RAS")
    extent = np.multiply(shape, spacing)

    def around(place: tuple[float, float, float]) -> float:
        i, j, k = np.rint(np.linalg.inv(affine)[:3] @ [*(np.array(place) * extent), 1]).astype(int)
        return float(image[i - 2 : i + 3, j - 2 : j + 3, k - 1 : k + 2].mean())

    assert image.dtype == np.float32
    assert around((0.47, 0.47, 0)) == pytest.approx(TISSUES["air"], abs=10)
    assert around((0, -0.2, 0.3)) == pytest.approx(TISSUES["bone"], abs=10)
    assert around((-0.19, 0.02, 0.36)) == pytest.approx(TISSUES["lung"], abs=10)
    assert around((0.19, 0.02, 0.36)) == pytest.approx(TISSUES["lung"], abs=10)
    assert around((-0.24, 0.06, -0.1)) == pytest.approx(TISSUES["liver"], abs=10)
    assert around((0.16, -0.2, -0.31)) == pytest.approx(TISSUES["kidney"], abs=10)
    inside = ndimage.binary_erosion(label, iterations=2)
    assert image[inside].mean() == pytest.approx(TISSUES["tumour"], abs=3)
    assert image[inside].std() == pytest.approx(12, abs=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (10, 10)}, r"shape is \(10, 10\), expected three positive"),
        ({"shape": (10, 0, 10)}, r"shape is \(10, 0, 10\)"),
        ({"spacing": (1.0, -1.0, 1.0)}, r"spacing is \(1.0, -1.0, 1.0\), expected three positive"),
        ({"spacing": (1.0, float("nan"), 1.0)}, "spacing is"),
        ({"orientation": "RLS"}, "orientation is 'RLS', expected one of the 48"),
        ({"orientation": "xyz"}, "orientation is 'xyz'"),
        ({"tumours": 0}, "tumours is 0, expected 1 to 4"),
        ({"tumours": 5}, "tumours is 5, expected 1 to 4"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        phantom(0, **{**SMALL, **arguments})


def test_written_as_a_data_set(tmp_path: Path) -> None:
    listed = write_phantoms(tmp_path / "data", 2, seed=7, **SMALL)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == [
        "data/images/phantom_007.nii.gz",
        "data/images/phantom_008.nii.gz",
        "data/labels/phantom_007.nii.gz",
        "data/labels/phantom_008.nii.gz",
    ]
    image, label, affine = phantom(8, **SMALL)
    stored = nib.load(listed[1]["image"])
    np.testing.assert_array_equal(np.asarray(stored.dataobj), np.rint(image))
    np.testing.assert_array_equal(np.asarray(nib.load(listed[1]["label"]).dataobj), label)
    np.testing.assert_allclose(stored.affine, affine)
    assert stored.header.get_data_dtype() == np.int16


def test_no_cases(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cases is 0"):
        write_phantoms(tmp_path / "data", 0)
    assert list(tmp_path.iterdir()) == []
