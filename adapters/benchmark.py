"""Time and memory of the encoder, beside the literal form that the tests keep as their reference."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

import adapters
from adapters.memory import resident
from adapters.networks import ImageFeatures, SAMAdapter3D, build_sam_adapter3d

__all__ = ["benchmark", "main", "measure"]

logger = logging.getLogger(__name__)

Form = Literal["fast", "literal"]
_CHILD = (
    "import json, sys; from adapters.benchmark import measure; print(json.dumps(measure(*json.loads(sys.argv[1]))))"
)
_MIB = 2**20
_NO_SOURCE = "The literal column needs a source checkout: {path} is not there."


def _literal_path() -> Path:
    return Path(adapters.__file__).resolve().parents[1] / "tests" / "reference" / "literal.py"


def _load_literal() -> ModuleType:
    spec = importlib.util.spec_from_file_location("literal", _literal_path())
    if spec is None or spec.loader is None:
        raise FileNotFoundError(_NO_SOURCE.format(path=_literal_path()))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _network(variant: str, crop_size: int) -> SAMAdapter3D:
    """The network with weights that leave nothing at zero, the same in every process."""
    torch.manual_seed(0)
    network = build_sam_adapter3d(variant, crop_size).eval()
    for name, parameter in network.named_parameters():
        if "rel_pos" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return network.requires_grad_(False)


def measure(form: Form, variant: str, crop_size: int) -> dict[str, Any]:
    """One forward in this process, which should be fresh: its memory cannot fall below an earlier peak.

    Args:
        form: "fast" is the library's form, "literal" that of the tests.
        variant: name of a variant.
        crop_size: side of the crop, in voxels.

    Returns:
        Seconds (``encoder_s``, ``first_click_s``, ``next_click_s``: prompt head and decoder with a kept embedding),
        bytes (``peak_bytes`` of the whole process while it encodes, ``baseline_bytes`` before), ``threads``, and
        ``level_norms``, by which two forms can be compared.

    Raises:
        FileNotFoundError: if the literal form is wanted and not there.
    """
    literal = _load_literal() if form == "literal" else None
    network = _network(variant, crop_size)
    image = torch.randn(1, 1, crop_size, crop_size, crop_size)
    clicks, labels = torch.full((1, 1, 3), crop_size / 2), torch.ones(1, 1, dtype=torch.long)
    with torch.inference_mode():
        baseline, _ = resident()
        start = time.perf_counter()
        levels = literal.literal_encode(network.image_encoder, image) if literal else network.image_encoder(image)
        encoder_s = time.perf_counter() - start
        _, peak = resident()

        start = time.perf_counter()
        context = torch.empty(0) if literal else network.mask_decoder.context(levels, image)  # type: ignore[operator]
        context_s = time.perf_counter() - start
        start = time.perf_counter()
        if literal:
            deepest = network.prompt_head(levels[-1], clicks, labels, tuple(image.shape[2:]))
            literal.literal_decode(network.mask_decoder, [*levels[:-1], deepest], image)
        else:
            network.decode(ImageFeatures(levels, context), image, clicks, labels)
        decode_s = time.perf_counter() - start
    return {
        "form": form,
        "encoder_s": encoder_s,
        "first_click_s": encoder_s + context_s + decode_s,
        "next_click_s": decode_s,
        "baseline_bytes": baseline,
        "peak_bytes": peak,
        "threads": torch.get_num_threads(),
        "level_norms": [float(level.double().norm()) for level in levels],
    }


def _in_fresh_process(form: Form, variant: str, crop_size: int) -> dict[str, Any]:
    root = str(Path(adapters.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, json.dumps([form, variant, crop_size])],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise ChildProcessError(
            f"the {form} run of {variant} at {crop_size} ended with code {done.returncode} ({said}); a run that was "
            "killed needs more memory than there is: take a smaller crop_size or variant, or literal=False."
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _summary(runs: list[dict[str, Any]], form: Form) -> dict[str, float]:
    own = [run for run in runs if run["form"] == form]
    return {
        **{key: min(run[key] for run in own) for key in ("encoder_s", "first_click_s", "next_click_s")},
        "peak_bytes": max(run["peak_bytes"] for run in own),
        "forward_bytes": max(run["peak_bytes"] - run["baseline_bytes"] for run in own),
    }


def _table(report: dict[str, Any]) -> str:
    fast, slow = report["fast"], report["literal"]
    head = ["", "fast", *(["literal", "ratio"] if slow else [])]
    lines = [
        (
            f"{report['variant']}, crop {report['crop_size']}, float32, batch 1, best of {report['repeats']}; "
            f"{report['machine']}, {report['threads']} threads, torch {report['torch']}"
        ),
        "",
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
    ]
    for key, title, unit, scale, inverse in (
        ("encoder_s", "encoder", "s", 1, True),
        ("first_click_s", "first click", "s", 1, True),
        ("next_click_s", "next click", "s", 1, True),
        ("peak_bytes", "peak memory of the process while it encodes", "MiB", _MIB, False),
        ("forward_bytes", "of it on top of weights and libraries", "MiB", _MIB, False),
    ):
        digits = 2 if unit == "s" else 0
        cells = [f"{title} ({unit})", f"{fast[key] / scale:.{digits}f}"]
        if slow:
            ratio = f"{slow[key] / fast[key]:.2f} times as fast" if inverse else f"{fast[key] / slow[key]:.0%}"
            cells += [f"{slow[key] / scale:.{digits}f}", ratio]
        lines.append(f"| {' | '.join(cells)} |")
    if report["note"]:
        lines += ["", report["note"]]
    return "\n".join(lines)


def benchmark(
    variant: str = "vit_b",
    crop_size: int = 128,
    repeats: int = 1,
    *,
    literal: bool = True,
    output: str | None = None,
) -> str:
    """Measure the encoder in the library's form and in the literal one, each run in a fresh process.

    The runs alternate between the forms; of the times the shortest counts, of the memory the highest. Random weights,
    float32, no gradients, all threads that torch takes. The literal form of ``vit_b`` at 128 needs about 9 GB.

    Args:
        variant: name of a variant: tiny, vit_b, vit_l or vit_h.
        crop_size: side of the crop, in voxels.
        repeats: runs of each form.
        literal: whether to run the literal form, which a source checkout has and an installed package has not.
        output: JSON file to write with every run, or None.

    Returns:
        A table in Markdown with machine, torch version, threads, seconds, MiB and their ratios.

    Raises:
        ValueError: if the variant is unknown, the crop does not fit it, or repeats is less than 1.
        FileNotFoundError: if the folder of `output` is not there.
        ChildProcessError: if a run fails.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: expected 1 or more.")
    if output is not None and not Path(output).resolve().parent.is_dir():
        raise FileNotFoundError(f"the folder of output={output} is not there: make it first.")
    with torch.device("meta"):
        build_sam_adapter3d(variant, crop_size)  # says what is wrong before anything takes long

    note = _NO_SOURCE.format(path=_literal_path()) if literal and not _literal_path().is_file() else ""
    forms: list[Form] = ["fast", "literal"] if literal and not note else ["fast"]
    runs = []
    for repeat in range(repeats):
        for form in forms:
            logger.info("%s, crop %d: %s form, run %d of %d", variant, crop_size, form, repeat + 1, repeats)
            runs.append(_in_fresh_process(form, variant, crop_size))
            logger.info("encoder %.2f s", runs[-1]["encoder_s"])
    report = {
        "variant": variant,
        "crop_size": crop_size,
        "repeats": repeats,
        "machine": f"{_processor()} ({platform.system()})",
        "torch": torch.__version__,
        "threads": runs[0]["threads"],
        "fast": _summary(runs, "fast"),
        "literal": _summary(runs, "literal") if "literal" in forms else None,
        "note": note,
        "runs": runs,
    }
    if output is not None:
        Path(output).write_text(json.dumps(report, indent=2) + "\n")
    return _table(report)


main = benchmark
