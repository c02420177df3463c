"""What a network is: written into every state dict of it, and checked whenever one is loaded.

Weights of one size do not fit another, which shapes show; but the side of the windows, the heads of the prompt head
and the enlargement leave no trace in the shapes, and with another value of theirs the same weights silently
compute something else. So a `SAMAdapter3D` writes its identity into the metadata that PyTorch keeps beside the
tensors of a state dict. The dictionary itself stays plain: names and tensors only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from adapters.networks.samadapter3d.image_encoder import LEVELS, ImageEncoder3D
from adapters.networks.samadapter3d.mask_decoder import AggregationDecoder
from adapters.networks.samadapter3d.prompt_head import PointSamplerHead
from adapters.networks.backbones import VARIANTS

__all__ = [
    "CUSTOM",
    "FORMAT_VERSION",
    "check_identity",
    "describe",
    "encoder_sizes",
    "identity",
    "mark_untrained",
    "matching_variant",
    "network_sizes",
    "stored_identity",
]

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
CUSTOM = "custom"  # the name of every network whose sizes are those of no variant

_SHOWN = 5  # names of a wrong state dict in the message
_METADATA_KEY = "sam_adapter3d"
_UNTRAINED_KEY = "untrained"
_SETTINGS = ("window_size", "prompt_heads", "enlargement", "crop_size")  # what the shapes of most tensors do not show
ShapeOf = Callable[[str], tuple[int, ...]]


def encoder_sizes(shape_of: ShapeOf, depth: int) -> dict[str, Any]:
    """Sizes of an image encoder, read off the shapes of its tensors.

    Args:
        shape_of: gives the shape of a tensor by the name that it has in `SAMAdapter3D`.
        depth: number of blocks.

    Returns:
        The fields of `Variant` that concern the encoder, ``window_size`` excepted (no shape depends on it).

    Raises:
        ValueError: if the shapes are those of no encoder.
    """

    def checked(name: str, axes: int) -> tuple[int, ...]:
        shape = shape_of(name)
        if len(shape) != axes:
            raise ValueError(f"{name} has shape {tuple(shape)}: expected {axes} axes.")
        return shape

    _, table_size, columns, embed_dim = checked("image_encoder.pos_embed", 4)
    if columns != table_size:
        raise ValueError(f"image_encoder.pos_embed is {table_size}x{columns}: expected a square table of positions.")
    tables = [checked(f"image_encoder.blocks.{i}.attn.rel_pos_h", 2) for i in range(depth)]
    head_dim = tables[0][1]
    if head_dim < 1 or embed_dim % head_dim:
        raise ValueError(
            f"image_encoder.blocks.0.attn.rel_pos_h is {head_dim} wide: expected the width of one attention head, "
            f"a divisor of the tokens' width {embed_dim}."
        )
    lengths = [shape[0] for shape in tables]
    long = 2 * table_size - 1
    short = sorted({n for n in lengths if n != long})
    if len(short) > 1 or any(n % 2 == 0 for n in short):
        raise ValueError(
            f"the relative-position tables have {short} rows: expected one odd number for all windowed blocks, and "
            f"{long} for the global ones."
        )
    return {
        "embed_dim": embed_dim,
        "depth": depth,
        "num_heads": embed_dim // head_dim,
        "global_blocks": tuple(i for i, n in enumerate(lengths) if n == long) if short else (),
        "table_size": table_size,
        "sam_window": (short[0] + 1) // 2 if short else table_size,
    }


def network_sizes(shape_of: ShapeOf, depth: int) -> dict[str, Any]:
    """Sizes of a whole network, as `encoder_sizes`.

    Returns:
        The fields of `Variant` that published checkpoints have too, without ``name``, and without ``window_size`` and
        ``prompt_heads``, on which no shape depends.

    Raises:
        ValueError: if the shapes are those of no such network.
    """
    return {
        **encoder_sizes(shape_of, depth),
        "out_channels": shape_of("image_encoder.necks.0.reduce.weight")[0],
        "prompt_mlp_dim": shape_of("prompt_head.layers.0.mlp.lin1.weight")[0],
        "head_channels": shape_of("mask_decoder.branches.0.conv1.weight")[0],
    }


def matching_variant(sizes: Mapping[str, Any]) -> str:
    """Name of the variant that agrees with every size given, or "custom"."""
    for name, variant in VARIANTS.items():
        if sizes.items() <= asdict(variant).items():
            return name
    return CUSTOM


def identity(network: nn.Module) -> dict[str, Any]:
    """What a `SAMAdapter3D` is.

    Returns:
        ``format_version``, ``variant`` (its name, or "custom") and, if its three components are those of this library,
        ``sizes`` (the fields of `Variant` but the name), ``crop_size`` (voxels along depth that the depth table is made
        for), ``enlargement`` and ``correction``.
    """
    encoder, head, decoder = network.image_encoder, network.prompt_head, network.mask_decoder
    if not (
        isinstance(encoder, ImageEncoder3D)
        and isinstance(head, PointSamplerHead)
        and isinstance(decoder, AggregationDecoder)
    ):
        return {"format_version": FORMAT_VERSION, "variant": CUSTOM}
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    sizes = network_sizes(shapes.__getitem__, len(encoder.blocks))
    if len(encoder.necks) != LEVELS:  # not written for the published number: older files do not have it
        sizes["levels"] = len(encoder.necks)
    variant = matching_variant(sizes)
    sizes["global_blocks"] = list(sizes["global_blocks"])
    sizes["window_size"] = encoder.blocks[0].window_size
    sizes["prompt_heads"] = head.layers[0].self_attn.num_heads  # type: ignore[union-attr]
    if decoder.correction is not None:
        sizes["correction_channels"] = decoder.correction.stem.out_channels
    return {
        "format_version": FORMAT_VERSION,
        "variant": variant,
        "sizes": sizes,
        "crop_size": encoder.depth_embed.shape[1] * encoder.voxels_per_token,
        "enlargement": encoder.enlargement,
        "correction": decoder.correction is not None,
    }


def describe(found: Mapping[str, Any]) -> str:
    """An identity in a few words: the variant's name, with the sizes if it has no name of its own."""
    sizes = found.get("sizes", found.get("shapes"))
    if found["variant"] != CUSTOM or sizes is None:
        return str(found["variant"])
    return f"{CUSTOM} (width {sizes['embed_dim']}, {sizes['depth']} blocks, {sizes['num_heads']} heads)"


def check_identity(found: Mapping[str, Any], expected: Mapping[str, Any], *, source: str = "the state dict") -> None:
    """Compare the identity that came with weights with that of the network they are meant for.

    Args:
        found: the weights' identity.
        expected: the network's identity.
        source: what the weights came from, for the message.

    Raises:
        ValueError: if the format is newer than this library's, or variant, sizes or a setting differ.
    """
    if found["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{source} has format version {found['format_version']}, this library reads up to {FORMAT_VERSION}: "
            "update monai-sam-adapters."
        )
    if found["variant"] != expected["variant"]:
        raise ValueError(
            f"{source} holds weights of variant {describe(found)}, but the network is of variant {describe(expected)}: "
            f"build the network as {describe(found)}, or take weights of {describe(expected)}."
        )
    if "sizes" not in found or "sizes" not in expected:
        return  # components of the user's own: shapes are compared when the tensors are
    here, there = ({**each["sizes"], **each} for each in (expected, found))
    for setting in _SETTINGS:
        if here[setting] != there[setting]:
            raise ValueError(
                f"{source} was made with {setting}={there[setting]}, but the network has {setting}={here[setting]}: "
                f"build the network with {setting}={there[setting]}."
            )
    if found["sizes"] != expected["sizes"]:
        differing = sorted({name for name, _ in _items(found["sizes"]) ^ _items(expected["sizes"])})
        raise ValueError(
            f"{source} holds weights of {describe(found)}, but the network is {describe(expected)}: they differ in "
            f"{', '.join(differing)}."
        )


def _items(sizes: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(name, str(size)) for name, size in sizes.items()}


def stored_identity(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The identity that a state dict carries; None if it carries none (a dictionary that was built anew)."""
    metadata = getattr(state, "_metadata", None)
    return None if metadata is None else metadata.get("", {}).get(_METADATA_KEY)


def mark_untrained(state: Mapping[str, Tensor], origin: str) -> None:
    """Write into a state dict of a `SAMAdapter3D` that nobody trained it; loading it logs a warning.

    Args:
        state: as ``state_dict()`` gave it; its metadata are changed.
        origin: where the weights come from, such as "random weights".
    """
    state._metadata[""][_UNTRAINED_KEY] = origin  # type: ignore[attr-defined]  # PyTorch's, beside the tensors


def _write(module: nn.Module, _state: Mapping[str, Tensor], _prefix: str, local_metadata: dict[str, Any]) -> None:
    local_metadata[_METADATA_KEY] = identity(module)


def _check(
    module: nn.Module, state: Mapping[str, Tensor], prefix: str, local_metadata: dict[str, Any], *_: Any
) -> None:
    if _METADATA_KEY in local_metadata:
        check_identity(local_metadata[_METADATA_KEY], identity(module))
    elif not any(prefix + name in state for name, _ in module.named_parameters()):
        # MONAI Label loads non-strictly, and would go on with random weights
        raise ValueError(
            f"the state dict holds {', '.join(list(state)[:_SHOWN]) or 'nothing'}, none of the network's weights: take "
            "a file with a plain state dict, such as models/model.pt."
        )
    if _UNTRAINED_KEY in local_metadata:
        logger.warning("these weights are UNTRAINED (%s): masks mean nothing yet.", local_metadata[_UNTRAINED_KEY])


def carry_identity(network: nn.Module) -> None:
    """Make a network write its identity into its state dicts, and check that of any that is loaded into it."""
    network.register_state_dict_post_hook(_write)
    network.register_load_state_dict_pre_hook(_check)
