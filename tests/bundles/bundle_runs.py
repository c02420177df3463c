"""Running the sarcoma bundle as a user types it, in a process of its own, and in this one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
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
