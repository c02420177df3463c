"""The files of scores, and which cases are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from score_rows import PLAIN, rows_of, write_runs

from adapters.scoring.figures import CasePicture
from adapters.scoring.score_files import write_scores


def test_no_scores_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the evaluator has seen no case"):
        write_scores(tmp_path, [], method="x", tolerance=5.0)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_runs(tmp_path)["ours"]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_scores(folder, rows_of(PLAIN), method="x", tolerance=5.0)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


PICTURES = [
    CasePicture(name, "random", 1, dice, name.encode()) for name, dice in zip("pqrst", (3, 1, 5, 2, 4), strict=True)
]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (5, {"best": "r", "median": "p", "worst": "q"}),
        (4, {"best": "r", "median": "s", "worst": "q"}),
        (2, {"best": "p", "worst": "q"}),
        (1, {"best": "p"}),
        (0, {}),
    ],
)
def test_best_median_and_worst_case(number: int, expected: dict[str, str], tmp_path: Path) -> None:
    write_scores(tmp_path, rows_of(PLAIN), method="x", tolerance=5.0, pictures=PICTURES)
    write_scores(tmp_path, rows_of(PLAIN), method="x", tolerance=5.0, pictures=PICTURES[:number])
    written = {path.stem: path.read_text() for path in tmp_path.glob("*.png") if path.stem not in {"curve", "boxes"}}
    assert written == expected
    listed = json.loads((tmp_path / "summary.json").read_text())["pictures"]
    assert {picture["rank"]: picture["case"] for picture in listed} == expected
