"""Several methods in one table, and which cannot be compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from score_rows import PLAIN, rows_of, write_runs

from adapters import cli
from adapters.scoring.comparison import compare
from adapters.scoring.score_files import write_scores


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    return write_runs(tmp_path)


def test_comparison(runs: dict[str, Path], tmp_path: Path) -> None:
    path = compare(runs, tmp_path / "new" / "card")
    lines = path.read_text().splitlines()
    assert lines[0].endswith("on 2 cases, by number of clicks; NSD at 5 mm.")
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:] if "---" not in line] == [
        ["method", "score", "0"] + [f"{n} random" for n in (1, 3, 10)] + [f"{n} iterative" for n in (1, 3, 5, 10)],
        ["ours", "Dice", "50.0 ± 0.0", "61.0 ± 1.4", "71.0 ± 1.4", "-", "66.0 ± 1.4", "-", "-", "-"],
        ["ours", "NSD", "90.0 ± 0.0", "90.0 ± 0.0", "90.0 ± 0.0", "-", "90.0 ± 0.0", "-", "-", "-"],
        ["SegResNet", "Dice", "70.0 ± 0.0"] + ["-"] * 7,
        ["SegResNet", "NSD", "90.0 ± 0.0"] + ["-"] * 7,
    ]
    for name in ("compare.png", "compare_boxes.png"):
        assert (path.parent / name).read_bytes().startswith(b"\x89PNG")


def test_other_clicks_placed_at_once_get_columns_of_their_own(runs: dict[str, Path], tmp_path: Path) -> None:
    rows = rows_of({("automatic", 0): 0.5, ("centre", 1): 0.8, ("margin", 1): 0.7, ("random", 5): 0.6})
    write_scores(runs["SegResNet"], rows, method="x", tolerance=5.0)
    heading, _, *lines = compare(runs, tmp_path).read_text().splitlines()[2:]
    names = ["0", "1 centre", "1 margin", "1 random", "3 random", "5 random", "10 random"]
    assert heading.split(" | ")[2:9] == names
    assert lines[2].split(" | ")[3:7] == ["81.0 ± 1.4", "71.0 ± 1.4", "-", "-"]


def test_comparison_as_a_verb(runs: dict[str, Path], tmp_path: Path) -> None:
    given = ", ".join(f"{name}={folder}" for name, folder in runs.items())
    table = tmp_path / "card" / "compare.md"
    assert cli.VERBS["compare"](given, str(tmp_path / "card")) == f"wrote {table}"
    assert "| SegResNet | Dice | 70.0 ± 0.0 |" in table.read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("eval/ours", "runs is 'eval/ours', expected NAME=FOLDER"),
        ("ours=", "expected NAME=FOLDER"),
        ("", "expected NAME=FOLDER"),
        ({}, "expected NAME=FOLDER"),
        ("a=x,a=y", "runs name 'a' twice"),
    ],
)
def test_runs_that_cannot_be_read(given: str | dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        compare(given, tmp_path)


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"summary\.json is not there: run the bundle's evaluation"):
        compare(f"ours={tmp_path}", tmp_path / "card")
    assert not (tmp_path / "card").exists()


@pytest.mark.parametrize(
    ("content", "message"), [("{", "' is not JSON"), ("{}", " holds no scores"), ("[]", " holds no")]
)
def test_a_broken_run(content: str, message: str, runs: dict[str, Path], tmp_path: Path) -> None:
    (runs["ours"] / "summary.json").write_text(content)
    with pytest.raises(ValueError, match=rf"summary\.json{message}"):
        compare(runs, tmp_path / "card")


@pytest.mark.parametrize(
    ("cases", "tolerance", "message"), [("ac", 5.0, "has cases"), ("ab", 3.0, "has tolerance_mm 3.0 but ours 5.0")]
)
def test_only_like_is_compared(
    cases: str, tolerance: float, message: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    write_scores(runs["SegResNet"], rows_of(PLAIN, cases), method="x", tolerance=tolerance)
    with pytest.raises(ValueError, match=message):
        compare(runs, tmp_path / "card")
