"""The benchmark's rows, ratios and messages, on the small variant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapters.bundling.folders import find_bundle
from tests.benchmarks import common, plans, sections
from tests.benchmarks.__main__ import main
from tests.benchmarks.click import measure_click
from tests.benchmarks.network import measure_network
from tests.benchmarks.plans import DEVICES, Plan, make_section
from tests.benchmarks.sections import benchmark, run_row
from tests.benchmarks.table import Row


def in_this_process(row: Row) -> dict[str, Any]:
    return row.measurement(**row.arguments)


def test_forms_in_fresh_processes(tmp_path: Path) -> None:
    output = tmp_path / "benchmark.json"
    table = benchmark("tiny", 16, 1, output=str(output))
    report = json.loads(output.read_text())
    assert report["torch"] == torch.__version__
    assert report["threads"] >= 1
    section = report["sections"]["network"]
    assert list(section["runs"])[:2] == ["literal", "float32"]
    literal, fast = (section["runs"][form][0] for form in ("literal", "float32"))
    for run in (literal, fast):
        assert 0 < run["encoder_s"] < run["first_click_s"]
        assert 2**20 < run["baseline_bytes"] <= run["peak_bytes"]
    assert literal["next_click_s"] == literal["first_click_s"]
    # one function in two forms
    assert fast["projected"] == pytest.approx(literal["projected"], rel=1e-3, abs=1e-3 * max(literal["projected"]))
    assert fast["difference"] < 1e-5
    times = section["medians"]["literal"]["encoder_s"] / section["medians"]["float32"]["encoder_s"]
    row = next(line for line in table.splitlines() if line.startswith("| float32 |"))
    assert f"({times:.2f} x)" in row
    assert sum(line.startswith("| linear layers alone") for line in table.splitlines()) == 2


def test_rows_take_turns_and_medians_count(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    seconds = {"literal": iter([10.0, 50.0, 12.0]), "fast": iter([4.0, 2.0, 1.0])}

    def fake(row: Row) -> dict[str, Any]:
        seen.append(row.title)
        if row.measurement is not measure_network:
            return {"encoder_s": 1.0}
        time = next(seconds[row.arguments["form"]])
        small = {"baseline_bytes": 2**20, "projected": [3.0, 4.0]}
        if row.title == "literal":
            return {**small, "encoder_s": time, "first_click_s": time, "next_click_s": time, "peak_bytes": 9 * 2**20}
        small["projected"] = [3.0, 4.05]
        return {**small, "encoder_s": time, "first_click_s": time, "next_click_s": 0.1, "peak_bytes": 3 * 2**20}

    monkeypatch.setattr(sections, "run_row", fake)
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
    monkeypatch.setattr(common, "_MEMORY", tmp_path / "meminfo")
    for megabytes, code in ((100, 0), (900, 1)):
        asks = [sys.executable, "-c", f"bytearray({megabytes} * 10**6)"]
        done = subprocess.run(asks, preexec_fn=common.limit_memory, capture_output=True, text=True, check=False)
        assert (done.returncode, "MemoryError" in done.stderr) == (code, bool(code))


def test_a_form_of_training_that_has_no_memory_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(row: Row) -> dict[str, Any]:
        if row.title == "literal":
            raise ChildProcessError("DefaultCPUAllocator: can't allocate memory")
        return in_this_process(row)

    monkeypatch.setattr(sections, "run_row", short)
    lines = benchmark("tiny", 16, 1, what=["training"]).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[6:8]] == ["kept", "recomputed"]
    assert lines[-1].endswith("No row 'literal': DefaultCPUAllocator: can't allocate memory")


def test_training_has_the_same_gradients_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "run_row", in_this_process)
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
        return in_this_process(row)

    monkeypatch.setattr(sections, "run_row", counted)
    lines = benchmark("tiny", 16, 1, what=[what]).splitlines()[6:]
    assert [line.split(" | ")[0].strip("| ") for line in lines[: len(titles)]] == titles
    assert [arguments.get("batch", 1) for arguments in measured] == ([1] if what == "crops" else [1, 2, 4])


def test_a_click_from_file_to_file() -> None:
    seconds = measure_click(".nii.gz", str(find_bundle("soft_tissue_sarcoma_ct")), [64, 64, 32])
    parts = [seconds[key] for key in ("read_s", "inferer_s", "write_s")]
    assert all(part > 0 for part in (*parts, seconds["network_s"]))
    assert seconds["outside_s"] == pytest.approx(sum(parts))


def test_a_quick_run_has_every_table_and_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: dict[str, list[dict[str, Any]]] = {}

    def noted(row: Row) -> dict[str, Any]:
        measured.setdefault(row.measurement.__name__.removeprefix("measure_"), []).append(row.arguments)
        words = ("step", "first_click", "next_click", "encoder", "reduce", "read", "write", "outside", "prepare")
        return {**{f"{word}_s": 1.0 for word in words}, "peak_bytes": 2**20, "baseline_bytes": 2**19}

    monkeypatch.setattr(sections, "run_row", noted)
    text = benchmark(quick=True)
    titles = [line.split(":")[0] for line in text.splitlines() if line.split(":")[0] in DEVICES["cpu"]]
    assert titles == list(DEVICES["cpu"])
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
    seconds = measure_click(".nii", str(find_bundle("kidney_tumor_ct")), [64, 64, 32], options)
    assert seconds["network_s"] > 0
    assert seconds["outside_s"] == pytest.approx(seconds["read_s"] + seconds["inferer_s"] + seconds["write_s"])


def test_more_clicks_change_the_logits() -> None:
    one, ten = (measure_network("fast", "tiny", 16, clicks=clicks)["projected"] for clicks in (1, 10))
    assert np.linalg.norm(np.subtract(one, ten)) > 1e-3 * np.linalg.norm(one)


def test_literal_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "run_row", in_this_process)
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
    monkeypatch.setattr(sections, "run_row", lambda *_: pytest.fail("something ran"))
    with pytest.raises(error, match=message):
        benchmark(**arguments)


def test_a_run_that_fails_says_so() -> None:
    with pytest.raises(
        ChildProcessError, match=r"'odd' .*'crop_size': 30.* failed \(ValueError: .*does not fit the patch"
    ):
        run_row(Row("odd", measure_network, {"form": "fast", "variant": "tiny", "crop_size": 30}))
    with pytest.raises(
        ChildProcessError, match=r"'killed' .* failed \(it was killed\); a run that was killed needs more"
    ):
        run_row(Row("killed", os._exit, {"status": 9}))


# --- the command line


def test_options_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "communication.json"
    options = ["--what", "communication", "--repeats", "2", "--no-literal", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["tests.benchmarks", *options])
    main()
    assert "\n| 64 GPUs, 0.5 s of computation |" in capsys.readouterr().out
    (runs,) = {len(runs) for runs in json.loads(output.read_text())["sections"]["communication"]["runs"].values()}
    assert runs == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--what", "speed"], "what='speed': expected some of network, training"),
        (["--repeats", "0"], "repeats=0: expected 1 or more"),
        (["--size", "3"], "unrecognized arguments: --size 3"),
    ],
)
def test_a_mistake_on_the_command_line(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tests.benchmarks", *options])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert message in capsys.readouterr().err


def test_a_failure_of_a_measurement_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(row: Row) -> dict[str, Any]:
        raise ChildProcessError(f"{row.title} is broken")

    monkeypatch.setattr(sections, "run_row", fails)
    monkeypatch.setattr(sys, "argv", ["tests.benchmarks", "--variant", "tiny", "--crop_size", "16"])
    with pytest.raises(SystemExit, match="1"):
        main()
    assert capsys.readouterr().err.endswith("literal is broken\n")
