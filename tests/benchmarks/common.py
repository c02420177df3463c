"""What the measurements share: networks and images that are the same in every process, clocks, memory, phantoms."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

import adapters
from adapters.process_memory import resident
from adapters.networks import SAMAdapter3D, build_sam_adapter3d

__all__ = [
    "NO_SOURCE",
    "attention_kernels",
    "literal_path",
    "load_literal",
    "make_clicks",
    "make_image",
    "make_network",
    "memory",
    "projected",
    "timed",
    "write_scan",
]

NO_SOURCE = "The literal column needs a source checkout: {path} is not there."
_PROJECTIONS = 64
_RUNS_ON_GPU = 5
_COARSE = 4  # how much coarser than the scan its phantom is made
_ATTENTION = "aten::_scaled_dot_product_"


def literal_path() -> Path:
    """The file with the literal form."""
    return Path(adapters.__file__).resolve().parents[1] / "tests" / "reference" / "literal.py"


def load_literal() -> ModuleType:
    """The literal form's module.

    Raises:
        FileNotFoundError: if it is not there.
    """
    spec = importlib.util.spec_from_file_location("literal", literal_path())
    if spec is None or spec.loader is None or not literal_path().is_file():
        raise FileNotFoundError(NO_SOURCE.format(path=literal_path()))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_network(variant: str, crop_size: int, **options: Any) -> SAMAdapter3D:
    """The network with weights that leave nothing at zero, the same in every process."""
    torch.manual_seed(0)
    network = build_sam_adapter3d(variant, crop_size, **options)
    for name, parameter in network.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return network


def make_image(crop_size: int, batch: int) -> Tensor:
    """A batch of noise (B, 1, D, H, W), the same in every process; a larger batch begins with a smaller one."""
    return torch.randn(batch, 1, crop_size, crop_size, crop_size, generator=torch.Generator().manual_seed(1))


def make_clicks(crop_size: int, batch: int, count: int) -> tuple[Tensor, Tensor]:
    """Clicks (B, N, 3) anywhere in the crop, the same in every process, and their labels (B, N), all on the lesion."""
    points = torch.rand(batch, count, 3, generator=torch.Generator().manual_seed(3)) * (crop_size - 1)
    return points, torch.ones(batch, count, dtype=torch.long)


def projected(values: Tensor, count: int = _PROJECTIONS) -> list[float]:
    """A few sums of values with random signs, by which two processes' results can be compared."""
    values = values.detach().cpu().double()
    generator = torch.Generator().manual_seed(2)
    signs = (torch.randint(0, 2, values.shape, generator=generator) * 2 - 1 for _ in range(count))
    return [float((values * sign).sum()) for sign in signs]


def timed(run: Callable[[], Any], device: str = "cpu", *, warm: bool = False) -> tuple[float, Any]:
    """Seconds of a run, and its result.

    Args:
        run: what to time.
        device: on "cuda" the mean of a few runs between two CUDA events, after one that is not counted, since the
            first run loads kernels; on "cpu" one run.
        warm: whether one run is not counted on a CPU either.
    """
    if device == "cpu":
        if warm:
            run()
        start = time.perf_counter()
        result = run()
        return time.perf_counter() - start, result
    run()
    start_event, end_event = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start_event.record()
    for _ in range(_RUNS_ON_GPU):
        result = run()
    end_event.record()
    torch.cuda.synchronize()
    return start_event.elapsed_time(end_event) / 1000 / _RUNS_ON_GPU, result


def memory(device: str) -> tuple[int, int]:
    """Bytes held now, and at most so far: by this process, or with "cuda" by torch's tensors on the GPU."""
    if device == "cpu":
        return resident()
    return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()


def attention_kernels(run: Callable[[], Any], device: str) -> str:
    """Which back ends of `scaled_dot_product_attention` a run uses, such as "flash_attention"; "none" if it uses none.

    They are what the profiler saw, not what torch would allow.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device != "cpu":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        run()
    seen = {event.key.removeprefix(_ATTENTION) for event in profile.key_averages() if event.key.startswith(_ATTENTION)}
    return ", ".join(sorted(name for name in seen if not name.endswith("_backward"))) or "none"


def write_scan(path: Path, shape: Sequence[int], label: Path | None = None) -> list[int]:
    """Write a phantom, made coarsely and with the noise of a CT, and its label if wanted; a voxel of its lesion."""
    import nibabel as nib

    from adapters.datasets.phantom import phantom

    coarse, lesion, affine = phantom(0, [-(-n // _COARSE) for n in shape], (3.2, 3.2, 6.0), orientation="RAS")

    def finer(volume: np.ndarray) -> np.ndarray:
        for axis in range(3):
            volume = np.repeat(volume, _COARSE, axis=axis)
        return volume[tuple(slice(n) for n in shape)]

    fine = finer(coarse)
    affine = affine @ np.diag([*[1 / _COARSE] * 3, 1])
    noise = np.random.default_rng(0).integers(-20, 21, fine.shape, dtype=np.int16)
    nib.save(nib.Nifti1Image(np.rint(fine).astype(np.int16) + noise, affine), path)
    if label is not None:
        nib.save(nib.Nifti1Image(finer(lesion), affine), label)
    inside = np.argwhere(lesion)
    return (inside[len(inside) // 2] * _COARSE).tolist()
