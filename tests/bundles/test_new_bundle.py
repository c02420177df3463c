"""A bundle for data of one's own, from a data list of phantoms as CT and as MR."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import workflow
from four_runs import SCORING, SHAPE, SIZE, bundle_of
from monai.bundle import ConfigParser
from scan_files import write_dicom

from adapters.__main__ import main
from adapters.bundling.new import bundle_name, choose, new_bundle
from adapters.datasets.phantom import write_phantoms

CASES = [f"phantom_00{number}" for number in range(4)]
SECTIONS = {"training": CASES[:2], "validation": CASES[2:3], "test": CASES[3:]}
GAINS = (0.4, 3.0, 1.0, 0.7)
"""How much brighter each scan is as MR: the unit is another one in each."""
SMALL: dict[str, Any] = {"variant": "tiny", "trainable": "all", "device": "cpu", "num_workers": 0, "max_epochs": 1}


def write_list(folder: Path, content: dict[str, Any], name: str = "my.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def voxels(path: Path) -> np.ndarray:
    stored: Any = nib.load(path)
    return np.asarray(stored.dataobj, dtype=np.float64)


def as_mr(path: Path, gain: float, output: Path | None = None) -> Path:
    """Rewrites a CT with intensities that have no unit and are not negative."""
    stored: Any = nib.load(path)
    image = ((voxels(path) + 1100) * gain).astype(np.float32)
    nib.save(nib.Nifti1Image(image, stored.affine), output or path)
    return output or path


def lesion_voxels(folder: Path, *, scaled: bool) -> np.ndarray:
    """Of the training cases; each scan scaled to its own percentiles first, if wanted."""
    found = []
    for case in SECTIONS["training"]:
        image = voxels(folder / "images" / f"{case}.nii.gz")
        if scaled:
            low, high = np.percentile(image, [0.5, 99.5])
            image = (image - low) / (high - low)
        found.append(image[voxels(folder / "labels" / f"{case}.nii.gz") == 1])
    return np.concatenate(found)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each modality, with its list."""
    made = {}
    for modality in ("ct", "mr"):
        folder = tmp_path_factory.mktemp(modality)
        write_phantoms(folder, len(CASES), shape=SHAPE, spacing=(SIZE,) * 3, orientation="RAS")
        if modality == "mr":
            for case, gain in zip(CASES, GAINS, strict=True):
                as_mr(folder / "images" / f"{case}.nii.gz", gain)
        write_list(folder, SECTIONS)
        made[modality] = folder
    return made


@pytest.fixture(scope="module")
def made(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle of each modality; crops are small for the tests."""
    output = tmp_path_factory.mktemp("bundles")
    for modality, folder in data.items():
        new_bundle(f"lung_tumor_{modality}", folder / "my.json", 1, output, crop_size=16)
    return {modality: output / f"lung_tumor_{modality}_samadapter_deepgrow" for modality in data}


def config(bundle: Path, name: str) -> dict[str, Any]:
    return json.loads((bundle / "configs" / f"{name}.json").read_text())


# --- what is chosen


def fingerprint_of(
    spacing: tuple[float, float, float], size: tuple[int, int, int], lesions: tuple[float, float, float]
) -> dict[str, Any]:
    return {
        "spacing": {"median": list(spacing)},
        "size": {"median": list(size)},
        "lesion_extent": {"percentile_95": list(lesions)},
    }


@pytest.mark.parametrize(
    ("spacing", "size", "lesions", "options", "expected"),
    [
        pytest.param((2.5, 0.8, 0.8), (100, 512, 512), (50, 60, 60), {}, (128, 1.0), id="ordinary CT"),
        pytest.param((5.0, 1.0, 1.0), (60, 400, 400), (50, 60, 60), {}, (128, 1.0), id="already rounded"),
        pytest.param((1.0, 0.7, 0.7), (400, 512, 512), (90, 200, 100), {}, (128, 2.0), id="long lesions"),
        pytest.param((2.0, 2.0, 2.0), (75, 70, 60), (140, 90, 90), {}, (96, 2.0), id="small scans"),
        pytest.param((8.0, 8.0, 8.0), (24, 26, 28), (40, 40, 40), {}, (64, 8.0), id="coarse voxels"),
        pytest.param((0.012, 0.012, 0.012), (600, 600, 600), (1, 1, 1), {}, (128, 0.02), id="microscope"),
        pytest.param((2.5, 0.8, 0.8), (100, 512, 512), (50, 60, 60), {"crop_size": 64}, (64, 1.25), id="crop given"),
        pytest.param((1.0, 0.7, 0.7), (400, 500, 500), (90, 200, 90), {"spacing": 1.0}, (128, 1.0), id="spacing given"),
    ],
)
def test_crop_and_spacing(
    spacing: tuple[float, float, float],
    size: tuple[int, int, int],
    lesions: tuple[float, float, float],
    options: dict[str, Any],
    expected: tuple[int, float],
) -> None:
    assert choose(fingerprint_of(spacing, size, lesions), **options) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("lung_tumor_ct", "lung_tumor_ct_samadapter_deepgrow"),
        ("t1", "t1_samadapter_deepgrow"),
        ("lung_deepgrow", "lung_deepgrow"),
    ],
)
def test_names(name: str, folder: str) -> None:
    assert bundle_name(name) == folder


@pytest.mark.parametrize("name", ["", "Lung", "lung ct", "lung-ct", "1lung", "_lung", "lung_", "a__b", "../x", "lüng"])
def test_names_that_are_no_folder(name: str) -> None:
    with pytest.raises(ValueError, match=f"name is {re.escape(repr(name))}, expected lower-case letters"):
        bundle_name(name)


@pytest.mark.parametrize("word", ["deepedit", "detection"])
def test_names_that_mean_another_type(word: str) -> None:
    with pytest.raises(ValueError, match=f"expected one without '{word}'"):
        bundle_name(f"lung_{word}_ct")


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_constants_are_those_of_the_lesions(modality: str, data: dict[str, Path], made: dict[str, Path]) -> None:
    found = lesion_voxels(data[modality], scaled=modality == "mr")
    train, inference = config(made[modality], "train"), config(made[modality], "inference")
    clip = [train["clipping"][key] for key in ("a_min", "a_max")]
    assert clip == pytest.approx(np.percentile(found, [0.5, 99.5]), abs=0.5 if modality == "ct" else 1e-4)
    assert train["normalising"]["subtrahend"] == pytest.approx(found.mean(), rel=1e-4)
    assert train["normalising"]["divisor"] == pytest.approx(found.std(), rel=1e-4)
    shift = train["train"]["random_transforms"][0]
    assert shift["_target_"] == "RandShiftIntensityd"
    assert shift["offsets"] == (20 if modality == "ct" else pytest.approx(0.08 * (clip[1] - clip[0]), abs=1e-4))
    assert (train["label_values"], train["crop_size"], train["spacing"]) == ([1], 16, SIZE)
    assert config(made[modality], "train_auto")["crop_size"] == 32
    for name in ("crop_size", "spacing", "axcodes"):
        assert inference[name] == train[name]


def test_thick_slices_are_turned_in_the_plane_only(data: dict[str, Path], tmp_path: Path) -> None:
    for case in CASES:
        for part in ("images", "labels"):
            stored: Any = nib.load(data["ct"] / part / f"{case}.nii.gz")
            (tmp_path / part).mkdir(exist_ok=True)
            affine = stored.affine @ np.diag([0.25, 0.25, 1, 1])  # 2 x 2 x 8 mm
            nib.save(nib.Nifti1Image(np.asarray(stored.dataobj), affine), tmp_path / part / f"{case}.nii.gz")
    new_bundle("thick_ct", write_list(tmp_path, SECTIONS), 1, tmp_path)
    train = config(tmp_path / "thick_ct_samadapter_deepgrow", "train")
    assert "RandRotated" in [t["_target_"] for t in train["train"]["random_transforms"] if isinstance(t, dict)]
    assert (train["spacing"], train["crop_size"]) == (2.0, 96)  # the scans are 192 mm long


# --- what is written


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_files(modality: str, data: dict[str, Path], made: dict[str, Path]) -> None:
    bundle = made[modality]
    names = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    configs = {f"configs/{path.name}" for path in (bundle_of("colon_cancer") / "configs").glob("*.json")}
    assert names == {
        *configs,
        "configs/logging.conf",
        "datalists/fold_0.json",
        "docs/README.md",
        "docs/data_license.txt",
        "docs/fingerprint.json",
        "large_files.yml",
        "LICENSE",
    }
    assert json.loads((bundle / "datalists" / "fold_0.json").read_text()) == SECTIONS
    found = json.loads((bundle / "docs" / "fingerprint.json").read_text())
    assert {section: part["cases"] for section, part in found.items()} == {"training": 2, "validation": 1, "test": 1}
    assert config(bundle, "train")["dataset_dir"] == str(data[modality].resolve())
    assert not [path for path in bundle.parent.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_card_and_metadata_say_what_it_is(modality: str, made: dict[str, Path]) -> None:
    for path in made[modality].rglob("*"):
        assert not path.is_file() or "{{" not in path.read_text(), path
    card = (made[modality] / "docs" / "README.md").read_text()
    assert f"# Lung tumor in {modality.upper()}, by clicks" in card
    assert "2 cases for training, 1 for validation, 1 for testing" in card
    assert "Not measured yet" in card
    assert not re.search(r"KiTS|Decathlon|nnU-Net|five published folds", card)
    assert ("HU" in card) == (modality == "ct")
    assert ("its own percentiles" in card) == (modality == "mr")
    metadata = config(made[modality], "metadata")
    image = metadata["network_data_format"]["inputs"]["image"]
    assert (image["modality"], image["spatial_shape"]) == (modality.upper(), [16, 16, 16])


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_metadata_fits_the_schema(modality: str, made: dict[str, Path], shared: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = shared / "schema" / "meta_schema_20240725.json"
    if not schema.is_file():
        pytest.skip("the schema of the Model Zoo is not there")
    jsonschema.validate(config(made[modality], "metadata"), json.loads(schema.read_text()))


def test_the_unit_of_an_mr_does_not_matter(data: dict[str, Path], made: dict[str, Path], tmp_path: Path) -> None:
    source = data["mr"] / "images" / f"{CASES[0]}.nii.gz"
    parser = ConfigParser(config(made["mr"], "inference"))
    preprocessing = parser.get_parsed_content("preprocessing")
    seen = []
    for number, gain in enumerate((1.0, 37.0)):
        stored: Any = nib.load(source)
        path = tmp_path / f"{number}.nii.gz"
        nib.save(nib.Nifti1Image((voxels(source) * gain).astype(np.float32), stored.affine), path)
        seen.append(preprocessing({"image": str(path), "points": [], "point_labels": []})["image"])
    assert float(seen[0].std()) > 0.1
    torch.testing.assert_close(seen[0].as_tensor(), seen[1].as_tensor(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_trains_evaluates_and_infers_at_once(
    modality: str, data: dict[str, Path], made: dict[str, Path], tmp_path: Path
) -> None:
    """Only the network's size and the folders of results are said; the rest is in the bundle."""
    bundle, paths = made[modality], {"ckpt_dir": str(tmp_path), "output_dir": str(tmp_path)}
    for name, kind in (("train", "random"), ("train_auto", "automatic")):
        training = workflow(bundle, [name], "train", **SMALL, **paths)
        assert training.check_properties() == []
        training.run()
        workflow(bundle, [name, "evaluate"], "train", **SMALL, **SCORING, **paths).run()
        with (tmp_path / "scores.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert kind in {row["policy"] for row in rows}
        lesion = voxels(data[modality] / "labels" / f"{CASES[3]}.nii.gz").sum() * SIZE**3 / 1000
        assert [float(row["lesion_ml"]) for row in rows] == pytest.approx([lesion] * len(rows), rel=1e-4)

    image = data[modality] / "images" / f"{CASES[3]}.nii.gz"
    request = {"image": str(image), "points": [[13, 13, 12]], "point_labels": [1]}
    (tmp_path / "requests.json").write_text(json.dumps([request]))
    options = {key: value for key, value in SMALL.items() if key not in {"trainable", "max_epochs"}}
    for name in ("inference", "inference_auto"):
        output = tmp_path / name
        options |= {"dataset_dir": str(tmp_path), "ckpt_dir": str(tmp_path), "output_dir": str(output)}
        inference = workflow(bundle, [name], "infer", **options)
        assert inference.check_properties() == []
        inference.run()
        (mask,) = output.iterdir()
        stored, written = nib.load(image), nib.load(mask)
        assert written.shape == stored.shape
        np.testing.assert_allclose(written.affine, stored.affine, atol=1e-3)


# --- the command line, and mistakes


def test_as_typed(data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["new_bundle", "--name", "lung_tumor_ct", "--datalist", str(data["ct"] / "my.json"), "--label", "1"]
    main([*words, "--output", str(tmp_path)])
    said = capsys.readouterr().out
    bundle = tmp_path / "lung_tumor_ct_samadapter_deepgrow"
    assert f"wrote {bundle}" in said
    assert "crops of 64 voxels of 8 mm" in said
    assert "| cases | 2 | 1 | 1 |" in said
    assert (
        f"python -m monai.bundle run training --bundle_root {bundle} --config_file {bundle}/configs/train.json" in said
    )

    (bundle / "configs" / "train.json").write_text("mine")
    with pytest.raises(SystemExit) as caught:
        main([*words, "--output", str(tmp_path)])
    assert caught.value.code == 2
    assert f"'{bundle}' exists already and was left as it is" in capsys.readouterr().err
    assert (bundle / "configs" / "train.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "lung"}, "neither the data list nor the name says what the scans are: add --modality CT"),
        ({"modality": "PET"}, "modality is 'PET', expected CT or MR"),
        ({"label": 0}, "label is 0, expected the value of the lesion in the labels, 1 or more"),
        ({"label": 5}, "no label of section 'training' of .* holds the lesion 5, only 0, 1"),
        ({"label_name": "background"}, "label_name is 'background', expected what the lesion is called"),
        *(
            ({"label_name": name}, "label_name is '.*', expected what the lesion is called, such as 'tumor': letters")
            for name in ("$import os", "@device", "%run", "tumor #1", "a::b", "", " tumor", "<b>", "{{bundle}}", "a\nb")
        ),
        ({"dataset_dir": "study#3"}, "the folder '.*study#3' has a '#', which MONAI's configurations replace"),
        ({"crop_size": 30}, "crop_size is 30, expected a multiple of 4 that is at least 8"),
        ({"spacing": -1.0}, r"spacing is -1\.0, expected a positive number of mm"),
        ({"name": "Lung"}, "name is 'Lung', expected lower-case letters"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, data: dict[str, Path], tmp_path: Path) -> None:
    given = {"name": "a_ct", "datalist": data["ct"] / "my.json", "label": 1, "output": tmp_path / "b"}
    with pytest.raises(ValueError, match=message):
        new_bundle(**(given | options))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": CASES[:2], "test": CASES[3:]}, "has no section 'validation', expected training, valid"),
        ({"test": CASES}, "has no section 'training'"),
        (SECTIONS | {"validation": []}, "section 'validation' of .* is \\[\\], expected a list of at least one entry"),
        (SECTIONS | {"test": CASES[:1]}, "has the image .*phantom_000.* twice, in 'training' and 'test'"),
        (
            SECTIONS | {"training": [CASES[0], CASES[0]]},
            "has the image .*phantom_000.* twice, in 'training'",
        ),
        (SECTIONS | {"test": ["none"]}, "entry 0 of section 'test' in .*, 'image': there is no file"),
        (SECTIONS | {"validation": [{"image": "images/phantom_002.nii.gz"}]}, "has no key 'label'"),
        ([CASES], "holds list, expected an object with a list 'training'"),
        (
            SECTIONS
            | {
                "training": [
                    {"case": "p", "image": f"images/{case}.nii.gz", "label": f"labels/{case}.nii.gz"}
                    for case in CASES[:2]
                ]
            },
            "section 'training' of .* has several cases named 'p': give each of them a 'case' of its own",
        ),
    ],
)
def test_bad_lists(content: Any, message: str, data: dict[str, Path], tmp_path: Path) -> None:
    path = write_list(tmp_path, content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        new_bundle("a_ct", path, 1, tmp_path / "b", dataset_dir=data["ct"])
    assert not (tmp_path / "b").exists()


def test_series_whose_folders_are_named_by_numbers_are_as_many_cases(data: dict[str, Path], tmp_path: Path) -> None:
    """As archives name them: no dot in ``1.2.840.1`` begins an ending."""
    listed: dict[str, list[dict[str, str]]] = {section: [] for section in SECTIONS}
    for section, cases in SECTIONS.items():
        for case in cases:
            number = CASES.index(case) + 1
            image: Any = nib.load(data["ct"] / "images" / f"{case}.nii.gz")
            series = write_dicom(
                tmp_path / f"1.2.840.{number}", np.asarray(image.dataobj).astype(np.int16), image.affine
            )
            listed[section].append({"image": series, "label": str(data["ct"] / "labels" / f"{case}.nii.gz")})
    new_bundle("lung_tumor_ct", write_list(tmp_path, listed), 1, tmp_path / "b")
    found = json.loads((tmp_path / "b" / bundle_name("lung_tumor_ct") / "docs" / "fingerprint.json").read_text())
    assert {section: part["cases"] for section, part in found.items()} == {"training": 2, "validation": 1, "test": 1}


def test_a_training_case_without_a_lesion(data: dict[str, Path], tmp_path: Path) -> None:
    source: Any = nib.load(data["ct"] / "labels" / f"{CASES[0]}.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(source.shape, np.uint8), source.affine), tmp_path / "empty.nii.gz")
    entry = {"case": "healthy", "image": f"images/{CASES[0]}.nii.gz", "label": str(tmp_path / "empty.nii.gz")}
    path = write_list(tmp_path, SECTIONS | {"training": [entry, CASES[1]]})
    with pytest.raises(ValueError, match=r"of section 'training' .* 1 cases have no voxel of value 1 \(healthy\)"):
        new_bundle("a_ct", path, 1, tmp_path / "b", dataset_dir=data["ct"])
    path = write_list(tmp_path, {"training": CASES[1:2], "validation": CASES[2:3], "test": [CASES[3], entry]})
    new_bundle("a_ct", path, 1, tmp_path / "b", dataset_dir=data["ct"])
    found = json.loads((tmp_path / "b" / "a_ct_samadapter_deepgrow" / "docs" / "fingerprint.json").read_text())
    assert found["test"]["without_lesion"] == ["healthy"]


def test_a_scan_that_cannot_be_read(data: dict[str, Path], tmp_path: Path) -> None:
    whole = (data["ct"] / "images" / f"{CASES[3]}.nii.gz").read_bytes()
    (tmp_path / "half.nii.gz").write_bytes(whole[: len(whole) // 2])
    entry = {"image": str(tmp_path / "half.nii.gz"), "label": f"labels/{CASES[3]}.nii.gz"}
    path = write_list(tmp_path, SECTIONS | {"test": [entry]})
    with pytest.raises(ValueError, match=r"1 of 1 cases looked at cannot be used: half: .*half\.nii\.gz"):
        new_bundle("a_ct", path, 1, tmp_path / "b", dataset_dir=data["ct"])
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("listed", "name", "given", "expected"),
    [
        ({"0": "MRI"}, "lung_ct", "", "MR"),
        ({"0": "T1"}, "lung_ct", "", "CT"),
        ("CT", "lung", "", "CT"),
        ("CT", "lung_ct", "mr", "MR"),
    ],
)
def test_modality(listed: Any, name: str, given: str, expected: str, data: dict[str, Path], tmp_path: Path) -> None:
    path = write_list(tmp_path, SECTIONS | {"modality": listed})
    new_bundle(name, path, 1, tmp_path, dataset_dir=data["ct"], modality=given)
    metadata = config(tmp_path / bundle_name(name), "metadata")
    assert metadata["network_data_format"]["inputs"]["image"]["modality"] == expected
