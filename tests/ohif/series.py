"""A NIfTI scan as a DICOM series with the geometry of its affine, and where a DICOM SEG lies on it."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_series(scan: nib.Nifti1Image, name: str, folder: Path) -> list[Path]:
    """One CT Image Storage file for each slice along the scan's last axis.

    Columns of a slice run along the scan's first axis, rows along its second, so that voxel (i, j, k) is column i and
    row j of slice k. Unique identifiers follow from `name`: the same scan has the same ones each time.

    Args:
        scan: (I, J, K) CT in HU; its affine leads to mm, RAS+.
        name: The patient's name and number.
        folder: Where the files go; it is made.

    Returns:
        The K files, in the order of the slices.

    Raises:
        ValueError: Axes that are not perpendicular or intensities beyond 16 bits, which DICOM cannot hold.
    """
    affine = RAS_TO_LPS @ scan.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / spacing
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4):
        raise ValueError(f"{name}: the axes\n{axes}\nare not perpendicular; resample the scan to a grid without shear")
    values = np.rint(scan.get_fdata())
    limits = np.iinfo(np.int16)
    if values.min() < limits.min or values.max() > limits.max:
        raise ValueError(f"{name}: {values.min():g} to {values.max():g} HU, expected {limits.min} to {limits.max}")

    study, series, frame = (generate_uid(entropy_srcs=[name, what]) for what in ("study", "series", "frame"))
    folder.mkdir(parents=True)
    files = []
    for k in range(values.shape[2]):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[name, str(k)])
        each = Dataset()
        each.file_meta = meta
        each.is_little_endian, each.is_implicit_VR = True, False
        each.SOPClassUID, each.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        each.StudyInstanceUID, each.SeriesInstanceUID, each.FrameOfReferenceUID = study, series, frame
        each.PatientName = each.PatientID = name
        each.PatientBirthDate = each.PatientSex = each.AccessionNumber = each.ReferringPhysicianName = ""
        each.StudyID, each.StudyDate, each.StudyTime = "1", "20000101", "000000"
        each.StudyDescription = each.SeriesDescription = "CT"
        each.Manufacturer = each.PositionReferenceIndicator = ""
        each.Modality, each.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        each.SeriesNumber, each.AcquisitionNumber, each.InstanceNumber = 1, 1, k + 1
        each.KVP = None
        each.ImageOrientationPatient = [f"{value:.10g}" for value in axes[:, :2].T.ravel()]
        each.ImagePositionPatient = [f"{value:.10g}" for value in (affine @ [0, 0, k, 1])[:3]]
        each.PixelSpacing = [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"]  # between rows, between columns
        each.SliceThickness = f"{spacing[2]:.10g}"
        each.SamplesPerPixel, each.PhotometricInterpretation = 1, "MONOCHROME2"
        each.BitsAllocated, each.BitsStored, each.HighBit, each.PixelRepresentation = 16, 16, 15, 1
        each.RescaleSlope, each.RescaleIntercept, each.RescaleType = 1, 0, "HU"
        each.WindowCenter, each.WindowWidth = 40, 400
        each.Rows, each.Columns = values.shape[1], values.shape[0]
        each.PixelData = values[:, :, k].T.astype("<i2").tobytes()
        files.append(folder / f"{k:04d}.dcm")
        dcmwrite(files[-1], each, write_like_original=False)
    return files


def distance_between(segmentation: Dataset, series: list[Dataset]) -> float:
    """The largest distance in mm from a corner of a frame of a DICOM SEG to that corner of the slice it was drawn on.

    Args:
        segmentation: Each of its frames names one slice.
        series: The slices, in any order.
    """
    slices = {each.SOPInstanceUID: each for each in series}
    rows, columns = segmentation.Rows, segmentation.Columns
    corners = np.array([[0, 0], [0, rows - 1], [columns - 1, 0], [columns - 1, rows - 1]])

    def places(position: Dataset, orientation: Dataset, measures: Dataset) -> np.ndarray:
        axes = np.array(orientation.ImageOrientationPatient, float).reshape(2, 3)
        steps = np.array(measures.PixelSpacing, float)[::-1, None]  # stored as between rows, between columns
        return np.array(position.ImagePositionPatient, float) + corners @ (axes * steps)

    shared = segmentation.SharedFunctionalGroupsSequence[0]
    distances = []
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        drawn_on = slices[frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        has = places(
            frame.PlanePositionSequence[0], shared.PlaneOrientationSequence[0], shared.PixelMeasuresSequence[0]
        )
        distances.append(np.linalg.norm(has - places(drawn_on, drawn_on, drawn_on), axis=-1).max())
    return float(max(distances))
