"""Sizes of a `SAMAdapter3D`: SAM's backbone, and those of what 3DSAM-adapter puts on it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from adapters.networks.backbones import Backbone, get_backbone

__all__ = ["LEVELS", "Sizes", "get_sizes"]

LEVELS = 4  # as published


@dataclass(frozen=True)
class Sizes:
    """Sizes that define one network of the family; the defaults are those published for ViT-B.

    Attributes:
        backbone: SAM's image encoder. Its depth is a multiple of ``levels`` (a neck follows each equal part of the
            blocks); its global blocks attend in windows like all others, with longer relative-position tables.
        window_size: side of the cubic attention windows, in tokens.
        levels: feature levels. Fewer, with less depth, cost less time.
        out_channels: channels of the feature levels, and the width of the prompt head.
        prompt_heads: attention heads of the prompt head.
        prompt_mlp_dim: hidden width of the prompt head's MLP.
        head_channels: channels inside the mask decoder.
        correction_channels: width of the correction prompt.
    """

    backbone: Backbone
    window_size: int = 8
    levels: int = LEVELS
    out_channels: int = 256
    prompt_heads: int = 8
    prompt_mlp_dim: int = 2048
    head_channels: int = 128
    correction_channels: int = 16


def get_sizes(variant: str | Backbone | Sizes) -> Sizes:
    """The sizes that a name stands for.

    Args:
        variant: name in `adapters.networks.BACKBONES`, a `Backbone`, or `Sizes`, which are handed back as they are.

    Raises:
        ValueError: if no backbone has this name.
    """
    if isinstance(variant, Sizes):
        return variant
    sizes = Sizes(get_backbone(variant))
    if sizes.backbone.name == "tiny":
        return replace(sizes, window_size=4, out_channels=48, prompt_mlp_dim=192, head_channels=24)
    return sizes
