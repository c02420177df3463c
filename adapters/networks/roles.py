"""What each parameter of a network is to its training: every module says it of its own.

A module's ``parameter_roles`` maps names of its own parameters and children to a role; what it does not name has the
role of the module around it. So a family and a method of tuning each bring their part of the rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from torch import nn

__all__ = ["Role", "count_parameters", "roles"]

Role = Literal["sam", "tuned", "depth", "new", "added", "ablation", "constant"]
"""What a parameter is.

- ``sam``: SAM's own, left as it is where the family trains as published.
- ``tuned``: SAM's own, trained.
- ``depth``: what SAM lacks because it is flat; it starts from SAM's values or from fixed ones.
- ``new``: what the family, or the method of tuning, brings. The role of all that no module gives another one.
- ``added``: what this library adds to the published network.
- ``ablation``: what the published network has in some of the paper's experiments only.
- ``constant``: never trained.
"""


def roles(module: nn.Module, role: Role = "new", prefix: str = "") -> Iterator[tuple[str, nn.Parameter, Role]]:
    """Name, parameter and role of all that `parameters` has, in its order.

    Args:
        module: a network, or a part of one.
        role: that of parameters which no module gives another one.
        prefix: goes before each name.
    """
    own: dict[str, Role] = getattr(module, "parameter_roles", {})
    for name, parameter in module.named_parameters(recurse=False):
        yield prefix + name, parameter, own.get(name, own.get("", role))
    for name, child in module.named_children():
        yield from roles(child, own.get(name, own.get("", role)), f"{prefix}{name}.")


def count_parameters(network: nn.Module, *, trainable_only: bool = True) -> dict[str, int]:
    """Number of values by part, and of what the published network lacks.

    Args:
        network: any network.
        trainable_only: whether frozen values are left out.

    Returns:
        A number for each of the network's children (``image_encoder``, ``prompt_head``, ``mask_decoder``), counting
        the published values, and ``added`` for the others, of roles "added" and "ablation".
    """
    counts = {name: 0 for name, _ in network.named_children()} | {"added": 0}
    for name, parameter, role in roles(network):
        if parameter.requires_grad or not trainable_only:
            counts["added" if role in ("added", "ablation") else name.split(".")[0]] += parameter.numel()
    return counts
