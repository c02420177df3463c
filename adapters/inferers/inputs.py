"""Checks and conversions of what inferers are given, shared between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.utils import convert_to_dst_type
from torch import nn

from adapters.prompts import Prompts, check_affine
from adapters.prompts.voxels import voxels_under

_AXES = {2: "(H, W)", 3: "(D, H, W)"}


def as_sizes(size: int | Sequence[int], name: str, spatial_dims: int = 3) -> tuple[int, ...]:
    """One positive number of voxels, or one for each axis, as a tuple in the order of the tensor's axes.

    Raises:
        ValueError: it is something else.
    """
    sizes = tuple(size) if isinstance(size, Sequence) else (size,) * spatial_dims
    if len(sizes) != spatial_dims or any(int(s) != s or s < 1 for s in sizes):
        raise ValueError(
            f"{name} is {size!r}: expected a positive number of voxels, or {spatial_dims} {_AXES[spatial_dims]}"
        )
    return tuple(int(s) for s in sizes)


def as_spacing(spacing: float | Sequence[float] | None, spatial_dims: int = 3) -> tuple[float, ...] | None:
    """One positive number of mm, or one for each axis, in the order of the tensor's axes; None stays None.

    Raises:
        ValueError: it is something else.
    """
    if spacing is None:
        return None
    values = tuple(spacing) if isinstance(spacing, Sequence) else (spacing,) * spatial_dims
    if len(values) != spatial_dims or not all(np.isfinite(v) and v > 0 for v in values):
        raise ValueError(
            f"spacing is {spacing!r}: expected a positive number of mm, {spatial_dims} {_AXES[spatial_dims]}, or None"
        )
    return tuple(float(v) for v in values)


def check_scan(inputs: torch.Tensor, spatial_dims: int = 3, channels: int = 1) -> torch.Tensor:
    """The inputs as a plain float32 tensor (B, C, D, H, W), or (B, C, H, W).

    Raises:
        ValueError: they have another number of axes or channels, or no voxel.
    """
    if inputs.ndim != spatial_dims + 2 or inputs.shape[1] != channels or inputs.numel() == 0:
        axes = _AXES[spatial_dims][1:-1]
        raise ValueError(
            f"inputs have shape {tuple(inputs.shape)}: expected (B, {channels}, {axes}), {channels} "
            f"channel{'s' * (channels > 1)} on a {spatial_dims}D grid; add the batch and channel axes, or choose "
            "channels of a multi-channel image"
        )
    return plain(inputs).float()


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor without MONAI's meta data."""
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def item_affines(inputs: torch.Tensor) -> list[np.ndarray]:
    """The affine (n + 1, n + 1), voxels to mm, of every item of a batch; the identity for plain tensors.

    Raises:
        ValueError: an affine is singular, or there is not one for each item.
    """
    axes = inputs.ndim - 2
    if not isinstance(inputs, MetaTensor):
        return [np.eye(axes + 1)] * len(inputs)
    affine = np.asarray(inputs.affine.cpu(), dtype=float)
    affines = [affine] * len(inputs) if affine.ndim == 2 else list(affine)
    if len(affines) != len(inputs):
        raise ValueError(f"inputs of {len(inputs)} items have {len(affines)} affines: expected one, or one for each")
    # MONAI gives an image of two axes the affine of three
    return [check_affine(to_affine_nd(axes, a), name="the image's affine", spatial_dims=axes) for a in affines]


def item_meta(inputs: torch.Tensor, key: str) -> list[Any]:
    """What stands under a key of the metadata for each item of a batch; None where nothing stands.

    Loaders collate text to a list, so what is read here is written as text.

    Raises:
        ValueError: there is not one entry for each item.
    """
    meta = inputs.meta if isinstance(inputs, MetaTensor) else {}
    entry = meta.get(key) if isinstance(meta, dict) else None
    entries = list(entry) if isinstance(entry, (list, tuple)) else [entry] * len(inputs)
    if len(entries) != len(inputs):
        raise ValueError(f"{key!r} of the metadata is for {len(entries)} items, the inputs have {len(inputs)}")
    return entries


def item_prompts(
    inputs: torch.Tensor, affines: Sequence[np.ndarray], prompts: Prompts | Sequence[Prompts] | None
) -> list[Prompts]:
    """The prompts of every item in voxels of the inputs' grid (frame ``image``), padding dropped.

    Args:
        inputs: (B, C, ...).
        affines: of each item.
        prompts: of each item, in frame ``image`` or ``world``; of a batch of one, not in a list too. None: those that
            stand in ``inputs.meta["prompts"]`` (`adapters.transforms.RequestToClicksd`), if any.

    Raises:
        ValueError: not one for each item, another frame, or a prompt outside its image.
    """
    if prompts is None:
        given = [Prompts() if each is None else Prompts.from_json(each) for each in item_meta(inputs, "prompts")]
    else:
        given = [prompts] if isinstance(prompts, Prompts) else list(prompts)
    if len(given) != len(inputs):
        raise ValueError(f"prompts are for {len(given)} items, the inputs have {len(inputs)}: expected one for each")
    return [_on_grid(each, affine, inputs.shape[2:]) for each, affine in zip(given, affines, strict=True)]


def clicked_voxels(inputs: torch.Tensor, prompts: Sequence[Prompts], *, in_meta: bool) -> list[np.ndarray]:
    """The centre of the voxel that each click lies in: (N, n) for every item, in voxels of the inputs' grid.

    The voxels are those of the image as stored where they stand in ``inputs.meta["clicked"]``
    (`adapters.transforms.RequestToClicksd`), else the inputs' own.

    Args:
        inputs: (B, C, ...).
        prompts: of each item, on the inputs' grid.
        in_meta: whether the prompts were read from the metadata.
    """
    texts = item_meta(inputs, "clicked") if in_meta else [None] * len(inputs)
    centres = [None if text is None else json.loads(text) for text in texts]
    return [
        np.asarray(voxels_under(each.points, inputs.shape[2:]) if stored is None else stored, dtype=float).reshape(
            each.points.shape
        )
        for each, stored in zip(prompts, centres, strict=True)
    ]


def _on_grid(prompts: Prompts, affine: np.ndarray, size: Sequence[int]) -> Prompts:
    """Prompts in voxels of a grid; those in voxels of no known affine are taken to be on it."""
    if not isinstance(prompts, Prompts):
        raise ValueError(f"prompts are {prompts!r:.80}, expected adapters.prompts.Prompts")
    prompts = prompts.without_padding()
    if prompts.frame != "world":
        prompts.expect("image")
        if prompts.affine is None or np.allclose(prompts.affine, affine):
            return replace(prompts, affine=affine, shape=tuple(size))
    return prompts.to_voxel(affine, shape=size, frame="image")


def network_device(network: Any, scan: torch.Tensor) -> torch.device:
    """Where the network's weights lie; the scan's device if it has none."""
    weights = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return scan.device if weights is None else weights.device


def like_inputs(values: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Values on the inputs' device, as a MetaTensor with their meta data if they are one (so that Invertd works)."""
    if not isinstance(inputs, MetaTensor):
        return values.to(inputs.device)
    meta = MetaTensor([]).copy_meta_from(inputs, copy_attr=False)
    return convert_to_dst_type(values, meta, dtype=values.dtype, device=inputs.device)[0]


def half_precision(log_odds: torch.Tensor) -> torch.Tensor:
    """A copy in float16, all finite: infinite ones would spoil their neighbours where they are resampled."""
    limit = torch.finfo(torch.float16).max
    return log_odds.clamp(-limit, limit).half()
