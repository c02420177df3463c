"""Which number format a device computes in by itself, and what stays in float32 under autocast."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal, get_args

import torch

__all__ = ["Precision", "full_precision", "native_bfloat16", "uses_bfloat16"]

logger = logging.getLogger(__name__)

Precision = Literal["bfloat16", "float32"]
_CPU_INFO = Path("/proc/cpuinfo")
_CPU_FLAGS = ("avx512_bf16", "amx_bf16", " bf16")  # the last is an ARM processor's
_FIRST_CUDA = (8, 0)  # compute capability of the first NVIDIA GPUs with bfloat16


def native_bfloat16(device: torch.device | str) -> bool:
    """Whether a device multiplies bfloat16 matrices itself; elsewhere they are emulated, slower than float32.

    Args:
        device: a CPU (known on Linux alone) or a CUDA device; others count as not.
    """
    device = torch.device(device)
    if device.type == "cpu":
        return _CPU_INFO.exists() and any(flag in _CPU_INFO.read_text() for flag in _CPU_FLAGS)
    if device.type == "cuda" and torch.cuda.is_available():
        if torch.version.hip:
            return torch.cuda.is_bf16_supported()
        return torch.cuda.get_device_capability(device) >= _FIRST_CUDA
    return False


def uses_bfloat16(device: torch.device | str, precision: str) -> bool:
    """Whether to run a network under autocast to bfloat16; for configs.

    Args:
        device: where the network runs.
        precision: "bfloat16": wherever the device computes in it itself, in float32 elsewhere, which is said at debug
            level; "float32": nowhere.

    Raises:
        ValueError: if the precision is neither.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision={precision!r}: expected one of {', '.join(get_args(Precision))}.")
    if precision == "float32":
        return False
    native = native_bfloat16(device)
    if not native:
        logger.debug("%s has no bfloat16 of its own: float32 is faster there and is used instead", device)
    return native


def full_precision(device: torch.device) -> AbstractContextManager:
    """A block that autocast leaves alone; its inputs are the caller's to bring to float32."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
