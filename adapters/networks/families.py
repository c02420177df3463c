"""What can be built, by name: a family is a folder and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from adapters.networks.promptable import PromptableNetwork

__all__ = ["FAMILIES", "Family", "build_described", "build_network", "get_family"]


@dataclass(frozen=True)
class Family:
    """A family of networks; its module is imported when it is needed.

    Attributes:
        about: one line on it.
        module: where it lives.
        network: its class in there, a `PromptableNetwork`. The rule of what is trained is its ``trains``.
        builder: what makes a network from the name of a backbone, and arguments; the class itself where there is no
            more to it.
    """

    about: str
    module: str
    network: str
    builder: str

    def network_class(self) -> type[PromptableNetwork]:
        """The class of its networks."""
        return getattr(import_module(self.module), self.network)

    def build(self, *args: Any, **arguments: Any) -> PromptableNetwork:
        """A network, by its builder."""
        return getattr(import_module(self.module), self.builder)(*args, **arguments)


FAMILIES: dict[str, Family] = {
    "samadapter3d": Family(
        "3DSAM-adapter: SAM's image encoder lifted to 3D; takes points and a mask",
        "adapters.networks.samadapter3d.network",
        "SAMAdapter3D",
        "build_sam_adapter3d",
    ),
    "click_channels": Family(
        "any segmentation network (the backbone), with clicks as further input channels or without",
        "adapters.networks.baselines.click_channels",
        "ClickChannelNetwork",
        "ClickChannelNetwork",
    ),
}


def get_family(name: str) -> Family:
    """Look a family up by name.

    Raises:
        ValueError: if no family has this name.
    """
    if name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}: expected one of {', '.join(FAMILIES)}.")
    return FAMILIES[name]


def build_network(family: str, *args: Any, **arguments: Any) -> PromptableNetwork:
    """A network by name.

    Args:
        family: key in `FAMILIES`.
        *args: the family's backbone (``tiny``, ``vit_b``, ``vit_l``, ``vit_h``), as a rule.
        **arguments: further arguments of the family's builder.

    Raises:
        ValueError: if no family has this name, or its builder refuses an argument.

    Example:
        >>> build_network("samadapter3d", "tiny", crop_size=32).spatial_dims
        3
    """
    return get_family(family).build(*args, **arguments)


def build_described(description: Mapping[str, Any]) -> PromptableNetwork:
    """The network of a description; its values are those of a fresh one.

    Args:
        description: as `adapters.networks.description`.

    Raises:
        ValueError: if its family is unknown, a part is not the family's own, or it has arguments that fit no part.
    """
    family = description["family"]
    if family not in FAMILIES:
        raise ValueError(
            f"the family {family!r} is unknown, expected one of {', '.join(FAMILIES)}: update monai-sam-adapters, or "
            "import the package that brings it."
        )
    network = FAMILIES[family].network_class()
    lacking = [name for name in network.parts if description["parts"].get(name) is None]
    if lacking:
        raise ValueError(
            f"it does not say how to make its {', '.join(lacking)}: build the network and pass it as network."
        )
    try:
        parts = {name: kind(**description["parts"][name]) for name, kind in network.parts.items()}
        return network(**parts, **description["arguments"])
    except TypeError as error:
        raise ValueError(
            f"a network cannot be made as it says ({error}): update monai-sam-adapters, or build the network and pass "
            "it as network."
        ) from error
