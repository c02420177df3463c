"""The benchmark's fields, ratios and messages, on the small variant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from adapters import benchmark as module
from adapters.benchmark import benchmark, measure


def test_both_forms_in_fresh_processes(tmp_path: Path) -> None:
    output = tmp_path / "benchmark.json"
    table = benchmark("tiny", 32, 1, output=str(output))
    report = json.loads(output.read_text())
    assert (report["variant"], report["crop_size"], report["repeats"]) == ("tiny", 32, 1)
    assert report["torch"] == torch.__version__
    assert report["threads"] >= 1
    assert [run["form"] for run in report["runs"]] == ["fast", "literal"]
    for run in report["runs"]:
        assert 0 < run["encoder_s"] < run["first_click_s"]
        assert 0 < run["next_click_s"] < run["first_click_s"]
        assert 2**20 < run["baseline_bytes"] <= run["peak_bytes"]
    # one function in two forms
    fast, literal = (run["level_norms"] for run in report["runs"])
    assert len(fast) == 4
    assert fast == pytest.approx(literal, rel=1e-5)

    ratio = report["literal"]["encoder_s"] / report["fast"]["encoder_s"]
    assert f"{ratio:.2f} times as fast" in table.splitlines()[4]
    share = report["fast"]["peak_bytes"] / report["literal"]["peak_bytes"]
    assert f"{share:.0%} |" in table.splitlines()[7]
    assert table.splitlines()[2] == "|  | fast | literal | ratio |"


def test_runs_alternate_and_the_best_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([4.0, 10.0, 2.0, 12.0])

    def fake(form: str, *_: object) -> dict[str, object]:
        time = next(seconds)
        return {
            "form": form,
            "encoder_s": time,
            "first_click_s": time + 1,
            "next_click_s": 1.0,
            "baseline_bytes": 2**20,
            "peak_bytes": int((1 + time) * 2**20),
            "threads": 2,
        }

    monkeypatch.setattr(module, "_in_fresh_process", fake)
    rows = benchmark("tiny", 32, 2).splitlines()[4:]
    assert rows == [
        "| encoder (s) | 2.00 | 10.00 | 5.00 times as fast |",
        "| first click (s) | 3.00 | 11.00 | 3.67 times as fast |",
        "| next click (s) | 1.00 | 1.00 | 1.00 times as fast |",
        "| peak memory of the process while it encodes (MiB) | 5 | 13 | 38% |",
        "| of it on top of weights and libraries (MiB) | 4 | 12 | 33% |",
    ]


def test_without_a_source_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = tmp_path / "literal.py"
    monkeypatch.setattr(module, "_literal_path", lambda: missing)
    monkeypatch.setattr(module, "_in_fresh_process", measure)
    table = benchmark("tiny", 32)
    assert table.splitlines()[2] == "|  | fast |"
    assert table.splitlines()[-1] == f"The literal column needs a source checkout: {missing} is not there."
    with pytest.raises(FileNotFoundError):
        measure("literal", "tiny", 32)


def test_literal_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_in_fresh_process", measure)
    table = benchmark("tiny", 32, literal=False)
    assert "literal" not in table
    assert "times as fast" not in table


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"variant": "vit_x"}, ValueError, "unknown variant 'vit_x'"),
        ({"variant": "tiny", "crop_size": 30}, ValueError, r"\(30, 30, 30\) does not fit the patches"),
        ({"repeats": 0}, ValueError, "repeats=0: expected 1 or more"),
        ({"output": "/nowhere/at/all.json"}, FileNotFoundError, "folder of output=/nowhere/at/all.json is not there"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    monkeypatch.setattr(module, "_in_fresh_process", lambda *_: pytest.fail("something ran"))
    with pytest.raises(error, match=message):
        benchmark(**arguments)  # type: ignore[arg-type]


def test_a_run_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHILD", "raise SystemExit('killed here')")
    with pytest.raises(ChildProcessError, match=r"the fast run of tiny at 32 ended with code 1 \(killed here\)"):
        benchmark("tiny", 32)
