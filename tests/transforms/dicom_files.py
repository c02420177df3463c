"""Small DICOM files for the tests, written with pydicom: CT series, files of several frames, what lies beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian
from scan_files import LPS_TO_RAS

SERIES = "1.2.826.0.1.1"


def _dataset(kind: str, instance: str, series: str) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = kind
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = instance
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Phantom^A", "P1", "", ""
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.826.0.1", series, "1.2.826.0.1.9"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = (
        "20200101",
        "1200",
        "",
        "",
        "",
    )
    ds.SeriesNumber, ds.InstanceNumber, ds.Manufacturer, ds.Modality = 3, 1, "none", "CT"
    ds.ImageType, ds.SeriesDescription = ["ORIGINAL", "PRIMARY", "AXIAL"], "Abdomen"
    return ds


def _put(ds: Dataset, path: Path, values: Mapping[str, Any]) -> Path:
    for name, value in values.items():
        if value is not None:
            setattr(ds, name, value)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2")
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    path.parent.mkdir(parents=True, exist_ok=True)
    save(ds, path)
    return path


def save(ds: Dataset, path: Path, *, header: bool = True) -> None:
    """A dataset as a file, with pydicom 2 too; without its first part (``header``) as before DICOM 3, implicit VR."""
    if pydicom.__version__.startswith("2."):
        ds.is_little_endian, ds.is_implicit_VR = True, not header
        pydicom.dcmwrite(path, ds, write_like_original=not header)
    elif header:
        ds.save_as(path, enforce_file_format=True)
    else:
        ds.save_as(path, implicit_vr=True, little_endian=True)


def _put_pixels(ds: Dataset, pixels: np.ndarray) -> None:
    ds.Rows, ds.Columns = pixels.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 1
    ds.PixelData = pixels.astype("<i2").tobytes()


def geometry(affine: np.ndarray) -> dict[str, Any]:
    """What a slice says of its place; the affine (4, 4) takes its pixels (column, row, 0, 1) to RAS+."""
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :2], axis=0)
    return {
        "ImagePositionPatient": lps[:3, 3].round(6).tolist(),
        "ImageOrientationPatient": (lps[:3, :2] / spacing).T.ravel().round(9).tolist(),
        "PixelSpacing": spacing[::-1].round(9).tolist(),
    }


def at_slice(affine: np.ndarray, k: float) -> np.ndarray:
    """The affine of a slice of a volume."""
    moved = affine.copy()
    moved[:3, 3] += k * affine[:3, 2]
    return moved


def write_slice(path: Path, pixels: np.ndarray, affine: np.ndarray, *, series: str = SERIES, **values: Any) -> Path:
    """One slice.

    Args:
        path: its file.
        pixels: (columns, rows).
        affine: (4, 4), of the plane.
        series: SeriesInstanceUID.
        values: further elements by keyword, or others for the usual ones; None: without this part of the geometry.
    """
    number = values.get("InstanceNumber", 1)
    ds = _dataset(CTImageStorage, f"{series}.{number}", series)
    _put_pixels(ds, np.asarray(pixels).T)
    return _put(ds, path, {"RescaleSlope": 1, "RescaleIntercept": 0, "SliceThickness": 4, **geometry(affine), **values})


def write_series(
    folder: Path,
    array: np.ndarray,
    affine: np.ndarray,
    *,
    slices: Sequence[int] | None = None,
    name: str = "IM{:03d}",
    change: Callable[[int], Mapping[str, Any]] = lambda _: {},
    **values: Any,
) -> Path:
    """The slices of an array (columns, rows, slices), with other elements for all, or by `change` for each."""
    for k in range(array.shape[2]) if slices is None else slices:
        more = {"InstanceNumber": k + 1, **values, **change(k)}
        write_slice(folder / name.format(k), array[:, :, k], at_slice(affine, k), **more)
    return folder


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def write_frames(
    path: Path,
    array: np.ndarray,
    affine: np.ndarray,
    *,
    order: Sequence[int] | None = None,
    rescale: Sequence[tuple[float, float]] | None = None,
    instance: str = f"{SERIES}.1",
    content: Callable[[int], Mapping[str, Any]] = lambda _: {},
) -> Path:
    """An enhanced CT: all slices in one file, in an order; slope and intercept of each where they are given."""
    ds = _dataset(EnhancedCTImageStorage, instance, SERIES)
    order = range(array.shape[2]) if order is None else order
    _put_pixels(ds, np.stack([array[:, :, k].T for k in order]))
    ds.NumberOfFrames = len(order)
    place = geometry(affine)
    ds.SharedFunctionalGroupsSequence = [
        _item(
            PlaneOrientationSequence=[_item(ImageOrientationPatient=place["ImageOrientationPatient"])],
            PixelMeasuresSequence=[_item(PixelSpacing=place["PixelSpacing"], SliceThickness=4)],
        )
    ]
    frames = []
    for number, k in enumerate(order):
        slope, intercept = rescale[number] if rescale else (1, 0)
        position = geometry(at_slice(affine, k))["ImagePositionPatient"]
        frames.append(
            _item(
                PlanePositionSequence=[_item(ImagePositionPatient=position)],
                FrameContentSequence=[_item(DimensionIndexValues=[1, number + 1], **content(number))],
                PixelValueTransformationSequence=[
                    _item(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="HU")
                ],
            )
        )
    ds.PerFrameFunctionalGroupsSequence = frames
    return _put(ds, path, {"ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]})


def write_other(path: Path, kind: str, **values: Any) -> Path:
    """A file without pixels, such as a structure set."""
    ds = _dataset(kind, f"{SERIES}.7.1", f"{SERIES}.7")
    return _put(ds, path, values)
