"""Masks of DICOM scans as DICOM SEG: the same voxels at the same places, referring to the slices they were drawn on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import itk
import numpy as np
import pytest
import torch
from dicom_files import SERIES, save, write_frames, write_series
from highdicom.seg import Segmentation, segread
from monai.data import MetaTensor
from monai.transforms import SaveImaged
from pydicom import dcmread
from pydicom.sr.codedict import codes
from scan_files import write_nifti
from test_dicom import AFFINE, ARRAY, READ, SHAPE, write_two_phases_in_frames

from adapters.error_text import sentence
from adapters.transforms import LoadScand, mask_name, mask_writer
from adapters.transforms.dicom import DicomVolume, find_volume
from adapters.transforms.dicom_seg import write_segmentation
from adapters.transforms.saving import write_mask

MASK = np.zeros(SHAPE, dtype=bool)
MASK[3:6, 2:5, 2:4] = True
MASK[8, 8, 7] = True
LPS = np.array([-1, -1, 1])


def write(folder: Path, mask: np.ndarray = MASK, series: str = "") -> tuple[DicomVolume, Segmentation]:
    volume = find_volume(folder, series)
    path = folder.parent / "mask.dcm"
    write_segmentation(path, mask, volume.affine, folder, volume.series, "tumor")
    return volume, segread(path)


def placed(segmentation: Segmentation, volume: DicomVolume) -> tuple[np.ndarray, set[int]]:
    """The mask that a SEG says, on the grid of its scan, and the slices that its frames refer to."""
    mask, slices = np.zeros(volume.shape, dtype=bool), set()
    pixels = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    for frame, plane in zip(segmentation.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float) * LPS
        voxel = np.linalg.solve(volume.affine, [*position, 1])[:3]
        k = round(voxel[2])
        np.testing.assert_allclose(voxel, [0, 0, k], atol=1e-3)
        mask[:, :, k] = plane.T == 1
        slices.add(k)
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        each = volume.slices[k]
        assert source.ReferencedSOPInstanceUID == dcmread(each.file, force=True).SOPInstanceUID
        assert each.frames == 1 or source.ReferencedFrameNumber == each.frame + 1
    return mask, slices


KINDS = ["plain", "numbered backwards", "sagittal", "a tilted gantry", "slices twice", "no preamble", "JPEG 2000"]


@pytest.mark.parametrize("kind", [*KINDS, *(kind for kind in READ if kind.startswith("frames"))])
def test_the_same_voxels_at_the_same_places(kind: str, tmp_path: Path) -> None:
    READ[kind][0](tmp_path / "scan")
    volume, segmentation = write(tmp_path / "scan")
    mask, slices = placed(segmentation, volume)
    np.testing.assert_array_equal(mask, MASK)
    assert slices == set(range(9) if kind.startswith("frames") else range(2, 8))


def test_an_empty_mask(tmp_path: Path) -> None:
    volume, segmentation = write(write_series(tmp_path / "scan", ARRAY, AFFINE), np.zeros_like(MASK))
    mask, slices = placed(segmentation, volume)
    assert not mask.any()
    assert slices == set(range(9))


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "scan", ARRAY, AFFINE, PatientName="Doe^Jo")
    _, segmentation = write(folder)
    source = dcmread(folder / "IM000")
    for tag in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID"):
        assert segmentation[tag].value == source[tag].value
    assert segmentation.Modality == "SEG"
    assert source.SeriesInstanceUID != segmentation.SeriesInstanceUID != segmentation.SOPInstanceUID
    segment = segmentation.get_segment_description(1)
    assert segment.segment_label == segment.tracking_id == "tumor"
    assert segment.segmented_property_type == codes.SCT.Lesion
    assert segment.tracking_uid.is_valid
    assert segmentation.SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"


def test_itk_reads_it_in_its_place(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", ARRAY, AFFINE)
    write(tmp_path / "scan")
    image = itk.imread(str(tmp_path / "mask.dcm"))
    found = np.argwhere(itk.array_from_image(image).T > 0).tolist()
    world = [np.array(image.TransformIndexToPhysicalPoint(voxel)) * LPS for voxel in found]
    voxels = np.linalg.solve(AFFINE, np.c_[world, np.ones(len(world))].T)[:3].T
    np.testing.assert_allclose(voxels[np.lexsort(voxels.round().T[::-1])], np.argwhere(MASK), atol=1e-3)


def test_one_phase_of_a_file_of_frames(tmp_path: Path) -> None:
    both = np.concatenate([ARRAY, -ARRAY], axis=2)
    write_two_phases_in_frames(tmp_path / "scan" / "f.dcm", both, AFFINE)
    refused(tmp_path / "scan", "holds frames of several volumes", series=f"{SERIES}/TemporalPositionIndex=2")


def test_saved_by_the_transform_of_a_bundle(tmp_path: Path) -> None:
    """Also into the folder of the scan, which it is no slice of."""
    folder = write_series(tmp_path / "1.2.840", ARRAY, AFFINE)
    for output in (tmp_path / "out", folder):
        image = LoadScand("image")({"image": str(folder)})["image"]
        mask = MetaTensor(torch.from_numpy(MASK[None].astype(np.uint8)), meta=image.meta)
        writer: Any = mask_writer(".dcm", "tumor 2\\3 " + "x" * 90)
        save = SaveImaged("pred", output_dir=output, output_ext=".dcm", output_postfix="mask", writer=writer,
                          output_name_formatter=mask_name, separate_folder=False, resample=False)  # fmt: skip
        save({"pred": mask})
        segmentation = segread(output / "1.2.840_mask.dcm")
        np.testing.assert_array_equal(placed(segmentation, find_volume(folder))[0], MASK)
        assert segmentation.get_segment_description(1).segment_label == ("tumor 2/3 " + "x" * 90)[:64]


def refused(folder: Path, message: str, *, affine: np.ndarray = AFFINE, series: str = SERIES) -> None:
    with pytest.raises(ValueError, match=message):
        write_segmentation(folder.parent / "mask.dcm", MASK, affine, folder, series, "tumor")
    assert not (folder.parent / "mask.dcm").exists()


def test_what_is_refused(tmp_path: Path) -> None:
    nifti = Path(write_nifti(tmp_path / "scan.nii", ARRAY, AFFINE))
    refused(nifti, r"a DICOM SEG refers to the slices of a DICOM scan, and '.*scan\.nii' is none: write", series="")
    folder = write_series(tmp_path / "moved", ARRAY, AFFINE)
    refused(folder, "the mask lies on another grid than .*, which was changed after it was read", affine=2 * AFFINE)
    folder = write_series(tmp_path / "lost", ARRAY, AFFINE, FrameOfReferenceUID="")
    refused(folder, r"IM002' has no FrameOfReferenceUID, which a DICOM SEG refers to: write the mask as \.nii\.gz")
    folder = write_series(tmp_path / "same", ARRAY, AFFINE, SOPInstanceUID="1.2.3")
    refused(folder, "have no SOPInstanceUIDs of their own, by which a DICOM SEG refers to them")


def test_a_bundle_says_why_it_writes_none(tmp_path: Path) -> None:
    """MONAI puts the sentence behind one of its own and a traceback."""
    image = LoadScand("image")({"image": write_nifti(tmp_path / "scan.nii", ARRAY, AFFINE)})["image"]
    writer: Any = mask_writer("dcm")
    save = SaveImaged("pred", output_dir=tmp_path, output_ext=".dcm", writer=writer, separate_folder=False)
    with pytest.raises(RuntimeError) as caught:
        save({"pred": image})
    assert sentence(caught.value).startswith("a DICOM SEG refers to the slices of a DICOM scan")
    assert not list(tmp_path.glob("*.dcm"))


def test_without_highdicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    folder = write_series(tmp_path / "scan", ARRAY, AFFINE)
    refused(folder, r"highdicom, which is not installed: pip install 'monai-sam-adapters\[seg\]', or write the mask as")


@pytest.mark.parametrize("kind", ["frames", "slices", "before DICOM 3"])
def test_no_image_is_replaced(kind: str, tmp_path: Path) -> None:
    if kind == "frames":
        scan = target = write_frames(tmp_path / "ct.dcm", ARRAY, AFFINE)
    else:
        scan = write_series(tmp_path / "ct", ARRAY, AFFINE, name="IM{:03d}.dcm")
        target = scan / "IM002.dcm"
    if kind == "before DICOM 3":
        for file in scan.iterdir():
            ds = dcmread(file)
            del ds.file_meta
            del ds.preamble
            save(ds, file, header=False)
    before = target.read_bytes()
    meta = LoadScand("image")({"image": str(scan)})["image"].meta
    mask = ARRAY > ARRAY.mean()
    with pytest.raises(ValueError, match="the mask would replace"):
        write_mask(target, mask, meta, meta["original_affine"], "lesion")
    assert target.read_bytes() == before
    for _ in range(2):  # an earlier mask is
        write_mask(tmp_path / "mask.dcm", mask, meta, meta["original_affine"], "lesion")


def test_frames_of_a_copy(tmp_path: Path) -> None:
    write_frames(tmp_path / "f.dcm", ARRAY, AFFINE)
    volume = find_volume(tmp_path / "f.dcm")
    write_segmentation(tmp_path / "mask.dcm", MASK, volume.affine, tmp_path / "f.dcm", volume.series, "tumor")
    np.testing.assert_array_equal(placed(segread(tmp_path / "mask.dcm"), volume)[0], MASK)
