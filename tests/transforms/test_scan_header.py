"""Headers that lie, files that harm, damage: looked at, and refused with a reason, before a voxel is read."""

from __future__ import annotations

import gzip
import os
import resource
import zlib
from collections.abc import Callable
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
from scan_files import ORIENTATIONS, affine_of, write_itk

from adapters.transforms import LoadScand
from adapters.transforms.scan_header import scan_header

SHAPE = (6, 5, 4)
AFFINE = affine_of("LPS", degrees=(10, 20, 30))
VALUES = np.random.default_rng(0).integers(-900, 900, SHAPE).astype(np.int16)
MHA = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = {packed}
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
ElementSpacing = 1 1 2
DimSize = 6 5 4
ElementType = {kind}
{more}ElementDataFile = {data}
"""
NRRD = """NRRD0005
type: {kind}
dimension: 3
space: left-posterior-superior
sizes: {sizes}
space directions: (1,0,0) (0,1,0) (0,0,2)
space origin: (0,0,0)
endian: little
encoding: {encoding}
{more}
"""


def mha(path: Path, data: str = "LOCAL", kind: str = "MET_SHORT", packed: bool = False, more: str = "") -> Path:
    head = MHA.format(packed=packed, data=data, kind=kind, more=more).encode()
    body = VALUES.tobytes(order="F")
    path.write_bytes(head + (zlib.compress(body) if packed else body) if data == "LOCAL" else head)
    return path


def nrrd(path: Path, sizes: str = "6 5 4", kind: str = "short", encoding: str = "raw", more: str = "") -> Path:
    head = NRRD.format(sizes=sizes, kind=kind, encoding=encoding, more=more).encode()
    body = VALUES.tobytes(order="F")
    path.write_bytes(head + (gzip.compress(body) if encoding == "gzip" else body))
    return path


def nifti(path: Path, **fields: object) -> Path:
    """With fields of its header changed in the bytes, as nibabel would put them right."""
    image = nib.Nifti1Image(VALUES, AFFINE)
    image.to_filename(path)
    image.header["vox_offset"] = 352
    for name, value in fields.items():
        image.header[name] = value
    path.write_bytes(image.header.binaryblock[:348] + path.read_bytes()[348:])
    return path


def load(path: Path) -> np.ndarray:
    return LoadScand("image")({"image": str(path)})["image"][0].numpy()


# --- good files are read as the libraries read them


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_as_itk_writes_and_reads(ending: str, compression: bool, dtype: type, tmp_path: Path) -> None:
    path = tmp_path / f"scan{ending}"
    values = VALUES.astype(dtype)
    write_itk(path, values, AFFINE)
    itk.imwrite(itk.imread(str(path)), str(path), compression=compression)
    scan = LoadScand("image")({"image": str(path)})["image"]
    np.testing.assert_array_equal(scan[0].numpy(), values.astype(np.float32))
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-5)


@pytest.mark.parametrize("orientation", ORIENTATIONS[::5])
@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_orientations(orientation: str, ending: str, tmp_path: Path) -> None:
    affine = affine_of(orientation)
    write_itk(tmp_path / f"scan{ending}", VALUES, affine)
    scan = LoadScand("image")({"image": str(tmp_path / f"scan{ending}")})["image"]
    np.testing.assert_allclose(scan.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(scan[0].numpy(), VALUES)


@pytest.mark.parametrize(
    ("space", "signs"),
    [("left-posterior-superior", (1, 1)), ("RAS", (-1, -1)), ("left-anterior-superior", (1, -1))],
)
def test_spaces_of_nrrd(space: str, signs: tuple[int, int], tmp_path: Path) -> None:
    path = nrrd(tmp_path / "scan.nrrd")
    path.write_bytes(path.read_bytes().replace(b"left-posterior-superior", space.encode()))
    header = scan_header(path)
    assert header is not None
    np.testing.assert_array_equal(np.diag(header.affine), [-signs[0], -signs[1], 2, 1])
    by_itk = itk.imread(str(path)).GetDirection()
    np.testing.assert_array_equal(itk.array_from_matrix(by_itk), np.diag([*signs, 1]))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("slope", [None, 2.5])
def test_nifti_as_nibabel_reads_it(big: bool, kind: type, slope: float | None, tmp_path: Path) -> None:
    header = kind.header_class(endianness=">" if big else "<")
    image = kind(VALUES, AFFINE, header)
    image.set_data_dtype(np.int16)
    image.header.set_slope_inter(slope, 3 if slope else None)
    for ending in (".nii", ".nii.gz"):
        path = tmp_path / f"scan{ending}"
        nib.save(image, path)
        np.testing.assert_allclose(load(path), nib.load(path).get_fdata(), rtol=1e-6)
        np.testing.assert_allclose(scan_header(path).affine, nib.load(path).affine)  # type: ignore[union-attr]


def test_members_of_gzip_and_what_follows(tmp_path: Path) -> None:
    """Some programs write several members, or pad the file."""
    plain = nifti(tmp_path / "scan.nii").read_bytes()
    for number, packed in enumerate(
        [gzip.compress(plain[:300]) + gzip.compress(plain[300:]), gzip.compress(plain) + b"\0" * 512]
    ):
        path = tmp_path / f"{number}.nii.gz"
        path.write_bytes(packed)
        np.testing.assert_array_equal(load(path), VALUES)


def test_voxels_in_a_file_whose_name_begins_with_list(tmp_path: Path) -> None:
    (tmp_path / "Lister.raw").write_bytes(VALUES.tobytes(order="F"))
    np.testing.assert_array_equal(load(mha(tmp_path / "scan.mhd", "Lister.raw")), VALUES)


# --- what is refused


def _pipe(path: Path) -> Path:
    os.mkfifo(path / "scan.nii")
    return path / "scan.nii"


def _many_keys(path: Path) -> Path:
    keys = "".join(f"key{number}:=1\n" for number in range(200_000))
    return nrrd(path / "scan.nrrd", more=keys)


def _damaged(path: Path, ending: str) -> Path:
    made = {".mha": mha, ".nrrd": nrrd}[ending]
    file = made(path / f"scan{ending}", **({"packed": True} if ending == ".mha" else {"encoding": "gzip"}))
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    return file


def _changed(file: Path, old: str, new: str) -> Path:
    content = file.read_bytes()
    assert old.encode() in content
    file.write_bytes(content.replace(old.encode(), new.encode()))
    return file


def _beside(path: Path) -> Path:
    (path / "inner").mkdir()
    (path / "voxels.raw").write_bytes(VALUES.tobytes(order="F"))
    return mha(path / "inner" / "scan.mhd", "../voxels.raw")


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a pattern of names": (lambda p: mha(p / "scan.mhd", "x%s%s%s%s%s.raw 1 4 1"), "its voxels lie in several files"),
    "a list of files": (lambda p: mha(p / "scan.mhd", "LIST"), "its voxels lie in several files"),
    "a file elsewhere": (_beside, r"names the file '\.\./voxels\.raw' outside its own folder"),
    "an absolute path": (lambda p: mha(p / "scan.mhd", "/etc/hostname"), "outside its own folder"),
    "no such file": (lambda p: mha(p / "scan.mhd", "none.raw"), "names the file 'none.raw', which is not beside it"),
    "a pipe": (_pipe, "scan.nii is a pipe, not a file"),
    "200,000 keys": (_many_keys, "its header is longer than 1048576 bytes"),
    "a key twice": (lambda p: mha(p / "s.mha", more="DimSize = 6 5 3\n"), "its header has DimSize twice"),
    "text": (lambda p: mha(p / "s.mha", more="").rename(p / "t.nrrd"), "it does not begin as a NRRD file does"),
    "colours": (lambda p: mha(p / "s.mha", kind="MET_OTHER"), "its ElementType is 'MET_OTHER'"),
    "promises of NIfTI": (lambda p: nifti(p / "s.nii", dim=[3, 1024, 1024, 1900, 1, 1, 1, 1]), "it is truncated"),
    "promises of NRRD": (lambda p: nrrd(p / "s.nrrd", sizes="1024 1024 1900"), "header promises 1024 x 1024 x 1900"),
    "sizes of hundreds of digits": (lambda p: nrrd(p / "s.nrrd", sizes=f"{'9' * 400} 5 4"), "expected whole numbers"),
    "negative sizes": (lambda p: nifti(p / "s.nii", dim=[3, -6, 5, 4, 1, 1, 1, 1]), "expected 1 to 7 axes"),
    "voxels in the header": (lambda p: nifti(p / "s.nii", vox_offset=8), "vox offset 8 too low"),
    "a turned bit in MHA": (lambda p: _damaged(p, ".mha"), "damaged"),
    "a turned bit in NRRD": (lambda p: _damaged(p, ".nrrd"), "damaged"),
    "an encoding": (lambda p: nrrd(p / "s.nrrd", encoding="bzip2"), "its encoding is 'bzip2'"),
    "another unit": (
        lambda p: nrrd(p / "s.nrrd", more='space units: "meters" "meters" "meters"'),
        "in 'meters' by its",
    ),
    "a space that NRRD does not know": (
        lambda p: _changed(nrrd(p / "s.nrrd"), "left-posterior", "right-posterior"),
        "its space is 'right-posterior-superior', expected left-posterior-superior",
    ),
    "a place in words of NRRD 1": (
        lambda p: _changed(
            nrrd(p / "s.nrrd"),
            "space directions: (1,0,0) (0,1,0) (0,0,2)\nspace origin: (0,0,0)",
            "spacings: 1 1 2\naxismins: 5 6 7",
        ),
        "its header has axis mins in place of a space origin",
    ),
    "spacings below 0": (
        lambda p: _changed(nrrd(p / "s.nrrd"), "space directions: (1,0,0) (0,1,0) (0,0,2)", "spacings: -1 1 2"),
        "its spacings are '-1 1 2', expected lengths above 0 mm",
    ),
    "a space without directions": (
        lambda p: _changed(nrrd(p / "s.nrrd"), "space directions: (1,0,0) (0,1,0) (0,0,2)", "spacings: 1 1 2"),
        "its header has a space and no space directions",
    ),
    "another format": (lambda p: mha(p / "s.mha").rename(p / "s.vtk"), "expected a file that is called by its format"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"cannot be read, expected .*: .*{message}"):
        load(make(tmp_path))


def test_memory_is_bounded_by_what_the_header_names(tmp_path: Path) -> None:
    """64 kB of voxels, and behind them zeros that unpack to 200 MB, or a header that promises as much."""
    values = np.ones((32, 32, 32), np.int16)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "small.nii")
    packer = zlib.compressobj(9, wbits=31)
    bomb = packer.compress((tmp_path / "small.nii").read_bytes())
    for _ in range(200):
        bomb += packer.compress(bytes(2**20))
    (tmp_path / "bomb.nii.gz").write_bytes(bomb + packer.flush())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="more than 64 MiB follow the voxels that its header names"):
        load(tmp_path / "bomb.nii.gz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_only_geometry_reaches_the_meta(tmp_path: Path) -> None:
    """Keys that the writer, or the inferer, would obey."""
    keys = "patch_index:=/../../../escaped\noptions:={}\nprompts:=[]\naffine:=1\n"
    path = nrrd(tmp_path / "scan.nrrd", more=keys)
    meta = LoadScand("image")({"image": str(path)})["image"].meta
    expected = {"affine", "filename_or_obj", "nifti_geometry", "original_affine", "original_channel_dim", "space"}
    assert set(map(str, meta)) == expected | {"spatial_shape"}
    np.testing.assert_array_equal(meta["affine"], np.diag([-1.0, -1, 2, 1]))
