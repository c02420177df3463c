"""Checks and conversions of what inferers are given, shared between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_dst_type
from torch import nn

from adapters.prompts import check_affine, check_points


def as_sizes(size: int | Sequence[int], name: str) -> tuple[int, int, int]:
    """One positive number of voxels, or three, as (D, H, W).

    Raises:
        ValueError: it is something else.
    """
    sizes = tuple(size) if isinstance(size, Sequence) else (size,) * 3
    if len(sizes) != 3 or any(int(s) != s or s < 1 for s in sizes):
        raise ValueError(f"{name} is {size!r}: expected a positive number of voxels, or three (D, H, W)")
    return int(sizes[0]), int(sizes[1]), int(sizes[2])


def as_spacing(spacing: float | Sequence[float] | None) -> tuple[float, ...] | None:
    """One positive number of mm, or three, as (D, H, W); None stays None.

    Raises:
        ValueError: it is something else.
    """
    if spacing is None:
        return None
    values = tuple(spacing) if isinstance(spacing, Sequence) else (spacing,) * 3
    if len(values) != 3 or not all(np.isfinite(v) and v > 0 for v in values):
        raise ValueError(f"spacing is {spacing!r}: expected a positive number of mm, three (D, H, W), or None")
    return tuple(float(v) for v in values)


def check_scan(inputs: torch.Tensor) -> torch.Tensor:
    """The inputs as a plain float32 tensor (B, 1, D, H, W).

    Raises:
        ValueError: they have another shape.
    """
    if inputs.ndim != 5 or inputs.shape[1] != 1 or inputs.numel() == 0:
        raise ValueError(
            f"inputs have shape {tuple(inputs.shape)}: expected (B, 1, D, H, W), one channel on a 3D grid; "
            "add the batch and channel axes, or take one channel of a multi-channel image"
        )
    return plain(inputs).float()


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor without MONAI's meta data."""
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def item_affines(inputs: torch.Tensor) -> list[np.ndarray]:
    """The affine (4, 4), voxels to mm, of every item of a batch; the identity for plain tensors.

    Raises:
        ValueError: an affine is singular, or there is not one for each item.
    """
    if not isinstance(inputs, MetaTensor):
        return [np.eye(4)] * len(inputs)
    affine = np.asarray(inputs.affine.cpu(), dtype=float)
    affines = [affine] * len(inputs) if affine.ndim == 2 else list(affine)
    if len(affines) != len(inputs):
        raise ValueError(f"inputs of {len(inputs)} items have {len(affines)} affines: expected one, or one for each")
    return [check_affine(a, name="the image's affine") for a in affines]


def item_clicks(inputs: torch.Tensor, clicks: Any, labels: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Points (N, 3) in voxels of the inputs' grid and labels (N,) 1 or 0 of every item, padding dropped.

    Args:
        inputs: (B, 1, D, H, W).
        clicks: (B, N, 3); for one item (N, 3) too. None: ``inputs.meta["clicks"]`` if it is there.
        labels: (B, N) or (N,). None: ``inputs.meta["click_labels"]`` if the clicks come from there, else all 1.

    Raises:
        ValueError: wrong shape, length or label, a click that is not finite or lies outside the image.
    """
    batch = len(inputs)
    if clicks is None:
        if labels is not None and np.size(_numpy(labels)):
            raise ValueError(f"{np.size(_numpy(labels))} click labels were given without clicks: give both or neither")
        meta = inputs.meta if isinstance(inputs, MetaTensor) else {}
        clicks, labels = meta.get("clicks"), meta.get("click_labels")
    if clicks is None:
        return [(np.zeros((0, 3)), np.zeros(0, dtype=np.int64))] * batch
    points = _numpy(clicks)
    points = points[None] if points.ndim < 3 else points
    marks = None if labels is None else _numpy(labels)
    marks = marks[None] if marks is not None and marks.ndim < 2 else marks
    for name, values in (("clicks", points), ("click labels", marks)):
        if values is not None and len(values) != batch:
            raise ValueError(f"{name} are for {len(values)} items, the inputs have {batch}: expected one row for each")
    result = []
    for item in range(batch):
        xyz, label = check_points(points[item], None if marks is None else marks[item])
        xyz, label = xyz[label >= 0], label[label >= 0]
        size = np.asarray(inputs.shape[2:])
        outside = np.any((xyz < -0.5) | (xyz > size - 0.5), axis=1)
        if outside.any():
            raise ValueError(
                f"click {xyz[outside][0].tolist()} lies outside the image of {tuple(size.tolist())} voxels: "
                "clicks are voxel indices of the inferer's inputs, in the order of the tensor's axes"
            )
        result.append((xyz, label))
    return result


def network_device(network: Any, scan: torch.Tensor) -> torch.device:
    """Where the network's weights lie; the scan's device if it has none."""
    weights = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return scan.device if weights is None else weights.device


def like_inputs(logits: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Logits on the inputs' device, as a MetaTensor with their meta data if they are one (so that Invertd works)."""
    if not isinstance(inputs, MetaTensor):
        return logits.to(inputs.device)
    meta = MetaTensor([]).copy_meta_from(inputs, copy_attr=False)
    return convert_to_dst_type(logits, meta, dtype=logits.dtype, device=inputs.device)[0]


def half_precision(log_odds: torch.Tensor) -> torch.Tensor:
    """A copy in float16, all finite: infinite ones would spoil their neighbours where they are resampled."""
    limit = torch.finfo(torch.float16).max
    return log_odds.clamp(-limit, limit).half()


def _numpy(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
