"""A training of a task's bundle that is killed, and goes on to the numbers of an unbroken one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_runs import configs
from four_runs import SMALL, bundle_of, make_release
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism

TASK = "pancreas_tumor"
EPOCHS = 6


def words(options: dict[str, Any]) -> list[str]:
    made = [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "training",
        "--config_file",
        *configs(bundle_of(TASK), "train"),
    ]
    for key, value in options.items():
        made += [f"--{key}", str(value)]
    return made


def kill_after_an_epoch(options: dict[str, Any], last: Path) -> None:
    """Start a training as typed and kill it (-9) as soon as the state of its first epoch stands."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        words(options), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        while process.poll() is None and not last.exists():
            time.sleep(0.01)
        assert process.poll() is None, process.stderr.read()[-3000:] if process.stderr else ""
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def state(folder: Path) -> dict[str, Any]:
    """The last state; the one before it if the process was killed between the two moves of files."""
    path = folder / "last.pt" if (folder / "last.pt").exists() else folder / "last.previous.pt"
    return torch.load(path, weights_only=True)


def train(options: dict[str, Any]) -> dict[str, Any]:
    """The same training in this process; unlike `workflow` it leaves chance as the bundle sets it."""
    overrides = {key: value for key, value in options.items() if key != "bundle_root"}
    bundle = bundle_of(TASK)
    made = ConfigWorkflow(
        configs(bundle, "train"), workflow_type="train", logging_file=False, bundle_root=str(bundle), **overrides
    )
    try:
        made.initialize()
        made.run()
    finally:
        set_determinism(None)
    return state(Path(options["ckpt_dir"]))


def test_killed_and_started_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = make_release(TASK, tmp_path / "release")
    options = {**SMALL, **data, "crop_size": 16, "max_epochs": EPOCHS, "bundle_root": str(bundle_of(TASK))}

    def paths(name: str) -> dict[str, str]:
        return {"ckpt_dir": str(tmp_path / name), "output_dir": str(tmp_path / f"{name}_eval")}

    kill_after_an_epoch(options | paths("broken"), tmp_path / "broken" / "last.pt")
    stood = state(tmp_path / "broken")
    assert not stood["finished"]
    assert 1 <= stood["epoch"] < EPOCHS
    with caplog.at_level("INFO", logger="adapters"):
        broken = train(options | paths("broken"))
    assert f"the run goes on after epoch {stood['epoch']} of {EPOCHS}" in caplog.text
    unbroken = train(options | paths("unbroken"))

    assert broken["finished"]
    assert unbroken["finished"]
    for key in ("epoch", "best_epoch", "best_metric", "validated_epoch"):
        assert broken[key] == unbroken[key], key
    for name, tensor in unbroken["parts"]["model"].items():
        assert torch.equal(broken["parts"]["model"][name], tensor), name
    for here, there in zip(
        broken["parts"]["optimizer"]["state"].values(), unbroken["parts"]["optimizer"]["state"].values(), strict=True
    ):
        assert torch.equal(here["exp_avg"], there["exp_avg"])
    best = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("broken", "unbroken")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[1])
