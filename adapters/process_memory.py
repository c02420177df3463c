"""The largest memory that a computation took: on a GPU of torch's tensors, on a CPU of the whole process."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_MIB = 2**20


def start_peak(device: torch.device) -> None:
    """Count a GPU's peak from now on. On a CPU nothing can be reset: the peak is that of the process so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mib(device: torch.device) -> float | None:
    """Largest memory in MiB: of torch's tensors on a GPU since `start_peak`, of the whole process on a CPU.

    Returns:
        MiB; None where the system does not say (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MIB
    if _STATUS.exists():  # the peak of getrusage can be inherited from the process that started this one
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) / 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (_MIB if sys.platform == "darwin" else 1024)
