"""Parameter-efficient tuning: what sits in the slots of a block, by name."""

from __future__ import annotations

from typing import Any

from adapters.networks.tuning.block import BlockPlace, BlockTuning
from adapters.networks.tuning.spatial import SpatialAdapter

__all__ = ["TUNING", "BlockPlace", "BlockTuning", "SpatialAdapter", "build_tuning"]

TUNING: dict[str, type[BlockTuning]] = {"none": BlockTuning, "spatial": SpatialAdapter}
"""Methods by name; "none" leaves all slots empty, as full fine-tuning does."""


def build_tuning(method: str, place: BlockPlace, **arguments: Any) -> BlockTuning:
    """A method for one block.

    Args:
        method: key in `TUNING`.
        place: the block.
        **arguments: the method's own.

    Raises:
        ValueError: if no method has this name.
    """
    if method not in TUNING:
        raise ValueError(f"tuning={method!r}: expected one of {', '.join(TUNING)}.")
    return TUNING[method](place, **arguments)
