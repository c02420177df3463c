"""Automatic mode on a large scan: time and memory of the sliding window itself, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor

from adapters.inferers import AutomaticInferer
from adapters.inferers.automatic import infer_resampled
from adapters.inferers.grid import Grid
from tests.benchmarks.common import memory, timed

__all__ = ["measure_automatic"]

_OVERLAP = 0.5


class _Brighter:
    """Stands for a network, at next to no cost: lesion is what is brighter than one half. Counts windows."""

    def __init__(self) -> None:
        self.windows = 0

    def __call__(self, crops: Tensor) -> Tensor:
        self.windows += len(crops)
        logits = crops.new_empty((len(crops), 2, *crops.shape[2:]))
        logits[:, 1:].copy_(crops).sub_(0.5)
        logits[:, :1].copy_(logits[:, 1:]).neg_()
        return logits


def measure_automatic(
    form: Literal["monai", "fast"],
    shape: Sequence[int],
    crop_size: int = 256,
    spacing: float = 1.0,
    voxel: Sequence[float] = (1.0, 0.8, 0.8),
) -> dict[str, Any]:
    """A sliding window over a scan of noise, by a stand-in for the network that costs next to nothing.

    Args:
        form: "fast" is the library's inferer; "monai" resamples the whole scan, gives it to
            MONAI's sliding window, and resamples all logits back.
        shape: voxels of the scan, (D, H, W).
        crop_size: side of the windows, in voxels.
        spacing: mm of the windows' voxels.
        voxel: mm of the scan's voxels, (D, H, W).

    Returns:
        ``infer_s``; ``peak_bytes`` of the process, ``baseline_bytes`` with the scan in memory, ``scan_bytes`` and
        ``result_bytes``; ``windows`` and ``voxels``; ``lesion_voxels``, which the forms agree in but for rounding; of
        the form "fast" ``stated_bytes``, which the inferer says that it takes beside the scan.

    Raises:
        ValueError: if the form is unknown.
    """
    if form not in {"monai", "fast"}:
        raise ValueError(f"form={form!r}: expected 'monai' or 'fast'.")
    scan = torch.rand((1, *shape), generator=torch.Generator().manual_seed(0))
    affine = np.diag([*voxel, 1.0])
    network = _Brighter()
    fast = AutomaticInferer(crop_size, spacing, overlap=_OVERLAP, mode="gaussian")
    monai = SlidingWindowInferer(crop_size, overlap=_OVERLAP, mode="gaussian")
    with torch.inference_mode():
        baseline, _ = memory()
        if form == "fast":
            seconds, result = timed(lambda: fast.infer_scan(scan, affine, network))
        else:
            grid = Grid.of(shape, affine, (spacing,) * 3)
            whole_scan = lambda resampled: monai(resampled, network)  # noqa: E731
            seconds, result = timed(lambda: infer_resampled(scan, grid, whole_scan))
        _, peak = memory()
        lesion = sum(int((part[-1] > (0 if len(part) == 1 else part[0])).sum()) for part in result.split(1, dim=1))
    measured = {
        "infer_s": seconds,
        "baseline_bytes": baseline,
        "peak_bytes": peak,
        "scan_bytes": scan.nbytes,
        "result_bytes": result.nbytes,
        "windows": network.windows,
        "voxels": scan.numel(),
        "lesion_voxels": lesion,
    }
    if form == "fast":
        measured["stated_bytes"] = result.nbytes + fast.working_bytes(shape, affine)
    return measured
