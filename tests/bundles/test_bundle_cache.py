"""Trainings that keep their scans in memory, on disk or not at all end with the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bundle_runs import SMALL, assert_same_run, copy_bundle, last_state, train_here
from four_runs import CROPS, bundle_of, make_release
from four_runs import SMALL as SMALL_FOUR


def test_the_sarcoma_bundle(data: dict[str, str], tmp_path: Path) -> None:
    bundle = copy_bundle(tmp_path)
    ways: list[dict[str, Any]] = [{"cache": "memory"}, {"cache": "disk"}, {"cache": "disk"}, {"cache": "none"}]
    options = {**SMALL, **data, "max_epochs": 2, "val_interval": 2, "val_clicks": [1], "rounds": 1}
    options["cache_dir"] = str(tmp_path / "cache")
    for number, way in enumerate(ways):
        folders = {"ckpt_dir": str(tmp_path / f"{number}"), "output_dir": str(tmp_path / f"{number}")}
        train_here(bundle, {**options, **folders, **way})
    kept = list((tmp_path / "cache").iterdir())
    assert len(kept) == 3  # the cases that are trained on, once
    for number in range(1, len(ways)):
        assert_same_run(tmp_path / f"{number}", tmp_path / "0")


def test_a_published_bundle(tmp_path: Path) -> None:
    task = "kidney_tumor"
    options = {
        **SMALL_FOUR,
        **make_release(task, tmp_path / "data"),
        "crop_size": CROPS["train"],
        "trainable": "all",
        "sam_checkpoint": None,
        "max_epochs": 2,
        "cache_dir": str(tmp_path / "cache"),
    }
    for way in ("none", "disk", "memory"):
        folders = {"ckpt_dir": str(tmp_path / way), "output_dir": str(tmp_path / way)}
        train_here(bundle_of(task), {**options, **folders, "cache": way})
    assert len(list((tmp_path / "cache").iterdir())) == 3  # two to train on, one to validate
    for way in ("disk", "memory"):
        here, there = last_state(tmp_path / way), last_state(tmp_path / "none")
        assert here["best_metric"] == there["best_metric"]
        assert_same_run(tmp_path / way, tmp_path / "none")


def test_another_word_is_refused(data: dict[str, str], tmp_path: Path) -> None:
    folders = {"ckpt_dir": str(tmp_path), "output_dir": str(tmp_path)}
    with pytest.raises(Exception) as caught:  # noqa: PT011  (MONAI's parser wraps it)
        train_here(copy_bundle(tmp_path), {**SMALL, **data, **folders, "cache": "ram"})
    causes, error = [], caught.value
    while error is not None:
        causes.append(str(error))
        error = error.__cause__ or error.__context__
    assert any("cache='ram': expected one of memory, disk, none" in cause for cause in causes)
