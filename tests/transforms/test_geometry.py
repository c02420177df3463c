"""A mask lies on its scan in every viewer: in nibabel, and in ITK (3D Slicer, ITK-SNAP), whatever the header says."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest
from monai.transforms import SaveImage
from scan_files import ORIENTATIONS, affine_of, write_itk

from adapters.transforms import LoadScand, mask_name, mask_writer
from adapters.transforms.saving import write_mask

SHAPE = (7, 6, 5)
SHEARED = affine_of("LPS") @ np.array([[1, 0, 0, 0], [0, 1, 0.4, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
OBLIQUE = affine_of("RAS", degrees=(20, 45, -30))


def write(path: Path, affine: np.ndarray, codes: tuple[int, int] = (1, 1), moved: float = 0.0, **fields: Any) -> Path:
    """A scan whose qform is `moved` mm from its sform; the codes are those of the qform and the sform."""
    image = nib.Nifti1Image(np.random.default_rng(0).integers(-50, 100, SHAPE).astype(np.int16), affine)
    other = affine.copy()
    other[0, 3] += moved
    image.set_qform(other, code=1)
    image.set_sform(affine, code=1)
    image.to_filename(path)
    # nibabel puts a header right when it writes one: as bytes it stays what it is
    for name, value in {"qform_code": codes[0], "sform_code": codes[1], "vox_offset": 352, **fields}.items():
        image.header[name] = value
    content = bytearray(path.read_bytes())
    content[:348] = image.header.binaryblock[:348]
    path.write_bytes(content)
    return path


def by_itk(path: Path) -> np.ndarray | None:
    """(4, 4) voxels to LPS mm as ITK reads it; None where ITK refuses the header."""
    try:
        image = itk.imread(str(path))
    except RuntimeError:
        return None
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return affine


def saved_mask(scan: Path, ending: str) -> tuple[Path, np.ndarray]:
    """A mask on the stored grid of a scan, written as the bundles write it."""
    loaded = LoadScand("image")({"image": str(scan)})["image"]
    mask = loaded.clone()
    mask.set_array((loaded.as_tensor() > 20).byte())
    folder = scan.parent / "masks"
    SaveImage(
        folder,
        "mask",
        ending,
        resample=False,
        separate_folder=False,
        output_dtype=np.uint8,
        output_name_formatter=mask_name,
        writer=mask_writer(ending),
    )(mask)
    return folder / f"scan_mask{ending}", mask[0].numpy()


def check(scan: Path) -> None:
    stored = by_itk(scan)
    for ending in (".nii", ".nii.gz", ".nrrd", ".mha"):
        if stored is None and ending in (".nrrd", ".mha"):
            with pytest.raises(Exception, match="ITK cannot place this scan"):
                saved_mask(scan, ending)
            continue
        mask, values = saved_mask(scan, ending)
        found = by_itk(mask)
        assert (found is None) == (stored is None)
        if found is not None and stored is not None:
            np.testing.assert_allclose(found, stored, atol=1e-4)
            np.testing.assert_array_equal(itk.array_from_image(itk.imread(str(mask))).T, values)
        if ending.startswith(".nii"):
            read: Any = nib.load(mask)
            np.testing.assert_array_equal(read.affine, nib.load(scan).affine)
            np.testing.assert_array_equal(np.asarray(read.dataobj), values)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientations(orientation: str, tmp_path: Path) -> None:
    check(write(tmp_path / "scan.nii", affine_of(orientation)))


@pytest.mark.parametrize("codes", [(q, s) for q in range(4) for s in range(4)], ids=str)
@pytest.mark.parametrize("affine", [affine_of("LPS"), OBLIQUE], ids=["straight", "oblique"])
def test_both_codes(codes: tuple[int, int], affine: np.ndarray, tmp_path: Path) -> None:
    check(write(tmp_path / "scan.nii", affine, codes, moved=30.0))


@pytest.mark.parametrize("codes", [(0, 1), (1, 1), (0, 2), (1, 2)], ids=str)
def test_sheared(codes: tuple[int, int], tmp_path: Path) -> None:
    scan = write(tmp_path / "scan.nii", SHEARED, codes)
    check(scan)
    np.testing.assert_allclose(LoadScand("image")({"image": str(scan)})["image"].affine, SHEARED, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "codes", "said"),
    [
        ({}, (1, 1), ""),
        ({}, (0, 0), "neither sform nor qform (both codes are 0)"),
        ({"qoffset_x": 18.0}, (1, 2), "its sform (code 2) and its qform (code 1) put a corner of it 30 mm apart"),
        ({"pixdim": [1, 0.8002, 1.3, 3, 1, 1, 1, 1]}, (0, 1), "its sform (code 1) and its pixdim"),
        ({"pixdim": [1, 0.80000001, 1.3, 3, 1, 1, 1, 1]}, (0, 1), ""),
        ({"pixdim": [1, 1, 1, 1, 1, 1, 1, 1]}, (0, 1), "the sform counts, as the standard has it"),
    ],
    ids=str,
)
def test_what_is_said_of_a_header(
    fields: dict[str, Any], codes: tuple[int, int], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scan = write(tmp_path / "scan.nii", affine_of("LPS"), codes, **fields)
    check(scan)
    if codes[1]:
        np.testing.assert_allclose(
            LoadScand("image")({"image": str(scan)})["image"].affine, affine_of("LPS"), atol=1e-5
        )
    told = {record.getMessage() for record in caplog.records if record.levelname == "WARNING"}
    assert len(told) == bool(said)
    assert all(said in each for each in told)


@pytest.mark.parametrize("codes", [(99, 99), (99, 0), (1, 99), (-1, -1)], ids=str)
def test_codes_that_nifti_does_not_know(
    codes: tuple[int, int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check(write(tmp_path / "scan.nii", affine_of("RAS"), codes, moved=30.0))
    assert ("_code is 99, which NIfTI does not know" in caplog.text) == (99 in codes)


@pytest.mark.parametrize("codes", [(1, 0), (1, 1), (0, 0)], ids=str)
@pytest.mark.parametrize("handedness", [1, 0])
def test_negative_spacing(codes: tuple[int, int], handedness: int, tmp_path: Path) -> None:
    check(write(tmp_path / "scan.nii", affine_of("RAS"), codes, pixdim=[handedness, -0.8, 1.3, 3, 1, 1, 1, 1]))


@pytest.mark.parametrize("spacing", [0.0, np.nan])
def test_no_spacing(spacing: float, tmp_path: Path) -> None:
    pixdim = [1, spacing, 1, 1, 1, 1, 1, 1]
    for codes in ((0, 0), (1, 0)):
        with pytest.raises(ValueError, match="its header gives no spacing: pixdim is"):
            LoadScand("image")({"image": str(write(tmp_path / "scan.nii", affine_of("LPS"), codes, pixdim=pixdim))})


def test_further_axes_of_length_one(tmp_path: Path) -> None:
    values = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(*SHAPE, 1, 1)
    nib.save(nib.Nifti1Image(values, OBLIQUE), tmp_path / "scan.nii")
    scan = LoadScand("image")({"image": str(tmp_path / "scan.nii")})["image"]
    assert scan.shape == (1, *SHAPE)
    np.testing.assert_array_equal(scan[0].numpy(), values[..., 0, 0])
    mask, _ = saved_mask(tmp_path / "scan.nii", ".nii")
    np.testing.assert_allclose(by_itk(mask), by_itk(write(tmp_path / "flat.nii", OBLIQUE)), atol=1e-4)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_masks_of_other_formats(ending: str, tmp_path: Path) -> None:
    """Scans that ITK wrote: one word about where they lie, which both readers of NIfTI must find in the mask."""
    scan = tmp_path / f"scan{ending}"
    values = np.random.default_rng(0).integers(-50, 100, SHAPE).astype(np.int16)
    write_itk(scan, values, OBLIQUE)
    for out in (".nii.gz", ".nrrd", ".mha"):
        mask, _ = saved_mask(scan, out)
        np.testing.assert_allclose(by_itk(mask), by_itk(scan), atol=1e-4)
    np.testing.assert_allclose(nib.load(tmp_path / "masks" / "scan_mask.nii.gz").affine, OBLIQUE, atol=1e-4)


# --- what no mask may replace


def save_over(scan: Path, target: Path) -> None:
    """A mask of a scan to a path, through the writer alone."""
    loaded = LoadScand("image")({"image": str(scan)})["image"]
    writer = mask_writer(target.suffix)(output_dtype=np.uint8)
    writer.set_data_array(np.ones(SHAPE, np.uint8), channel_dim=None, squeeze_end_dims=False)
    writer.set_metadata({**loaded.meta, "affine": loaded.affine}, resample=False)
    writer.write(target, verbose=False)


def _itself(scan: Path) -> Path:
    return scan


def _a_link(scan: Path) -> Path:
    (scan.parent / "link.nii").symlink_to(scan)
    return scan.parent / "link.nii"


def _a_hard_link(scan: Path) -> Path:
    os.link(scan, scan.parent / "hard.nii")
    return scan.parent / "hard.nii"


def _another_scan(scan: Path) -> Path:
    return write(scan.parent / "other.nii", OBLIQUE)


@pytest.mark.parametrize("make", [_itself, _a_link, _a_hard_link, _another_scan])
def test_no_image_is_replaced(make: Any, tmp_path: Path) -> None:
    scan = write(tmp_path / "scan.nii", OBLIQUE)
    target = make(scan)
    before = target.read_bytes()
    with pytest.raises(ValueError, match=r"the mask would replace (its own scan|the image) '.*nii': choose another"):
        save_over(scan, target)
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"scan.nii", target.name})


def test_an_ending_in_capitals(tmp_path: Path) -> None:
    scan = write(tmp_path / "scan.nii", OBLIQUE)
    with pytest.raises(ValueError, match=r"ITK writes no \.MHA: call the mask \.mha"):
        save_over(scan, tmp_path / "mask.MHA")
    for name in ("mask.NRRD", "mask.NII"):
        save_over(scan, tmp_path / name)
        assert (tmp_path / name).stat().st_size


def test_voxels_beside_a_header_are_not_replaced(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-50, 100, SHAPE).astype(np.int16)
    write_itk(tmp_path / "ct.nhdr", values, OBLIQUE)
    itk.imwrite(itk.imread(str(tmp_path / "ct.nhdr")), str(tmp_path / "ct.nhdr"), compression=True)
    (tmp_path / "ct.nhdr").rename(tmp_path / "header.nhdr")
    before = (tmp_path / "ct.raw.gz").read_bytes()
    with pytest.raises(Exception, match="the mask would replace its own scan"):
        save_over(tmp_path / "header.nhdr", tmp_path / "ct.nhdr")
    assert (tmp_path / "ct.raw.gz").read_bytes() == before
    assert not (tmp_path / "ct.nhdr").exists()


@pytest.mark.parametrize("name", ["mask.nii", "mask.nrrd", "mask.mha"])
def test_an_earlier_mask_is_replaced(name: str, tmp_path: Path) -> None:
    scan = write(tmp_path / "scan.nii", OBLIQUE)
    for _ in range(2):
        save_over(scan, tmp_path / name)
    (tmp_path / name).write_bytes(b"")  # nor is what is no image kept
    save_over(scan, tmp_path / name)
    assert itk.array_from_image(itk.imread(str(tmp_path / name))).sum() == np.prod(SHAPE)


@pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz", "mask.nrrd", "mask.mhd"])
@pytest.mark.parametrize("room", [100, 3000])
def test_a_full_disk(name: str, room: int, tmp_path: Path) -> None:
    """A limit to the size of files stands for it."""
    mask = np.random.default_rng(0).random((40, 40, 40)) > 0.5
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError, match=rf"'.*{name}' cannot be written \(.*\) and stays as it was: make room"):
            write_mask(tmp_path / name, mask, {}, OBLIQUE, "lesion")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []
