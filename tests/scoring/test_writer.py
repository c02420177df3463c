"""What is written of a whole evaluation, and by which process."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from slabs import Slabs, case, evaluator, untimed

from adapters.scoring import ScoreWriter, ScoringIteration, writer


def test_scores_do_not_depend_on_the_order_of_cases(tmp_path: Path) -> None:
    cases = [case("a", [(0, 12)]), case("b", [(4, 20)]), case("c", [(1, 3), (8, 14)])]
    written = []
    for number, batches in enumerate((cases, cases[::-1])):
        folder = tmp_path / str(number)
        evaluator(batches, ScoringIteration([0, 1], rounds=3, seeds=2), Slabs(), ScoreWriter(folder)).run()
        with (folder / "scores.csv").open() as file:
            rows = untimed(list(csv.DictReader(file)))
        written.append(sorted(rows, key=lambda row: tuple(row.values())))
    assert written[0] == written[1]
    assert len(written[0]) == 3 * 2 * 5


def test_written_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "new" / "scores"
    batches = [case("a", [(0, 4), (10, 12), (21, 22)]), case("b", [(4, 8)])]
    handler = ScoreWriter(folder, method="slabs (tiny)")
    with caplog.at_level(logging.INFO, logger="adapters"):
        evaluator(batches, ScoringIteration([0, 1], rounds=2, seeds=2), Slabs(), handler).run()
    assert "b (2 of 2): Dice 0.0 (automatic 0), 100.0 (random 1)" in caplog.text
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.png",
        "boxes.png",
        "cases.csv",
        "curve.png",
        "scores.csv",
        "scores.md",
        "summary.json",
        "worst.png",
    ]

    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case", "seed", "policy", "clicks", "dice", "nsd", "seconds", "lesion_ml", "hd95"]
    assert len(rows) == 2 * 2 * 4

    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["method"], summary["tolerance_mm"]) == ("slabs (tiny)", 5.0)
    assert (summary["cases"], summary["seeds"]) == (["a", "b"], 2)
    assert [(entry["policy"], entry["clicks"]) for entry in summary["scores"]] == [
        ("automatic", 0),
        ("random", 1),
        ("iterative", 1),
        ("iterative", 2),
    ]
    last = summary["scores"][-1]["dice"]
    assert last["mean"] == pytest.approx((12 / 13 + 1) / 2)
    assert last["cases"] == pytest.approx({"a": 12 / 13, "b": 1.0})

    assert summary["device"] == "cpu"
    assert summary["peak_memory_mib"] > 1
    assert summary["interaction"]["dice_area"]["cases"] == pytest.approx({"a": (8 / 11 + 12 / 13) / 2, "b": 1.0})
    assert summary["interaction"]["clicks_needed"]["cases"] == {"a": 2.0, "b": 1.0}
    assert [(group["name"], group["cases"]) for group in summary["strata"]] == [("below 1 ml", ["a", "b"])]
    shown = [(picture["rank"], picture["case"], picture["clicks"]) for picture in summary["pictures"]]
    assert shown == [("best", "b", 1), ("worst", "a", 1)]

    with (folder / "cases.csv").open() as file:
        cases = list(csv.DictReader(file))
    assert [(row["case"], row["seed"], row["lesions"], row["clicks_needed"]) for row in cases] == [
        ("a", "0", "1", "2"),
        ("a", "1", "1", "2"),
        ("b", "0", "1", "1"),
        ("b", "1", "1", "1"),
    ]
    assert float(cases[0]["dice_area"]) == pytest.approx((8 / 11 + 12 / 13) / 2, abs=1e-5)

    table = (folder / "scores.md").read_text()
    assert "# slabs (tiny)" in table
    assert "| 2 | iterative | 96.2 ± 0.0 |" in table
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_cases_of_the_same_name_are_refused(tmp_path: Path) -> None:
    batches = [case("", [(0, 4)], "/one/ct.nii.gz"), case("", [(0, 8)], "/two/ct.nii.gz")]
    engine = evaluator(batches, ScoringIteration([0], rounds=0), Slabs(), ScoreWriter(tmp_path))
    with pytest.raises(ValueError, match="two cases are named 'ct'"):
        engine.run()
    assert not list(tmp_path.iterdir())


def test_the_first_of_several_processes_writes_the_cases_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes with two cases each, one of them in both. (The other process' come first in what is gathered.)"""
    cases = {name: case(name, [(0, stop)]) for name, stop in (("c", 4), ("a", 8), ("b", 12))}
    parts: list[Any] = []

    def gather(gathered: list[Any], own: Any) -> None:
        parts.append(own)
        gathered[:] = parts * (2 // len(parts))

    pretended = {"is_available": lambda: True, "is_initialized": lambda: True, "get_world_size": lambda: 2}
    monkeypatch.setattr(writer, "dist", processes := SimpleNamespace(**pretended, all_gather_object=gather))
    iteration = ScoringIteration([0], rounds=1, seeds=1)
    for rank, names in ((1, "ac"), (0, "cb")):
        processes.get_rank = lambda rank=rank: rank
        handler = ScoreWriter(tmp_path)
        engine = evaluator([cases[name] for name in names], iteration, Slabs())
        handler.attach(engine)
        engine.run()
        assert (tmp_path / "scores.csv").exists() is (rank == 0)
    with (tmp_path / "scores.csv").open() as file:
        order = [(row["case"], row["policy"]) for row in csv.DictReader(file)]
    assert order == [(name, policy) for name in "acb" for policy in ("automatic", "iterative")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"task": "lung"}, "task is 'lung', expected one"), ({"strata_ml": [10, 1]}, r"strata end at \[10.0, 1.0\] ml")],
)
def test_a_writer_that_could_not_write_is_refused_at_once(arguments: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ScoreWriter(tmp_path, **arguments)


def test_pictures_can_be_left_out(tmp_path: Path) -> None:
    for pictures in (True, False):
        handler = ScoreWriter(tmp_path, pictures=pictures)
        evaluator([case("a", [(0, 4)])], ScoringIteration([1], rounds=0, seeds=1), Slabs(), handler).run()
        assert (tmp_path / "best.png").exists() is pictures, "nor does that of an earlier run stay"
    assert json.loads((tmp_path / "summary.json").read_text())["pictures"] == []


def test_single_lesions_are_written(tmp_path: Path) -> None:
    iteration = ScoringIteration([], rounds=2, seeds=1, smallest_lesion_ml=0)
    evaluator([case("a", [(0, 4), (10, 12)])], iteration, Slabs(), ScoreWriter(tmp_path)).run()
    with (tmp_path / "lesions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["clicks"], row["lesion"], row["clicked"], row["dice"]) for row in rows] == [
        ("1", "1", "1", "1"),
        ("1", "2", "0", "0"),
        ("2", "1", "1", "1"),
        ("2", "2", "1", "1"),
    ]
    summary = json.loads((tmp_path / "summary.json").read_text())["lesions"]
    assert (summary["cases"], summary["lesions"]) == (1, 2)
    assert "## Lesion by lesion" in (tmp_path / "scores.md").read_text()


def test_a_second_run_starts_anew(tmp_path: Path) -> None:
    engine = evaluator([case("a", [(0, 4)])], ScoringIteration([0], rounds=0, seeds=1), Slabs(), ScoreWriter(tmp_path))
    engine.run()
    engine.run()
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 2
