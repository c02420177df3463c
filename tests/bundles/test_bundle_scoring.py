"""How a network is scored from the command line: as docs/how-to/score.md says, on phantoms."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_runs import BUNDLE, SMALL, Trained, run_as_typed, workflow

from adapters import cli

LEVELS = "network_def#prompt_head#prompt_levels"


def scored(folder: Path) -> set[tuple[str, int]]:
    with (folder / "scores.csv").open(newline="") as file:
        return {(row["policy"], int(row["clicks"])) for row in csv.DictReader(file)}


def test_positions_of_the_click_as_typed_and_their_page(trained: Trained, tmp_path: Path) -> None:
    policies = ["centre", "surrounding", "margin", "random"]
    given = {"click_policy": ",".join(policies), "num_clicks": 1, "click_rounds": 0, "seeds": 1}
    overrides = SMALL | trained.data | given | {"output_dir": str(tmp_path)}
    process = run_as_typed(trained.bundle, "evaluating", ["train", "evaluate"], overrides)
    assert process.returncode == 0, process.stderr[-3000:]
    assert scored(tmp_path) == {(policy, 1) for policy in policies}
    text = Path(cli.VERBS["report"](str(tmp_path)).removeprefix("open ")).read_text(encoding="utf-8")
    for policy in policies:
        assert f"<td>1</td><td>{policy}</td>" in text
    assert text.count("data:image/png;base64,") == 4, "curve, boxes, best and worst of two cases"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"num_clicks": 0, "click_rounds": 0}, {("automatic", 0)}),
        ({"num_clicks": 2, "click_policy": "iterative", "click_rounds": 0}, {("iterative", 1), ("iterative", 2)}),
    ],
)
def test_automatic_mode_and_clicks_one_by_one(
    given: dict[str, Any], expected: set[tuple[str, int]], trained: Trained, tmp_path: Path
) -> None:
    overrides = SMALL | trained.data | given | {"seeds": 1, "output_dir": str(tmp_path)}
    workflow(trained.bundle, ["train", "evaluate"], "train", **overrides).run()
    assert scored(tmp_path) == expected


def test_prompted_levels_are_trained_and_scored(data: dict[str, str], tmp_path: Path) -> None:
    paths = {"ckpt_dir": str(tmp_path / "models"), "output_dir": str(tmp_path / "eval")}
    overrides = SMALL | data | paths | {LEVELS: [3, 4]}
    workflow(BUNDLE, ["train"], "train", **overrides, max_epochs=1, val_interval=1, batch_size=1).run()
    state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert {key.split(".")[2] for key in state if key.startswith("prompt_head.shallower.")} == {"3"}
    options = {"num_clicks": 1, "click_rounds": 0, "seeds": 1}
    workflow(BUNDLE, ["train", "evaluate"], "train", **overrides, **options).run()
    assert scored(tmp_path / "eval") == {("random", 1)}
