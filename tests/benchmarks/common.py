"""What the measurements share: networks and images that are the same in every process, clocks, memory, phantoms."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adapters.networks import SAMAdapter3D, build_sam_adapter3d
from adapters.process_memory import peak_mib
from adapters.prompts.tensors import PromptTensors

__all__ = [
    "attention_kernels",
    "in_fresh_process",
    "make_image",
    "make_network",
    "make_prompts",
    "memory",
    "projected",
    "timed",
    "write_scan",
]

_MIB = 2**20
_PROJECTIONS = 64
_RUNS_ON_GPU = 5
_COARSE = 4  # how much coarser than the scan its phantom is made
_ATTENTION = "aten::_scaled_dot_product_"
_MEMORY = Path("/proc/meminfo")
_PAGES = Path("/proc/self/statm")


def limit_memory() -> None:
    """Let an allocation fail where there is no memory for it, before the system ends a process of its choice."""
    if _MEMORY.exists():
        free = dict(line.split(":") for line in _MEMORY.read_text().splitlines())["MemAvailable"]
        bound = int(free.split()[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))


def in_fresh_process(measurement: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """What a measurement gives in a process of its own: a process' peak memory cannot fall.

    Args:
        measurement: a function of a module, which the new process imports.
        arguments: its arguments. Unless they say ``device="cuda"`` it may allocate no more memory than is free.
    """
    limit = limit_memory if arguments.get("device", "cpu") == "cpu" else None
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=limit) as pool:
        return pool.submit(measurement, **arguments).result()


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


def make_prompts(crop_size: int, batch: int, count: int) -> PromptTensors:
    """So many clicks anywhere in the crop, all on the lesion, the same in every process."""
    points = torch.rand(batch, count, 3, generator=torch.Generator().manual_seed(3)) * (crop_size - 1)
    return PromptTensors(points, torch.ones(batch, count, dtype=torch.long))


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


def memory(device: str = "cpu") -> tuple[int, int]:
    """Bytes held now, and at most so far: by this process, or with "cuda" by torch's tensors on the GPU."""
    if device == "cpu":
        now = int(_PAGES.read_text().split()[1]) * resource.getpagesize()
    else:
        now = torch.cuda.memory_allocated()
    return now, round((peak_mib(torch.device(device)) or 0) * _MIB)


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
