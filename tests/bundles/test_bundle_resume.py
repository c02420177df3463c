"""Trainings of the bundles that are killed, and go on to the numbers of an unbroken one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bundle_runs import BUNDLE, assert_same_run, killed_after_an_epoch, make_data, train_here
from bundle_runs import SMALL as SMALL_SARCOMA
from four_runs import SMALL, bundle_of, make_release

EPOCHS = 6


# the four have the template's configurations
@pytest.mark.parametrize("task", ["liver_tumor", "soft_tissue_sarcoma"])
def test_killed_and_started_again(task: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options: dict[str, Any]
    if task == "soft_tissue_sarcoma":
        bundle = BUNDLE
        options = {**SMALL_SARCOMA, **make_data(tmp_path / "data"), "val_interval": 2, "val_clicks": [1]}
    else:
        bundle = bundle_of(task)
        options = {**SMALL, **make_release(task, tmp_path / "data"), "crop_size": 16}
    options["max_epochs"] = EPOCHS

    def paths(name: str) -> dict[str, str]:
        return {"ckpt_dir": str(tmp_path / name), "output_dir": str(tmp_path / f"{name}_eval")}

    stood = killed_after_an_epoch(bundle, options | paths("broken"))
    assert not stood["finished"]
    assert 1 <= stood["epoch"] < EPOCHS
    with caplog.at_level("INFO", logger="adapters"):
        train_here(bundle, options | paths("broken"))
    assert f"the run goes on after epoch {stood['epoch']} of {EPOCHS}" in caplog.text
    train_here(bundle, options | paths("unbroken"))
    assert_same_run(tmp_path / "broken", tmp_path / "unbroken")
