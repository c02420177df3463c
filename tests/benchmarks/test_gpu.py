"""What a GPU is measured by, as far as a CPU can run it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.benchmarks import sections
from tests.benchmarks.network import measure_network
from tests.benchmarks.sections import benchmark
from tests.benchmarks.table import Row
from tests.benchmarks.training import measure_largest_crop


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu() -> None:
    with pytest.raises(ValueError, match=r"finds no CUDA GPU here\. Leave device out to measure the CPU"):
        benchmark("tiny", 16, 1, device="cuda")


@pytest.mark.parametrize(
    ("what", "device", "message"),
    [
        (["gpu_memory"], "cpu", "what='gpu_memory' is not measured on 'cpu': take device='cuda' for it"),
        (["scan"], "cuda", "what='scan' is not measured on 'cuda': take device='cpu' for it"),
        (None, "tpu", "device='tpu': expected cpu or cuda"),
    ],
)
def test_devices_that_do_not_fit(what: list[str] | None, device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        benchmark("tiny", 16, 1, what=what, device=device)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says that there is a GPU of 48 GB."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=48e9))


def test_the_tables_of_a_gpu(gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The rows, run on the CPU; one that fails is left out and named."""

    def on_cpu(row: Row) -> dict[str, Any]:
        assert row.arguments["device"] == "cuda"
        if row.arguments.get("form", "").endswith("compiled"):
            raise ChildProcessError("out of memory")
        with monkeypatch.context() as really:  # torch's optimisers ask too
            really.setattr(torch.cuda, "is_available", lambda: False)
            return row.measurement(**{**row.arguments, "device": "cpu"})

    monkeypatch.setattr(sections, "run_row", on_cpu)
    output = tmp_path / "gpu.json"
    text = benchmark("tiny", 16, 1, what=["network", "training"], device="cuda", output=str(output))
    report = json.loads(output.read_text())
    assert report["gpu"] == "a GPU"
    network, training = report["sections"]["network"], report["sections"]["training"]
    assert list(network["medians"]) == [
        "literal",
        "float32",
        "bfloat16",
        "linear layers alone, as linear",
        "linear layers alone, as bfloat16",
        "softmax and activation alone",
    ]
    assert list(training["medians"]) == ["literal", "kept", "recomputed", "recomputed bfloat16"]
    for section in (network, training):
        (name,) = section["left_out"]
        assert f"No row {name!r}: out of memory" in text
    assert network["medians"]["literal"]["attention"] == "none"
    for values in (network["medians"]["float32"], training["medians"]["recomputed"]):
        assert "attention" in values["attention"]
    assert training["medians"]["recomputed"]["difference"] < 1e-4
    assert "step (ms)" in text
    assert "peak of the process (GB)" in text
    milliseconds = network["medians"]["literal"]["encoder_s"] * 1000
    assert f"| literal | {milliseconds:.2f} |" in text


def test_limits_beyond_the_gpu_have_no_row(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(row: Row) -> dict[str, Any]:
        gb = row.arguments["limit_bytes"] / 1e9
        fits = [size for size in row.arguments["crop_sizes"] if size <= gb * 4]
        return {"crop_voxels": fits[-1], "step_s": 0.5, "peak_bytes": 10e9}

    monkeypatch.setattr(sections, "run_row", measured)
    lines = benchmark("tiny", 16, 1, what=["gpu_memory"], device="cuda").splitlines()
    assert lines[6:8] == ["| 24 GB | 96 | 500.00 | 10.00 |", "| 40 GB | 160 | 500.00 | 10.00 |"]
    assert lines[-1].endswith("This GPU has 48.0 GB: no row for 80 GB.")


@pytest.mark.parametrize(("quick", "largest"), [(False, 512), (True, 128)])
def test_a_gpu_below_every_limit_has_a_row_of_its_own(
    gpu: None, monkeypatch: pytest.MonkeyPatch, quick: bool, largest: int
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=16.5e9))
    seen: list[dict[str, Any]] = []

    def measured(row: Row) -> dict[str, Any]:
        seen.append(row.arguments)
        return {"crop_voxels": 64, "step_s": 0.5, "peak_bytes": 10e9}

    monkeypatch.setattr(sections, "run_row", measured)
    lines = benchmark("tiny", 16, 1, what=["gpu_memory"], device="cuda", quick=quick).splitlines()
    assert lines[6] == "| 16 GB | 64 | 500.00 | 10.00 |"
    assert lines[-1].endswith("This GPU has 16.5 GB: no row for 24 and 40 and 80 GB.")
    (arguments,) = seen
    assert arguments["limit_bytes"] == 16 * 10**9
    assert max(arguments["crop_sizes"]) == largest


def test_no_row_at_all_is_an_error(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(row: Row) -> dict[str, Any]:
        raise ChildProcessError(f"{row.title} is broken")

    monkeypatch.setattr(sections, "run_row", fails)
    with pytest.raises(ChildProcessError, match=r"no row could be run.*4 items is broken"):
        benchmark("tiny", 16, 1, what=["batch"], device="cuda")


def test_the_largest_crop_that_fits() -> None:
    largest = measure_largest_crop("recomputed", "tiny", 2**40, [16], device="cpu")
    assert largest["crop_voxels"] == 16
    assert largest["step_s"] > 0
    assert measure_largest_crop("recomputed", "tiny", 2**20, [16, 24], device="cpu") == {"crop_voxels": 0}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_is_the_same_function() -> None:
    plain, compiled = (measure_network(form, "tiny", 16)["projected"] for form in ("bfloat16", "compiled"))
    assert compiled == pytest.approx(plain, rel=0.05, abs=0.05 * max(map(abs, plain)))
