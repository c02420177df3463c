"""Runs the sections that are asked for, and shows them."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from adapters.files import write_whole
from adapters.networks import build_sam_adapter3d
from tests.benchmarks.common import in_fresh_process
from tests.benchmarks.communication import measure_communication
from tests.benchmarks.plans import DEVICES, SECTIONS, Plan, make_section
from tests.benchmarks.table import Row, Section, derived, medians, table

__all__ = ["benchmark", "processor", "run_row"]

logger = logging.getLogger(__name__)


def run_row(row: Row) -> dict[str, Any]:
    """What a row measures, in a process of its own; what is calculated and not measured needs none.

    Raises:
        ChildProcessError: if the measurement fails.
    """
    if row.measurement is measure_communication:
        return measure_communication(**row.arguments)
    try:
        measured: dict[str, Any] = in_fresh_process(row.measurement, row.arguments)
        return measured
    except Exception as err:
        reason = "it was killed" if isinstance(err, BrokenProcessPool) else f"{type(err).__name__}: {err}"
        raise ChildProcessError(
            f"{row.title!r} ({row.arguments}) failed ({reason}); a run that was killed needs more memory than there "
            "is: take a smaller crop_size or variant, or leave the literal form out."
        ) from err


def _run(section: Section, repeats: int) -> None:
    """Run every row, in turn with the others, so that a slow minute of the machine hits all of them."""
    for repeat in range(repeats):
        for row in section.rows:
            if row.title in section.left_out:
                continue
            logger.info("%s: %s, run %d of %d", section.title, row.title, repeat + 1, repeats)
            try:
                run = run_row(row)
            except ChildProcessError as err:
                if not section.optional:
                    raise
                section.left_out[row.title] = str(err)
                section.runs.pop(row.title, None)
                continue
            runs = section.runs.setdefault(row.title, [])
            first = next(iter(section.runs.values()))
            runs.append(derived(run, first[0] if first else run, row))
    if not section.runs:
        raise ChildProcessError(f"{section.title}: no row could be run. {' '.join(section.left_out.values())}")


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _checked(what: Sequence[str] | None, device: str, *, quick: bool) -> Sequence[str]:
    """The sections that are wanted.

    Raises:
        ValueError: if one is unknown or not for the device, or the device is not there.
    """
    if device not in DEVICES:
        raise ValueError(f"device={device!r}: expected {' or '.join(DEVICES)}.")
    possible = DEVICES[device]
    if what is None:
        what = possible if quick else ("network",)
    if unknown := [name for name in what if name not in SECTIONS]:
        raise ValueError(f"what={unknown[0]!r}: expected some of {', '.join(SECTIONS)}.")
    if elsewhere := [name for name in what if name not in possible]:
        other = "cpu" if device == "cuda" else "cuda"
        raise ValueError(f"what={elsewhere[0]!r} is not measured on {device!r}: take device={other!r} for it.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device='cuda': torch {torch.__version__} finds no CUDA GPU here. Leave device out to measure the CPU, or "
            "run this on a machine with an NVIDIA GPU, its driver and a build of torch for CUDA."
        )
    return what


def benchmark(
    variant: str | None = None,
    crop_size: int | None = None,
    repeats: int = 5,
    *,
    what: Sequence[str] | None = None,
    literal: bool = True,
    quick: bool = False,
    device: str = "cpu",
    output: str | None = None,
) -> str:
    """Measure the library's forms beside the literal one, each run in a fresh process.

    The runs of a table take turns; medians count. Random weights (for ``scan`` those of the bundle), all threads
    that torch takes. The literal form of ``vit_b`` at 128 needs about 9 GB without gradients, and about 35 GB
    with them; a row of ``training`` that there is no memory for is left out and named. On a GPU times are in
    milliseconds, memory is that of torch's tensors in GB, and any row that fails is left out and named.

    Args:
        variant: name of a variant: tiny, vit_b, vit_l or vit_h. None: vit_b; tiny for ``processes``, and with `quick`
            for all but ``network`` and ``communication``.
        crop_size: side of the crop, in voxels. None: 128; 64 for ``processes``; with `quick` 32, 64 for ``network``.
        repeats: runs of each row.
        what: which of `SECTIONS`. None: ``network``; with `quick` all that the device has.
        literal: whether to run the literal form.
        quick: one run of each row, fewer rows, and smaller crops and scans.
        device: "cpu", or "cuda" for the sections that a GPU has: network, training, batch, training_batch, crops,
            clicks, gpu_memory.
        output: JSON file to write with every run, or None.

    Returns:
        Tables in Markdown, under one line with machine, torch version and threads; in brackets how many times as fast
        as the first row, or which share of its memory.

    Raises:
        ValueError: if the variant or a section is unknown, the crop does not fit, repeats is less than 1, or the device
            is not there or does not have a section.
        FileNotFoundError: if the folder of `output` is not there.
        ChildProcessError: if a run fails.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: expected 1 or more.")
    what = _checked(what, device, quick=quick)
    if output is not None and not Path(output).resolve().parent.is_dir():
        raise FileNotFoundError(f"the folder of output={output} is not there: make it first.")
    plan = Plan(variant, crop_size, literal, quick, device)
    with torch.device("meta"):
        build_sam_adapter3d(**plan.size())  # says what is wrong before anything takes long

    repeats = 1 if quick else repeats
    sections = {name: make_section(name, plan) for name in what}
    for section in sections.values():
        _run(section, repeats)
    machine = {
        "machine": f"{processor()} ({platform.system()})",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
    }
    if device != "cpu":
        machine |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    if output is not None:
        results = {
            name: {"title": s.title, "note": s.note, "left_out": s.left_out, "medians": medians(s), "runs": s.runs}
            for name, s in sections.items()
        }
        write_whole(Path(output), json.dumps({**machine, "sections": results}, indent=2) + "\n")
    gpu = f"{machine['gpu']}, CUDA {machine['cuda']}, " if device != "cpu" else ""
    head = (
        f"{gpu}{machine['machine']}, {machine['threads']} threads, torch {machine['torch']}, median of "
        f"{machine['repeats']} runs"
    )
    return "\n\n".join([head, *map(table, sections.values())])
