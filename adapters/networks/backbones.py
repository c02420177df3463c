"""SAM's image encoders by name: the sizes of Segment Anything, and a small one for CPUs and tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["BACKBONES", "Backbone", "get_backbone", "name_of_sizes"]

CUSTOM = "custom"  # the name of all sizes that are in no row of the table


@dataclass(frozen=True)
class Backbone:
    """Sizes of one of SAM's image encoders.

    Attributes:
        name: key in `BACKBONES`.
        embed_dim: width of the tokens.
        depth: number of transformer blocks.
        num_heads: attention heads.
        global_blocks: indices of the blocks that attend globally in SAM.
        table_size: side of SAM's position table, in patches (64 for its 1024-pixel images).
        sam_window: side of SAM's 2D windows, in patches; it fixes the length of the relative-position tables.
    """

    name: str
    embed_dim: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]
    table_size: int = 64
    sam_window: int = 14

    @property
    def sizes(self) -> dict[str, Any]:
        """All but the name, as arguments of an image encoder."""
        return {key: value for key, value in asdict(self).items() if key != "name"}


BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone("tiny", embed_dim=96, depth=8, num_heads=3, global_blocks=(), table_size=32, sam_window=8),
        Backbone("vit_b", embed_dim=768, depth=12, num_heads=12, global_blocks=(2, 5, 8, 11)),
        Backbone("vit_l", embed_dim=1024, depth=24, num_heads=16, global_blocks=(5, 11, 17, 23)),
        Backbone("vit_h", embed_dim=1280, depth=32, num_heads=16, global_blocks=(7, 15, 23, 31)),
    )
}


def get_backbone(name: str | Backbone) -> Backbone:
    """Look a backbone up by name; a `Backbone` is handed back as it is.

    Raises:
        ValueError: if no backbone has this name.
    """
    if isinstance(name, Backbone):
        return name
    if name not in BACKBONES:
        raise ValueError(f"unknown variant {name!r}: expected one of {', '.join(BACKBONES)}.")
    return BACKBONES[name]


def name_of_sizes(sizes: Mapping[str, Any]) -> str:
    """Name of the backbone with the sizes of an image encoder, or "custom"; other entries do not count."""
    own = {
        field.name: tuple(value) if isinstance(value := sizes.get(field.name), list) else value
        for field in fields(Backbone)
        if field.name != "name"
    }
    return next((backbone.name for backbone in BACKBONES.values() if backbone.sizes == own), CUSTOM)
