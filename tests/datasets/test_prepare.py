"""Releases in their own layouts become data lists; what is wrong with one is said by name."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.apps import DecathlonDataset
from monai.data import load_decathlon_datalist
from monai.transforms import Compose, Invertd, Orientationd, SaveImaged
from release_files import (
    AXES,
    LABELS,
    LESION,
    LESION_ML,
    LESION_VALUE,
    ORGAN,
    SIZE,
    TASK,
    pack,
    paths,
    patient,
    save,
    write_release,
)

from adapters.datasets import get_release
from adapters.datasets.prepare import prepare
from adapters.inferers import ClickInferer
from adapters.prompts import Prompts
from adapters.transforms import LoadScand, RequestToClicksd, ThresholdLesiond, load_datalist

SECTIONS = ("training", "validation", "test")
NAMES = (
    "kits21",
    "msd_pancreas",
    "lits17",
    "msd_liver",
    "msd_colon",
    "soft_tissue_sarcoma",
    "soft_tissue_sarcoma_mr",
)


def first_cases(name: str, fold: int = 0) -> list[str]:
    """The first case of each section."""
    sections = get_release(name).fold(fold)
    return [sections[section][0] for section in SECTIONS]


@pytest.fixture
def colon(tmp_path: Path) -> Path:
    """The unpacked colon release with three cases."""
    return write_release(tmp_path / "release", "msd_colon", first_cases("msd_colon"))


@pytest.mark.parametrize("name", NAMES)
def test_each_release(name: str, tmp_path: Path) -> None:
    cases = first_cases(name)
    source = write_release(tmp_path / "release", name, cases)
    out = tmp_path / "out"
    report = prepare(name, out, source, partial=True)
    content = json.loads((out / "datalist.json").read_text())
    lesion = LESION_VALUE.get(name, 2)
    assert (content["name"], content["fold"], content["lesion"]) == (name, 0, lesion)
    assert list(content["labels"]) == [str(value) for value in range({"kits21": 4}.get(name, lesion + 1))]
    for section, case in zip(SECTIONS, cases, strict=True):
        image, label = (str(source / path) for path in paths(name, case))
        assert load_datalist(out / "datalist.json", section, out) == [{"case": case, "image": image, "label": label}]
    assert load_decathlon_datalist(out / "datalist.json", True, "training", out)[0]["image"] == str(
        source / paths(name, cases[0])[0]
    )
    rows = list(csv.DictReader((out / "cases.csv").read_text().splitlines()))
    assert [(row["case"], row["section"]) for row in rows] == list(zip(cases, SECTIONS, strict=True))
    stored = {"kits21": "8x10x12"}.get(name, "12x10x8")
    assert {(row["axes"], row["shape"], row["spacing_mm_dhw"], row["lesions"]) for row in rows} == {
        (AXES.get(name, "LAS"), stored, "2.5x0.9x0.8", "1")
    }
    assert {row["lesion_ml"] for row in rows} == {f"{LESION_ML:.3f}"}
    assert "axes not stored" not in report
    assert "| spacing, mm (depth, height, width) | 2.50 x 0.90 x 0.80 (2.50 x 0.90 x 0.80 to" in report
    assert "| volume of a lesion, ml | 0.04 (0.04 to 0.04) |" in report
    assert "| extent of a lesion, mm (depth, height, width) | 5 x 3 x 3 (5 x 3 x 3 to" in report
    assert f"missing, left out: {len(get_release(name).cases) - 3} of {len(get_release(name).cases)} cases" in report


@pytest.mark.parametrize("archive", ["Task10_Colon.tar", "Task10_Colon.tar.gz", "colon.zip"])
def test_a_whole_release_from_its_archive(archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = get_release("msd_colon")
    cases = release.cases
    if archive != "Task10_Colon.tar":  # all 126 once, a few for the other formats
        cases = cases[:3]
        fold = {section: [case] for section, case in zip(SECTIONS, cases, strict=True)}
        monkeypatch.setitem(release.__dict__, "folds", (fold,))
    packed = pack(write_release(tmp_path / "release", "msd_colon", cases), tmp_path / archive)
    shutil.rmtree(tmp_path / "release")
    out = tmp_path / "out"
    report = prepare("msd_colon", out, packed)
    assert f"{len(cases)} cases, fold 0" in report
    assert "missing" not in report
    fold = release.fold(0)
    for section in SECTIONS:
        listed = load_datalist(out / "datalist.json", section, out)
        assert [case["case"] for case in listed] == fold[section]
    listed = json.loads((out / "datalist.json").read_text())["training"][0]
    assert not Path(listed["image"]).is_absolute()
    assert (out / listed["image"]).is_file()
    if len(cases) == 126:
        assert "| cases | 89 | 11 | 26 |" in report
        for number in range(5):
            content = json.loads((out / f"datalist_fold{number}.json").read_text())
            assert [case["case"] for case in content["test"]] == release.fold(number)["test"]


def test_a_label_that_has_lost_its_header(tmp_path: Path) -> None:
    """As one of LiTS has: its voxels fit, its affine is an identity with the origin 1, 1, 1."""
    case = first_cases("lits17")[0]
    source = write_release(tmp_path / "release", "lits17", first_cases("lits17"))
    image, path = (source / name for name in paths("lits17", case))
    label = nib.load(path)
    voxels = np.asarray(label.dataobj)
    lost = np.eye(4)
    lost[:3, 3] = 1
    nib.save(nib.Nifti1Image(voxels, lost), path)
    with pytest.raises(ValueError, match=rf"{case}: .* its header is lost .*prepare --image_header"):
        prepare("lits17", tmp_path / "out", source, partial=True)
    before = path.read_bytes()
    prepare("lits17", tmp_path / "out", source, partial=True, image_header=True)
    assert path.read_bytes() == before
    entries = load_datalist(tmp_path / "out" / "datalist.json", "training", tmp_path / "out")
    entry = next(entry for entry in entries if entry["case"] == case)
    assert entry["label"] == str(tmp_path / "out" / "image_header" / f"{case}.nii.gz")
    copy, scan = nib.load(entry["label"]), nib.load(image)
    assert np.array_equal(np.asarray(copy.dataobj), voxels)
    assert copy.get_data_dtype() == voxels.dtype
    for name in ("get_sform", "get_qform"):
        (mine, code), (theirs, expected) = (getattr(each.header, name)(coded=True) for each in (copy, scan))
        assert code == expected
        assert (mine is None and theirs is None) or np.array_equal(mine, theirs)
    assert [Path(other["label"]).parent.name for other in entries if other["case"] != case].count("image_header") == 0


def test_lits_comes_in_two_archives(tmp_path: Path) -> None:
    cases = ["volume-8", "volume-95", "volume-120", "volume-32"]  # the last is in no fold: it has no tumour
    folder = write_release(tmp_path / "release", "lits17", cases)
    save(folder / paths("lits17", "volume-32")[1], np.zeros(SIZE, np.uint8), "LPS")
    source = tmp_path / "downloads"
    for batch in (1, 2):
        pack(folder, source / f"Training_Batch{batch}.zip", only=f"Training Batch {batch}")
    out = tmp_path / "out"
    report = prepare("lits17", out, source, partial=True)
    assert "in no published fold, left out: volume-32" in report
    listed = json.loads((out / "datalist.json").read_text())["training"]
    batches = {
        "volume-8": "Training_Batch1/media/nas/01_Datasets/CT/LITS/Training Batch 1",
        "volume-95": "Training_Batch2/media/nas/01_Datasets/CT/LITS/Training Batch 2",
    }
    assert [entry["image"] for entry in listed] == [f"{batches[case]}/{case}.nii" for case in ("volume-8", "volume-95")]
    prepare("lits17", out, source, partial=True)  # again: what is unpacked is taken
    with pytest.raises(FileNotFoundError, match="comes in two archives: give the folder that holds both"):
        prepare("lits17", tmp_path / "half", source / "Training_Batch1.zip")


def test_the_real_sarcomas(shared: Path, tmp_path: Path) -> None:
    report = prepare("soft_tissue_sarcoma", tmp_path, shared / "data" / "soft_tissue_sarcoma")
    assert "| cases | 16 | 4 | 4 |" in report
    assert "| stored axes point to | LPS (16) | LPS (4) | LPS (4) |" in report
    rows = list(csv.DictReader((tmp_path / "cases.csv").read_text().splitlines()))
    volumes = [float(row["lesion_ml"]) for row in rows]
    assert (round(min(volumes)), round(max(volumes))) == (17, 818)
    assert not (tmp_path / "datalist_fold0.json").exists()


@pytest.mark.parametrize("name", ["kits21", "msd_pancreas"])
def test_both_orders_of_axes_come_out_right(name: str, tmp_path: Path) -> None:
    """A click on the lesion of the stored image, the network's axes, and the way back to the image's own grid."""
    cases = first_cases(name)
    source = write_release(tmp_path / "release", name, cases)
    prepare(name, tmp_path / "out", source, partial=True)
    entry = load_datalist(tmp_path / "out" / "datalist.json", "test", tmp_path / "out")[0]
    stored = nib.load(entry["label"])
    value = LESION_VALUE.get(name, 2)
    click = np.argwhere(np.asarray(stored.dataobj) == value)[0]
    orient = Orientationd(["image", "label"], axcodes="SPL", labels=(("L", "R"), ("P", "A"), ("I", "S")))
    clicked = {**entry, "points": [click.tolist()], "point_labels": [1]}
    data = Compose([LoadScand(["image", "label"]), orient, RequestToClicksd("image")])(clicked)
    image, label = patient(cases[2], value)
    # right-left, posterior-anterior, inferior-superior -> depth from below, height from the front, width from the right
    for key, array in (("image", image), ("label", label)):
        np.testing.assert_array_equal(data[key].numpy()[0], array.transpose(2, 1, 0)[:, ::-1, ::-1])
    depth, height, width = Prompts.from_json(data["image"].meta["prompts"]).points[0].astype(int)
    assert data["label"][0, depth, height, width] == value
    back = Invertd("label", orient, orig_keys="label", nearest_interp=True)(data)["label"]
    np.testing.assert_array_equal(back.numpy()[0], np.asarray(stored.dataobj))
    np.testing.assert_allclose(back.affine, stored.affine)


@pytest.mark.parametrize("name", ["kits21", "msd_pancreas"])
def test_a_predicted_case_is_written_on_its_own_grid(name: str, tmp_path: Path) -> None:
    """A click, a crop of 8 voxels round it, and the mask as a file beside the release's own label."""
    cases = first_cases(name)
    source = write_release(tmp_path / "release", name, cases)
    image, label = (source / path for path in paths(name, cases[2]))
    truth = nib.load(label)
    lesion = np.asarray(truth.dataobj) == LESION_VALUE.get(name, 2)
    nib.save(nib.Nifti1Image(np.where(lesion, 1000, 0).astype(np.int16), truth.affine), image)
    prepare(name, tmp_path / "out", source, partial=True)
    entry = load_datalist(tmp_path / "out" / "datalist.json", "test", tmp_path / "out")[0]
    orient = Orientationd("image", axcodes="SPL", labels=(("L", "R"), ("P", "A"), ("I", "S")))
    read = Compose([LoadScand("image"), orient, RequestToClicksd("image")])
    data = read({"image": entry["image"], "points": [np.argwhere(lesion)[0].tolist()], "point_labels": [1]})
    crops: list[torch.Tensor] = []

    def bright(crop: torch.Tensor, *_: object) -> torch.Tensor:
        crops.append(crop)
        return torch.cat([500 - crop, crop - 500], dim=1)

    inferer = ClickInferer(8, grow=False, max_crops=1)
    assert data["image"].shape == (1, 8, 10, 12)  # depth, height, width
    data["pred"] = inferer(data["image"][None], bright)[0]
    save_mask = SaveImaged(
        "pred",
        output_dir=tmp_path / "masks",
        output_postfix="mask",
        resample=False,
        separate_folder=False,
        print_log=False,
    )
    Compose([Invertd("pred", read, orig_keys="image"), ThresholdLesiond("pred"), save_mask])(data)
    assert [(tuple(crop.shape), int((crop > 500).sum())) for crop in crops] == [((1, 1, 8, 8, 8), 24)]
    written = nib.load(tmp_path / "masks" / f"{image.name.removesuffix('.nii.gz')}_mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), lesion)
    np.testing.assert_allclose(written.affine, truth.affine)


def test_a_case_without_a_lesion_is_said(colon: Path, tmp_path: Path) -> None:
    case = first_cases("msd_colon")[2]
    save(colon / paths("msd_colon", case)[1], np.zeros(SIZE, np.uint8), "LAS")
    report = prepare("msd_colon", tmp_path / "out", colon, partial=True)
    assert f"without a voxel of value 1 (tumour): {case}" in report
    assert "| without a lesion | 0 | 0 | 1 |" in report
    assert len(load_datalist(tmp_path / "out" / "datalist.json", "test", tmp_path / "out")) == 1


def test_labels_of_an_organ_alone(tmp_path: Path) -> None:
    cases = first_cases("msd_pancreas")
    source = write_release(tmp_path / "release", "msd_pancreas", cases)
    for case in cases:
        save(source / paths("msd_pancreas", case)[1], np.minimum(patient(case, 2)[1], 1), "LAS")
    with pytest.raises(ValueError, match=r"no label of the 3 cases holds 2 \(tumour\), only 0, 1; expected"):
        prepare("msd_pancreas", tmp_path / "out", source, partial=True)


def test_a_spacing_that_is_none_is_said(tmp_path: Path) -> None:
    cases = first_cases("lits17")
    source = write_release(tmp_path / "release", "lits17", cases)
    for path, array in zip(paths("lits17", cases[1]), patient(cases[1], 2), strict=True):
        save(source / path, array, "LPS", spacing=(1, 1, 1))
    report = prepare("lits17", tmp_path / "out", source, partial=True)
    assert f"mm and ml may be wrong: {cases[1]}; reported of volume-28 to volume-48; msd_liver holds the" in report


def test_a_disk_that_is_full_leaves_the_lists_as_they_were(
    colon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    prepare("msd_colon", out, colon, partial=True)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        write(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device"):
        prepare("msd_colon", out, colon, partial=True, fold=1)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_other_axes_are_said(colon: Path, tmp_path: Path) -> None:
    case = first_cases("msd_colon")[0]
    for path, array in zip(paths("msd_colon", case), patient(case, 1), strict=True):
        save(colon / path, array, "SPL")
    report = prepare("msd_colon", tmp_path / "out", colon, partial=True)
    assert f"axes not stored as distributed (width, height, depth), which changes nothing here: {case}" in report


def test_another_fold(tmp_path: Path) -> None:
    cases = first_cases("msd_colon", 3)
    source = write_release(tmp_path / "release", "msd_colon", cases)
    prepare("msd_colon", tmp_path / "out", source, fold=3, partial=True)
    content = json.loads((tmp_path / "out" / "datalist.json").read_text())
    assert content["fold"] == 3
    assert cases[2] in [entry["case"] for entry in content["test"]]
    assert content == json.loads((tmp_path / "out" / "datalist_fold3.json").read_text())


Change = Callable[[Path, Path, Path], None]


def _other_values(_: Path, image: Path, label: Path) -> None:
    save(label, np.where(patient(image.name.split(".")[0], 1)[1] == 1, 7, 0).astype(np.uint8), "LAS")


def _fractions(_: Path, image: Path, label: Path) -> None:
    save(label, patient(image.name.split(".")[0], 1)[1].astype(np.float32) * 0.5, "LAS")


def _smaller_label(_: Path, image: Path, label: Path) -> None:
    save(label, np.zeros((12, 10, 7), np.uint8), "LAS")


def _moved_label(_: Path, image: Path, label: Path) -> None:
    stored = nib.load(label)
    affine = stored.affine.copy()
    affine[2, 3] += 2.5
    nib.save(nib.Nifti1Image(np.asarray(stored.dataobj), affine), label)


def _not_a_number(_: Path, image: Path, label: Path) -> None:
    array = patient(image.name.split(".")[0], 1)[0].astype(np.float32)
    array[0, 0, 0] = np.nan
    save(image, array, "LAS")


def _no_number_in_the_label(_: Path, image: Path, label: Path) -> None:
    array = patient(image.name.split(".")[0], 1)[1].astype(np.float32)
    array[0, 0, 0] = np.nan
    save(label, array, "LAS")


def _truncated(_: Path, image: Path, label: Path) -> None:
    image.write_bytes(image.read_bytes()[:500])


def _twice(folder: Path, image: Path, label: Path) -> None:
    copy = folder / "copy" / "imagesTr" / image.name
    copy.parent.mkdir(parents=True)
    shutil.copy(image, copy)


def _listed_twice(folder: Path, image: Path, label: Path) -> None:
    file = folder / "Task10_Colon" / "dataset.json"
    content = json.loads(file.read_text())
    content["training"].append(content["training"][0])
    file.write_text(json.dumps(content))


def _renamed(folder: Path, image: Path, label: Path) -> None:
    file = folder / "Task10_Colon" / "dataset.json"
    file.write_text(file.read_text().replace("COLON", "SPLEEN"))


def _other_labels(folder: Path, image: Path, label: Path) -> None:
    file = folder / "Task10_Colon" / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"labels": LABELS["msd_liver"]}))


def _no_object(folder: Path, image: Path, label: Path) -> None:
    (folder / "Task10_Colon" / "dataset.json").write_text("[]")


def _not_json(folder: Path, image: Path, label: Path) -> None:
    (folder / "Task10_Colon" / "dataset.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _other_values,
            r"1 of 3 cases looked at cannot be used: {case}: the label .* holds 7, expected no value but 0, 1",
        ),
        (_fractions, r"{case}: label .* holds 0, 0\.5, and 0\.5 is no whole number: expected one for each structure"),
        (_smaller_label, r"{case}: .* are on different grids: shapes \(12, 10, 8\) and \(12, 10, 7\)"),
        (_moved_label, r"{case}: .* are on different grids: their affines put a corner 2\.5 mm apart"),
        (_not_a_number, r"{case}: .* has 1 voxels that are NaN or infinite"),
        (_no_number_in_the_label, r"{case}: label .* holds 0, 1, nan, and nan is no whole number"),
        (_truncated, r"{case}: 'image': .* cannot be read, expected a NIfTI, .* that is not truncated"),
        (_twice, r"the image of {case} is there twice, .*Task10_Colon.* and .*copy.*; move one away"),
        (_listed_twice, r"dataset.json' lists {case}.nii.gz twice"),
        (_renamed, r"dataset.json' is of 'SPLEEN', expected 'Colon', Task10_Colon"),
        (_other_labels, r"dataset.json' has the labels 0, 1, 2, expected 0, 1 of Task10_Colon"),
        (_not_json, r"dataset.json' is not JSON"),
        (_no_object, r"dataset.json' holds list, expected an object; fetch the release again"),
    ],
)
def test_bad_cases(change: Change, message: str, colon: Path, tmp_path: Path) -> None:
    case = first_cases("msd_colon")[0]
    image, label = (colon / path for path in paths("msd_colon", case))
    change(colon, image, label)
    with pytest.raises(ValueError, match=message.format(case=case)):
        prepare("msd_colon", tmp_path / "out", colon, partial=True)
    assert not (tmp_path / "out" / "datalist.json").exists()


def test_missing_cases(colon: Path, tmp_path: Path) -> None:
    first, second, _ = first_cases("msd_colon")
    (colon / paths("msd_colon", first)[1]).unlink()
    (colon / paths("msd_colon", second)[0]).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        prepare("msd_colon", tmp_path / "out", colon)
    message = str(caught.value)
    assert message.startswith(
        "125 of the 126 cases of Medical Segmentation Decathlon, Task10 (colon cancer) are missing"
    )
    assert f"no image of {second}; no label of {first};" in message
    assert "nothing of colon_005, colon_006, colon_007, " in message
    assert " and 113 more" in message
    assert "expected Task10_Colon/imagesTr/colon_*.nii.gz and Task10_Colon/labelsTr/colon_*.nii.gz" in message


def test_the_kidneys_of_another_year(tmp_path: Path) -> None:
    source = write_release(tmp_path / "release", "kits21", ["case_00000"])
    label = source / paths("kits21", "case_00000")[1]
    label.rename(label.with_name("segmentation.nii.gz"))
    with pytest.raises(FileNotFoundError, match=r"no label of case_00000; .* KiTS19 and KiTS23 name their labels"):
        prepare("kits21", tmp_path / "out", source)


def test_a_truncated_scan_without_compression(tmp_path: Path) -> None:
    cases = first_cases("lits17")
    source = write_release(tmp_path / "release", "lits17", cases)
    image = source / paths("lits17", cases[0])[0]
    image.write_bytes(image.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{cases[0]}: 'image': .* cannot be read, .* that is not truncated"):
        prepare("lits17", tmp_path / "out", source, partial=True)


def test_the_archive_of_another_task(tmp_path: Path) -> None:
    packed = pack(
        write_release(tmp_path / "release", "msd_pancreas", ["pancreas_001"]), tmp_path / "Task07_Pancreas.tar"
    )
    with pytest.raises(
        ValueError, match=r"holds .*Task07 \(pancreas tumours\) \(pancreas_001.nii.gz\), expected .*Task10"
    ):
        prepare("msd_colon", tmp_path / "out", packed)
    assert not (tmp_path / "out").exists()  # nothing was unpacked


def test_an_archive_of_a_task_that_no_bundle_is_for(colon: Path, tmp_path: Path) -> None:
    base = colon / TASK["msd_colon"]
    base.rename(colon / "Task09_Spleen")
    for path in [*colon.glob("*/*Tr/colon*.nii.gz")]:
        path.rename(path.with_name(path.name.replace("colon", "spleen")))
    packed = pack(colon, tmp_path / "Task09_Spleen.tar")
    with pytest.raises(ValueError, match=r"Task09_Spleen.tar' holds 8 files such as dataset.json, .*expected .*Task10"):
        prepare("msd_colon", tmp_path / "out", packed)
    assert not (tmp_path / "out").exists()


def test_an_archive_of_another_task_beside_the_right_one(
    colon: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    downloads = tmp_path / "downloads"
    pack(colon, downloads / "Task10_Colon.tar")
    pack(write_release(tmp_path / "other", "msd_pancreas", ["pancreas_001"]), downloads / "Task07_Pancreas.tar")
    with caplog.at_level(logging.INFO):
        prepare("msd_colon", tmp_path / "out", downloads, partial=True)
    assert "Task07_Pancreas.tar holds nothing of msd_colon and stays packed" in caplog.messages
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["Task10_Colon"]


def test_a_truncated_archive_is_not_taken_for_whole_the_next_time(colon: Path, tmp_path: Path) -> None:
    packed = pack(colon, tmp_path / "Task10_Colon.tar")
    whole = packed.read_bytes()
    packed.write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"Task10_Colon.tar' .* is truncated or damaged, nothing was unpacked"):
            prepare("msd_colon", tmp_path / "out", packed, partial=True)
        assert not (tmp_path / "out").exists()
    packed.write_bytes(whole)
    assert "3 cases, fold 0" in prepare("msd_colon", tmp_path / "out", packed, partial=True)


def test_a_task_that_no_bundle_is_for(colon: Path, tmp_path: Path) -> None:
    base = colon / TASK["msd_colon"]
    for path in [*base.glob("*Tr/*.nii.gz")]:
        path.rename(path.with_name(path.name.replace(ORGAN["msd_colon"], "spleen")))
    _renamed(colon, base, base)
    with pytest.raises(ValueError, match=r"holds 'SPLEEN' \(its dataset.json says\), expected .*Task10"):
        prepare("msd_colon", tmp_path / "out", colon)


def test_nothing_of_a_release(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(ValueError, match=r"holds 0 files, expected KiTS21 \(kidney tumours\): case_\*/imaging.nii.gz"):
        prepare("kits21", tmp_path / "out", tmp_path / "source")
    (tmp_path / "source" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds 1 files such as notes.txt, expected KiTS21"):
        prepare("kits21", tmp_path / "out", tmp_path / "source")
    with pytest.raises(ValueError, match=r"notes.txt' is no archive"):
        prepare("kits21", tmp_path / "out", tmp_path / "source" / "notes.txt")
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*nowhere'; check --source"):
        prepare("kits21", tmp_path / "out", tmp_path / "nowhere")


def test_bad_arguments(colon: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no data set 'colon'"):
        prepare("colon", tmp_path / "out", colon)
    with pytest.raises(ValueError, match="there is no fold 5 of msd_colon"):
        prepare("msd_colon", tmp_path / "out", colon, fold=5)
    with pytest.raises(ValueError, match="give either the source of msd_colon"):
        prepare("msd_colon", tmp_path / "out")
    with pytest.raises(ValueError, match="give either the source of msd_colon"):
        prepare("msd_colon", tmp_path / "out", colon, download=True)
    with pytest.raises(ValueError, match="workers is 0, expected at least 1"):
        prepare("msd_colon", tmp_path / "out", colon, partial=True, workers=0)
    with pytest.raises(
        ValueError, match=r"kits21 cannot be downloaded from here .*msd_pancreas, msd_liver, msd_colon can"
    ):
        prepare("kits21", tmp_path / "out", download=True)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a server on this machine, from which Task10 is to come."""
    folder = tmp_path / "server"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args: Any) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        url = f"http://127.0.0.1:{http.server_address[1]}/Task10_Colon.tar"
        monkeypatch.setitem(DecathlonDataset.resource, "Task10_Colon", url)
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield folder
        http.shutdown()


def test_downloading(colon: Path, server: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(colon, server / "Task10_Colon.tar")
    shutil.rmtree(colon)
    monkeypatch.setitem(DecathlonDataset.md5, "Task10_Colon", hashlib.md5(packed.read_bytes()).hexdigest())
    out = tmp_path / "out"
    prepare("msd_colon", out, download=True, partial=True)
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["Task10_Colon"]
    assert (out / "Task10_Colon.tar").read_bytes() == packed.read_bytes()
    (out / "Task10_Colon.tar").unlink()
    packed.unlink()
    prepare("msd_colon", out, download=True, partial=True)  # what is unpacked is not fetched again


def test_a_download_that_fails(server: Path, tmp_path: Path) -> None:
    with pytest.raises(
        OSError, match=r"Task10_Colon.tar cannot be fetched \(404 .* put it at .*, or give it as --source"
    ):
        prepare("msd_colon", tmp_path / "out", download=True)
    (server / "Task10_Colon.tar").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"what came from .* has the md5 .* expected bad7a188.*, and was removed"):
        prepare("msd_colon", tmp_path / "out", download=True)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_download_that_was_cut_short_before(tmp_path: Path) -> None:
    (tmp_path / "Task10_Colon.tar").write_bytes(b"half")
    with pytest.raises(
        ValueError, match=r"Task10_Colon.tar is there already, but has the md5 .*: remove it to have it"
    ):
        prepare("msd_colon", tmp_path, download=True)


def test_the_lesion_of_the_small_releases() -> None:
    _, label = patient("colon_001", 1)
    assert label.sum() == 24
    assert label[LESION].all()
