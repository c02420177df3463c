"""One volume out of DICOM files, or a sentence that says why there is none."""

from __future__ import annotations

import locale
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import itk
import numpy as np
import pytest
from dicom_files import SERIES, at_slice, save, write_frames, write_other, write_series, write_slice
from pydicom import dcmread
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RTStructureSetStorage, SecondaryCaptureImageStorage
from scan_files import affine_of

from adapters.transforms import LoadScand, RememberedScand, scan_header
from adapters.transforms.dicom import find_volume
from adapters.transforms.remembered_scan import SCANS

SHAPE = (12, 10, 9)
AFFINE = affine_of("LPS", (0.8, 1.3, 4.0), degrees=(5, -8, 11))
ARRAY = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
OTHER = f"{SERIES}.2"
TILTED = affine_of("LPS", (0.8, 1.3, 4.0))
TILTED[:3, 1] = 1.3 * np.array([0, -np.cos(0.26), -np.sin(0.26)])  # rows lean by 15 degrees, slices stay upright


def load(path: Path, **values: Any) -> Any:
    return LoadScand("image")({"image": str(path), **values})["image"]


# --- what is read


def _subfolders(folder: Path) -> None:
    write_series(folder / "DICOM" / "A", ARRAY, AFFINE, slices=range(5))
    write_series(folder / "DICOM" / "B", ARRAY, AFFINE, slices=range(5, 9))
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "autorun.inf").write_text("[autorun]")


def _beside(folder: Path) -> None:
    """A localizer, a report's picture, a bolus watch at one place, a structure set, and what computers leave."""
    write_series(folder, ARRAY, AFFINE)
    write_slice(folder / "scout", ARRAY[:, 0], AFFINE, series=OTHER, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    place = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "SOPClassUID": SecondaryCaptureImageStorage}
    write_slice(folder / "dose", ARRAY[:, :, 0], AFFINE, series=f"{SERIES}.3", **place)
    for number in range(4):
        write_slice(folder / f"watch{number}", ARRAY[:, :, number], AFFINE, series=f"{SERIES}.4", InstanceNumber=number)
    write_other(folder / "rs.dcm", RTStructureSetStorage, Modality="RTSTRUCT")
    (folder / ".DS_Store").write_bytes(b"x" * 500)
    (folder / ".IM001.dcm").write_bytes(b"x" * 500)
    (folder / "readme.txt").write_text("hello")


def _localizer_within(folder: Path) -> None:
    write_series(folder, ARRAY, AFFINE)
    turned = affine_of("PSL")
    write_slice(folder / "scout", ARRAY[:, :, 0], turned, ImageType="ORIGINAL\\PRIMARY\\LOCALIZER", InstanceNumber=99)


def _copies(folder: Path) -> None:
    """The same file, a link to one, and the same slice with another header."""
    write_series(folder, ARRAY, AFFINE)
    shutil.copy(folder / "IM002", folder / "IM002 (1)")
    (folder / "link").symlink_to(folder / "IM003")
    write_slice(folder / "sent_again", ARRAY[:, :, 8], at_slice(AFFINE, 8), InstanceNumber=9, SeriesDescription="again")


def _rounded(folder: Path) -> None:
    """Positions to a tenth of a millimetre."""
    place = lambda k: {"ImagePositionPatient": (at_slice(AFFINE, k)[:3, 3] * (-1, -1, 1)).round(1).tolist()}  # noqa: E731
    write_series(folder, ARRAY, AFFINE, change=place)


def _rescaled(folder: Path) -> None:
    write_series(
        folder, ARRAY * 2, AFFINE, change=lambda k: {"RescaleSlope": 0.5} if k < 4 else {"RescaleIntercept": 7}
    )


RESCALED = np.where(np.arange(9) < 4, ARRAY, 2.0 * ARRAY + 7)


def _without_preamble(folder: Path) -> None:
    write_series(folder, ARRAY, AFFINE)
    for file in folder.iterdir():
        ds = dcmread(file)
        del ds.file_meta
        del ds.preamble
        save(ds, file, header=False)


def _in_syntax(folder: Path, syntax: UID) -> None:
    write_series(folder, ARRAY, AFFINE)
    for file in folder.iterdir():
        ds = dcmread(file)
        ds.file_meta.TransferSyntaxUID = syntax
        save(ds, file)


def _jpeg2000(folder: Path) -> None:
    write_series(folder / "plain", ARRAY, AFFINE)
    for file in sorted((folder / "plain").iterdir()):
        image = itk.imread(str(file), itk.SS)
        writer = itk.GDCMImageIO.New(KeepOriginalUID=True, UseCompression=True)
        writer.SetCompressionType(itk.GDCMImageIOEnums.Compression_JPEG2000)
        header = dcmread(file)
        for tag in (
            "SeriesInstanceUID",
            "Modality",
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "SOPInstanceUID",
        ):
            element = header[tag]
            value = element.value if isinstance(element.value, str) else "\\".join(map(str, element.value))
            image.GetMetaDataDictionary()[f"{element.tag.group:04x}|{element.tag.element:04x}"] = value
        itk.imwrite(image, str(folder / file.name), imageio=writer, compression=True)
    shutil.rmtree(folder / "plain")


READ: dict[str, tuple[Callable[[Path], Any], np.ndarray, np.ndarray]] = {
    "plain": (lambda folder: write_series(folder, ARRAY, AFFINE), ARRAY, AFFINE),
    "numbered backwards": (
        lambda folder: write_series(folder, ARRAY, AFFINE, change=lambda k: {"InstanceNumber": 100 - k}),
        ARRAY,
        AFFINE,
    ),
    "sagittal": (lambda folder: write_series(folder, ARRAY, affine_of("PIR")), ARRAY, affine_of("PIR")),
    "a tilted gantry": (lambda folder: write_series(folder, ARRAY, TILTED), ARRAY, TILTED),
    "cut at midnight": (
        lambda folder: write_series(folder, ARRAY, AFFINE, change=lambda k: {"SeriesDate": f"2020010{1 + k // 5}"}),
        ARRAY,
        AFFINE,
    ),
    "one UID and number for all": (
        lambda folder: write_series(
            folder, ARRAY, AFFINE, change=lambda _: {"SOPInstanceUID": "1.2.3", "InstanceNumber": 1}
        ),
        ARRAY,
        AFFINE,
    ),
    "a new acquisition in the middle": (
        lambda folder: write_series(folder, ARRAY, AFFINE, change=lambda k: {"AcquisitionNumber": 1 + k // 5}),
        ARRAY,
        AFFINE,
    ),
    "names in another alphabet": (
        lambda folder: write_series(
            folder, ARRAY, AFFINE, SpecificCharacterSet="ISO_IR 192", SeriesDescription="Größe 王"
        ),
        ARRAY,
        AFFINE,
    ),
    "folders in it": (_subfolders, ARRAY, AFFINE),
    "other things beside it": (_beside, ARRAY, AFFINE),
    "a localizer in the series": (_localizer_within, ARRAY, AFFINE),
    "slices twice": (_copies, ARRAY, AFFINE),
    "rounded positions": (_rounded, ARRAY, AFFINE),
    "each slice rescaled": (_rescaled, RESCALED, AFFINE),
    "no preamble": (_without_preamble, ARRAY, AFFINE),
    "JPEG 2000": (_jpeg2000, ARRAY, AFFINE),
    "deflated": (lambda folder: _in_syntax(folder, DeflatedExplicitVRLittleEndian), ARRAY, AFFINE),
    "frames": (lambda folder: write_frames(folder / "f.dcm", ARRAY, AFFINE), ARRAY, AFFINE),
    "frames with a copy": (
        lambda folder: shutil.copy(write_frames(folder / "f.dcm", ARRAY, AFFINE), folder / "g.dcm"),
        ARRAY,
        AFFINE,
    ),
    "frames backwards": (
        lambda folder: write_frames(folder / "f.dcm", ARRAY, AFFINE, order=range(8, -1, -1)),
        ARRAY[:, :, ::-1],
        AFFINE @ [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 8], [0, 0, 0, 1]],
    ),
    "frames out of order": (
        lambda folder: write_frames(folder / "f.dcm", ARRAY, AFFINE, order=[3, 1, 0, 2, 8, 7, 4, 6, 5]),
        ARRAY,
        AFFINE,
    ),
    "frames tilted": (lambda folder: write_frames(folder / "f.dcm", ARRAY, TILTED), ARRAY, TILTED),
    "frames rescaled": (
        lambda folder: write_frames(
            folder / "f.dcm", ARRAY * 2, AFFINE, rescale=[(0.5, 0) if k < 4 else (1, 7) for k in range(9)]
        ),
        RESCALED,
        AFFINE,
    ),
}


@pytest.mark.parametrize("kind", READ)
def test_what_is_read(kind: str, tmp_path: Path) -> None:
    write, array, affine = READ[kind]
    write(tmp_path)
    spoken = locale.setlocale(locale.LC_ALL)
    scan = load(tmp_path)
    assert locale.setlocale(locale.LC_ALL) == spoken
    np.testing.assert_array_equal(np.asarray(scan[0]), array)
    np.testing.assert_allclose(scan.affine, affine, atol=0.05 if kind == "rounded positions" else 1e-5)
    np.testing.assert_array_equal(scan.meta["original_affine"], scan.affine)
    assert scan.meta["series"] == (SERIES if kind != "JPEG 2000" else find_volume(tmp_path).series)


def test_every_slice_lies_where_its_header_says(tmp_path: Path) -> None:
    for affine in (AFFINE, TILTED):
        volume = find_volume(write_series(tmp_path / str(affine[1, 1]), ARRAY, affine))
        for k, each in enumerate(volume.slices):
            placed = (volume.affine @ [0, 0, k, 1])[:3] * (-1, -1, 1)
            np.testing.assert_allclose(placed, dcmread(each.file).ImagePositionPatient, atol=1e-4)


def test_a_file_of_frames(tmp_path: Path) -> None:
    scan = load(write_frames(tmp_path / "f.dcm", ARRAY, AFFINE))
    np.testing.assert_array_equal(np.asarray(scan[0]), ARRAY)


# --- which series


def test_the_choice_of_a_series(tmp_path: Path) -> None:
    """Asked for by the request, or else by the transform; told where it is not."""
    write_series(tmp_path / "a", ARRAY, AFFINE)
    write_series(tmp_path / "b", -ARRAY, AFFINE, series=OTHER, SeriesDescription="Thin\nslices", Modality="PT")
    with pytest.raises(ValueError, match="holds 2 series that can be the scan") as told:
        load(tmp_path)
    for part in (
        rf"{SERIES} \(CT, 'Abdomen', 9 slices\); {OTHER} \(PT, 'Thin slices', 9 slices\)",
        rf'"series": "{SERIES}" beside "image"',
        f"--series {SERIES}",
    ):
        assert re.search(part, str(told.value))
    assert "\n" not in str(told.value)
    np.testing.assert_array_equal(load(tmp_path, series=OTHER)[0], -ARRAY)
    chooses = LoadScand("image", series=OTHER)
    np.testing.assert_array_equal(chooses({"image": str(tmp_path)})["image"][0], -ARRAY)
    np.testing.assert_array_equal(chooses({"image": str(tmp_path), "series": SERIES})["image"][0], ARRAY)
    assert "series" not in chooses({"image": str(tmp_path), "series": SERIES})
    with pytest.raises(ValueError, match=rf"has no series '1\.2\.3', it holds {SERIES} \(CT"):
        load(tmp_path, series="1.2.3")
    with pytest.raises(ValueError, match="series is 3, expected the SeriesInstanceUID of a DICOM series, as text"):
        load(tmp_path, series=3)


def test_a_series_of_what_is_no_dicom(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(b"x" * 400)
    with pytest.raises(ValueError, match=r"series '1\.2' is asked for, but '.*scan\.nii' is no DICOM"):
        load(tmp_path / "scan.nii", series="1.2")


def test_the_series_of_one_folder_are_kept_apart(tmp_path: Path) -> None:
    write_series(tmp_path / "a", ARRAY, AFFINE)
    write_series(tmp_path / "b", -ARRAY, AFFINE, series=OTHER)
    SCANS.clear()
    remembered = RememberedScand("image", [LoadScand("image")])
    for _ in range(2):
        for series, array in ((SERIES, ARRAY), (OTHER, -ARRAY)):
            data = remembered({"image": str(tmp_path), "series": series})
            np.testing.assert_array_equal(data["image"][0], array)
            assert data["image"].meta["series"] == series
            assert "series" not in data
    assert len(SCANS) == 2


@pytest.mark.parametrize("frames", [False, True])
def test_phases_are_chosen_by_the_tag_that_tells_them_apart(frames: bool, tmp_path: Path) -> None:
    if frames:
        both, tag = np.concatenate([ARRAY, -ARRAY], axis=2), "TemporalPositionIndex"
        affine = AFFINE
        write_two_phases_in_frames(tmp_path / "f.dcm", both, affine)
    else:
        tag = "AcquisitionNumber"
        write_series(tmp_path / "1", ARRAY, AFFINE, AcquisitionNumber=1)
        write_series(tmp_path / "2", -ARRAY, AFFINE, AcquisitionNumber=2)
    with pytest.raises(ValueError, match=r"has two slices at .* and 9 such places of 9") as told:
        load(tmp_path)
    asked = f"{SERIES}/{tag}=1"
    assert f"they differ in {tag}, '1' (9 slices), '2' (9 slices): name one, \"series\": \"{asked}\"" in str(told.value)
    np.testing.assert_array_equal(load(tmp_path, series=asked)[0], ARRAY)
    np.testing.assert_array_equal(load(tmp_path, series=asked.replace("=1", "=2"))[0], -ARRAY)
    with pytest.raises(ValueError, match=rf"no slice whose {tag} is '3': they have '1' \(9 slices\), '2'"):
        load(tmp_path, series=asked.replace("=1", "=3"))
    with pytest.raises(ValueError, match="'Phase' after the series is no tag=value"):
        load(tmp_path, series=f"{SERIES}/Phase")


def write_two_phases_in_frames(path: Path, both: np.ndarray, affine: np.ndarray) -> None:
    write_frames(path, both, affine, content=lambda number: {"TemporalPositionIndex": 1 + number // 9})
    ds = dcmread(path)
    for number, frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence = ds.PerFrameFunctionalGroupsSequence[number % 9].PlanePositionSequence
    save(ds, path)


# --- what is refused


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def _truncated(folder: Path, size: int = -20, name: str = "IM008") -> None:
    write_series(folder, ARRAY, AFFINE)
    _cut(folder / name, size)


def _with(folder: Path, k: int, **values: Any) -> None:
    write_series(folder, ARRAY, AFFINE, change=lambda each: values if each == k else {})


def _mixed(folder: Path) -> None:
    write_series(folder, ARRAY, AFFINE)
    write_series(folder, ARRAY, affine_of("PIR", (0.8, 1.3, 4.0)), slices=range(2), name="sagittal{}")


def _between(folder: Path) -> None:
    """Two kernels, the slices of one half a spacing above those of the other."""
    for number, kernel in enumerate(("B30f", "B70f")):
        affine = at_slice(AFFINE, number / 2)
        write_series(folder, ARRAY, affine, name=f"{kernel}{{}}", ConvolutionKernel=kernel)


def _sideways(folder: Path) -> None:
    moved = AFFINE.copy()
    moved[:3, 3] += 3 * AFFINE[:3, 0]
    write_series(folder, ARRAY, AFFINE, slices=range(5))
    write_series(folder, ARRAY, moved, slices=range(5, 9))


def _dead_link(folder: Path) -> None:
    write_series(folder, ARRAY, AFFINE)
    (folder / "IM009").symlink_to(folder / "gone")


def _compressed_and_cut(folder: Path) -> None:
    _jpeg2000(folder)
    _cut(folder / "IM008", -30)


def _promises(folder: Path) -> None:
    """A few bytes of compressed pixels that say that they are 65,000 x 65,000."""
    _jpeg2000(folder)
    for file in folder.iterdir():
        ds = dcmread(file)
        ds.Rows = ds.Columns = 65000
        save(ds, file)


def _long(folder: Path) -> None:
    """One slice with 100 MB behind its pixels, which ITK would read (of a sparse file, so that none are written)."""
    write_series(folder, ARRAY, AFFINE)
    os.truncate(folder / "IM004", 100 * 2**20)


def _one_frame_away(folder: Path) -> None:
    write_frames(folder / "f.dcm", ARRAY, AFFINE, order=[0, 1, 2, 3, 5, 6, 7, 8])


def _two_files_of_frames(folder: Path) -> None:
    write_frames(folder / "f.dcm", ARRAY, AFFINE)
    write_frames(folder / "g.dcm", -ARRAY, AFFINE, instance=f"{SERIES}.2")


def _no_position(folder: Path) -> None:
    write_series(folder, ARRAY, AFFINE, ImagePositionPatient=None)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda folder: None, "holds no DICOM series: give a folder of DICOM slices, or the file of a scan"),
    "no image": (lambda folder: write_other(folder / "rs", RTStructureSetStorage), "holds no DICOM series"),
    "a gap": (
        lambda folder: write_series(folder, ARRAY, AFFINE, slices=[0, 1, 2, 3, 6, 7, 8]),
        r"a gap of 12 mm between slices 4 and 5 \('IM003' and 'IM006'\), 4 mm elsewhere; 2 slices seem to be missing",
    ),
    "one slice missing": (
        lambda folder: write_series(folder, ARRAY, AFFINE, slices=[0, 1, 2, 3, 4, 5, 6, 8]),
        r"a gap of 8 mm between slices 7 and 8 \('IM006' and 'IM008'\), 4 mm elsewhere; 1 slice seems",
    ),
    "a slice off its place": (
        lambda folder: _with(folder, 4, ImagePositionPatient=(at_slice(AFFINE, 4.2)[:3, 3] * (-1, -1, 1)).tolist()),
        r"a gap of 4.8 mm between slices 4 and 5|a gap of 3.2 mm between slices 5 and 6",
    ),
    "another spacing from the middle on": (
        lambda folder: write_series(
            folder,
            ARRAY,
            AFFINE,
            change=lambda k: {
                "ImagePositionPatient": (at_slice(AFFINE, k + max(0, k - 4) * 0.25)[:3, 3] * (-1, -1, 1)).tolist()
            },
        ),
        "is unevenly spaced: a gap of ",
    ),
    "slices moved sideways": (_sideways, r"slice 'IM00\d' lies .* mm beside the line of the others"),
    "two phases": (
        lambda folder: [write_series(folder / str(n), ARRAY + n, AFFINE, ContentTime=f"12000{n}") for n in (1, 2)],
        r"has two slices at \(12, -40, 7.5\) mm .* 'IM000' and 'IM000', .*: they differ in ContentTime",
    ),
    "two acquisitions, one of them in part": (
        lambda folder: [
            write_series(folder / str(n), ARRAY + n, AFFINE, slices=range(9 if n == 1 else 3), AcquisitionNumber=n)
            for n in (1, 2)
        ],
        r"and 3 such places of 9: they differ in AcquisitionNumber, '1' \(9 slices\), '2' \(3 slices\)",
    ),
    "two slices that nothing tells apart": (
        lambda folder: [
            write_series(folder / str(n), ARRAY + n, AFFINE, slices=range(9 if n == 1 else 1), SOPInstanceUID="1.2.3")
            for n in (1, 2)
        ],
        "these two differ in no tag that is known here; put the slices of one volume into a folder of their own",
    ),
    "three phases": (
        lambda folder: [
            write_series(folder / str(n), ARRAY + n, AFFINE, SeriesDescription=f"{n} %") for n in (1, 2, 3)
        ],
        "has 3 slices at .* they differ in SeriesDescription, '1 %'",
    ),
    "two phases at nearly the same places": (
        lambda folder: [
            write_series(folder / str(n), ARRAY + n, at_slice(AFFINE, 0.005 * n), AcquisitionNumber=n) for n in (1, 2)
        ],
        "has two slices at .* they differ in AcquisitionNumber, '1'",
    ),
    "volumes between each other": (
        _between,
        r"slices of several volumes between each other, which differ in ConvolutionKernel, 'B30f' \(9 slices\), 'B70f'",
    ),
    "mixed orientations": (
        _mixed,
        r"of different orientations \(ImageOrientationPatient\), 9 axial \(.*\), 2 sagittal \(.*\): put the slices",
    ),
    "different sizes": (
        lambda folder: [
            write_series(folder, ARRAY, AFFINE, slices=range(8)),
            write_slice(folder / "last", ARRAY[:-1, :, 8], at_slice(AFFINE, 8)),
        ],
        "has slices of different sizes, 8 of 12 x 10, 1 of 11 x 10: put",
    ),
    "different pixels": (
        lambda folder: _with(folder, 8, PixelSpacing=[1.5, 0.8]),
        "has slices of different PixelSpacing, 8 of 0.8 x 1.3 mm, 1 of 0.8 x 1.5 mm",
    ),
    "no positions": (_no_position, "9 of 9 slices have no ImagePositionPatient .* not known where they lie"),
    "the last slice without a position": (
        lambda folder: _with(folder, 8, ImagePositionPatient=None),
        r"1 of 9 slices have no ImagePositionPatient \('IM008'\)",
    ),
    "no orientations": (
        lambda folder: write_series(folder, ARRAY, AFFINE, ImageOrientationPatient=None),
        "9 of 9 slices have no ImageOrientationPatient",
    ),
    "no pixel spacing": (
        lambda folder: write_series(folder, ARRAY, AFFINE, PixelSpacing=None),
        "9 of 9 slices have no PixelSpacing",
    ),
    "a pixel spacing of 0": (
        lambda folder: write_series(folder, ARRAY, AFFINE, PixelSpacing=[0, 0]),
        "PixelSpacing is 0 mm, expected lengths above 0",
    ),
    "a position of two numbers": (
        lambda folder: _with(folder, 3, ImagePositionPatient=[1, 2]),
        r"ImagePositionPatient of '.*IM003' is \[1.*, 2.*\], expected 3 finite numbers",
    ),
    "no unit vectors": (
        lambda folder: write_series(folder, ARRAY, AFFINE, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
        "ImageOrientationPatient is 1, 0, 0, 1, 0, 0, expected two perpendicular vectors of length 1",
    ),
    "all at one place": (
        lambda folder: write_series(folder, ARRAY, AFFINE, ImagePositionPatient=[0, 0, 0]),
        "has 9 slices, all at one place: expected the slices of a 3D scan",
    ),
    "one slice": (
        lambda folder: write_slice(folder / "a", ARRAY[:, :, 0], AFFINE),
        "has one slice: expected the slices",
    ),
    "a link to nothing": (_dead_link, "the link '.*IM009' leads to no file, so a slice may be missing"),
    "the last slice truncated": (_truncated, r"IM008' is truncated, its pixels are not all there: copy it again"),
    "the last slice truncated in its header": (
        lambda folder: _truncated(folder, 500),
        r"IM008' cannot be read \(it ends in its header\), so a slice may be missing",
    ),
    "the last slice empty": (
        lambda folder: _truncated(folder, 0),
        r"IM008' cannot be read \(it is empty\), so a slice may be missing",
    ),
    "a slice that is no DICOM": (
        lambda folder: [write_series(folder, ARRAY, AFFINE), (folder / "IM009.dcm").write_text("<html>" * 50)],
        r"IM009.dcm' cannot be read \(it does not begin as DICOM files do\)",
    ),
    "compressed pixels cut off": (_compressed_and_cut, "IM008' is truncated, its pixels are not all there"),
    "more pixels than bytes": (_promises, "is truncated, its pixels are not all there"),
    "more bytes than pixels": (_long, r"IM004' cannot be read \(it has 100 MB, and its image 0\)"),
    "a large file that is deflated": (
        lambda folder: [
            _in_syntax(folder, DeflatedExplicitVRLittleEndian),
            os.truncate(folder / "IM004", 2 * 2**20),
        ],
        r"IM004' cannot be read \(it is deflated as a whole, and large: save it in another transfer syntax\)",
    ),
    "a frame missing": (_one_frame_away, r"a gap of 8 mm between slices 4 and 5 \('frame 4' and 'frame 5'\), 4 mm"),
    "two files of frames": (_two_files_of_frames, r"they differ in SOPInstanceUID, '1\.2\..*' \(9 slices\)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind: str, tmp_path: Path) -> None:
    write, message = REFUSED[kind]
    write(tmp_path)
    with pytest.raises(ValueError, match=message) as told:
        load(tmp_path)
    assert str(told.value).startswith("'image': ")
    assert str(tmp_path) in str(told.value)


def test_more_than_fits_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nMemAvailable: 3 kB\n")
    monkeypatch.setattr(scan_header, "_MEMORY", tmp_path / "meminfo")
    with pytest.raises(ValueError, match=r"9 slices of series .* take 0.0 GB in memory, of which 0.0 GB are free"):
        load(write_series(tmp_path / "scan", ARRAY, AFFINE))


@pytest.mark.parametrize("name", ["slice.dcm", "IM0001"])
def test_one_slice_of_a_series_as_a_file(name: str, tmp_path: Path) -> None:
    path = write_slice(tmp_path / name, ARRAY[:, :, 0], AFFINE)
    with pytest.raises(ValueError, match=f"{name}' is one slice: give the folder that holds the slices of its series"):
        load(path)


def test_a_pipe_among_the_slices(tmp_path: Path) -> None:
    write_series(tmp_path, ARRAY, AFFINE)
    os.mkfifo(tmp_path / "pipe")
    np.testing.assert_array_equal(load(tmp_path)[0], ARRAY)
