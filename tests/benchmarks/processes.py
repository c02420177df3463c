"""A step of training in several processes of one thread each, and what reducing the gradients takes of it."""

from __future__ import annotations

import json
import statistics
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from adapters.networks import build_sam_adapter3d, set_trainable
from tests.benchmarks.common import projected, timed
from tests.benchmarks.training import training_data, training_network, training_step

__all__ = ["measure_all_reduce", "measure_processes", "tuned_values"]

_TIMEOUT = timedelta(minutes=10)
_REPEATS = 5
_PROJECTIONS = 8


def tuned_values(variant: str, crop_size: int) -> int:
    """How many parameters of a variant the published training tunes."""
    with torch.device("meta"):
        network = set_trainable(build_sam_adapter3d(variant, crop_size), "published", added=False)
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def measure_processes(processes: int, variant: str, crop_size: int, batch: int = 1) -> dict[str, Any]:
    """A step of training as published, shared by processes that talk through gloo, on the CPU.

    Args:
        processes: how many; with one there is no wrapper and no communication.
        variant: name of a variant.
        crop_size: side of the crop, in voxels.
        batch: items of each process.

    Returns:
        ``step_s``, the slowest process' second step, and ``projected``: sums of the first step's gradients with random
        signs, which are those of one process with all items.
    """
    measured = _spawn(_train, processes, {"variant": variant, "crop_size": crop_size, "batch": batch})
    return {"step_s": max(each["step_s"] for each in measured), "projected": measured[0]["projected"]}


def measure_all_reduce(processes: int, values: int) -> dict[str, Any]:
    """An all-reduce of float32 through gloo, between processes of this machine.

    Args:
        processes: how many.
        values: how many numbers.

    Returns:
        ``reduce_s``, the median of a few of the slowest process, and ``reduced_bytes``.
    """
    measured = _spawn(_reduce, processes, {"values": values})
    return {"reduce_s": max(each["reduce_s"] for each in measured), "reduced_bytes": 4 * values}


def _spawn(work: Any, processes: int, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Run `work` in processes of one group; what each of them returns."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_join, (work, processes, folder, arguments), nprocs=processes)
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(processes)]


def _join(rank: int, work: Any, processes: int, folder: str, arguments: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    # a file instead of a port: nothing else can have taken it
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes, timeout=_TIMEOUT)
    try:
        (Path(folder) / f"{rank}.json").write_text(json.dumps(work(rank, processes, **arguments)))
    finally:
        dist.destroy_process_group()


def _train(rank: int, processes: int, variant: str, crop_size: int, batch: int) -> dict[str, Any]:
    network = training_network("kept", variant, crop_size)
    tuned = [p for p in network.parameters() if p.requires_grad]
    everything = training_data(crop_size, processes * batch)
    own: tuple[Tensor, ...] = tuple(each[rank * batch : (rank + 1) * batch] for each in everything)
    wrapped = DistributedDataParallel(network, find_unused_parameters=True) if processes > 1 else network
    step = training_step("kept", wrapped, torch.optim.AdamW(tuned, lr=4e-4), own)  # type: ignore[arg-type]
    step()  # the first one also arranges the buckets
    gradients = torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in tuned])
    sums = projected(gradients, _PROJECTIONS) if rank == 0 else []
    dist.barrier()
    return {"step_s": timed(step)[0], "projected": sums}


def _reduce(rank: int, processes: int, values: int) -> dict[str, Any]:
    numbers = torch.ones(values)
    dist.all_reduce(numbers)  # the first one connects the processes
    if float(numbers[-1]) != processes:
        raise RuntimeError(f"process {rank}: an all-reduce of ones gave {float(numbers[-1])}, not {processes}")
    seconds = []
    for _ in range(_REPEATS):
        dist.barrier()
        seconds.append(timed(lambda: dist.all_reduce(numbers))[0])
    return {"reduce_s": statistics.median(seconds)}
