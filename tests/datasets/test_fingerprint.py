"""Fingerprints: against the same figures computed from the arrays by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from release_files import LESION_ML, patient, save

from adapters.datasets.fingerprint import Case, fingerprint, measure, measure_all, summary, table, write_fingerprint

CASES = ("a", "b", "c")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three cases, stored in three ways; c has two lesions and other voxels."""
    for case, axes in zip(CASES, ("RAS", "SPL", "LPS"), strict=True):
        image, label = patient(case, 2)
        if case == "c":
            label[0, 0, 0] = 2
        spacing = (1.0, 1.0, 4.0) if case == "c" else (0.8, 0.9, 2.5)
        save(tmp_path / "images" / f"{case}.nii.gz", image, axes, spacing=spacing)
        save(tmp_path / "labels" / f"{case}.nii.gz", label, axes, spacing=spacing)
    write_list(tmp_path, {"lesion": 2})
    return tmp_path


def write_list(folder: Path, extra: dict) -> Path:
    path = folder / "list.json"
    path.write_text(json.dumps({"training": list(CASES), "test": ["a"], **extra}))
    return path


def test_the_figures(folder: Path) -> None:
    result = fingerprint(folder / "list.json")
    voxels = []
    for case in CASES:
        image, label = patient(case, 2)
        if case == "c":
            label[0, 0, 0] = 2
        voxels += image[label == 2].tolist()
    assert result["intensity"] == pytest.approx(
        {
            "low": np.percentile(voxels, 0.5),
            "high": np.percentile(voxels, 99.5),
            "mean": np.mean(voxels),
            "std": np.std(voxels),
            "median": np.median(voxels),
            "minimum": min(voxels),
            "maximum": max(voxels),
            "voxels": 73,
        }
    )
    assert (result["section"], result["label"], result["cases"], result["without_lesion"]) == ("training", 2, 3, [])
    assert result["axes"] == {"RAS": 1, "SPL": 1, "LPS": 1}
    assert result["spacing"]["minimum"] == pytest.approx([2.5, 0.9, 0.8])
    assert result["spacing"]["median"] == pytest.approx([2.5, 0.9, 0.8])
    assert result["spacing"]["maximum"] == pytest.approx([4, 1, 1])
    assert result["size"]["median"] == [8, 10, 12]
    assert result["lesions"] == {"minimum": 1, "median": 1, "maximum": 2}
    assert result["lesion_volume"]["minimum"] == pytest.approx(0.004)  # one voxel of 4 mm³
    assert result["lesion_volume"]["median"] == pytest.approx(LESION_ML)
    assert result["lesion_volume"]["maximum"] == pytest.approx(24 * 4 / 1000)
    assert result["lesion_extent"]["maximum"] == pytest.approx([8, 3, 4])
    assert result["lesion_extent"]["minimum"] == pytest.approx([4, 1, 1])


def test_a_section_and_another_label(folder: Path) -> None:
    result = fingerprint(folder / "list.json", folder, section="test", label=1)
    image, label = patient("a", 2)
    assert result["intensity"]["mean"] == pytest.approx(image[label == 1].mean())
    assert (result["label"], result["cases"]) == (1, 1)


def test_a_label_of_one_value_needs_no_name(folder: Path) -> None:
    path = write_list(folder, {})
    with pytest.raises(
        ValueError, match=r"the labels of .*list.json' hold 0, 1, 2: say which is the lesion \(--label\)"
    ):
        fingerprint(path)
    for case in CASES:
        label = folder / "labels" / f"{case}.nii.gz"
        stored = nib.load(label)
        nib.save(nib.Nifti1Image((np.asarray(stored.dataobj) == 2).astype(np.uint8), stored.affine), label)
    assert fingerprint(path)["intensity"]["voxels"] == 73


def test_no_case_with_the_lesion(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no label of section 'training' of .* holds the lesion 5, only 0, 1, 2"):
        fingerprint(folder / "list.json", label=5)


def test_a_case_without_a_lesion_counts(folder: Path) -> None:
    _, label = patient("b", 2)
    save(folder / "labels" / "b.nii.gz", np.minimum(label, 1), "SPL")
    result = fingerprint(folder / "list.json")
    assert (result["cases"], result["without_lesion"], result["intensity"]["voxels"]) == (3, ["b"], 49)
    assert result["lesions"]["minimum"] == 0


def test_lesions_that_touch_at_a_corner_are_one(tmp_path: Path) -> None:
    image, label = patient("a", 1)
    label[9, 5, 6] = 1  # next to the last voxel of the lesion, across a corner
    save(tmp_path / "image.nii.gz", image, "RAS")
    save(tmp_path / "label.nii.gz", label, "RAS")
    case = measure("a", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz", 1)
    assert [lesion.extent for lesion in case.lesions] == [pytest.approx((3 * 2.5, 4 * 0.9, 5 * 0.8))]
    assert case.volume == pytest.approx(25 * 0.0018)
    assert case.values == (0, 1)
    assert case.intensities.size == 0


def test_written_and_shown(folder: Path) -> None:
    result = fingerprint(folder / "list.json")
    report = write_fingerprint(result, folder / "new" / "fingerprint.json")
    assert json.loads((folder / "new" / "fingerprint.json").read_text()) == result
    assert "| cases | 3 |" in report
    assert "| stored axes point to | RAS (1), SPL (1), LPS (1) |" in report
    assert f"lesions, label 2, 73 voxels: percentiles 0.5 and 99.5 are {result['intensity']['low']:g} and" in report


def test_a_table_without_lesions(tmp_path: Path) -> None:
    image, label = patient("a", 1)
    save(tmp_path / "image.nii.gz", image, "RAS")
    save(tmp_path / "label.nii.gz", np.zeros_like(label), "RAS")
    case = measure("a", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz", 1)
    assert "| volume of a lesion, ml | - |" in table({"test": summary([case])})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"training": ["a", "z"]}', "entry 1 of section 'training'"),
        ('{"test": ["a"]}', "has no section 'training'"),
        ('{"training": ["a"], "lesion": "tumour"}', "the lesion of .* is 'tumour', expected a value of the labels"),
    ],
)
def test_bad_lists(text: str, message: str, folder: Path) -> None:
    path = folder / "list.json"
    path.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        fingerprint(path)


def test_what_is_wrong_with_five_cases_is_enough(tmp_path: Path) -> None:
    def missing(number: int) -> Callable[[], Case]:
        return lambda: measure(f"case {number}", tmp_path / f"{number}.nii", tmp_path / "label.nii", 1)

    with pytest.raises(
        ValueError, match=r"5 of 5 cases looked at cannot be used: case 0: 'image': there is no file"
    ) as caught:
        measure_all([missing(number) for number in range(8)])
    assert "case 4" in str(caught.value)
    assert "case 5" not in str(caught.value)


def test_the_real_sarcomas(shared: Path) -> None:
    """The CTs are without contrast: the lesion's mean lies between 15 and 45 HU, as the data's page says."""
    data = shared / "data" / "soft_tissue_sarcoma" / "ct"
    bundle = Path(__file__).resolve().parents[2] / "bundles" / "soft_tissue_sarcoma_ct_samadapter_deepgrow"
    result = fingerprint(bundle / "configs" / "datalist.json", data, section="test")
    assert 15 < result["intensity"]["mean"] < 45
    assert result["axes"] == {"LPS": 4}
