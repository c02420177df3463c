"""Masks of DICOM scans as DICOM SEG, which refer to the instances that they were drawn on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from monai.data import ImageWriter
from pydicom.dataset import Dataset

import adapters
from adapters.files import replacing
from adapters.transforms.dicom import find_volume

logger = logging.getLogger(__name__)

# What a SEG takes over from the scan and may be empty; anonymised and converted files often lack some of it.
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"),
)
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")


class SegmentationWriter(ImageWriter):
    """MONAI's writer of a mask as DICOM SEG; the mask's meta names the DICOM scan that it is of (`LoadScand`).

    Args:
        label: what the segment is called.
        options: those that ``SaveImaged`` gives a writer.
    """

    def __init__(self, label: str = "lesion", **options: Any) -> None:
        super().__init__(**options)
        self.label = label

    def set_data_array(self, data_array: Any, channel_dim: int | None = 0, **options: Any) -> None:
        """Take the mask: (1, I, J, K), or (I, J, K) where there is no ``channel_dim``."""
        mask = np.asarray(data_array.cpu() if isinstance(data_array, torch.Tensor) else data_array)
        self.data_obj = mask if channel_dim is None else mask[0]

    def set_metadata(self, meta_dict: Mapping | None, **options: Any) -> None:
        """Take the mask's affine, and which scan it is of."""
        meta = meta_dict or {}
        self.affine, self.scan = meta.get("affine"), str(meta.get("filename_or_obj", ""))
        self.series = str(meta.get("series", ""))

    def write(self, filename: PathLike | str, verbose: bool = True, **options: Any) -> None:  # noqa: FBT001, FBT002
        """Write the file; see `write_segmentation`."""
        super().write(filename, verbose=verbose)
        mask, affine = np.asarray(self.data_obj) > 0, np.asarray(self.affine, dtype=float)
        write_segmentation(Path(filename), mask, affine, self.scan, self.series, self.label)


def _measures(source: Dataset) -> Iterator[Dataset]:
    """Where a header may state the distance of slices."""
    yield source
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in source.get(groups) or []:
            yield from group.get("PixelMeasuresSequence") or []


def write_segmentation(
    path: Path, mask: np.ndarray, affine: np.ndarray, scan: str | PathLike, series: str, label: str
) -> None:
    """Write a mask as DICOM SEG with one segment; an existing file is replaced.

    Its frames are those from the first slice of the lesion to the last (of a file of several frames: all), each at the
    place of the slice that it refers to.

    Args:
        path: the file.
        mask: bool (I, J, K), on the grid of the scan.
        affine: (4, 4), voxels to world in mm, RAS+.
        scan: the folder, or the file of several frames, that the scan was read from.
        series: which series of it, as `find_volume` takes it; empty: the scan is no DICOM.
        label: what the segment is called.

    Raises:
        ValueError: if the scan is no DICOM, has changed since, lacks what a SEG refers to, or is one of several volumes
            in a file of frames. If highdicom is not installed.
    """
    if not series:
        raise ValueError(
            f"a DICOM SEG refers to the slices of a DICOM scan, and {str(scan)!r} is none: write the mask as .nii.gz, "
            ".nrrd or .mha"
        )
    try:
        import highdicom as hd
        from pydicom.sr.codedict import codes
    except ImportError as err:
        raise ValueError(
            "DICOM SEG is written with highdicom, which is not installed: pip install 'monai-sam-adapters[seg]', or "
            "write the mask as .nii.gz"
        ) from err

    volume = find_volume(scan, series)
    if mask.shape != volume.shape or not np.allclose(affine, volume.affine, atol=1e-3):
        raise ValueError(
            f"the mask lies on another grid than {str(scan)!r}, which was changed after it was read: read it again"
        )
    planes = np.ascontiguousarray(mask.T).view(np.uint8)  # slices, rows, columns
    slices = volume.slices
    if slices[0].frames == 1:
        if (filled := np.flatnonzero(planes.any(axis=(1, 2)))).size:
            planes, slices = planes[filled[0] : filled[-1] + 1], slices[filled[0] : filled[-1] + 1]
        files = [each.file for each in slices]
    else:
        files = [slices[0].file]
        if {(each.file, each.frame) for each in slices} != {(files[0], frame) for frame in range(slices[0].frames)}:
            raise ValueError(
                f"{str(scan)!r} holds frames of several volumes, and a DICOM SEG is written for all of a file's frames:"
                " write the mask as .nii.gz"
            )
        planes = planes[np.argsort([each.frame for each in slices])]
    sources = [pydicom.dcmread(file, stop_before_pixels=True, force=True) for file in files]
    for source in sources:
        if missing := [tag for tag in _NEEDED if not source.get(tag)]:
            raise ValueError(
                f"{source.filename!r} has no {missing[0]}, which a DICOM SEG refers to: write the mask as .nii.gz"
            )
        for tag in _MAY_BE_EMPTY:
            if tag not in source:
                setattr(source, tag, "")
        for place in _measures(source):  # highdicom takes it over, and it is often not what the positions say
            place.pop("SpacingBetweenSlices", None)
    if len({source.SOPInstanceUID for source in sources}) < len(sources):
        raise ValueError(
            f"the slices of {str(scan)!r} have no SOPInstanceUIDs of their own, by which a DICOM SEG refers to them: "
            "write the mask as .nii.gz"
        )
    name = " ".join(label.replace("\\", "/").split())[:64] or "lesion"
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=name,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            "monai-sam-adapters", codes.DCM.ArtificialIntelligence, adapters.__version__
        ),
        tracking_id=name,
        tracking_uid=hd.UID(),
    )
    segmentation = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=planes,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=hd.UID(),
        series_number=int(sources[0].get("SeriesNumber") or 0) + 1000,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="monai-sam-adapters",
        manufacturer_model_name="monai-sam-adapters",
        software_versions=adapters.__version__,
        device_serial_number="none",
        content_description=name,
        series_description=f"{name}, not for diagnosis"[:64],
        omit_empty_frames=False,  # frames at even distances suit more readers
    )
    with replacing(path) as temporary:
        segmentation.save_as(temporary)
