"""One step of training, and the largest crop whose step a GPU of a given memory can take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.networks import SAMAdapter3D, set_trainable
from tests.benchmarks.common import attention_kernels, in_fresh_process, make_image, make_network, memory, timed
from tests.reference import literal

__all__ = ["measure_largest_crop", "measure_training", "training_data", "training_network", "training_step"]

_CLICKS = 10


def training_network(form: str, variant: str, crop_size: int, device: str = "cpu") -> SAMAdapter3D:
    """The network as published, with what the publication tunes; `measure_training` says what `form` is."""
    recompute = form.startswith("recomputed")
    options = {"image_encoder": {"recompute": recompute}, "mask_decoder": {"correction": False}}
    network = make_network(variant, crop_size, **options)
    return set_trainable(network, "published", added=False).train().to(device)


def training_data(crop_size: int, batch: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image and mask (B, 1, D, H, W), clicks (B, N, 3) and their labels (B, N), the same in every process."""
    image = make_image(crop_size, batch)
    points, labels = torch.full((batch, _CLICKS, 3), crop_size / 2), torch.ones(batch, _CLICKS, dtype=torch.long)
    return image.to(device), (image > 1).float().to(device), points.to(device), labels.to(device)


def training_step(
    form: str,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    data: tuple[Tensor, Tensor, Tensor, Tensor],
) -> Callable[[], None]:
    """A step: forward, backward, AdamW. The gradients stay until the next one."""
    image, target, points, labels = data

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(image.device.type, torch.bfloat16, enabled=form.endswith(("bfloat16", "compiled"))):
            if form == "literal":
                logits = literal.literal_forward(network, image, points, labels)
            else:
                logits = network(image, points, labels)
        loss = F.binary_cross_entropy_with_logits((logits[:, 1:] - logits[:, :1]).float(), target)
        loss.backward()
        optimiser.step()

    return step


def _optimiser(network: nn.Module, lr: float = 4e-4) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=lr)


def measure_training(
    form: str,
    variant: str,
    crop_size: int,
    batch: int = 1,
    device: str = "cpu",
    *,
    kernels: bool = False,
) -> dict[str, Any]:
    """One step of training as published: forward, backward, AdamW.

    Args:
        form: "literal" is that of the tests, "kept" the library's, "recomputed" the library's with activations
            computed again block by block, "recomputed bfloat16" the same under autocast, "recomputed compiled" that
            with torch.compile.
        variant: name of a variant.
        crop_size: side of the crop, in voxels.
        batch: items of the batch.
        device: "cpu" or "cuda".
        kernels: whether to name the back ends of the attention, for which a step runs once more.

    Returns:
        ``step_s``, ``peak_bytes`` and ``baseline_bytes`` of the process (of the GPU's tensors), and ``gradient``: norms
        of the first step's gradients of the encoder, the prompt head and the decoder; with ``kernels`` also
        ``attention``.
    """
    network = training_network(form, variant, crop_size, device)
    optimiser = _optimiser(network)
    step = training_step(form, network, optimiser, training_data(crop_size, batch, device))
    compiled = form.endswith("compiled")
    if compiled:
        network.compile()
    baseline, _ = memory(device)
    warm = compiled or device != "cpu"
    if warm:
        step()
        norms = _norms(network)
    step_s, _ = timed(step, device)
    if not warm:
        norms = _norms(network)
    _, peak = memory(device)
    named = {"attention": attention_kernels(step, device)} if kernels else {}
    return {"step_s": step_s, "baseline_bytes": baseline, "peak_bytes": peak, "gradient": norms, **named}


def _norms(network: nn.Module) -> dict[str, float]:
    norms = {}
    for part in ("image_encoder", "prompt_head", "mask_decoder"):
        gradients = [p.grad for p in network.get_submodule(part).parameters() if p.grad is not None]
        norms[part] = float(torch.stack([g.double().norm() for g in gradients]).norm())
    return norms


def measure_largest_crop(
    form: str,
    variant: str,
    limit_bytes: int,
    crop_sizes: Sequence[int],
    device: str = "cuda",
) -> dict[str, Any]:
    """The largest crop that trains within a memory, the sizes tried in turn, each in a process of its own.

    Args:
        form: of the training, as `measure_training`.
        variant: name of a variant.
        limit_bytes: the memory. On "cuda" torch's allocator gets no more than that in the trial's process; on "cpu",
            where nothing limits it, the peak of the process is compared with it.
        crop_sizes: sides of crops in voxels, ascending; the first that does not fit ends the trials.
        device: "cpu" or "cuda".

    Returns:
        ``crop_voxels``, the side of the largest crop that fits (0: none), and ``step_s`` and ``peak_bytes`` of its
        trial, where there is one.
    """
    largest: dict[str, Any] = {"crop_voxels": 0}
    for crop_size in crop_sizes:
        size = {"variant": variant, "crop_size": crop_size, "device": device}
        trial = in_fresh_process(_trial, {"form": form, "limit_bytes": limit_bytes, **size})
        if trial is None:
            break
        largest = {"crop_voxels": crop_size, **trial}
    return largest


def _trial(form: str, variant: str, crop_size: int, limit_bytes: int, device: str) -> dict[str, Any] | None:
    """A step's time and peak; None if the memory is too small for it."""
    if device != "cpu":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total))
    try:
        measured = measure_training(form, variant, crop_size, device=device)
    except RuntimeError as err:
        if isinstance(err, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(err):  # the latter is said by cuBLAS
            return None
        raise
    if measured["peak_bytes"] > limit_bytes:
        return None
    return {key: measured[key] for key in ("step_s", "peak_bytes")}
