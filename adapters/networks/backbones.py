"""Variants of the network by name: the sizes of Segment Anything, and a small one for CPUs and tests."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["VARIANTS", "Variant", "get_variant"]


@dataclass(frozen=True)
class Variant:
    """Sizes that define one network of the family.

    Attributes:
        name: key in `VARIANTS`.
        embed_dim: width of the image encoder's tokens.
        depth: number of transformer blocks, a multiple of ``levels`` (a neck follows each equal part of them).
        num_heads: attention heads of the image encoder.
        global_blocks: indices of the blocks that attend globally in SAM. In 3D they attend in windows like
            all others; only the length of their relative-position tables differs.
        table_size: side of SAM's position table, in patches (64 for its 1024-pixel images).
        sam_window: side of SAM's 2D windows, in patches; it fixes the length of the relative-position tables.
        window_size: side of the cubic attention windows, in tokens.
        levels: feature levels, published as 4. Fewer, with less depth, cost less time.
        out_channels: channels of the feature levels, and the width of the prompt head.
        prompt_heads: attention heads of the prompt head.
        prompt_mlp_dim: hidden width of the prompt head's MLP.
        head_channels: channels inside the mask decoder.
        correction_channels: width of the correction prompt.
    """

    name: str
    embed_dim: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]
    table_size: int = 64
    sam_window: int = 14
    window_size: int = 8
    levels: int = 4
    out_channels: int = 256
    prompt_heads: int = 8
    prompt_mlp_dim: int = 2048
    head_channels: int = 128
    correction_channels: int = 16


VARIANTS: dict[str, Variant] = {
    v.name: v
    for v in (
        Variant(
            "tiny",
            embed_dim=96,
            depth=8,
            num_heads=3,
            global_blocks=(),
            table_size=32,
            sam_window=8,
            window_size=4,
            out_channels=48,
            prompt_mlp_dim=192,
            head_channels=24,
        ),
        Variant("vit_b", embed_dim=768, depth=12, num_heads=12, global_blocks=(2, 5, 8, 11)),
        Variant("vit_l", embed_dim=1024, depth=24, num_heads=16, global_blocks=(5, 11, 17, 23)),
        Variant("vit_h", embed_dim=1280, depth=32, num_heads=16, global_blocks=(7, 15, 23, 31)),
    )
}


def get_variant(name: str | Variant) -> Variant:
    """Look a variant up by name; a `Variant` is handed back as it is.

    Raises:
        ValueError: if no variant has this name.
    """
    if isinstance(name, Variant):
        return name
    if name not in VARIANTS:
        raise ValueError(f"unknown variant {name!r}: expected one of {', '.join(VARIANTS)}.")
    return VARIANTS[name]
