"""The authors' checkpoints of 3DSAM-adapter (`best.pth.tar`, `last.pth.tar`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["published_to_ours"]

_BLOCK = {"adapter.linear1": "adapter.down", "adapter.linear2": "adapter.up", "attn.lr": "attn.rel_pos_gain"}
_NECK = {"0": "reduce", "1": "norm1", "2": "conv", "3": "norm2"}
_BRANCH = {"0": "conv1", "3": "conv2"}


def _to_dhw(weight: Tensor) -> Tensor:
    """A kernel stored height, width, depth, as depth, height, width."""
    return weight.permute(0, 1, 4, 2, 3).contiguous()


def published_to_ours(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename and reorder the tensors of a published checkpoint.

    Args:
        checkpoint: has ``encoder_dict``, ``feature_dict`` (a list of prompt heads of which the last is used) and
            ``decoder_dict``.

    Returns:
        State dict of a `SAMAdapter3D` without the parts that this library adds.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in checkpoint["encoder_dict"].items():
        if name.endswith("attn_mask"):
            continue  # a buffer that follows from the shapes
        if tensor.ndim == 5 and tensor.shape[-1] == 3:
            tensor = _to_dhw(tensor)
        key = "image_encoder." + name
        if name.startswith("neck_3d."):
            _, level, part, leaf = name.split(".")
            key = f"image_encoder.necks.{level}.{_NECK[part]}.{leaf}"
            if part == "0":
                tensor = tensor[:, :, 0, 0, 0]
        elif name.startswith("patch_embed.proj."):
            key = key.replace("patch_embed.proj.", "patch_embed.plane.")
        elif name.startswith("slice_embed."):
            key = "image_encoder.patch_embed.depth_" + name.split(".")[1]
            tensor = tensor.flatten(1) if tensor.ndim > 1 else tensor
        for old, new in _BLOCK.items():
            key = key.replace(old, new)
        ours[key] = tensor
    for name, tensor in checkpoint["feature_dict"][-1].items():
        if name != "positional_encoding_gaussian_matrix":  # sampled, never used
            ours["prompt_head." + name.removeprefix("transformer.")] = tensor
    for name, tensor in checkpoint["decoder_dict"].items():
        if found := re.fullmatch(r"mlahead\.head([2-5])\.([03])\.weight", name):
            key = f"branches.{int(found[1]) - 2}.{_BRANCH[found[2]]}.weight"
        else:
            key = {"cls.0.weight": "fuse.weight", "cls.3.weight": "classify.weight"}[name]
        ours["mask_decoder." + key] = _to_dhw(tensor)
    return ours
