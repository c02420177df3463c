"""Whether the network's operations are being recorded, for ONNX or TorchScript."""

from __future__ import annotations

import torch

__all__ = ["recorded"]


def recorded() -> bool:
    """True while a graph is recorded: no value can be looked at, and a loop over clicks would fix their number."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()
