"""Which number format a device computes in, and that a network falls back where it has no bfloat16."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from adapters.networks import native_bfloat16, precision, uses_bfloat16

FLAGS = {
    "flags : fpu avx2 avx512f avx512_bf16 fma": True,
    "flags : fpu avx2 amx_bf16 amx_tile": True,
    "Features : fp asimd i8mm bf16 dgh": True,
    "flags : fpu avx2 avx512f avx512_vnni": False,
    "flags : fpu sse sse2": False,
}


@pytest.mark.parametrize(("flags", "native"), FLAGS.items())
def test_a_cpu_is_known_by_its_flags(flags: str, native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    monkeypatch.setattr(precision, "_CPU_INFO", tmp_path / "cpuinfo")
    assert native_bfloat16("cpu") is native
    assert uses_bfloat16(torch.device("cpu"), "bfloat16") is native
    assert not uses_bfloat16("cpu", "float32")


def test_a_cpu_that_says_nothing_counts_as_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_CPU_INFO", tmp_path / "none")
    assert not native_bfloat16("cpu")


@pytest.mark.parametrize(("capability", "native"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_is_known_by_its_compute_capability(
    capability: tuple[int, int], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert native_bfloat16("cuda:0") is native


def test_other_devices_count_as_without() -> None:
    assert not native_bfloat16("mps")


def test_the_fallback_is_said_at_debug_level(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2\n")
    monkeypatch.setattr(precision, "_CPU_INFO", tmp_path / "cpuinfo")
    with caplog.at_level(logging.DEBUG, logger="adapters"):
        assert not uses_bfloat16("cpu", "float32")
        assert not caplog.records
        assert not uses_bfloat16("cpu", "bfloat16")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("DEBUG", "cpu has no bfloat16 of its own: float32 is faster there and is used instead")
    ]


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="precision='half': expected one of bfloat16, float32"):
        uses_bfloat16("cpu", "half")
