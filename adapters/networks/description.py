"""What a network is: written into every state dict of it, and checked whenever one is loaded.

A description is a dictionary of JSON: ``format_version``, ``family``, ``backbone`` (SAM's image encoder by name, or
"custom"; None where there is none), ``arguments`` (the network's own) and ``parts`` (by name the arguments of each
part; None for one that is not the family's). It stands in the metadata that PyTorch keeps beside the tensors of a state
dict, so the dictionary itself stays plain: names and tensors only.
"""

from __future__ import annotations

import json
import logging
import operator
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from adapters.networks.arguments import KeepsArguments
from adapters.networks.backbones import CUSTOM, name_of_sizes

__all__ = [
    "FORMAT_VERSION",
    "METADATA_KEY",
    "check_description",
    "check_finite",
    "describe",
    "describe_network",
    "mark_untrained",
    "read_description",
    "stored_description",
]

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
"""Goes up when a part gets another argument; `read_description` then says what it is in older files."""
METADATA_KEY = "monai_sam_adapters"
_VERSION_1_KEY = "sam_adapter3d"
_UNTRAINED_KEY = "untrained"
_SHOWN = 5  # names of a wrong state dict in the message


def describe_network(network: nn.Module) -> dict[str, Any]:
    """The description of a `PromptableNetwork`."""
    parts: dict[str, Any] = {}
    for name, kind in network.parts.items():  # type: ignore[union-attr, operator]
        part = getattr(network, name)
        parts[name] = part.stored_arguments() if type(part) is kind and isinstance(part, KeepsArguments) else None
    encoder = parts.get("image_encoder")
    described = {
        "format_version": FORMAT_VERSION,
        "family": network.family,
        "backbone": name_of_sizes(encoder) if encoder else None,
        "arguments": network.stored_arguments(),  # type: ignore[operator]
        "parts": parts,
    }
    return json.loads(json.dumps(described))


def describe(description: Mapping[str, Any]) -> str:
    """A description in a few words: the backbone's name, with its sizes if it has no name of its own."""
    encoder = description["parts"].get("image_encoder")
    if description["backbone"] != CUSTOM or not encoder:
        return str(description["backbone"] or description["family"])
    return f"{CUSTOM} (width {encoder['embed_dim']}, {encoder['depth']} blocks, {encoder['num_heads']} heads)"


def check_description(stored: Mapping[str, Any], network: nn.Module, *, source: str = "the state dict") -> None:
    """Compare the description that came with weights with the network they are meant for.

    Args:
        stored: the weights' description; what it does not name is not compared.
        network: a `PromptableNetwork`.
        source: what the weights came from, for the message.

    Raises:
        ValueError: if family, backbone or an argument differ.
    """
    own = describe_network(network)
    if stored["family"] != own["family"]:
        raise ValueError(
            f"{source} holds weights of a network of the family {stored['family']}, but the network is of the family "
            f"{own['family']}: build the network by adapters.networks.build_network({stored['family']!r}), or take "
            "other weights."
        )
    if None not in (stored["backbone"], own["backbone"]) and describe(stored) != describe(own):
        raise ValueError(
            f"{source} holds weights of variant {describe(stored)}, but the network is of variant {describe(own)}: "
            f"build the network as {describe(stored)}, or take weights of {describe(own)}."
        )
    pairs = {"": (stored["arguments"], own["arguments"])}
    pairs |= {f"{name}.": (arguments, own["parts"].get(name)) for name, arguments in stored["parts"].items()}
    differing = {
        prefix + name: (value, (ours or {}).get(name))
        for prefix, (theirs, ours) in pairs.items()
        if theirs is not None and ours is not None  # shapes are compared when the tensors are
        for name, value in theirs.items()
        if name not in ours or ours[name] != value
    }
    if differing:
        made = ", ".join(f"{name}={value}" for name, (value, _) in differing.items())
        built = ", ".join(f"{name}={value}" for name, (_, value) in differing.items())
        raise ValueError(f"{source} was made with {made}, but the network has {built}: build the network with {made}.")


def read_description(
    metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], *, source: str = "the state dict"
) -> dict[str, Any] | None:
    """The description in the metadata of a weight file or a state dict; None if there is none.

    Args:
        metadata: what stands beside the tensors.
        tensors: the tensors by name; what files of version 1 do not say is read off them.
        source: what it came from, for the message.

    Raises:
        ValueError: if it is of a later format, or no description.
    """
    key = METADATA_KEY if METADATA_KEY in metadata else _VERSION_1_KEY
    if metadata.get(key) is None:
        return None
    try:
        stored = json.loads(metadata[key]) if key == METADATA_KEY else metadata[key]
        version = operator.index(stored["format_version"])
        if version > FORMAT_VERSION:
            raise ValueError(
                f"{source} has format version {version}, this library reads up to {FORMAT_VERSION}: update "
                "monai-sam-adapters."
            )
        if key == _VERSION_1_KEY:
            from adapters.networks.samadapter3d.version_1 import upgraded

            return upgraded(stored, tensors)
        parts = [arguments for arguments in stored["parts"].values() if arguments is not None]
        if not all(isinstance(each, dict) for each in (stored["arguments"], *parts)):
            raise TypeError("arguments that are no dictionary")
        if not isinstance(stored["family"], str) or not isinstance(stored["backbone"], (str, type(None))):
            raise TypeError("a name that is no text")
        described = {key: stored[key] for key in ("format_version", "family", "backbone", "arguments", "parts")}
        describe(described)
        return described
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{source} says in its metadata what network it is of, but not in a form that this library knows "
            f"({type(error).__name__}: {error}): take the file as it was written."
        ) from error


def stored_description(state: Mapping[str, Tensor], source: str = "the state dict") -> dict[str, Any] | None:
    """The description that a whole state dict carries; None for a dictionary that was built anew.

    Raises:
        ValueError: as `read_description`.
    """
    metadata = getattr(state, "_metadata", {})
    own = metadata.get("", {}) if isinstance(metadata, Mapping) else None
    if not isinstance(own, Mapping):
        raise ValueError(f"{source} has metadata that no network wrote: take the file as it was written.")
    return read_description(own, state, source=source)


def check_finite(tensors: Mapping[str, Any], source: str = "the state dict") -> None:
    """Refuse weights that cannot be right.

    Args:
        tensors: by name; what is no tensor of floating-point numbers, or has no numbers in it, is passed over.
        source: what they came from, for the message.

    Raises:
        ValueError: that names the first tensor which holds NaN or infinite values.
    """
    for name, tensor in tensors.items():
        numbers = isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.is_meta
        if numbers and not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} of {source} holds NaN or infinite values: the training diverged; take another.")


def mark_untrained(state: Mapping[str, Tensor], origin: str) -> None:
    """Write into a state dict that nobody trained it; loading it logs a warning.

    Args:
        state: as ``state_dict()`` gave it; its metadata are changed.
        origin: where the weights come from, such as "random weights".
    """
    state._metadata[""][_UNTRAINED_KEY] = origin  # type: ignore[attr-defined]  # PyTorch's, beside the tensors


def _write(module: nn.Module, _state: Mapping[str, Tensor], _prefix: str, local_metadata: dict[str, Any]) -> None:
    local_metadata[METADATA_KEY] = json.dumps(describe_network(module))


def _check(
    module: nn.Module, state: Mapping[str, Tensor], prefix: str, local_metadata: dict[str, Any], *_: Any
) -> None:
    tensors = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    if description := read_description(local_metadata, tensors):
        check_description(description, module)
    elif not any(name in tensors for name, _ in module.named_parameters()):
        # MONAI Label loads non-strictly, and would go on with random weights
        raise ValueError(
            f"the state dict holds {', '.join(list(state)[:_SHOWN]) or 'nothing'}, none of the network's weights: take "
            "a file with a plain state dict, such as models/model.pt."
        )
    check_finite(tensors)
    if _UNTRAINED_KEY in local_metadata:
        logger.warning("these weights are UNTRAINED (%s): masks mean nothing yet.", local_metadata[_UNTRAINED_KEY])


def carry_description(network: nn.Module) -> None:
    """Make a network write its description into its state dicts, and check that of any that is loaded into it."""
    network.register_state_dict_post_hook(_write)
    network.register_load_state_dict_pre_hook(_check)
