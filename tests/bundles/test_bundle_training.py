"""Training, evaluation and the other networks of the sarcoma bundle, each end to end on phantoms."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_runs import (
    BUNDLE,
    COMPARED,
    SMALL,
    Trained,
    last_state,
    run_as_typed,
    told,
    torchrun,
    train_here,
    workflow,
)
from monai.bundle import ConfigParser

from adapters.checkpoints import save_model
from adapters.networks import build_sam_adapter3d

TEST_CASES = ["phantom_004", "phantom_005"]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def counted(rows: list[dict[str, str]], case: str) -> list[tuple[str, int, int]]:
    return sorted((row["policy"], int(row["clicks"]), int(row["seed"])) for row in rows if row["case"] == case)


# --- training


def test_training_as_typed_writes_weights(trained: Trained) -> None:
    models = trained.bundle / "models"
    assert {path.name for path in models.iterdir()} == {"model.pt", "last.ckpt", "last.previous.ckpt"}
    assert "train_loss" in trained.process.stdout
    assert list((trained.bundle / "eval").glob("events.out.tfevents*"))
    last = torch.load(models / "last.ckpt", weights_only=True)
    assert (last["epoch"], last["finished"]) == (2, True)
    assert set(last["parts"]) == {"model", "optimizer", "schedule"}


def test_training_changes_the_network_and_inference_takes_it(trained: Trained) -> None:
    state = torch.load(trained.bundle / "models" / "model.pt", weights_only=True)
    parser = ConfigParser(json.loads((BUNDLE / "configs" / "inference.json").read_text()))
    parser["crop_size"] = SMALL["crop_size"]
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(state, strict=True)
    kept = {name for name, tensor in state.items() if torch.equal(tensor, fresh[name])}
    changed_parts = {name.split(".")[0] for name in state.keys() - kept}
    assert changed_parts == {"image_encoder", "prompt_head", "mask_decoder"}
    # the gain is constant; the attention is carried for the published checkpoints' sake and never called
    assert all(name.endswith("rel_pos_gain") or "cross_attn_token_to_image" in name for name in kept), sorted(kept)


@pytest.mark.parametrize(("names", "kind"), [(["train"], "train"), (["inference"], "inference")])
def test_properties(
    names: list[str], kind: str, trained: Trained, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    overrides: dict[str, Any] = {**SMALL, "output_dir": str(tmp_path / "eval")}
    if kind == "train":
        overrides |= trained.data | {"ckpt_dir": str(tmp_path / "models")}
    else:
        image = Path(trained.data["dataset_dir"]) / "images" / "phantom_000.nii.gz"
        entries = [{"image": str(image), "points": [], "point_labels": []}]
        (tmp_path / "requests.json").write_text(json.dumps(entries))
        overrides |= {"dataset_dir": str(tmp_path)}
    made = workflow(trained.bundle, names, kind, **overrides)
    assert made.check_properties() == []


def test_training_stops_before_it_starts_where_the_list_lacks_a_label(data: dict[str, str], tmp_path: Path) -> None:
    entries = {"training": [{"image": "images/phantom_000.nii.gz"}], "validation": []}
    (tmp_path / "list.json").write_text(json.dumps(entries))
    overrides = {**SMALL, **data, "datalist": str(tmp_path / "list.json"), "ckpt_dir": str(tmp_path / "models")}
    made = workflow(BUNDLE, ["train"], "train", output_dir=str(tmp_path / "eval"), **overrides)
    with pytest.raises(Exception) as caught:  # noqa: PT011  (the message stands in the chain)
        made.run()
    assert "entry 0 of section 'training'" in told(caught.value)
    assert "'label'" in told(caught.value)
    assert not (tmp_path / "models").exists()


def test_an_unknown_variant_is_refused(data: dict[str, str], tmp_path: Path) -> None:
    paths = {"output_dir": str(tmp_path / "eval"), "ckpt_dir": str(tmp_path / "models")}
    made = workflow(BUNDLE, ["train"], "train", **(SMALL | data | paths), variant="vit_x")
    with pytest.raises(Exception) as caught:  # noqa: PT011
        made.run()
    assert "unknown variant 'vit_x': expected one of tiny, vit_b, vit_l, vit_h" in told(caught.value)


# --- several processes


CENTRE = [{"_target_": "CenterSpatialCropd", "keys": ["image", "label"], "roi_size": [32, 32, 32]}]
"""Nothing is left to chance, so that a process and two of them see the same crops."""


def test_two_processes_train_as_one_does(data: dict[str, str], tmp_path: Path) -> None:
    listed = json.loads(Path(data["datalist"]).read_text())
    listed["training"] = listed["training"][:2]
    (tmp_path / "list.json").write_text(json.dumps(listed))
    start = save_model(build_sam_adapter3d("tiny", 32, trainable="all"), tmp_path / "start.pt")
    options: dict[str, Any] = SMALL | data | {"datalist": str(tmp_path / "list.json"), "pretrained": str(start)}
    options |= {"max_epochs": 1, "rounds": 1, "automatic_first": False, "automatic_share": 1.0, "val_clicks": [0, 1]}
    options |= {"network_def#mask_decoder#dropout": 0.0, "train#random_transforms": CENTRE}

    def paths(name: str) -> dict[str, str]:
        return {"ckpt_dir": str(tmp_path / name), "output_dir": str(tmp_path / f"{name}_eval")}

    names = ["train", "multi_gpu_train"]
    done = torchrun(BUNDLE, "training", names, options | paths("two") | {"batch_size": 1}, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    train_here(BUNDLE, options | paths("one"))
    two, one = (last_state(tmp_path / name)["parts"]["optimizer"]["state"] for name in ("two", "one"))
    assert two.keys() == one.keys()
    for index, entry in two.items():
        assert int(entry["step"]) == 1  # two cases, one for each process
        torch.testing.assert_close(entry["exp_avg"], one[index]["exp_avg"], rtol=1e-3, atol=1e-6)

    options |= {"automatic_first": True, "automatic_share": 0.0, "rounds": 2}  # clicks, which differ between the two
    options |= {"max_epochs": 500, "max_minutes": 0.05}  # both end after the same step
    done = torchrun(BUNDLE, "training", names, options | paths("clicks") | {"batch_size": 1}, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert last_state(tmp_path / "clicks")["finished"]


def test_two_processes_evaluate(trained: Trained, tmp_path: Path) -> None:
    options = {"num_clicks": [1], "click_rounds": 0, "seeds": 1, "output_dir": str(tmp_path)}
    names = ["train", "evaluate", "multi_gpu_evaluate"]
    done = torchrun(trained.bundle, "evaluating", names, SMALL | trained.data | options, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(row["case"] for row in rows_of(tmp_path)) == TEST_CASES


# --- evaluation


def test_evaluating_as_typed(trained: Trained, tmp_path: Path) -> None:
    options = {"num_clicks": [0, 2], "click_rounds": 2, "seeds": 2, "output_dir": str(tmp_path)}
    process = run_as_typed(trained.bundle, "evaluating", ["train", "evaluate"], SMALL | trained.data | options)
    assert process.returncode == 0, process.stderr[-3000:]
    assert {path.name for path in tmp_path.iterdir()} >= {"scores.csv", "summary.json", "scores.md", "curve.png"}
    rows = rows_of(tmp_path)
    expected = [
        (policy, n, seed)
        for policy, n in (("automatic", 0), ("iterative", 1), ("iterative", 2), ("random", 2))
        for seed in (0, 1)
    ]
    for case in TEST_CASES:
        assert counted(rows, case) == expected
    assert len(rows) == 2 * len(expected)
    assert all(0 <= float(row["dice"]) <= 1 for row in rows)
    tumour = 8.0**3 / 1000  # ml of a voxel
    volumes = {float(row["lesion_ml"]) for row in rows}
    assert len(volumes) == 2
    assert all(volume / tumour == pytest.approx(round(volume / tumour)) for volume in volumes)

    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["cases"] == TEST_CASES
    means = {(entry["policy"], entry["clicks"]): entry["dice"]["mean"] for entry in summary["scores"]}
    some = [float(row["dice"]) for row in rows if (row["policy"], row["clicks"]) == ("random", "2")]
    assert means["random", 2] == pytest.approx(math.fsum(some) / len(some), abs=1e-5)
    assert "3DSAM-adapter (tiny)" in (tmp_path / "scores.md").read_text()
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_evaluation_refuses_weights_of_another_crop(trained: Trained, tmp_path: Path) -> None:
    overrides = SMALL | trained.data | {"crop_size": 48, "output_dir": str(tmp_path)}
    made = workflow(trained.bundle, ["train", "evaluate"], "train", **overrides)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        made.run()
    assert "crop_size=32, but the network has image_encoder.crop_size=48" in told(caught.value)
    assert not (tmp_path / "scores.csv").exists()


# --- the networks compared with


@pytest.mark.parametrize("name", COMPARED)
def test_compared_networks_train_and_are_scored(name: str, data: dict[str, str], tmp_path: Path) -> None:
    overlay = json.loads((BUNDLE / "configs" / f"{name}.json").read_text())
    size = {"crop_size": overlay["crop_size"]} if "crop_size" in overlay else {}  # SwinUNETR takes no smaller one
    paths = {"ckpt_dir": str(tmp_path / "models"), "output_dir": str(tmp_path / "eval")}
    overrides = SMALL | size | data | paths
    workflow(BUNDLE, ["train", name], "train", **overrides, max_epochs=1, val_interval=1, batch_size=1).run()
    state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert all(key.startswith("backbone.") for key in state)

    options = {"num_clicks": [0, 1], "click_rounds": 1, "seeds": 1}
    workflow(BUNDLE, ["train", "evaluate", name], "train", **overrides, **options).run()
    rows = rows_of(tmp_path / "eval")
    expected = [("automatic", 0, 0)] + [("iterative", 1, 0), ("random", 1, 0)] * overlay["use_clicks"]
    assert [counted(rows, case) for case in TEST_CASES] == [expected] * 2
    assert overlay["method"] in (tmp_path / "eval" / "scores.md").read_text()
