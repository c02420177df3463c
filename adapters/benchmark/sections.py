"""What is compared with what: each section is a table, each of its rows a form that runs in processes of its own."""

from __future__ import annotations

import json
import logging
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import adapters
from adapters.benchmark.measure import NO_SOURCE, literal_path, native_bfloat16
from adapters.files import write_whole
from adapters.networks import build_sam_adapter3d

__all__ = ["SECTIONS", "benchmark"]

logger = logging.getLogger(__name__)

_CHILD = (
    "import json, sys; from adapters.benchmark.measure import MEASUREMENTS; "
    "name, arguments = json.loads(sys.argv[1]); print(json.dumps(MEASUREMENTS[name](**arguments)))"
)
_MIB = 2**20
_STEP = 32  # voxels from one crop size to the next: a window of attention


@dataclass(frozen=True)
class Row:
    """A form of what a section measures.

    Attributes:
        title: how the table calls it.
        measurement: a name in `MEASUREMENTS`.
        arguments: of the measurement.
    """

    title: str
    measurement: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Section:
    """A table.

    Attributes:
        title: says what is measured.
        rows: the first is the one that the others are compared with.
        columns: title of each value; those that end in ``_bytes`` are shown in MiB and compared as shares, those that
            end in ``_s`` in seconds and compared as times as fast.
        note: what a reader has to know.
    """

    title: str
    rows: list[Row]
    columns: dict[str, str]
    note: str = ""
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


_FORWARD = {
    "encoder_s": "encoder (s)",
    "first_click_s": "first click (s)",
    "next_click_s": "next click (s)",
    "peak_bytes": "peak of the process (MiB)",
    "forward_bytes": "of it for the forward (MiB)",
    "difference": "difference of the logits",
}
_NO_BFLOAT16 = "This CPU has no bfloat16 of its own: no row for it."


def _literal(row: Row, *, wanted: bool) -> list[Row]:
    return [row] if wanted and literal_path().is_file() else []


def _fast(title: str, variant: str, crop_size: int, **more: int) -> Row:
    """The library's form in float32."""
    return Row(title, "network", {"form": "fast", "variant": variant, "crop_size": crop_size, **more})


def _note(*, literal: bool) -> str:
    notes = [NO_SOURCE.format(path=literal_path())] if literal and not literal_path().is_file() else []
    return " ".join([*notes, *([] if native_bfloat16() else [_NO_BFLOAT16])])


def _network(variant: str, crop_size: int, *, literal: bool) -> Section:
    size = {"variant": variant, "crop_size": crop_size}
    return Section(
        f"network: {variant}, crop {crop_size}, one item, one click, without gradients",
        [
            *_literal(Row("literal", "network", {"form": "literal", **size}), wanted=literal),
            _fast("float32", variant, crop_size),
            *([Row("bfloat16", "network", {"form": "bfloat16", **size})] if native_bfloat16() else []),
            Row("linear layers alone, as linear", "linear", {"form": "linear", **size}),
            Row("linear layers alone, as convolution", "linear", {"form": "convolution", **size}),
        ],
        _FORWARD,
        _note(literal=literal),
    )


def _training(variant: str, crop_size: int, *, literal: bool) -> Section:
    size = {"variant": variant, "crop_size": crop_size}
    forms = ["kept", "recomputed", *(["recomputed bfloat16"] if native_bfloat16() else [])]
    return Section(
        f"training: {variant}, crop {crop_size}, one item, one step",
        [
            *_literal(Row("literal", "training", {"form": "literal", **size}), wanted=literal),
            *(Row(form, "training", {"form": form, **size}) for form in forms),
        ],
        {
            "step_s": "step (s)",
            "peak_bytes": "peak of the process (MiB)",
            "step_bytes": "of it for the step (MiB)",
            "difference": "difference of the gradients' norms",
        },
        _note(literal=literal),
    )


def _batch(variant: str, crop_size: int) -> Section:
    rows = [_fast(f"{n} item{'s' * (n > 1)}", variant, crop_size, batch=n) for n in (1, 2, 4)]
    columns = {"item_s": "first click, an item (s)", "peak_bytes": "peak of the process (MiB)"}
    return Section(f"batch: {variant}, crop {crop_size}, float32", rows, columns)


def _crops(variant: str, crop_size: int) -> Section:
    sizes = list(range(_STEP, crop_size + 1, _STEP))[-4:] or [crop_size]
    rows = [_fast(f"crop {n}", variant, n) for n in sizes]
    columns = {key: _FORWARD[key] for key in ("encoder_s", "first_click_s", "next_click_s", "peak_bytes")}
    return Section(f"crops: {variant}, float32", rows, columns)


def _clicks(variant: str, crop_size: int) -> Section:
    rows = [_fast(f"{n} click{'s' * (n > 1)}", variant, crop_size, clicks=n) for n in (1, 10, 100)]
    columns = {key: _FORWARD[key] for key in ("next_click_s", "peak_bytes")}
    return Section(f"clicks: {variant}, crop {crop_size}, float32", rows, columns)


def _scan(shape: tuple[int, int, int]) -> Section:
    from adapters.bundling.folders import find_bundle  # brings MONAI, which the measured processes do without

    bundle = str(find_bundle("soft_tissue_sarcoma_ct"))
    rows = [
        Row(ending, "click", {"form": ending, "bundle": bundle, "shape": list(shape)}) for ending in (".nii.gz", ".nii")
    ]
    columns = {
        "read_s": "file to tensor (s)",
        "inferer_s": "crop and paste (s)",
        "network_s": "network (s)",
        "write_s": "logits to file (s)",
        "outside_s": "all but the network (s)",
        "peak_bytes": "peak of the process (MiB)",
    }
    size = " x ".join(map(str, shape))
    return Section(f"scan: one click on a CT of {size} voxels, file to file, the sarcoma bundle", rows, columns)


_AGAINST_LITERAL = {"network": _network, "training": _training}
_GROWTH = {"batch": _batch, "crops": _crops, "clicks": _clicks}
SECTIONS = (*_AGAINST_LITERAL, *_GROWTH, "scan")
"""What can be measured; all but ``network`` only when asked for."""


def _section(name: str, variant: str, crop_size: int, *, literal: bool, quick: bool) -> Section:
    if name == "scan":
        return _scan((128, 128, 75) if quick else (512, 512, 300))
    if name in _AGAINST_LITERAL:
        return _AGAINST_LITERAL[name](variant, crop_size, literal=literal)
    return _GROWTH[name](variant, crop_size)


def _in_fresh_process(row: Row) -> dict[str, Any]:
    root = str(Path(adapters.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps([row.measurement, row.arguments])],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise ChildProcessError(
            f"{row.title!r} ({row.arguments}) ended with code {done.returncode} ({said}); a run that was killed needs "
            "more memory than there is: take a smaller crop_size or variant, or literal=False."
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _derived(run: Mapping[str, Any], first: Mapping[str, Any], row: Row) -> dict[str, Any]:
    """A run with what follows from it and from the first row's."""
    run = dict(run)
    if "baseline_bytes" in run:
        run["step_bytes" if "step_s" in run else "forward_bytes"] = run["peak_bytes"] - run["baseline_bytes"]
    if "first_click_s" in run:
        run["item_s"] = run["first_click_s"] / row.arguments.get("batch", 1)
    for key in ("projected", "gradient"):
        if key in run and key in first:
            there, here = (np.array(list(r[key].values()) if key == "gradient" else r[key]) for r in (first, run))
            run["difference"] = float(np.linalg.norm(here - there) / np.linalg.norm(there))
    return run


def _run(sections: Sequence[Section], repeats: int) -> None:
    """Run every row, the rows of a section in turn, so that a slow minute of the machine hits all of them."""
    for section in sections:
        for repeat in range(repeats):
            for row in section.rows:
                logger.info("%s: %s, run %d of %d", section.title, row.title, repeat + 1, repeats)
                run = _in_fresh_process(row)
                runs = section.runs.setdefault(row.title, [])
                first = section.runs[section.rows[0].title]
                runs.append(_derived(run, first[0] if first else run, row))


def _medians(section: Section) -> dict[str, dict[str, float]]:
    return {
        title: {key: statistics.median(run[key] for run in runs) for key in section.columns if key in runs[0]}
        for title, runs in section.runs.items()
    }


def _cell(key: str, value: float | None, first: float | None, *, compare: bool) -> str:
    if value is None:
        return ""
    if key == "difference":
        return f"{value:.0e}"
    text = f"{value / _MIB:.0f}" if key.endswith("_bytes") else f"{value:.2f}"
    if not compare or not first or not value:
        return text
    return f"{text} ({value / first:.0%})" if key.endswith("_bytes") else f"{text} ({first / value:.2f} x)"


def _table(section: Section) -> str:
    medians = _medians(section)
    first = medians[section.rows[0].title]
    lines = [
        section.title,
        "",
        f"| {' | '.join(['', *section.columns.values()])} |",
        f"|{' --- |' * (len(section.columns) + 1)}",
    ]
    for number, (title, values) in enumerate(medians.items()):
        cells = [_cell(key, values.get(key), first.get(key), compare=number > 0) for key in section.columns]
        lines.append(f"| {' | '.join([title, *cells])} |")
    return "\n".join([*lines, *(["", section.note] if section.note else [])])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def benchmark(
    variant: str = "vit_b",
    crop_size: int = 128,
    repeats: int = 5,
    *,
    what: Sequence[str] = ("network",),
    literal: bool = True,
    quick: bool = False,
    output: str | None = None,
) -> str:
    """Measure the library's forms beside the literal one, each run in a fresh process.

    The runs of a table take turns; medians count. Random weights (for ``scan`` those of the bundle), all threads that
    torch takes. The literal form of ``vit_b`` at 128 needs about 9 GB without gradients, and about 35 GB with them.

    Args:
        variant: name of a variant: tiny, vit_b, vit_l or vit_h.
        crop_size: side of the crop, in voxels.
        repeats: runs of each row.
        what: which of `SECTIONS`.
        literal: whether to run the literal form, which a source checkout has and an installed package has not.
        quick: one run of each row, and a smaller scan.
        output: JSON file to write with every run, or None.

    Returns:
        Tables in Markdown, under one line with machine, torch version and threads; in brackets how many times as fast
        as the first row, or which share of its memory.

    Raises:
        ValueError: if the variant or a section is unknown, the crop does not fit, or repeats is less than 1.
        FileNotFoundError: if the folder of `output` is not there.
        ChildProcessError: if a run fails.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: expected 1 or more.")
    if unknown := [name for name in what if name not in SECTIONS]:
        raise ValueError(f"what={unknown[0]!r}: expected some of {', '.join(SECTIONS)}.")
    if output is not None and not Path(output).resolve().parent.is_dir():
        raise FileNotFoundError(f"the folder of output={output} is not there: make it first.")
    with torch.device("meta"):
        build_sam_adapter3d(variant, crop_size)  # says what is wrong before anything takes long

    sections = {name: _section(name, variant, crop_size, literal=literal, quick=quick) for name in what}
    _run(list(sections.values()), 1 if quick else repeats)
    machine = {
        "machine": f"{_processor()} ({platform.system()})",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "repeats": 1 if quick else repeats,
    }
    if output is not None:
        found = {name: {"title": s.title, "medians": _medians(s), "runs": s.runs} for name, s in sections.items()}
        write_whole(Path(output), json.dumps({**machine, "sections": found}, indent=2) + "\n")
    head = (
        f"{machine['machine']}, {machine['threads']} threads, torch {machine['torch']}, median of "
        f"{machine['repeats']} runs"
    )
    return "\n\n".join([head, *map(_table, sections.values())])
