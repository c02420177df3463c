"""Every configuration of the four tasks' bundles, end to end on small releases of phantoms."""

from __future__ import annotations

import csv
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import told, torchrun, workflow
from four_runs import CROPS, SCORING, SMALL, bundle_of, lesion_voxel, make_release

from adapters.bundling import TASKS
from adapters.checkpoints import save_model
from adapters.networks import build_sam_adapter3d

KIND = {"train": "train", "train_auto": "train", "inference": "infer", "inference_auto": "infer"}
WEIGHTS = {"train": "model", "train_auto": "model_auto"}


@dataclass(frozen=True)
class Run:
    """A task's small release, and the folder that its runs write into."""

    task: str
    data: dict[str, Any]
    folder: Path

    @property
    def paths(self) -> dict[str, str]:
        return {"ckpt_dir": str(self.folder / "models"), "output_dir": str(self.folder / "eval")}

    def go(self, names: list[str], **options: Any) -> None:
        overrides = SMALL | {"crop_size": CROPS[names[0]]} | self.paths | options
        if KIND[names[0]] == "train":
            overrides = self.data | overrides
        workflow(bundle_of(self.task), names, KIND[names[0]], **overrides).run()

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return torch.load(self.folder / "models" / f"{WEIGHTS[name]}.pt", weights_only=True)

    def rows(self) -> list[dict[str, str]]:
        with (self.folder / "eval" / "scores.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def cases(self, section: str) -> list[dict[str, str]]:
        return json.loads(Path(self.data["datalist"]).read_text())[section]


@pytest.fixture(scope="module", params=TASKS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp(request.param)
    made = Run(request.param, make_release(request.param, folder / "release"), folder)
    for name in ("train", "train_auto"):
        made.go([name], max_epochs=1)
    return made


@pytest.mark.parametrize("name", ["train", "train_auto"])
def test_training_tunes_what_the_published_one_tunes(run: Run, name: str) -> None:
    """Adapters, norms and decoder move; SAM's weights, and what the published network lacks, stay."""
    torch.manual_seed(0)
    state = run.weights(name)
    network = build_sam_adapter3d("tiny", CROPS[name], enlargement=4 if name == "train" else 2)
    network.load_state_dict(state, strict=True)
    last = torch.load(run.folder / "models" / f"{WEIGHTS[name].replace('model', 'last')}.ckpt", weights_only=True)
    assert (last["finished"], last["epoch"], last["best_epoch"]) == (True, 1, 1)
    moments = last["parts"]["optimizer"]["state"]
    assert moments
    assert all(torch.isfinite(entry["exp_avg"]).all() for entry in moments.values())
    assert not state["prompt_head.label_embed.weight"][1].any()
    added = [n for n in state if ".correction.to_" in n]
    assert added
    assert not any(state[n].any() for n in added)
    trained = [n for n, p in network.named_parameters() if p.requires_grad and "label_embed" not in n]
    trained = [n for n in trained if ".correction." not in n and (name == "train" or "prompt_head" not in n)]
    assert len(last["parts"]["optimizer"]["param_groups"][0]["params"]) == len(trained)
    assert last["parts"]["lr_scheduler"]["_last_lr"] == [pytest.approx(4e-6)]


@pytest.mark.parametrize("name", ["train", "train_auto"])
def test_evaluation_scores_the_test_cases_by_the_protocol(run: Run, name: str) -> None:
    run.go([name, "evaluate"], **SCORING, method=name)
    kinds = [("iterative", "1"), ("random", "1")] if name == "train" else [("automatic", "0")]
    rows = run.rows()
    assert sorted((row["policy"], row["clicks"]) for row in rows) == kinds
    (case,) = run.cases("test")
    assert {row["case"] for row in rows} == {case["case"]}
    stored: Any = nib.load(Path(run.data["dataset_dir"]) / case["label"])
    label = 1 if run.task == "colon_cancer" else 2
    volume = (np.asarray(stored.dataobj) == label).sum() * 8.0**3 / 1000
    assert [float(row["lesion_ml"]) for row in rows] == pytest.approx([volume] * len(rows), rel=1e-4)
    summary = json.loads((run.folder / "eval" / "summary.json").read_text())
    assert (summary["tolerance_mm"], summary["method"]) == (5.0, name)


@pytest.mark.parametrize("name", ["inference", "inference_auto"])
def test_inference_writes_masks_on_the_stored_grid(run: Run, name: str, tmp_path: Path) -> None:
    (case,) = run.cases("test")
    image = Path(run.data["dataset_dir"]) / case["image"]
    points = [lesion_voxel(run.task, Path(run.data["dataset_dir"]) / case["label"])]
    (tmp_path / "r.json").write_text(json.dumps([{"image": str(image), "points": points, "point_labels": [1]}]))
    run.go([name], requests=str(tmp_path / "r.json"), output_dir=str(tmp_path / "masks"))
    (path,) = (tmp_path / "masks").iterdir()
    stored, mask = nib.load(image), nib.load(path)
    assert mask.shape == stored.shape
    np.testing.assert_allclose(mask.affine, stored.affine, atol=1e-3)
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1}


@pytest.mark.parametrize("name", KIND)
def test_properties(run: Run, name: str, tmp_path: Path) -> None:
    overrides = SMALL | {"crop_size": CROPS[name]} | run.paths
    if KIND[name] == "train":
        overrides |= run.data
    else:
        image = Path(run.data["dataset_dir"]) / run.cases("test")[0]["image"]
        (tmp_path / "requests.json").write_text(json.dumps([{"image": str(image), "points": [], "point_labels": []}]))
        overrides |= {"dataset_dir": str(tmp_path)}
    assert workflow(bundle_of(run.task), [name], KIND[name], **overrides).check_properties() == []


# --- switches, and mistakes, on one of the bundles (the template is the same for all)


@pytest.fixture(scope="module")
def colon(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("colon")
    data = make_release("colon_cancer", folder / "release", training=2, validation=2, test=2)
    return Run("colon_cancer", data, folder)


def test_interactive_training_tunes_the_labels_too(colon: Run, tmp_path: Path) -> None:
    """Clicks off the lesion or on it, as the errors of the network fall."""
    network = build_sam_adapter3d("tiny", 16)
    start = save_model(network, tmp_path / "start.pt")
    colon.go(["train"], max_epochs=1, interactive=True, pretrained=str(start), ckpt_dir=str(tmp_path), amp=False)
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert any(state[n].any() for n in state if ".correction.to_" in n)
    assert not torch.equal(state["prompt_head.label_embed.weight"], network.prompt_head.label_embed.weight)


def test_recomputed_activations_train_alike(colon: Run, tmp_path: Path) -> None:
    start = save_model(build_sam_adapter3d("tiny", 16), tmp_path / "start.pt")
    for name, recompute in (("kept", False), ("recomputed", True)):
        options = {"max_epochs": 1, "recompute": recompute, "pretrained": str(start)}
        colon.go(["train"], **options, ckpt_dir=str(tmp_path / name))
    kept, recomputed = (torch.load(tmp_path / n / "model.pt", weights_only=True) for n in ("kept", "recomputed"))
    for name, tensor in kept.items():
        torch.testing.assert_close(recomputed[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_tracking_by_mlflow(colon: Run, tmp_path: Path) -> None:
    options = SMALL | colon.data | {"crop_size": 16, "max_epochs": 1, "ckpt_dir": str(tmp_path)}
    made = workflow(bundle_of(colon.task), ["train"], "train", tracking="mlflow", output_dir=str(tmp_path), **options)
    for part in ("train", "validate"):
        assert made.parser[f"{part}#handlers"][-1]["_target_"] == "MLFlowHandler"
    pytest.importorskip("mlflow")
    made.run()
    with closing(sqlite3.connect(tmp_path / "mlruns.db")) as database:
        logged = {name for (name,) in database.execute("SELECT key FROM metrics")}
    assert {"train_loss", "val_dice_loss"} <= logged


def test_early_stop(colon: Run, tmp_path: Path) -> None:
    """With a learning rate of 0 no epoch is better than the first by more than chance of its crops."""
    colon.go(["train"], max_epochs=30, learning_rate=0.0, early_stopping=1, ckpt_dir=str(tmp_path))
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] < 30


def test_training_needs_sams_weights(colon: Run, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="") as caught:  # noqa: PT011  (the message stands in the chain)
        colon.go(["train"], variant="vit_b", ckpt_dir=str(tmp_path))
    assert "sam_vit_b_01ec64.pth" in told(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_fold_that_is_not_there(colon: Run) -> None:
    data = {"dataset_dir": colon.data["dataset_dir"], "fold": 5}
    made = workflow(bundle_of(colon.task), ["train"], "train", **(SMALL | colon.paths | data), crop_size=16)
    with pytest.raises(Exception, match="") as caught:  # noqa: PT011
        made.run()
    assert "fold_5.json'; its folder holds fold_0.json, fold_1.json" in told(caught.value)


def test_a_case_without_a_lesion_is_scored(colon: Run, tmp_path: Path) -> None:
    case = colon.cases("test")[0]
    release = Path(colon.data["dataset_dir"])
    source: Any = nib.load(release / case["label"])
    nib.save(nib.Nifti1Image(np.zeros(source.shape, np.uint8), source.affine), tmp_path / "empty.nii.gz")
    entry = {"case": "empty", "image": str(release / case["image"]), "label": str(tmp_path / "empty.nii.gz")}
    (tmp_path / "list.json").write_text(json.dumps({"test": [entry]}))
    paths = {"ckpt_dir": str(tmp_path), "output_dir": str(colon.folder / "eval")}
    colon.go(["train"], **(paths | {"max_epochs": 1}))
    colon.go(["train", "evaluate"], **(paths | SCORING), datalist=str(tmp_path / "list.json"))
    assert {(row["policy"], float(row["dice"])) for row in colon.rows()} == {("random", 1.0), ("iterative", 1.0)}


def test_training_refuses_labels_of_another_task(colon: Run, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="") as caught:  # noqa: PT011
        colon.go(["train"], label_values=[5], ckpt_dir=str(tmp_path))
    assert "has no voxel of value 5, it holds 0, 1, 2" in told(caught.value)


# --- several processes


def in_two(run: Run, run_id: str, names: list[str], options: dict[str, Any]) -> None:
    done = torchrun(bundle_of(run.task), run_id, names, SMALL | run.data | run.paths | options, run.folder)
    assert done.returncode == 0, done.stderr[-3000:]


SAME_CROPS = [
    "@normalising",
    "@binarising",
    {"_target_": "SpatialPadd", "keys": ["image", "label"], "spatial_size": [16, 16, 16]},
    {"_target_": "CenterSpatialCropd", "keys": ["image", "label"], "roi_size": [16, 16, 16]},
    "@tensors",
]
"""Nothing is left to chance, so that a process and two of them see the same crops."""


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """The configurations of the four are the template's, but for values that no process knows of."""
    task = "liver_tumor"
    data = make_release(task, tmp_path / "release", training=2, validation=2)
    run, alone = Run(task, data, tmp_path), Run(task, data, tmp_path / "alone")
    start = save_model(build_sam_adapter3d("tiny", 16), tmp_path / "start.pt")
    options = {"crop_size": 16, "max_epochs": 1, "pretrained": str(start), "lesion_clicks": 1, "stray_clicks": 0}
    options |= {"train#prepare_batch#policy": "centre", "train#random_transforms": SAME_CROPS}
    in_two(run, "training", ["train", "multi_gpu_train"], options)
    alone.go(["train"], **options, batch_size=2)

    two, one = (torch.load(r.folder / "models" / "last.ckpt", weights_only=True) for r in (run, alone))
    assert (two["epoch"], two["finished"]) == (1, True)
    gradients = [last["parts"]["optimizer"]["state"] for last in (two, one)]
    assert gradients[0].keys() == gradients[1].keys()
    for index, entry in gradients[0].items():
        assert int(entry["step"]) == 1  # two cases, one for each process
        torch.testing.assert_close(entry["exp_avg"], gradients[1][index]["exp_avg"], rtol=1e-3, atol=1e-6)
    assert not any(name.startswith("module.") for name in run.weights("train"))


def test_two_processes_train_with_corrections_and_evaluate(tmp_path: Path) -> None:
    """The three validation cases do not share out evenly."""
    data = make_release("kidney_tumor", tmp_path / "release", training=2, validation=3, test=2)
    run = Run("kidney_tumor", data, tmp_path)
    in_two(run, "training", ["train", "multi_gpu_train"], {"crop_size": 16, "max_epochs": 1, "interactive": True})
    assert any(tensor.any() for name, tensor in run.weights("train").items() if ".correction.to_" in name)
    in_two(run, "evaluating", ["train", "evaluate", "multi_gpu_evaluate"], {"crop_size": 16, **SCORING})
    expected = {(case["case"], policy) for case in run.cases("test") for policy in ("iterative", "random")}
    assert {(row["case"], row["policy"]) for row in run.rows()} == expected
