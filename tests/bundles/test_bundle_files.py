"""What the files of the sarcoma bundle promise, and that they agree with each other."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import torch
from bundle_runs import BUNDLE, COMPARED, configs
from monai.bundle import ConfigParser, verify_net_in_out
from monai.bundle.config_item import ComponentLocator
from monai.transforms import ScaleIntensityRanged

import adapters
from adapters.transforms import WindowIntensityd

CONFIGS = sorted((BUNDLE / "configs").glob("*.json"))
WEIGHTS = BUNDLE / "models" / "model.pt"
LIMIT_MB = 25


def read(name: str) -> dict[str, Any]:
    return json.loads((BUNDLE / "configs" / f"{name}.json").read_text())


def walk(value: Any) -> Iterator[Any]:
    """All values inside a config, itself first."""
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)


def test_metadata_fits_the_schema(shared: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = shared / "schema" / "meta_schema_20240725.json"
    if not schema.is_file():
        pytest.skip("the schema of the Model Zoo is not there")
    jsonschema.validate(read("metadata"), json.loads(schema.read_text()))
    assert read("metadata")["schema"].endswith(schema.name)


def test_version_and_licence() -> None:
    metadata = read("metadata")
    assert metadata["version"] in metadata["changelog"]
    assert "Apache License" in (BUNDLE / "LICENSE").read_text()


def test_required_packages_are_those_of_the_project() -> None:
    needed = read("metadata")["required_packages_version"]
    assert needed["monai-sam-adapters"] == adapters.__version__
    for name in needed:
        importlib.metadata.version(name)  # raises for what is not installed


def test_network_takes_one_tensor_as_the_metadata_say() -> None:
    verify_net_in_out(
        net_id="network_def",
        config_file=configs(BUNDLE, "inference")[0],
        meta_file=configs(BUNDLE, "metadata")[0],
        device="cpu",
    )


def test_output_has_the_shape_that_the_metadata_say() -> None:
    formats = read("metadata")["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    network = ConfigParser(read("inference")).get_parsed_content("network_def").eval()
    with torch.no_grad():
        logits = network(torch.rand(1, image["num_channels"], *image["spatial_shape"]) * 2 - 1)
    assert tuple(logits.shape) == (1, pred["num_channels"], *pred["spatial_shape"])
    assert str(logits.dtype) == f"torch.{pred['dtype']}"
    assert set(pred["channel_def"]) == {str(c) for c in range(pred["num_channels"])}


def test_label_names_are_those_of_requests() -> None:
    requests = [v for v in walk(read("inference")) if isinstance(v, dict) and "label_names" in v]
    assert [r["label_names"] for r in requests] == ["@label_name"]
    pred = read("metadata")["network_data_format"]["outputs"]["pred"]
    assert read("inference")["label_name"] == pred["channel_def"]["1"]


def test_datalist_splits_24_patients() -> None:
    sections = read("datalist")
    assert {name: len(cases) for name, cases in sections.items()} == {"training": 16, "validation": 4, "test": 4}
    patients = []
    for case in (case for cases in sections.values() for case in cases):
        names = {Path(case[key]).name for key in ("image", "label")}
        assert len(names) == 1, case
        assert (Path(case["image"]).parent.name, Path(case["label"]).parent.name) == ("images", "labels")
        patients += names
    assert len(set(patients)) == 24


def test_datalist_names_all_patients_of_the_data(shared: Path) -> None:
    folder = shared / "data" / "soft_tissue_sarcoma" / "ct"
    if not folder.is_dir():
        pytest.skip("the sarcoma CTs are not there")
    for key in ("image", "label"):
        listed = {folder / case[key] for cases in read("datalist").values() for case in cases}
        assert listed == set((folder / f"{key}s").glob("*.nii.gz"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_all_that_configs_name_exists(path: Path) -> None:
    known = ComponentLocator()
    for value in walk(json.loads(path.read_text())):
        if isinstance(value, dict) and "_target_" in value:
            target = value["_target_"]
            found = locate(target) if "." in target else known.get_component_module_name(target)
            assert found, f"{path.name} names {target}"
        if isinstance(value, str) and value.startswith("$") and not value.startswith("$import"):
            for name in re.findall(r"\b(?:adapters|monai|torch|numpy)(?:\.\w+)+", value):
                assert locate(name) is not None, f"{path.name} names {name}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_files_are_plain_json_without_twice_the_same_key(path: Path) -> None:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in items]
        assert len(names) == len(set(names)), names
        return dict(items)

    json.loads(path.read_text(encoding="ascii"), object_pairs_hook=pairs)


def test_ids_that_users_call_and_override() -> None:
    train, inference = read("train"), read("inference")
    overrides = ["dataset_dir", "output_dir", "ckpt_dir", "device", "num_workers", "variant", "crop_size", "spacing"]
    assert set(overrides) <= train.keys() & inference.keys()
    assert {"max_epochs", "max_first_clicks", "val_clicks", "rounds", "automatic_share", "batch_size"} <= train.keys()
    assert {"automatic_first", "single_share", "deformed_share"} <= train.keys()
    assert {"num_clicks", "click_rounds", "click_policy", "seeds"} <= read("evaluate").keys()
    assert {"network_def", "preprocessing", "inferer", "postprocessing", "bundle_root"} <= inference.keys()
    for name, verb in (("train", "training"), ("evaluate", "evaluating"), ("inference", "inference")):
        assert read(name)[verb] == "%run"
    for config in (train, inference):
        assert "cuda" not in json.dumps(config).replace("'cuda:0' if torch.cuda.is_available() else 'cpu'", "").replace(
            "torch.cuda", ""
        )
        assert [name for name in config["network_def"] if not name.startswith("_")] == [
            "image_encoder",
            "prompt_head",
            "mask_decoder",
        ]
    assert not any("displayable_configs" in value for value in walk(train) if isinstance(value, dict))


@pytest.mark.parametrize("name", ["crop_size", "spacing", "variant", "network_def"])
def test_training_and_inference_agree(name: str) -> None:
    assert read("train")[name] == read("inference")[name]


def test_preprocessing_and_inferer_agree() -> None:
    train, inference = read("train"), read("inference")

    def steps(transforms: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {t["_target_"]: {k: v for k, v in t.items() if k not in {"_target_", "keys"}} for t in transforms}

    for_training = steps(train["preprocessing_transforms"])
    for_inference = steps(inference["preprocessing"]["transforms"][0]["transforms"])
    assert for_training["Orientationd"] == for_inference["Orientationd"]
    scale = for_training["ScaleIntensityRanged"]
    values = {"image": torch.arange(-2000.0, 4000.0).reshape(1, 60, 10, 10)}
    window = WindowIntensityd("image", **for_inference["adapters.transforms.WindowIntensityd"])
    torch.testing.assert_close(window(values)["image"], ScaleIntensityRanged("image", **scale)(values)["image"])
    options = {name: f"@{name}" for name in ("threshold", "grow", "max_crops")}
    of_clicks = {name: f"@{name}" for name in ("click_distance", "honour_clicks")}  # validation is as published
    assert train["validate"]["inferer"] | options | of_clicks == inference["inferer"]
    check = for_inference["adapters.transforms.CheckScand"]["hounsfield"]
    assert check == for_training["adapters.transforms.CheckScand"]["hounsfield"]
    assert check == f"$({scale['a_min']}, {scale['a_max']}) if @require_hu else None"
    assert inference["options"] == options | {"reach": "@reach"}
    assert "displayable_configs" not in inference  # by which MONAI Label writes what clients send into it
    formats = read("metadata")["network_data_format"]
    assert formats["inputs"]["image"]["value_range"] == [scale["b_min"], scale["b_max"]]
    for tensor in (formats["inputs"]["image"], formats["outputs"]["pred"]):
        assert tensor["spatial_shape"] == [inference["crop_size"]] * 3


@pytest.mark.parametrize("name", COMPARED)
def test_overlays_change_the_network_alone(name: str) -> None:
    overlay, train, evaluate = read(name), read("train"), read("evaluate")
    assert overlay.keys() <= train.keys() | evaluate.keys()
    assert {"network_def", "single_network", "starting_network", "method", "use_clicks"} <= overlay.keys()
    assert overlay["rounds"] == 1
    assert overlay["network_def"]["clicks"] is overlay["use_clicks"]
    if not overlay["use_clicks"]:  # no network is trained on clicks that it does not see
        assert (overlay["automatic_share"], overlay["val_clicks"]) == (1.0, [0])


def test_shipped_weights_fit_the_network() -> None:
    if not WEIGHTS.is_file():
        pytest.skip("models/model.pt is not there")
    assert WEIGHTS.stat().st_size <= LIMIT_MB * 2**20
    state = torch.load(WEIGHTS, weights_only=True)
    assert all(isinstance(tensor, torch.Tensor) and torch.isfinite(tensor).all() for tensor in state.values())
    network = ConfigParser(read("inference")).get_parsed_content("network_def")
    assert network.load_state_dict(state, strict=True)
