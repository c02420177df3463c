"""Masks in files."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor, NibabelWriter
from monai.transforms import SaveImage

from adapters.transforms import NiftiWriter, mask_name, mask_writer
from adapters.transforms.saving import ItkWriter

AFFINE = np.array([[-2.0, 0, 0, 5], [0, 0.5, -6, 6], [0, 1, 3, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 2, 1), (0, 2, 3, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_the_same_file_as_monais(tmp_path: Path, order: tuple[int, ...], dtype: torch.dtype, ending: str) -> None:
    values = (torch.rand(1, 5, 6, 7) * 3).to(dtype).permute(order)
    files = []
    for name, writer in (("ours", NiftiWriter), ("monais", NibabelWriter)):
        mask = MetaTensor(values, affine=torch.as_tensor(AFFINE), meta={"filename_or_obj": "ct.nii"})
        save = SaveImage(
            tmp_path / name, "mask", ending, resample=False, separate_folder=False, output_dtype=np.uint8, writer=writer
        )
        save(mask)
        files.append((tmp_path / name / f"ct_mask{ending}").read_bytes())
    assert files[0] == files[1]
    saved = nib.load(tmp_path / "ours" / f"ct_mask{ending}")
    assert np.array_equal(np.asarray(saved.dataobj), values[0].to(torch.uint8).numpy())
    assert np.array_equal(saved.affine, AFFINE)


def test_first_axis_from_foot_to_head(tmp_path: Path) -> None:
    """Where the first two axes are not those of x and y, MONAI's writer takes the affine for singular."""
    affine = np.array([[0, 0, 2.0, 5], [0, -1, 0, 6], [3.0, 0, 0, 7], [0, 0, 0, 1]])
    mask = MetaTensor(
        (torch.rand(1, 4, 5, 6) > 0.5).byte(), affine=torch.as_tensor(affine), meta={"filename_or_obj": "ct.nii"}
    )
    SaveImage(
        tmp_path, "mask", ".nii.gz", resample=False, separate_folder=False, output_dtype=np.uint8, writer=NiftiWriter
    )(mask)
    saved = nib.load(tmp_path / "ct_mask.nii.gz")
    assert np.array_equal(saved.affine, affine)
    assert np.array_equal(np.asarray(saved.dataobj), mask[0].numpy())


def test_resampled_as_monai_does(tmp_path: Path) -> None:
    """A mask on another grid than its scan's."""
    meta = {"filename_or_obj": "ct.nii", "original_affine": np.eye(4), "spatial_shape": (8, 8, 8)}
    mask = MetaTensor(torch.ones(1, 4, 4, 4), affine=2 * torch.eye(4), meta=meta)
    saved = []
    for name, writer in (("ours", NiftiWriter), ("monais", NibabelWriter)):
        SaveImage(tmp_path / name, "mask", ".nii", resample=True, separate_folder=False, writer=writer)(mask.clone())
        saved.append(nib.load(tmp_path / name / "ct_mask.nii"))
    assert saved[0].shape == (8, 8, 8)
    assert np.array_equal(saved[0].get_fdata(), saved[1].get_fdata())


@pytest.mark.parametrize(
    ("ending", "writer"), [(".nii.gz", NiftiWriter), (".NII", NiftiWriter), (".nrrd", ItkWriter), ("mha", ItkWriter)]
)
def test_writer_for_an_ending(ending: str, writer: type | None) -> None:
    assert mask_writer(ending) is writer


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_an_interruption_leaves_the_earlier_file(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = MetaTensor(torch.ones(1, 4, 4, 4).byte(), affine=torch.eye(4), meta={"filename_or_obj": "ct.nii"})
    save = SaveImage(tmp_path, "mask", ending, resample=False, separate_folder=False, writer=NiftiWriter)
    save(mask)
    before = (tmp_path / f"ct_mask{ending}").read_bytes()

    def cut(image: nib.Nifti1Image, name: Path) -> None:
        Path(name).write_bytes(before[: len(before) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(nib, "save", cut)
    with pytest.raises(KeyboardInterrupt):
        save(mask)
    assert [path.name for path in tmp_path.iterdir()] == [f"ct_mask{ending}"]
    assert (tmp_path / f"ct_mask{ending}").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [
        ("ct.nii.gz", False, "ct_mask.nii.gz"),
        ("ct.NII.GZ", False, "ct_mask.nii.gz"),
        ("ct.v2.nrrd", False, "ct.v2_mask.nii.gz"),
        ("1.2.840.1001.dcm", False, "1.2.840.1001_mask.nii.gz"),
        ("1.2.840.1001", False, "1.2.840.1001_mask.nii.gz"),
        ("1.2.840.1001", True, "1.2.840.1001_mask.nii.gz"),
        ("ct.new", True, "ct.new_mask.nii.gz"),
        ("ct.gz", True, "ct.gz_mask.nii.gz"),
    ],
)
def test_names_of_masks(tmp_path: Path, name: str, *, folder: bool, expected: str) -> None:
    if folder:
        (tmp_path / name).mkdir()
    mask = MetaTensor(torch.ones(1, 2, 2, 2), affine=torch.eye(4), meta={"filename_or_obj": str(tmp_path / name)})
    SaveImage(
        tmp_path / "out", "mask", ".nii.gz", resample=False, separate_folder=False, output_name_formatter=mask_name
    )(mask)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [expected]
