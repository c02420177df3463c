"""The descriptions of the releases: folds as published, and files found by the names of the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters.datasets import RELEASES, get_release

ROOT = Path(__file__).resolve().parents[2]
FOUR = ("kits21", "lits17", "msd_colon", "msd_pancreas")


@pytest.mark.parametrize(
    ("name", "cases", "folds", "first"),
    [
        ("kits21", 300, 5, (209, 30, 61)),
        ("msd_pancreas", 281, 5, (196, 28, 57)),
        ("lits17", 118, 5, (83, 11, 24)),
        ("msd_liver", 118, 5, (83, 11, 24)),
        ("msd_colon", 126, 5, (89, 11, 26)),
        ("soft_tissue_sarcoma", 24, 1, (16, 4, 4)),
        ("soft_tissue_sarcoma_mr", 24, 1, (16, 4, 4)),
    ],
)
def test_the_folds(name: str, cases: int, folds: int, first: tuple[int, int, int]) -> None:
    release = get_release(name)
    assert (len(release.cases), len(release.folds)) == (cases, folds)
    fold = release.fold(0)
    assert tuple(len(fold[section]) for section in ("training", "validation", "test")) == first
    for fold in release.folds:
        assert sorted(case for section in fold.values() for case in section) == sorted(release.cases)
    if folds > 1:  # every case is tested once
        assert sorted(case for fold in release.folds for case in fold["test"]) == sorted(release.cases)


def test_the_cases_come_in_order() -> None:
    assert get_release("msd_liver").cases[:4] == ["liver_0", "liver_1", "liver_2", "liver_3"]
    assert get_release("lits17").fold(0)["training"][0] == "volume-8"
    assert get_release("msd_liver").fold(0)["training"][0] == "liver_8"


@pytest.mark.parametrize("name", FOUR)
def test_the_folds_are_the_published_ones(name: str, shared: Path) -> None:
    ours = ROOT / "adapters" / "datasets" / "splits" / f"{name}.json"
    assert json.loads(ours.read_text()) == json.loads((shared / "splits" / f"{name}.json").read_text())


def test_the_sarcomas_fold_is_the_bundles() -> None:
    bundle = ROOT / "bundles" / "soft_tissue_sarcoma_ct_samadapter_deepgrow" / "configs" / "datalist.json"
    listed = json.loads(bundle.read_text())
    for section, cases in get_release("soft_tissue_sarcoma").fold(0).items():
        assert [f"images/{case}.nii.gz" for case in cases] == [entry["image"] for entry in listed[section]]


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("kits21", "/d/kits21/data/case_00013/imaging.nii.gz", ("image", "case_00013")),
        ("kits21", "/d/kits21/data/case_00013/aggregated_MAJ_seg.nii.gz", ("label", "case_00013")),
        ("kits21", "/d/kits21/data/case_00013/aggregated_AND_seg.nii.gz", None),
        ("kits21", "/d/kits19/data/case_00013/segmentation.nii.gz", None),
        ("lits17", "/d/Training Batch 1/volume-8.nii", ("image", "volume-8")),
        ("lits17", "/d/Training Batch 1/segmentation-8.nii", ("label", "volume-8")),
        ("lits17", "/d/test-volume-8.nii", None),
        ("msd_liver", "/d/Task03_Liver/imagesTr/liver_8.nii.gz", ("image", "liver_8")),
        ("msd_pancreas", "/d/Task07_Pancreas/labelsTr/pancreas_001.nii.gz", ("label", "pancreas_001")),
        ("msd_pancreas", "/d/Task07_Pancreas/imagesTs/pancreas_044.nii.gz", None),
        ("msd_pancreas", "/d/nnUNet/imagesTr/pancreas_001_0000.nii.gz", None),
        ("msd_colon", "/d/Task07_Pancreas/imagesTr/pancreas_001.nii.gz", None),
        ("soft_tissue_sarcoma", "/d/ct/images/STS_012.nii.gz", ("image", "STS_012")),
        ("soft_tissue_sarcoma", "/d/mr_t1/images/STS_012.nii.gz", None),
        ("soft_tissue_sarcoma_mr", "/d/mr_t1/labels/STS_012.nii.gz", ("label", "STS_012")),
    ],
)
def test_what_a_file_is(name: str, path: str, expected: tuple[str, str] | None) -> None:
    assert RELEASES[name].find(path) == expected


def test_the_published_constants() -> None:
    published = {
        name: (release.lesion, release.constants.low, release.constants.high, release.constants.tolerance)
        for name, release in RELEASES.items()
        if release.constants is not None
    }
    assert published == {
        "kits21": (2, -54, 247, 5),
        "msd_pancreas": (2, -39, 204, 5),
        "lits17": (2, -48, 163, 5),
        "msd_liver": (2, -48, 163, 5),
        "msd_colon": (1, -57, 175, 5),
    }


@pytest.mark.parametrize("number", [-1, 5])
def test_a_fold_that_does_not_exist(number: int) -> None:
    with pytest.raises(ValueError, match=f"there is no fold {number} of msd_colon, which has the folds 0 to 4"):
        get_release("msd_colon").fold(number)


def test_a_data_set_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="there is no data set 'kits23', expected one of kits21, msd_pancreas"):
        get_release("kits23")
