"""Segment Anything's own checkpoints (``sam_vit_b_01ec64.pth`` and its like) as the start of an adapter."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adapters.checkpoints.download import download_verb
from adapters.checkpoints.files import Checkpoint, check_tensors, kind_of, opened
from adapters.checkpoints.sketch import sketch
from adapters.networks import (
    Backbone,
    ImageEncoder3D,
    PromptableNetwork,
    SAMAdapter3D,
    Sizes,
    build_sam_adapter3d,
    get_sizes,
)
from adapters.networks.backbones import name_of_sizes
from adapters.networks.roles import roles

__all__ = ["LoadedSam", "SamReport", "encoder_sizes", "load_sam", "opened_sam", "sam_tensors"]

logger = logging.getLogger(__name__)

_ENCODER = "image_encoder."
_OF_SAM = ("sam", "tuned")  # roles of the tensors that SAM gives
_ADDED = 1000  # tensors that the adapter has beside SAM's, at most
_DERIVED = ("depth", "constant")  # roles of those that start from SAM's


class SamReport(NamedTuple):
    """What became of each tensor of a SAM checkpoint, and where the rest of the encoder's values came from.

    Attributes:
        variant: name of the variant that the file is of, or "custom".
        used: SAM's tensors that were taken as they are.
        unused: SAM's tensors that this network has no place for: its neck (here are four 3D ones instead), and its
            prompt encoder and mask decoder.
        derived: our tensors that were set from SAM's or to their starting values. These are relative positions along
            depth (the mean of height and width), the depth table (ones) and the gain on the relative positions (one).
            The depth convolution is the mean of the slices of a patch (1/16, and no bias).
        untouched: our tensors that SAM has no values for and that stay as they were: adapters, necks, prompt head,
            mask decoder.
    """

    variant: str
    used: tuple[str, ...]
    unused: tuple[str, ...]
    derived: tuple[str, ...]
    untouched: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"SAM {self.variant}: {len(self.used)} tensors used, {len(self.unused)} unused (neck, prompt encoder, mask "
            f"decoder), {len(self.derived)} derived; {len(self.untouched)} tensors of the adapter are untrained"
        )


class LoadedSam(NamedTuple):
    """A network that starts from SAM, and the report on how."""

    network: SAMAdapter3D
    report: SamReport


def encoder_sizes(shape_of: Callable[[str], tuple[int, ...]], depth: int) -> dict[str, Any]:
    """Sizes of SAM's image encoder, read off the shapes of its tensors.

    Args:
        shape_of: gives the shape of a tensor by the name that it has in SAM's files.
        depth: number of blocks.

    Returns:
        The fields of `Backbone` but the name.

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


def _sizes(state: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Sizes of the encoder in a SAM checkpoint."""
    blocks = [int(m[1]) for name in state if (m := re.match(r"image_encoder\.blocks\.(\d{1,9})\.", str(name)))]

    def shape_of(name: str) -> tuple[int, ...]:
        if not isinstance(state.get(name), Tensor):
            raise ValueError(f"{source} lacks tensor {name}: it is incomplete, or no SAM with relative positions.")
        return tuple(state[name].shape)

    if not blocks:
        raise ValueError(f"{source} holds no image_encoder.blocks.*: expected SAM's checkpoint (ViT-B, L or H).")
    return encoder_sizes(shape_of, max(blocks) + 1)


def opened_sam(checkpoint: str | Path | Checkpoint) -> Checkpoint:
    """Read SAM's checkpoint, unless it has been read.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it cannot be read or is no SAM checkpoint.
    """
    if isinstance(checkpoint, str | Path) and not Path(checkpoint).exists():
        raise FileNotFoundError(
            f"the checkpoint {checkpoint} does not exist: check the path, or fetch SAM's with "
            f"`{download_verb(checkpoint)}`."
        )
    state, source = opened(checkpoint)
    kind = kind_of(state, f"the checkpoint {source}")
    if kind != "sam":
        other = "load_published" if kind == "published" else "load_model"
        raise ValueError(f"{source} is no checkpoint of SAM but of a trained 3DSAM-adapter: read it with {other}.")
    return Checkpoint(state, source)


def sam_tensors(
    checkpoint: str | Path | Checkpoint, network: PromptableNetwork
) -> tuple[dict[str, Tensor], tuple[str, ...], str]:
    """The tensors of a SAM checkpoint that a network takes as they are, checked.

    Args:
        checkpoint: SAM's file, or what was read from it.
        network: the network they are for; it is not changed.

    Returns:
        Tensors by the name that they have in our network, names of SAM's tensors without a place in it, and the name
        of the file's variant.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it cannot be read, is no SAM checkpoint or of another variant than the network, or a tensor of
            its image encoder is missing, unexpected or of another shape.
    """
    state, source = opened_sam(checkpoint)
    encoder = network.image_encoder
    if not isinstance(encoder, ImageEncoder3D):
        raise ValueError(
            f"the network's image encoder is a {type(encoder).__name__}: SAM's weights fit an ImageEncoder3D only."
        )
    sizes = _sizes(state, source)
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    own = encoder_sizes(shapes.__getitem__, len(encoder.blocks))
    if sizes != own:
        raise ValueError(
            f"{source} is SAM's {_told(sizes)}, but the network is {_told(own)}: build the network with the file's "
            "variant, or take SAM's file of the network's variant."
        )
    names = {name: _sam_name(name) for name, _, role in roles(network) if role in _OF_SAM}
    unused = tuple(n for n in state if not n.startswith(_ENCODER) or n.startswith(f"{_ENCODER}neck."))
    expected = {theirs: shapes[name] for name, theirs in names.items()}
    check_tensors(expected, {n: t for n, t in state.items() if n not in unused}, source)
    return {name: state[theirs] for name, theirs in names.items()}, unused, name_of_sizes(sizes)


def _sam_name(name: str) -> str:
    return name.replace("patch_embed.plane.", "patch_embed.proj.")


def _told(sizes: Mapping[str, Any]) -> str:
    return (
        f"{name_of_sizes(sizes)} (width {sizes['embed_dim']}, {sizes['depth']} blocks, {sizes['num_heads']} heads, "
        f"position table {sizes['table_size']}x{sizes['table_size']})"
    )


def load_sam(
    checkpoint: str | Path | Checkpoint,
    network: SAMAdapter3D | None = None,
    *,
    variant: str | Backbone | Sizes | None = None,
    crop_size: int | Sequence[int] = 128,
    trainable: str = "published",
) -> LoadedSam:
    """Start a network from SAM's weights, as 3DSAM-adapter does before training.

    Position table, patch convolution, attention, MLPs and norms are SAM's. Relative positions along depth start as
    the mean of those along height and width. The depth table starts as ones, the depth convolution as the mean over the
    16 slices of a patch. Adapters, necks, prompt head and mask decoder are new and have yet to be trained.

    Args:
        checkpoint: SAM's ``.pth`` file, in the form of segment-anything, or what was read from it.
        network: where to put the weights. None: a network is built.
        variant: of the network that is built. None: what the file is of.
        crop_size: of the network that is built, in voxels (one number or depth, height, width).
        trainable: of the network that is built, see `adapters.networks.set_trainable`.

    Returns:
        The network, and a report that names every tensor of the file as used or unused.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is truncated, holds more than tensors, is no SAM checkpoint, or is of another variant than
            the network; or if both `network` and `variant` are given. A network that was given is then unchanged.
    """
    if network is not None and variant is not None:
        raise ValueError(f"variant={variant!r} was given beside a network, which has a variant already: give one.")
    read = opened_sam(checkpoint)
    if network is None:
        sizes = _sizes(*read)
        if variant is None:
            variant = Backbone(name_of_sizes(sizes), **sizes)
        elif sizes != get_sizes(variant).backbone.sizes:
            backbone = get_sizes(variant).backbone
            raise ValueError(
                f"{read.source} is SAM's {_told(sizes)}, but variant {backbone.name} was asked for, which is "
                f"{_told(backbone.sizes)}: take the file of that variant, or leave variant out."
            )
        build = partial(build_sam_adapter3d, variant, crop_size, trainable)
        sam_tensors(read, sketch(build, len(read.content) + _ADDED, read.source))
        network = build()
    tensors, unused, name = sam_tensors(read, network)
    with torch.no_grad():
        for key, parameter, role in roles(network):
            if role in _OF_SAM:
                parameter.copy_(tensors[key])
    network.image_encoder.start_depth()  # type: ignore[operator]  # an ImageEncoder3D
    report = SamReport(
        variant=name,
        used=tuple(map(_sam_name, tensors)),
        unused=unused,
        derived=tuple(key for key, _, role in roles(network) if role in _DERIVED),
        untouched=tuple(key for key, _, role in roles(network) if role not in (*_OF_SAM, *_DERIVED)),
    )
    logger.info("%s: %s", read.source, report)
    return LoadedSam(network, report)
