"""What the files of versions 0.1 say of a `SAMAdapter3D`, in today's terms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from adapters.networks.backbones import name_of_sizes
from adapters.networks.samadapter3d.sizes import LEVELS

__all__ = ["upgraded"]

_QUERIES = "prompt_head.layers.0.global_query"
_LAYER = re.compile(r"prompt_head\.layers\.(\d+)\.")
_SHALLOWER = re.compile(r"prompt_head\.shallower\.(\d+)\.")


def upgraded(identity: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The description of a network whose file holds an identity of version 1.

    Args:
        identity: has ``sizes``, ``crop_size``, ``enlargement`` and ``correction``, or, where a part of the network was
            not the library's, none of them.
        tensors: the file's; queries, layers and levels of the prompt head stand in no identity.
    """
    described = {"format_version": identity["format_version"], "family": "samadapter3d", "arguments": {}}
    if "sizes" not in identity:
        parts = dict.fromkeys(("image_encoder", "prompt_head", "mask_decoder"))
        return {**described, "backbone": None, "parts": parts}
    sizes = {"levels": LEVELS, **identity["sizes"]}
    encoder = {
        name: sizes[name]
        for name in (
            "embed_dim", "depth", "num_heads", "global_blocks", "table_size", "sam_window", "out_channels",
            "window_size", "levels",
        )
    }  # fmt: skip
    encoder |= {"crop_size": identity["crop_size"], "enlargement": identity["enlargement"], "tuning": "spatial"}
    head = {"dim": sizes["out_channels"], "num_heads": sizes["prompt_heads"], "mlp_dim": sizes["prompt_mlp_dim"]}
    if _QUERIES in tensors:  # else it is a part of a network, loaded non-strictly
        head["num_queries"] = tensors[_QUERIES].shape[1]
        head["num_layers"] = 1 + max(int(match[1]) for name in tensors if (match := _LAYER.match(name)))
        shallower = {int(match[1]) for name in tensors if (match := _SHALLOWER.match(name))}
        head["prompt_levels"] = [*sorted(shallower), 4]
    decoder = {"in_channels": sizes["out_channels"], "channels": sizes["head_channels"], "levels": sizes["levels"]}
    decoder["correction"] = identity["correction"]
    if identity["correction"]:
        decoder["correction_channels"] = sizes["correction_channels"]
    parts = {"image_encoder": encoder, "prompt_head": head, "mask_decoder": decoder}
    return {**described, "backbone": name_of_sizes(encoder), "parts": parts}
