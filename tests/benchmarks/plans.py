"""What is compared with what: each section is a table, each of its rows a form that runs in processes of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from adapters.bundling.folders import find_bundle
from adapters.networks import native_bfloat16
from tests.benchmarks.automatic import measure_automatic
from tests.benchmarks.click import measure_click
from tests.benchmarks.communication import BUCKET_BYTES, Cluster, measure_communication
from tests.benchmarks.loading import measure_loading
from tests.benchmarks.network import measure_linear, measure_network, measure_pointwise
from tests.benchmarks.processes import measure_all_reduce, measure_processes, tuned_values
from tests.benchmarks.table import Row, Section
from tests.benchmarks.training import measure_largest_crop, measure_training

__all__ = ["DEVICES", "SECTIONS", "Plan", "make_section"]

_STEP = 32  # voxels from one crop size to the next: a window of attention
_FULL_CROP, _SMALL_CROP = 128, 64
_SCAN, _QUICK_SCAN = (512, 512, 300), (128, 128, 75)
_LONG_SCAN = (512, 512, 600)
_TRAINING_SCAN, _QUICK_TRAINING_SCAN = (512, 512, 150), (128, 128, 64)
_CASES = 4
_GPUS = (8, 64, 512)
_STEP_SECONDS = (0.1, 0.5, 2.0)
_LIMITS_GB = (24, 40, 80)
_LARGEST_CROP = 512


@dataclass(frozen=True)
class Plan:
    """What was asked for; None where the section chooses.

    Attributes:
        variant: name of a variant.
        crop_size: side of the crop, in voxels.
        literal: whether the literal form is wanted.
        quick: whether all has to be small.
        device: "cpu" or "cuda".
    """

    variant: str | None = None
    crop_size: int | None = None
    literal: bool = True
    quick: bool = False
    device: str = "cpu"

    def size(self, *, small: bool = False) -> dict[str, Any]:
        """Variant and crop of a section; `small`: those of one that is too slow with the large network."""
        small_variant = "tiny" if small or self.quick else "vit_b"
        crop_size = _STEP if self.quick else _SMALL_CROP if small else _FULL_CROP
        return {"variant": self.variant or small_variant, "crop_size": self.crop_size or crop_size}

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is measured."""
        return self.device != "cpu"

    @property
    def bfloat16(self) -> bool:
        """Whether the device has bfloat16 of its own."""
        return native_bfloat16(self.device)

    @property
    def looks(self) -> dict[str, Any]:
        """Fields of a section on the device: a row that a GPU (in training a CPU too) has no memory for is left out."""
        return {"small": self.on_gpu, "optional": self.on_gpu}

    @property
    def kernels(self) -> dict[str, Any]:
        """Arguments of a measurement that names the kernels of the attention, as is done on a GPU."""
        return {"kernels": True} if self.on_gpu else {}

    def forms(self, *candidates: str) -> list[str]:
        """Those forms that are wanted and that the device has."""
        possible = {"literal": self.literal, "bfloat16": self.bfloat16, "compiled": self.bfloat16 and self.on_gpu}
        return [form for form in candidates if possible.get(form.split()[-1], True)]

    def row(self, title: str, measurement: Callable[..., dict[str, Any]], **arguments: Any) -> Row:
        """A row of a section, on the device and with the section's variant and crop where nothing else is said."""
        device = {"device": self.device} if self.on_gpu else {}
        return Row(title, measurement, {**self.size(), **device, **arguments})

    def note(self) -> str:
        """Which rows are not there, and why."""
        notes = []
        if not self.bfloat16:
            notes.append(f"This {'GPU' if self.on_gpu else 'CPU'} has no bfloat16 of its own: no row for it.")
        if self.on_gpu:
            notes.append("float32 as torch sets it: TensorFloat-32 in convolutions, not in matrix products.")
        return " ".join(notes)


_FORWARD = {
    "encoder_s": "encoder (s)",
    "first_click_s": "first click (s)",
    "next_click_s": "next click (s)",
    "peak_bytes": "peak of the process (MiB)",
    "forward_bytes": "of it for the forward (MiB)",
    "difference": "difference of the logits",
}
_KERNELS = {"attention": "attention"}


def _of(plan: Plan) -> str:
    return "{variant}, crop {crop_size}".format(**plan.size())


def _items(count: int, name: str = "item") -> str:
    return f"{count} {name}{'s' * (count > 1)}"


def _network(plan: Plan) -> Section:
    if plan.quick and plan.variant is None:  # the one table of a quick run with the large network
        plan = replace(plan, variant="vit_b", crop_size=plan.crop_size or _SMALL_CROP)
    titles = {"fast": "float32", "compiled": "bfloat16, compiled"}
    return Section(
        f"network: {_of(plan)}, one item, one click, without gradients",
        [
            *(
                plan.row(titles.get(form, form), measure_network, form=form, **plan.kernels)
                for form in plan.forms("literal", "fast", "bfloat16", "compiled")
            ),
            *(
                plan.row(f"linear layers alone, as {form}", measure_linear, form=form)
                for form in plan.forms("linear", "bfloat16" if plan.on_gpu else "convolution")
            ),
            plan.row("softmax and activation alone", measure_pointwise),
        ],
        {**_FORWARD, **(_KERNELS if plan.on_gpu else {})},
        plan.note(),
        **plan.looks,
    )


def _training(plan: Plan) -> Section:
    return Section(
        f"training: {_of(plan)}, one item, one step",
        [
            plan.row(form, measure_training, form=form, **plan.kernels)
            for form in plan.forms("literal", "kept", "recomputed", "recomputed bfloat16", "recomputed compiled")
        ],
        {
            "step_s": "step (s)",
            "peak_bytes": "peak of the process (MiB)",
            "step_bytes": "of it for the step (MiB)",
            "difference": "difference of the gradients' norms",
            **(_KERNELS if plan.on_gpu else {}),
        },
        plan.note(),
        **{**plan.looks, "optional": True},
    )


def _batch(plan: Plan) -> Section:
    rows = [plan.row(_items(n), measure_network, form="fast", batch=n) for n in (1, 2, 4)]
    columns = {"item_s": "first click, an item (s)", "peak_bytes": "peak of the process (MiB)"}
    return Section(f"batch: {_of(plan)}, float32", rows, columns, **plan.looks)


def _training_batch(plan: Plan) -> Section:
    form = plan.forms("recomputed", "recomputed bfloat16")[-1]
    sizes = (1, 2, 4, 8) if plan.on_gpu else (1, 2, 4)
    columns = {
        "per_second": "steps a second",
        "step_s": "step (s)",
        "item_s": "an item (s)",
        "peak_bytes": "peak of the process (MiB)",
        "step_bytes": "of it for the step (MiB)",
    }
    rows = [plan.row(_items(n), measure_training, form=form, batch=n) for n in sizes]
    return Section(f"training_batch: {_of(plan)}, {form}", rows, columns, **plan.looks)


def _crops(plan: Plan) -> Section:
    size = plan.size()
    sizes = list(range(_STEP, size["crop_size"] + 1, _STEP))[-4:] or [size["crop_size"]]
    rows = [plan.row(f"crop {n}", measure_network, form="fast", crop_size=n) for n in sizes]
    columns = {key: _FORWARD[key] for key in ("encoder_s", "first_click_s", "next_click_s", "peak_bytes")}
    return Section(f"crops: {size['variant']}, float32", rows, columns, **plan.looks)


def _clicks(plan: Plan) -> Section:
    rows = [plan.row(_items(n, "click"), measure_network, form="fast", clicks=n) for n in (1, 10, 100)]
    columns = {key: _FORWARD[key] for key in ("next_click_s", "peak_bytes")}
    return Section(f"clicks: {_of(plan)}, float32", rows, columns, **plan.looks)


def _clicked_scan(plan: Plan, title: str, bundle: str, options: dict[str, Any]) -> Section:
    shape = list(_QUICK_SCAN if plan.quick else _SCAN)
    more = {"options": options} if options else {}
    rows = [
        Row(ending, measure_click, {"form": ending, "bundle": str(find_bundle(bundle)), "shape": shape, **more})
        for ending in (".nii.gz", ".nii")
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
    return Section(title.format(size=size), rows, columns)


def _scan(plan: Plan) -> Section:
    title = "scan: one click on a CT of {size} voxels, file to file, the sarcoma bundle"
    section = _clicked_scan(plan, title, "soft_tissue_sarcoma_ct", {})
    if not plan.quick:
        first = section.rows[0]
        longer = {**first.arguments, "shape": list(_LONG_SCAN)}
        section.rows.append(replace(first, title=f"{first.title}, {_LONG_SCAN[2]} slices", arguments=longer))
    return section


def _scan_vit_b(plan: Plan) -> Section:
    crop_size = plan.crop_size or (_STEP if plan.quick else _FULL_CROP)
    title = (
        f"scan_vit_b: one click on a CT of {{size}} voxels, file to file, the kidney bundle, one crop of {crop_size}"
    )
    # the mask of random weights would grow into as many crops as are allowed
    options = {"crop_size": crop_size, "grow": False, "max_crops": 1}
    return _clicked_scan(plan, f"{title}, random weights unless it has some", "kidney_tumor_ct", options)


def _automatic(plan: Plan) -> Section:
    crop_size = plan.crop_size or (2 * _STEP if plan.quick else 2 * _FULL_CROP)
    height, width, longest = _QUICK_SCAN if plan.quick else _LONG_SCAN
    lengths = (longest,) if plan.quick else (longest // 2, longest)
    return Section(
        f"automatic: the sliding window alone, windows of {crop_size}, a stand-in for the network",
        [
            Row(
                f"{title}, {height} x {width} x {length}",
                measure_automatic,
                {"form": form, "shape": [length, height, width], "crop_size": crop_size},
            )
            for length in lengths
            for title, form in (("MONAI on the whole scan", "monai"), ("window by window", "fast"))
        ],
        {
            "infer_s": "inference (s)",
            "peak_bytes": "peak of the process (MiB)",
            "forward_bytes": "of it beside the scan (MiB)",
            "stated_bytes": "as stated (MiB)",
            "result_bytes": "of it the result (MiB)",
        },
        "MONAI's has two channels in float32 for the whole scan at the network's spacing, the other one in float16. "
        "The stated bytes are what `AutomaticInferer.working_bytes` says, and the result.",
        compare=False,
    )


def _data(plan: Plan) -> Section:
    shape = list(_QUICK_TRAINING_SCAN if plan.quick else _TRAINING_SCAN)
    common = {"bundle": str(find_bundle("soft_tissue_sarcoma_ct")), "shape": shape, "cases": _CASES}
    ways: tuple[tuple[str, str, int], ...] = (
        ("each time anew", "none", 0),
        ("in memory", "memory", 0),
        ("on disk", "disk", 0),
        ("each time anew, 2 workers", "none", 2),
        ("on disk, 2 workers", "disk", 2),
    )
    if plan.quick:
        common["epochs"] = 2
        ways = (*ways[:2], ways[-1])
    return Section(
        f"data: training of the sarcoma bundle on {_CASES} scans of {' x '.join(map(str, shape))} voxels",
        [Row(title, measure_loading, {"cache": cache, "num_workers": n, **common}) for title, cache, n in ways],
        {
            "prepare_s": "before the first step (s)",
            "first_epoch_s": "first epoch (s)",
            "first_share": "of it waiting",
            "later_epoch_s": "a later epoch (s)",
            "later_share": "of it waiting",
        },
        "The network is on the CPU, so that workers take processors from it. Without validation.",
    )


def _processes(plan: Plan) -> Section:
    size = plan.size(small=True)
    variants = ("vit_b",) if plan.quick else ("vit_b", size["variant"])
    reduced = {variant: tuned_values(variant, size["crop_size"]) for variant in variants}
    alone = [] if plan.quick else [Row("1 process, 1 item", measure_processes, {"processes": 1, "batch": 1, **size})]
    return Section(
        f"processes: a step of training, {size['variant']}, crop {size['crop_size']}, float32, gloo, one thread each",
        [
            Row("1 process, 2 items", measure_processes, {"processes": 1, "batch": 2, **size}),
            Row("2 processes, 1 item each", measure_processes, {"processes": 2, "batch": 1, **size}),
            *alone,
            *(
                Row(
                    f"2 processes, all-reduce of the {values:,} that {variant} tunes",
                    measure_all_reduce,
                    {"processes": 2, "values": values},
                )
                for variant, values in reduced.items()
            ),
        ],
        {
            "step_s": "step (s)",
            "difference": "difference of the gradients",
            "reduce_s": "all-reduce (s)",
            "reduced_bytes": "of (MiB)",
        },
        "Both processes are on this machine and share its memory.",
    )


def _communication(plan: Plan) -> Section:
    variant = plan.variant or "vit_b"
    values = tuned_values(variant, plan.crop_size or _FULL_CROP)
    cluster = Cluster()
    return Section(
        f"communication: a model of reducing the {values:,} gradients of {variant} in each step; nothing is measured",
        [
            Row(
                f"{count} GPUs, {step_s:g} s of computation",
                measure_communication,
                {"count": count, "values": values, "step_s": step_s},
            )
            for count in _GPUS
            for step_s in _STEP_SECONDS
        ],
        {
            "ring_s": "one ring (s)",
            "reduce_s": "by nodes (s)",
            "apart_share": "efficiency, after the backward pass",
            "overlap_share": "efficiency, within it",
        },
        f"Assumed: nodes of {cluster.node_size} GPUs; from GPU to GPU {cluster.inside_bandwidth / 1e9:g} GB/s and "
        f"{cluster.inside_latency * 1e6:g} us a message within a node, {cluster.between_bandwidth / 1e9:g} GB/s and "
        f"{cluster.between_latency * 1e6:g} us between nodes; float32 gradients; {cluster.backward_share:.0%} of the "
        f"computation is the backward pass; the last {BUCKET_BYTES / 2**20:g} MiB are never hidden. A ring sends "
        "2 (n - 1) / n of the bytes in 2 (n - 1) messages. No wait for the slowest GPU, and none for data. The "
        "published training reduces within the backward pass, that with corrections after it.",
        small=True,
        compare=False,
    )


def _gpu_memory(plan: Plan) -> Section:
    form = plan.forms("recomputed", "recomputed bfloat16")[-1]
    variant = plan.size()["variant"]
    total = torch.cuda.get_device_properties(plan.device).total_memory / 1e9
    limits = [limit for limit in _LIMITS_GB if limit <= total] or [int(total)]
    largest = _FULL_CROP if plan.quick else _LARGEST_CROP
    common = {"form": form, "variant": variant, "crop_sizes": list(range(2 * _STEP, largest + 1, _STEP))}
    without = " and ".join(str(limit) for limit in _LIMITS_GB if limit > total)
    note = (
        "The limit is that of torch's tensors; the driver takes some hundred MiB beside them. No crop larger than "
        f"{largest} is tried."
    )
    return Section(
        f"gpu_memory: the largest crop that trains, {variant}, {form}, one item",
        [
            Row(f"{limit} GB", measure_largest_crop, {**common, "limit_bytes": limit * 10**9, "device": plan.device})
            for limit in limits
        ],
        {"crop_voxels": "crop", "step_s": "step (s)", "peak_bytes": "peak of torch's tensors (MiB)"},
        f"{note} This GPU has {total:.1f} GB: no row for {without} GB." if without else note,
        compare=False,
        **plan.looks,
    )


_PLANS: dict[str, Callable[[Plan], Section]] = {
    "network": _network,
    "training": _training,
    "batch": _batch,
    "training_batch": _training_batch,
    "crops": _crops,
    "clicks": _clicks,
    "scan": _scan,
    "scan_vit_b": _scan_vit_b,
    "automatic": _automatic,
    "data": _data,
    "processes": _processes,
    "communication": _communication,
    "gpu_memory": _gpu_memory,
}
SECTIONS = tuple(_PLANS)
"""What can be measured."""
DEVICES = {
    "cpu": tuple(name for name in SECTIONS if name != "gpu_memory"),
    "cuda": ("network", "training", "batch", "training_batch", "crops", "clicks", "gpu_memory"),
}
"""Which of them, by device."""


def make_section(name: str, plan: Plan) -> Section:
    """A section that is yet to be run; `name` is one of `SECTIONS`."""
    return _PLANS[name](plan)
