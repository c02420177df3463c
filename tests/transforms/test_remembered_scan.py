"""Scans kept between clicks: known by content and transforms, bounded, shared by threads, invertible."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dicom_files import write_frames
from monai.transforms import Compose, Invertd, Lambdad, Orientationd, ScaleIntensityRanged
from scan_files import affine_of, write_dicom, write_in_two, write_itk, write_nifti

from adapters.transforms import CheckScand, LoadScand, RememberedScand
from adapters.transforms.remembered_scan import SCANS

SHAPE = (6, 7, 8)


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    SCANS.clear()
    yield
    SCANS.clear()


def prepared(top: float = 100.0, **options: Any) -> RememberedScand:
    orient = Orientationd("image", axcodes="SPL", labels=(("L", "R"), ("P", "A"), ("I", "S")))
    scale = ScaleIntensityRanged("image", a_min=0, a_max=top, b_min=0, b_max=1)
    return RememberedScand("image", [LoadScand("image"), CheckScand("image"), orient, scale], **options)


def write(path: Path, seed: int = 0) -> str:
    array = np.random.default_rng(seed).integers(0, 100, SHAPE).astype(np.int16)
    return str(write_nifti(path, array, affine_of("LPS")))


def test_the_second_request_shares_the_first_ones_voxels(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nii.gz")
    first = prepared()({"image": path, "label": "tumor"})
    second = prepared()({"image": path, "foreground": [[1, 2, 3]]})
    assert second["foreground"] == [[1, 2, 3]]
    assert "label" not in second
    assert second["image"].data_ptr() == first["image"].data_ptr()
    np.testing.assert_array_equal(second["image"].affine, first["image"].affine)
    second["image"].meta["prompts"] = "{}"
    assert "clicks" not in prepared()({"image": path})["image"].meta


def test_known_by_content_and_not_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nii.gz")
    first = prepared()({"image": path})["image"]
    uploaded = tmp_path / "again.nii.gz"
    uploaded.write_bytes(Path(path).read_bytes())
    again = prepared()({"image": str(uploaded)})["image"]
    assert again.data_ptr() == first.data_ptr()
    assert again.meta["filename_or_obj"] == str(uploaded)  # masks are named after it
    write(tmp_path / "scan.nii.gz", seed=1)
    changed = prepared()({"image": path})["image"]
    assert not torch.equal(changed.as_tensor(), first.as_tensor())
    assert len(SCANS) == 2


def test_other_transforms_prepare_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nii.gz")
    first, other = (prepared(top)({"image": path})["image"] for top in (100.0, 50.0))
    torch.testing.assert_close(other.as_tensor(), 2 * first.as_tensor())
    assert len(SCANS) == 2


def test_bounded_by_megabytes(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{seed}.nii.gz", seed) for seed in range(3)]
    room = 2.5 * np.prod(SHAPE) * 4 / 2**20  # for two scans
    keep = [prepared(megabytes=room)({"image": path})["image"] for path in paths]
    assert len(SCANS) == 2
    assert prepared(megabytes=room)({"image": paths[1]})["image"].data_ptr() == keep[1].data_ptr()
    assert prepared(megabytes=room)({"image": paths[0]})["image"].data_ptr() != keep[0].data_ptr()  # the oldest went
    assert prepared(megabytes=room)({"image": paths[1]})["image"].data_ptr() == keep[1].data_ptr()  # used last
    SCANS.clear()
    prepared(megabytes=0)({"image": paths[0]})
    assert len(SCANS) == 0
    with pytest.raises(ValueError, match="megabytes is -1: expected 0"):
        prepared(megabytes=-1)


def test_a_kept_scan_is_inverted_by_other_transforms(tmp_path: Path) -> None:
    """Each request of MONAI Label has transforms of its own."""
    path = write(tmp_path / "scan.nii.gz")
    prepared()({"image": path})
    preprocessing = Compose([prepared()])
    data = preprocessing({"image": path})
    data["pred"] = data["image"].clone()
    mask = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)(data)["pred"]
    np.testing.assert_allclose(
        np.asarray(mask[0]) * 100, np.asarray(LoadScand("image")({"image": path})["image"][0]), atol=1e-3
    )


def test_from_several_threads(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{seed}.nii.gz", seed) for seed in range(4)] * 10
    expected = {path: prepared(megabytes=0)({"image": path})["image"].as_tensor() for path in paths}
    room = 2.5 * np.prod(SHAPE) * 4 / 2**20
    with ThreadPoolExecutor(8) as threads:
        scans = list(threads.map(lambda path: prepared(megabytes=room)({"image": path})["image"], paths))
    for path, scan in zip(paths, scans, strict=True):
        assert torch.equal(scan.as_tensor(), expected[path])
    assert len(SCANS) <= 2


def test_a_folder_is_known_by_all_its_files(tmp_path: Path) -> None:
    from adapters.transforms.remembered_scan import _digest

    (tmp_path / "series").mkdir()
    for name in ("1.dcm", "2.dcm"):
        (tmp_path / "series" / name).write_bytes(name.encode())
    before = _digest(tmp_path / "series")
    assert before == _digest(tmp_path / "series")
    (tmp_path / "series" / "2.dcm").rename(tmp_path / "series" / "3.dcm")
    assert _digest(tmp_path / "series") != before


@pytest.mark.parametrize("header", ["ct.mhd", "ct.nhdr", "ct.hdr"])
def test_two_patients_with_equal_headers(tmp_path: Path, header: str) -> None:
    """The voxels are in another file. So they are when they are replaced in place."""
    arrays = [np.random.default_rng(seed).integers(0, 100, SHAPE).astype(np.int16) for seed in range(3)]
    paths = [write_in_two(tmp_path / f"{n}", header, array, affine_of("LPS")) for n, array in enumerate(arrays[:2])]
    assert (tmp_path / "0" / header).read_bytes() == (tmp_path / "1" / header).read_bytes()

    def values(path: str) -> np.ndarray:
        data = prepared()({"image": path})
        upright = Compose(prepared().transforms[:-1])({"image": path})["image"]
        np.testing.assert_allclose(data["image"], upright / 100, atol=1e-6)  # as loaded anew
        return np.sort(np.asarray(data["image"]).ravel() * 100)

    for array, path in zip(arrays, paths, strict=False):
        np.testing.assert_allclose(values(path), np.sort(array.ravel()), atol=1e-4)
    write_in_two(tmp_path / "0", header, arrays[2], affine_of("LPS"))
    np.testing.assert_allclose(values(paths[0]), np.sort(arrays[2].ravel()), atol=1e-4)
    assert len(SCANS) == 3
    again = prepared()({"image": paths[1]})["image"]
    assert again.data_ptr() == prepared()({"image": paths[1]})["image"].data_ptr()
    assert len(SCANS) == 3


def test_equal_voxels_with_different_headers(tmp_path: Path) -> None:
    """Asked for by the name of the voxels."""
    array = np.random.default_rng(0).integers(0, 100, SHAPE).astype(np.int16)
    spacings = [(1.0, 2.0, 3.0), (3.0, 1.0, 2.0)]
    for n, spacing in enumerate(spacings):
        path = write_in_two(tmp_path / f"{n}", "ct.img", array, affine_of("LPS", spacing))
        scan = prepared()({"image": path})["image"]
        np.testing.assert_allclose(scan.pixdim, spacing[::-1], atol=1e-5)  # oriented SPL


@pytest.mark.parametrize("form", ["text", "path", "list", "doubled", "folder"])
def test_a_kept_scan_is_called_as_a_loaded_one(tmp_path: Path, form: str) -> None:
    """The saved mask is named after it."""
    path = write(tmp_path / "scan.nii.gz")
    if form == "folder":
        array = np.random.default_rng(0).integers(0, 100, SHAPE).astype(np.int16)
        path = write_dicom(tmp_path / "series", array, affine_of("LPS")) + "/"
    value = {"path": Path(path), "list": [path], "doubled": path.replace("/scan", "//scan")}.get(form, path)
    first, second = (prepared()({"image": value})["image"] for _ in range(2))
    assert first.data_ptr() == second.data_ptr()
    assert second.meta["filename_or_obj"] == first.meta["filename_or_obj"] == path.rstrip("/")


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii"])
def test_a_file_with_its_data_is_kept(tmp_path: Path, ending: str) -> None:
    array = np.random.default_rng(0).integers(0, 100, SHAPE).astype(np.int16)
    path = write_itk(tmp_path / f"scan{ending}", array, affine_of("LPS"))
    first, second = (prepared()({"image": path})["image"] for _ in range(2))
    assert first.data_ptr() == second.data_ptr()


def test_mistakes_are_those_of_the_transforms(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        prepared()({"image": str(tmp_path / "none.nii.gz")})
    with pytest.raises(FileNotFoundError, match="there is no image of this name"):
        prepared()({"image": ""})


def test_with_a_transform_that_cannot_be_pickled_nothing_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.nii.gz")
    whole = LoadScand("image")({"image": path})["image"]
    double = Lambdad("image", lambda scan: 2 * scan)
    for _ in range(2):
        scan = RememberedScand("image", [LoadScand("image"), double])({"image": path})["image"]
        assert torch.equal(scan.as_tensor(), 2 * whole.as_tensor())
    assert len(SCANS) == 0


def test_numbers_with_dots_are_no_endings(tmp_path: Path) -> None:
    """Files of DICOM are often named so; a scan that is sent again is the same scan."""
    array = np.random.default_rng(0).integers(0, 100, SHAPE).astype(np.int16)
    kept = []
    for name in ("1.2.840.1", "1.2.840.2"):
        path = write_frames(tmp_path / name, array, affine_of("LPS"))
        kept.append(RememberedScand("image", [LoadScand("image")])({"image": str(path)})["image"])
    assert kept[0].data_ptr() == kept[1].data_ptr()


def test_a_file_that_claims_terabytes_is_not_read_through(tmp_path: Path) -> None:
    """It takes no room on the disk, and an hour to read."""
    path = write_nifti(tmp_path / "ct.nii", np.ones(SHAPE, np.int16), affine_of("LPS"))
    os.truncate(path, 2**41)
    with pytest.raises(ValueError, match=r"further bytes follow: its header names a part of the file"):
        RememberedScand("image", [LoadScand("image")])({"image": path})
