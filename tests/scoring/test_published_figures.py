"""The published figures as they stand in the paper, and a run beside them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adapters.scoring.published_figures import published_figures
from adapters.scoring.tables import beside_published

TASKS = ("kidney", "pancreas", "liver", "colon")


def score(mean: float, spread: float = 0.0) -> dict:
    return {"mean": mean, "spread": spread, "cases": {"a": mean}}


SUMMARY = {
    "method": "ours",
    "tolerance_mm": 5.0,
    "task": "colon",
    "scores": [
        {"policy": policy, "clicks": clicks, "dice": score(dice, 0.012), "nsd": score(0.5)}
        for policy, clicks, dice in (
            ("automatic", 0, 0.3),
            ("random", 1, 0.48),
            ("random", 4, 0.5),
            ("iterative", 1, 0.5),
            ("iterative", 2, 0.6),
            ("iterative", 10, 0.7),
        )
    ],
}


def test_figures_are_those_of_the_paper(shared: Path) -> None:
    page = shared / "design" / "samadapter3d.md"
    if not page.is_file():
        pytest.skip("the page with the published figures is not there")
    expected: dict[str, list[tuple[float, float]]] = {task: [] for task in TASKS}
    tuned = []
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        pairs = [re.match(r"([\d.]+) / ([\d.]+)$", cell) for cell in cells[1:5]]
        if len(cells) == 6 and all(pairs):
            for task, pair in zip(TASKS, pairs, strict=True):
                expected[task].append((float(pair[1]), float(pair[2])))
            tuned.append(None if cells[5] == "-" else float(cells[5].removesuffix(" M")))
    assert len(tuned) == 18
    for task in TASKS:
        figures = [figure for figure in published_figures(task) if figure.group in {"methods", "automatic"}]
        assert [(figure.dice, figure.nsd) for figure in figures] == expected[task]
        assert [figure.tuned_millions for figure in figures] == tuned
    others = {f"{f.dice:.2f} / {f.nsd:.2f}" for t in TASKS for f in published_figures(t) if f.group[0] in "rp"}
    assert len(others) == 8
    assert all(pair in page.read_text() for pair in others)


@pytest.mark.parametrize(
    ("task", "prompts", "dice", "nsd"),
    [
        ("kidney", "1 click a volume", 73.78, 83.86),
        ("pancreas", "10 clicks a volume", 57.47, 79.62),
        ("liver", "3 clicks a volume", 56.30, 70.02),
        ("colon", "1 click a volume", 48.35, 63.65),
    ],
)
def test_some_figures(task: str, prompts: str, dice: float, nsd: float) -> None:
    (figure,) = [
        figure
        for figure in published_figures(task)
        if (figure.group, figure.method, figure.prompts) == ("methods", "3DSAM-adapter", prompts)
    ]
    assert (figure.dice, figure.nsd, figure.tuned_millions) == (dice, nsd, 25.46)


def test_an_unknown_task() -> None:
    with pytest.raises(
        ValueError, match="task is 'lung', expected one with published figures: kidney, pancreas, liver"
    ):
        published_figures("lung")


def test_a_run_beside_them() -> None:
    section = beside_published(SUMMARY)
    assert section is not None
    (table,) = section.tables
    assert list(table.strong) == [0, 1, 2, 3]
    assert table.rows[:4] == [
        ["ours", "none", "30.00 ± 1.20", "50.00 ± 0.00", "-"],
        ["ours", "1 click a volume (random)", "48.00 ± 1.20", "50.00 ± 0.00", "-"],
        ["ours", "1 click a volume (one by one)", "50.00 ± 1.20", "50.00 ± 0.00", "-"],
        ["ours", "10 clicks a volume (one by one)", "70.00 ± 1.20", "50.00 ± 0.00", "-"],
    ]
    assert table.rows[4] == ["nnU-Net", "none", "43.91", "52.52", "30.76 M"]
    assert len(table.rows) == 4 + 18
    assert table.rows[-1] == ["3DSAM-adapter (automatic mode)", "none", "31.97", "40.67", "15.21 M"]
    assert "MSD Task10" in section.notes[0]
    assert len(section.notes) == 3


def test_another_tolerance_is_told() -> None:
    section = beside_published({**SUMMARY, "tolerance_mm": 2.0})
    assert section is not None
    assert "NSD of this run is at 2 mm, the published one at 5 mm" in section.notes[-1]


@pytest.mark.parametrize("task", [None, ""])
def test_a_run_of_no_task_stands_alone(task: str | None) -> None:
    assert beside_published({**SUMMARY, "task": task}) is None
    assert beside_published({key: value for key, value in SUMMARY.items() if key != "task"}) is None
