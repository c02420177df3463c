"""The benchmark's rows, ratios and messages, on the small variant."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.benchmarks import benchmark, plans, sections
from tests.benchmarks.measure import MEASUREMENTS
from tests.benchmarks.network import measure_network
from tests.benchmarks.plans import ON_CPU, Plan, make_section
from tests.benchmarks.table import Row

ROOT = Path(__file__).resolve().parents[2]
SARCOMA = str(ROOT / "bundles" / "soft_tissue_sarcoma_ct_samadapter_deepgrow")


def here(row: Row) -> dict[str, Any]:
    """A row measured in this process."""
    return MEASUREMENTS[row.measurement](**row.arguments)


def test_forms_in_fresh_processes(tmp_path: Path) -> None:
    output = tmp_path / "benchmark.json"
    table = benchmark("tiny", 16, 1, output=str(output))
    report = json.loads(output.read_text())
    assert report["torch"] == torch.__version__
    assert report["threads"] >= 1
    found = report["sections"]["network"]
    assert list(found["runs"])[:2] == ["literal", "float32"]
    literal, fast = (found["runs"][form][0] for form in ("literal", "float32"))
    for run in (literal, fast):
        assert 0 < run["encoder_s"] < run["first_click_s"]
        assert 2**20 < run["baseline_bytes"] <= run["peak_bytes"]
    assert literal["next_click_s"] == literal["first_click_s"]
    # one function in two forms
    assert fast["projected"] == pytest.approx(literal["projected"], rel=1e-3, abs=1e-3 * max(literal["projected"]))
    assert fast["difference"] < 1e-5
    times = found["medians"]["literal"]["encoder_s"] / found["medians"]["float32"]["encoder_s"]
    row = next(line for line in table.splitlines() if line.startswith("| float32 |"))
    assert f"({times:.2f} x)" in row
    assert sum(line.startswith("| linear layers alone") for line in table.splitlines()) == 2


def test_rows_take_turns_and_medians_count(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    seconds = {"literal": iter([10.0, 50.0, 12.0]), "fast": iter([4.0, 2.0, 1.0])}

    def fake(row: Row) -> dict[str, Any]:
        seen.append(row.title)
        if row.measurement in ("linear", "pointwise"):
            return {"encoder_s": 1.0}
        time = next(seconds[row.arguments["form"]])
        small = {"baseline_bytes": 2**20, "projected": [3.0, 4.0]}
        if row.title == "literal":
            return {**small, "encoder_s": time, "first_click_s": time, "next_click_s": time, "peak_bytes": 9 * 2**20}
        small["projected"] = [3.0, 4.05]
        return {**small, "encoder_s": time, "first_click_s": time, "next_click_s": 0.1, "peak_bytes": 3 * 2**20}

    monkeypatch.setattr(sections, "in_fresh_process", fake)
    monkeypatch.setattr(plans, "native_bfloat16", lambda _: False)
    lines = benchmark("tiny", 32, 3).splitlines()
    assert seen[:5] == seen[5:10] == ["literal", "float32", *seen[2:5]]
    assert lines[4] == (
        "|  | encoder (s) | first click (s) | next click (s) | peak of the process (MiB) | "
        "of it for the forward (MiB) | difference of the logits |"
    )
    assert lines[6:8] == [
        "| literal | 12.00 | 12.00 | 12.00 | 9 | 8 | 0e+00 |",
        "| float32 | 2.00 (6.00 x) | 2.00 (6.00 x) | 0.10 (120.00 x) | 3 (33%) | 2 (25%) | 1e-02 |",
    ]
    assert lines[-1] == "This CPU has no bfloat16 of its own: no row for it."


def test_a_process_gets_no_more_memory_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 500000 kB\n")
    monkeypatch.setattr(sections, "_MEMORY", tmp_path / "meminfo")
    for megabytes, code in ((100, 0), (900, 1)):
        asks = [sys.executable, "-c", f"bytearray({megabytes} * 10**6)"]
        done = subprocess.run(asks, preexec_fn=sections._limit_memory, capture_output=True, text=True, check=False)
        assert (done.returncode, "MemoryError" in done.stderr) == (code, bool(code))


def test_a_form_of_training_that_has_no_memory_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(row: Row) -> dict[str, Any]:
        if row.title == "literal":
            raise ChildProcessError("DefaultCPUAllocator: can't allocate memory")
        return here(row)

    monkeypatch.setattr(sections, "in_fresh_process", short)
    lines = benchmark("tiny", 16, 1, what=["training"]).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[6:8]] == ["kept", "recomputed"]
    assert lines[-1].endswith("No row 'literal': DefaultCPUAllocator: can't allocate memory")


def test_training_has_the_same_gradients_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "in_fresh_process", here)
    monkeypatch.setattr(plans, "native_bfloat16", lambda _: False)
    lines = benchmark("tiny", 16, 1, what=["training"]).splitlines()
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in lines[6:9]}
    assert list(rows) == ["literal", "kept", "recomputed"]
    assert all(float(row[-1].strip(" |")) < 1e-4 for row in rows.values())


@pytest.mark.parametrize(
    ("what", "titles"),
    [
        ("batch", ["1 item", "2 items", "4 items"]),
        ("training_batch", ["1 item", "2 items", "4 items"]),
        ("crops", ["crop 16"]),
    ],
)
def test_growth(what: str, titles: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def counted(row: Row) -> dict[str, Any]:
        measured.append(row.arguments)
        return here(row)

    monkeypatch.setattr(sections, "in_fresh_process", counted)
    lines = benchmark("tiny", 16, 1, what=[what]).splitlines()[6:]
    assert [line.split(" | ")[0].strip("| ") for line in lines[: len(titles)]] == titles
    assert [arguments.get("batch", 1) for arguments in measured] == ([1] if what == "crops" else [1, 2, 4])


def test_a_click_from_file_to_file() -> None:
    found = MEASUREMENTS["click"](form=".nii.gz", bundle=SARCOMA, shape=[64, 64, 32])
    parts = [found[key] for key in ("read_s", "inferer_s", "write_s")]
    assert all(seconds > 0 for seconds in (*parts, found["network_s"]))
    assert found["outside_s"] == pytest.approx(sum(parts))


def test_a_quick_run_has_every_table_and_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: dict[str, list[dict[str, Any]]] = {}

    def noted(row: Row) -> dict[str, Any]:
        measured.setdefault(row.measurement, []).append(row.arguments)
        words = ("step", "first_click", "next_click", "encoder", "reduce", "read", "write", "outside", "prepare")
        return {**{f"{word}_s": 1.0 for word in words}, "peak_bytes": 2**20, "baseline_bytes": 2**19}

    monkeypatch.setattr(sections, "in_fresh_process", noted)
    text = benchmark(quick=True)
    titles = [line.split(":")[0] for line in text.splitlines() if line.split(":")[0] in ON_CPU]
    assert titles == list(ON_CPU)
    network = [arguments for arguments in measured["network"] if arguments["variant"] == "vit_b"]
    assert {arguments["form"] for arguments in network} >= {"literal", "fast"}
    small = [arguments for rows in measured.values() for arguments in rows if "variant" in arguments]
    assert all(arguments["crop_size"] <= 64 for arguments in small)
    assert all(arguments["variant"] == "tiny" for arguments in measured["training"] + measured["processes"])
    # one run of each row
    assert len(measured["click"]) == 4
    assert [arguments["shape"] for arguments in measured["automatic"]] == [[75, 128, 128]] * 2
    assert [arguments["processes"] for arguments in measured["processes"]] == [1, 2]
    assert [arguments["values"] for arguments in measured["all_reduce"]] == [25_443_968]
    assert len(measured["loading"]) == 3
    assert measured["click"][-1]["options"]["crop_size"] == 32


def test_a_click_on_scans_of_two_lengths() -> None:
    shapes = {row.title: row.arguments["shape"] for row in make_section("scan", Plan()).rows}
    assert shapes == {
        ".nii.gz": [512, 512, 300],
        ".nii": [512, 512, 300],
        ".nii.gz, 600 slices": [512, 512, 600],
    }


def test_a_click_with_other_options() -> None:
    options = {"crop_size": 16, "variant": "tiny", "spacing": 4.0, "grow": False, "max_crops": 1}
    kidney = SARCOMA.replace("soft_tissue_sarcoma", "kidney_tumor")
    found = MEASUREMENTS["click"](form=".nii", bundle=kidney, shape=[64, 64, 32], options=options)
    assert found["network_s"] > 0
    assert found["outside_s"] == pytest.approx(found["read_s"] + found["inferer_s"] + found["write_s"])


def test_more_clicks_change_the_logits() -> None:
    one, ten = (measure_network("fast", "tiny", 16, clicks=clicks)["projected"] for clicks in (1, 10))
    assert np.linalg.norm(np.subtract(one, ten)) > 1e-3 * np.linalg.norm(one)


def test_without_a_source_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = tmp_path / "literal.py"
    for module in ("common", "plans"):
        monkeypatch.setattr(f"tests.benchmarks.{module}.literal_path", lambda: missing)
    monkeypatch.setattr(sections, "in_fresh_process", here)
    table = benchmark("tiny", 16, 1)
    assert "| literal |" not in table
    assert f"The literal column needs a source checkout: {missing} is not there." in table
    with pytest.raises(FileNotFoundError, match="needs a source checkout"):
        measure_network("literal", "tiny", 16)


def test_literal_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "in_fresh_process", here)
    assert "literal" not in benchmark("tiny", 16, 1, literal=False)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"variant": "vit_x"}, ValueError, "unknown variant 'vit_x'"),
        ({"variant": "tiny", "crop_size": 30}, ValueError, r"\(30, 30, 30\) does not fit the patches"),
        ({"repeats": 0}, ValueError, "repeats=0: expected 1 or more"),
        ({"what": ["speed"]}, ValueError, "what='speed': expected some of network, training, batch, training_batch"),
        ({"output": "/nowhere/at/all.json"}, FileNotFoundError, "folder of output=/nowhere/at/all.json is not there"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    monkeypatch.setattr(sections, "in_fresh_process", lambda *_: pytest.fail("something ran"))
    with pytest.raises(error, match=message):
        benchmark(**arguments)


def test_a_run_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "_CHILD", "raise SystemExit('killed here')")
    with pytest.raises(ChildProcessError, match=r"'literal' .* ended with code 1 \(killed here\)"):
        benchmark("tiny", 32, 1)
