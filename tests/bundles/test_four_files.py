"""The bundles of the four published tasks: what the template gives, the published protocol, the Model Zoo's rules."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
from four_runs import BUNDLES, bundle_of, config_of, values_of
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator

import adapters
from adapters.bundling import TASKS, differing_files, load_task, render, write_bundle
from adapters.bundling.__main__ import main
from adapters.checkpoints.download import SAM_URL, WEIGHTS
from adapters.datasets import get_release

WHOLE = ("train", "train_auto", "inference", "inference_auto")
OVERLAYS = ("evaluate", "inference_trt", "multi_gpu_train", "multi_gpu_evaluate")
FILES = {
    *(f"configs/{name}.json" for name in (*WHOLE, *OVERLAYS, "metadata")),
    *(f"datalists/fold_{n}.json" for n in range(5)),
    "configs/logging.conf",
    "docs/README.md",
    "docs/data_license.txt",
    "large_files.yml",
    "LICENSE",
}
# label, HU, mean, standard deviation, stored axes, mm, random zoom; cases, fold 0's training, validation and test
TABLE = {
    "kidney_tumor": (2, (-54, 247), 59.53867, 55.457336, "depth, height, width", 5.0, "3D", (300, 209, 30, 61)),
    "pancreas_tumor": (2, (-39, 204), 68.45214, 63.422806, "width, height, depth", 5.0, "in plane", (281, 196, 28, 57)),
    "liver_tumor": (2, (-48, 163), 60.057533, 40.198017, "width, height, depth", 5.0, "3D", (118, 83, 11, 24)),
    "colon_cancer": (1, (-57, 175), 65.175035, 32.651197, "width, height, depth", 5.0, "in plane", (126, 89, 11, 26)),
}
FIRST_CASES = {
    "kidney_tumor": ("case_00013/imaging.nii.gz", "case_00013/aggregated_MAJ_seg.nii.gz"),
    "pancreas_tumor": ("imagesTr/pancreas_331.nii.gz", "labelsTr/pancreas_331.nii.gz"),
    "liver_tumor": ("volume-8.nii", "segmentation-8.nii"),
    "colon_cancer": ("imagesTr/colon_001.nii.gz", "labelsTr/colon_001.nii.gz"),
}
task_of = pytest.mark.parametrize("task", TASKS)


def walk(value: Any) -> Iterator[Any]:
    """All values inside a config, itself first."""
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)


def named(transforms: list[Any], config: dict[str, Any]) -> list[dict[str, Any]]:
    """Transforms with references to others of the config resolved."""
    return [config[t[1:]] if isinstance(t, str) else t for t in transforms]


# --- the template


@task_of
def test_committed_bundles_are_what_the_template_gives(task: str) -> None:
    assert differing_files(load_task(task), BUNDLES) == []
    assert render(load_task(task)).keys() == FILES


def test_differences_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path)]) == 0
    assert main(["--output", str(tmp_path), "--check"]) == 0
    bundle = tmp_path / bundle_of("colon_cancer").name
    (bundle / "LICENSE").write_text("mine")
    (bundle / "configs" / "more.json").write_text("{}")
    (bundle / "docs" / "README.md").unlink()
    (bundle / "models").mkdir()
    (bundle / "models" / "model.pt").write_bytes(b"weights")
    capsys.readouterr()
    assert main(["--output", str(tmp_path), "--check"]) == 1
    names = ["LICENSE", "configs/more.json", "docs/README.md"]
    assert capsys.readouterr().out.splitlines() == [f"{bundle.name}/{n} is not what the template gives" for n in names]


def test_a_task_of_ones_own(tmp_path: Path) -> None:
    values = {**load_task("colon_cancer"), "bundle": "lung_tumor_ct", "clip_low": -160, "label": 3}
    bundle = write_bundle(values, tmp_path)
    assert bundle == tmp_path / "lung_tumor_ct"
    train = json.loads((bundle / "configs" / "train.json").read_text())
    assert train["clipping"]["a_min"] == -160
    assert train["label_values"] == [3]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="task 'lung' is unknown, expected one of kidney_tumor, pancreas_tumor"):
        load_task("lung")
    values = load_task("colon_cancer")
    del values["label_name"]
    with pytest.raises(ValueError, match=r"the template's inference\.json needs a value 'label_name', the task gives"):
        render(values)


@task_of
def test_no_slot_is_left(task: str) -> None:
    for name, text in render(load_task(task)).items():
        assert "{{" not in text, name


# --- the published protocol


@task_of
def test_values_of_the_published_table(task: str) -> None:
    label, clip, mean, std, axes, tolerance, _, counts = TABLE[task]
    values, train, inference = values_of(task), config_of(task, "train"), config_of(task, "inference")
    assert values["stored_axes"] == axes
    mask = {"_target_": "adapters.transforms.LesionMaskd", "keys": "label", "required": "@require_lesion"}
    assert train["loading_transforms"][3] == mask | {"others": "@other_values"}
    assert {*train["other_values"], 0, label} == {*get_release(values["release"]).labels}
    for part in ("train", "validate"):  # each case says which value is its lesion
        assert train[part]["dataset"]["data"].endswith("each={'label_values': [@label_values]})")
    assert train["label_values"] == [label]
    low, high = clip
    clipping = {"a_min": low, "a_max": high, "b_min": low, "b_max": high, "clip": True}
    normalising = {"subtrahend": mean, "divisor": std}
    transforms = {t["_target_"]: t for t in inference["preprocessing"]["transforms"][0]["transforms"]}
    for check in (train["loading_transforms"][1], transforms["adapters.transforms.CheckScand"]):
        assert check["hounsfield"] == f"$({low}, {high}) if @require_hu else None"
    assert train["clipping"] == {"_target_": "ScaleIntensityRanged", "keys": "image", **clipping}
    assert train["normalising"] == {"_target_": "NormalizeIntensityd", "keys": "image", **normalising}
    window = {"_target_": "adapters.transforms.WindowIntensityd", "keys": "image", "low": low, "high": high}
    assert transforms["adapters.transforms.WindowIntensityd"] == window | normalising
    assert config_of(task, "evaluate")["tolerance"] == tolerance
    image = config_of(task, "metadata")["network_data_format"]["inputs"]["image"]
    assert image["value_range"] == pytest.approx([(low - mean) / std, (high - mean) / std], abs=1e-4)
    listed = json.loads((bundle_of(task) / "datalists" / "fold_0.json").read_text())
    assert tuple(len(listed[section]) for section in ("training", "validation", "test")) == counts[1:]
    first = listed["training"][0]
    assert (first["image"], first["label"]) == FIRST_CASES[task]


@task_of
def test_folds_are_the_published_ones(task: str, shared: Path) -> None:
    published = json.loads((shared / "splits" / f"{values_of(task)['release']}.json").read_text())["folds"]
    assert len(published) == len(values_of(task)["datalists"]) == 5
    for number, fold in enumerate(published):
        listed = json.loads((bundle_of(task) / "datalists" / f"fold_{number}.json").read_text())
        for section, key in (("training", "train"), ("validation", "val"), ("test", "test")):
            assert [case["case"] for case in listed[section]] == fold[key]
        images = [case["image"] for section in listed.values() for case in section]
        assert len(set(images)) == len(images) == TABLE[task][7][0]


@task_of
@pytest.mark.parametrize(
    ("name", "crop", "enlargement", "norm"), [("train", 128, 4, 1.0), ("train_auto", 256, 2, 12.0)]
)
def test_published_training(task: str, name: str, crop: int, enlargement: int, norm: float) -> None:
    config = config_of(task, name)
    expected = {
        "variant": "vit_b",
        "crop_size": crop,
        "enlargement": enlargement,
        "max_norm": norm,
        "spacing": 1.0,
        "max_epochs": 500,
        "batch_size": 1,
        "learning_rate": 4e-4,
        "val_interval": 1,
        "trainable": "published",
        "fold": 0,
        "lesion_clicks": 10 if name == "train" else 0,
        "stray_clicks": 20 if name == "train" else 0,
        "val_clicks": 10 if name == "train" else 0,
    }
    assert {key: config[key] for key in expected} == expected
    assert config["optimizer"]["_target_"] == "torch.optim.AdamW"
    assert config["optimizer"]["weight_decay"] == 0
    assert config["lr_scheduler"] == {
        "_target_": "torch.optim.lr_scheduler.LinearLR",
        "optimizer": "@optimizer",
        "start_factor": 1.0,
        "end_factor": 0.01,
        "total_iters": "@max_epochs",
    }
    loss = {key: config["loss"][key] for key in ("_target_", "include_background", "lambda_dice", "lambda_ce")}
    assert loss == {"_target_": "DiceCELoss", "include_background": False, "lambda_dice": 0.5, "lambda_ce": 0.5}
    assert config["validate"]["key_metric"]["val_dice_loss"]["loss_fn"]["_target_"] == "DiceLoss"
    assert config.get("interactive") is (False if name == "train" else None)


@task_of
def test_augmentation_in_the_published_order(task: str) -> None:
    config = config_of(task, "train")
    transforms = named(config["train"]["random_transforms"], config)
    zoom = {"3D": ["RandZoomd"], "in plane": ["RandRotated", "RandZoomd"]}[TABLE[task][6]]
    assert [t["_target_"] for t in transforms] == [
        "RandShiftIntensityd",
        "CropForegroundd",
        "NormalizeIntensityd",
        *zoom,
        "AsDiscreted",
        "SpatialPadd",
        "RandCropByPosNegLabeld",
        "RandSpatialCropd",
        *["RandFlipd"] * 3,
        "RandRotate90d",
        "EnsureTyped",
    ]
    by_name = {t["_target_"]: t for t in transforms}
    assert (by_name["RandShiftIntensityd"]["offsets"], by_name["RandShiftIntensityd"]["prob"]) == (20, 0.5)
    assert by_name["CropForegroundd"]["select_fn"] == f"$functools.partial(operator.lt, {TABLE[task][1][0]})"
    made = {key: by_name["RandZoomd"][key] for key in ("prob", "min_zoom", "max_zoom")}
    if len(zoom) == 1:
        assert made == {"prob": 0.8, "min_zoom": 0.85, "max_zoom": 1.25}
    else:
        assert made == {"prob": 0.3, "min_zoom": [1.0, 0.9, 0.9], "max_zoom": [1.0, 1.1, 1.1]}
        assert by_name["RandRotated"]["range_x"] == pytest.approx(0.5236, abs=1e-4)
        assert by_name["RandRotated"]["prob"] == 0.3
    assert (by_name["RandCropByPosNegLabeld"]["pos"], by_name["RandCropByPosNegLabeld"]["neg"]) == (2, 1)
    assert sorted(t["spatial_axis"] for t in transforms if t["_target_"] == "RandFlipd") == [0, 1, 2]
    assert {t["prob"] for t in transforms if t["_target_"] in {"RandFlipd", "RandRotate90d"}} == {0.5}


@task_of
def test_evaluation_as_published(task: str) -> None:
    evaluate, train, auto = (config_of(task, name) for name in ("evaluate", "train", "train_auto"))
    assert (evaluate["num_clicks"], evaluate["click_policy"]) == ([1, 3, 10], "random")
    assert (evaluate["validate#update"]["threshold"], evaluate["dataset_section"]) == (0.5, "test")
    assert (train["grow"], train["max_crops"], train["scan_inferer"]["pad_value"]) == (False, 1, 0.0)
    assert auto["scan_inferer"]["_target_"] == "adapters.inferers.AutomaticInferer"
    assert (auto["scan_inferer"]["roi_size"], auto["use_clicks"]) == ("@crop_size", False)


# --- the Model Zoo and MONAI Label


@task_of
def test_metadata_fits_the_schema(task: str, shared: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = shared / "schema" / "meta_schema_20240725.json"
    if not schema.is_file():
        pytest.skip("the schema of the Model Zoo is not there")
    metadata = config_of(task, "metadata")
    jsonschema.validate(metadata, json.loads(schema.read_text()))
    assert metadata["schema"].endswith(schema.name)
    assert metadata["version"] in metadata["changelog"]
    needed = metadata["required_packages_version"]
    assert needed["monai-sam-adapters"] == adapters.__version__
    for name in needed:
        importlib.metadata.version(name)  # raises for what is not installed


@pytest.mark.parametrize("name", [*WHOLE, *OVERLAYS])
@task_of
def test_all_that_configs_name_exists(task: str, name: str) -> None:
    known = ComponentLocator()
    for value in walk(config_of(task, name)):
        if isinstance(value, dict) and "_target_" in value:
            target = value["_target_"]
            found = locate(target) if "." in target else known.get_component_module_name(target)
            assert found, f"{name} names {target}"
        if isinstance(value, str) and value.startswith("$") and not value.startswith("$import"):
            for inner in re.findall(r"\b(?:adapters|monai|torch|numpy|operator|functools)(?:\.\w+)+", value):
                assert locate(inner) is not None, f"{name} names {inner}"


@task_of
def test_names_that_users_and_monai_call(task: str) -> None:
    bundle = bundle_of(task)
    assert bundle.name.endswith("_ct_samadapter_deepgrow")  # the type in MONAI Label
    ids = {"dataset_dir", "output_dir", "ckpt_dir", "device", "num_workers", "variant", "crop_size", "spacing"}
    for name, verb in (("train", "training"), ("train_auto", "training"), ("inference", "inference")):
        config = config_of(task, name)
        assert ids <= config.keys()
        assert config[verb] == "%run"
    train = config_of(task, "train")
    assert isinstance(train["train"]["handlers"], list)
    assert not any("displayable_configs" in value for value in walk(train) if isinstance(value, dict))
    handlers = [h["_target_"].rsplit(".", 1)[-1] for h in train["train"]["handlers"]]
    quiet = re.findall(r"\.(\w+Handler|Progress)\b", config_of(task, "multi_gpu_train")["train#trainer#train_handlers"])
    assert quiet == ["StatsHandler", "TensorBoardStatsHandler", "Progress"]  # print and log: rank 0 alone
    assert sorted(set(handlers) - set(quiet)) == ["LrScheduleHandler", "Resume", "StopEarly", "ValidationWithEnd"]
    request = next(v for v in walk(config_of(task, "inference")) if isinstance(v, dict) and "label_names" in v)
    pred = config_of(task, "metadata")["network_data_format"]["outputs"]["pred"]
    assert request["label_names"] == "@label_name"
    for name in ("inference", "inference_auto"):
        assert config_of(task, name)["label_name"] == pred["channel_def"]["1"]
    assert train["network_def"]["image_encoder"].pop("recompute") == "@recompute"
    auto = config_of(task, "train_auto")
    assert auto["network_def"]["image_encoder"].pop("recompute") == "@recompute"
    for name in ("crop_size", "enlargement", "spacing", "variant", "network_def", "axcodes"):
        assert train[name] == config_of(task, "inference")[name]
        assert auto[name] == config_of(task, "inference_auto")[name]


@task_of
def test_monai_reads_where_sams_weights_are(task: str) -> None:
    """As `python -m monai.bundle download_large_files` does."""
    (entry,) = ConfigParser.load_config_file(bundle_of(task) / "large_files.yml")["large_files"]
    assert entry["path"] == f"models/{config_of(task, 'train')['sam_files']['vit_b']}"
    assert entry["url"] == f"{SAM_URL}/{WEIGHTS['sam_vit_b'].file}"
    assert (entry["hash_type"], entry["hash_val"]) == ("sha256", WEIGHTS["sam_vit_b"].sha256)


def test_regenerating_changes_nothing(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle_of("liver_tumor"), tmp_path / bundle_of("liver_tumor").name))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write_bundle(load_task("liver_tumor"), tmp_path)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
