"""Running the sarcoma bundle as a user types it, in a process of its own, and in this one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism

from adapters.datasets.phantom import write_phantoms

TESTS = Path(__file__).resolve().parents[1]
BUNDLE = TESTS.parent / "bundles" / "soft_tissue_sarcoma_ct_samadapter_deepgrow"
COMPARED = sorted(path.stem for path in (BUNDLE / "configs").glob("compare_*.json"))
SMALL = {"crop_size": 32, "spacing": 8.0, "device": "cpu"}
"""Crops of 256 mm, in which a phantom's tumour is some four voxels across."""


@dataclass(frozen=True)
class Trained:
    """A copy of the bundle in which the network was trained for two epochs, and what that printed."""

    bundle: Path
    data: dict[str, str]
    process: subprocess.CompletedProcess[str]


def copy_bundle(folder: Path) -> Path:
    """The bundle without weights, as somewhere to train in."""
    return Path(shutil.copytree(BUNDLE, folder / BUNDLE.name, ignore=shutil.ignore_patterns("models", "eval", "docs")))


def make_data(folder: Path) -> dict[str, str]:
    """Three phantoms to train on, one to validate and two to test; the overrides that name them."""
    cases = write_phantoms(folder, 6, shape=(36, 36, 32), spacing=(8.0, 8.0, 8.0))
    entries = [{key: str(Path(path).relative_to(folder)) for key, path in case.items()} for case in cases]
    datalist = folder / "datalist.json"
    datalist.write_text(json.dumps({"training": entries[:3], "validation": entries[3:4], "test": entries[4:]}))
    return {"dataset_dir": str(folder), "datalist": str(datalist)}


def configs(bundle: Path, *names: str) -> list[str]:
    return [str(bundle / "configs" / f"{name}.json") for name in names]


def run_as_typed(
    bundle: Path, run_id: str, names: Sequence[str], overrides: dict[str, Any]
) -> subprocess.CompletedProcess[str]:
    """``python -m monai.bundle run`` with the threads of this process; never raises for its exit code."""
    files = configs(bundle, *names)
    words = [sys.executable, "-m", "monai.bundle", "run", *([run_id] if run_id else [])]
    words += ["--config_file", files[0] if len(files) == 1 else str(files), "--bundle_root", str(bundle)]
    for key, value in overrides.items():
        words += [f"--{key}", str(value)]
    path = os.pathsep.join([str(TESTS / "inferers"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        words,
        env={**os.environ, "PYTHONPATH": path},
        cwd=bundle.parent,
        text=True,
        capture_output=True,
        timeout=600,
        check=False,
    )


def workflow(bundle: Path, names: Sequence[str], kind: str, **overrides: Any) -> ConfigWorkflow:
    """The same in this process, without the bundle's logging, which would change that of the tests."""
    made = ConfigWorkflow(
        config_file=configs(bundle, *names),
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(bundle),
        **overrides,
    )
    try:
        made.initialize()
    finally:
        set_determinism(None)
    return made


def told(error: BaseException) -> str:
    """All that a user sees of an error."""
    return "".join(traceback.format_exception(error))


# --- trainings that are killed, and trainings of several processes


def killed_after_an_epoch(bundle: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Start a training as typed, kill it (-9) as soon as the state of its first epoch stands, and return that state."""
    last = Path(options["ckpt_dir"]) / "last.ckpt"
    words = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", *configs(bundle, "train")]
    for key, value in {"bundle_root": str(bundle), **options}.items():
        words += [f"--{key}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while process.poll() is None and not last.exists():
            time.sleep(0.01)
        assert process.poll() is None, process.stderr.read()[-3000:] if process.stderr else ""
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    return last_state(last.parent)


def last_state(folder: Path) -> dict[str, Any]:
    """The last state; the one before it if the process was killed between the two moves of files."""
    path = folder / "last.ckpt" if (folder / "last.ckpt").exists() else folder / "last.previous.ckpt"
    return torch.load(path, weights_only=True)


def train_here(bundle: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The same training in this process, its last state; unlike `workflow` it leaves chance as the bundle sets it."""
    made = ConfigWorkflow(
        configs(bundle, "train"), workflow_type="train", logging_file=False, bundle_root=str(bundle), **options
    )
    try:
        made.initialize()
        made.run()
    finally:
        set_determinism(None)
    return last_state(Path(options["ckpt_dir"]))


def assert_same_run(broken: Path, unbroken: Path) -> None:
    """Two finished trainings ended with the same numbers, to the bit."""
    here, there = last_state(broken), last_state(unbroken)
    assert here["finished"]
    assert there["finished"]
    for key in ("epoch", "best_epoch", "best_metric", "validated_epoch"):
        assert here[key] == there[key], key
    for name, tensor in there["parts"]["model"].items():
        assert torch.equal(here["parts"]["model"][name], tensor), name
    moments = [state["parts"]["optimizer"]["state"] for state in (here, there)]
    assert all(torch.equal(moments[0][index]["exp_avg"], entry["exp_avg"]) for index, entry in moments[1].items())
    best = [torch.load(folder / "model.pt", weights_only=True) for folder in (broken, unbroken)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[1])


def torchrun(
    bundle: Path, run_id: str, names: Sequence[str], overrides: dict[str, Any], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Two processes as typed, from a folder; never raises for their exit code."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words += ["-m", "monai.bundle", "run", run_id, "--config_file", str(configs(bundle, *names))]
    for key, value in {"bundle_root": str(bundle), **overrides}.items():
        if key != "device":
            words += [f"--{key}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(words, env=environment, cwd=folder, text=True, capture_output=True, timeout=600, check=False)
