"""The authors' checkpoints of 3DSAM-adapter (`best.pth.tar`, `last.pth.tar`)."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import Tensor

from adapters.checkpoints.files import Checkpoint, check_tensors, kind_of, opened
from adapters.checkpoints.sam import encoder_sizes
from adapters.checkpoints.sketch import sketch
from adapters.networks import SAMAdapter3D
from adapters.networks.backbones import name_of_sizes
from adapters.networks.description import FORMAT_VERSION, check_description, describe, describe_network
from adapters.networks.families import build_described
from adapters.networks.layers.patches import PATCH
from adapters.networks.roles import roles

__all__ = ["load_published"]

logger = logging.getLogger(__name__)

VOXELS_PER_TOKEN = 4  # of the published network with clicks: patches of 16 in a crop enlarged 4 times
PROMPT_HEADS_STORED = 4  # one for each feature level; the authors call the last only

_SECTIONS = {"image_encoder": "encoder_dict", "prompt_head": "feature_dict[3]", "mask_decoder": "decoder_dict"}
_RENAMED = (
    (r"^necks\.(\d)\.reduce\.", r"neck_3d.\1.0."),
    (r"^necks\.(\d)\.norm1\.", r"neck_3d.\1.1."),
    (r"^necks\.(\d)\.conv\.", r"neck_3d.\1.2."),
    (r"^necks\.(\d)\.norm2\.", r"neck_3d.\1.3."),
    (r"^patch_embed\.plane\.", "patch_embed.proj."),
    (r"^patch_embed\.depth_", "slice_embed."),
    (r"adapter\.down\.", "adapter.linear1."),
    (r"adapter\.up\.", "adapter.linear2."),
    (r"attn\.rel_pos_gain$", "attn.lr"),
    (r"^layers\.", "transformer.layers."),
    (r"^fuse\.", "cls.0."),
    (r"^classify\.", "cls.3."),
)
_UNUSED = "positional_encoding_gaussian_matrix"  # the published head computes with it and drops the result


class _Place(NamedTuple):
    """Where the published layout keeps one of our tensors, as (section, name), and its shape there."""

    section: str
    name: str
    shape: tuple[int, ...]


def _place(ours: str, shape: tuple[int, ...]) -> _Place:
    part, name = ours.split(".", 1)
    if found := re.fullmatch(r"branches\.(\d)\.conv([12])\.weight", name):
        name = f"mlahead.head{int(found[1]) + 2}.{3 * (int(found[2]) - 1)}.weight"
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    if name == "slice_embed.weight":
        shape = (shape[0], 1, 1, 1, shape[1])
    elif len(shape) == 5:
        shape = (shape[0], shape[1], shape[3], shape[4], shape[2])
    elif ours.endswith("reduce.weight"):
        shape = (*shape, 1, 1, 1)
    return _Place(_SECTIONS[part], name, shape)


def _from_published(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor of the published layout in our layout, whose shape is given."""
    if len(shape) == 5:
        return tensor.permute(0, 1, 4, 2, 3).contiguous()  # height, width, depth -> depth, height, width
    return tensor.reshape(shape)


def _sections(checkpoint: Any, source: str) -> dict[str, Mapping[str, Any]]:
    """The three dictionaries of tensors, attention masks left out."""
    if kind_of(checkpoint, source) != "published":
        raise ValueError(
            f"{source} is no published 3DSAM-adapter checkpoint: expected encoder_dict, feature_dict and decoder_dict; "
            "SAM's files are read with load_sam, this library's state dicts with load_model."
        )
    for name, kind in (("encoder_dict", Mapping), ("feature_dict", list | tuple), ("decoder_dict", Mapping)):
        if name not in checkpoint:
            raise ValueError(f"{source} lacks {name}: expected encoder_dict, feature_dict and decoder_dict.")
        if not isinstance(checkpoint[name], kind):
            expected = "a list of four prompt heads" if name == "feature_dict" else "a dictionary of tensors"
            raise ValueError(f"{name} of {source} is a {type(checkpoint[name]).__name__}: expected {expected}.")
    heads = checkpoint["feature_dict"]
    if len(heads) != PROMPT_HEADS_STORED or not isinstance(heads[-1], Mapping):
        raise ValueError(
            f"feature_dict of {source} has {len(heads)} entries: expected {PROMPT_HEADS_STORED} prompt heads, the last "
            "of which is used."
        )
    # a buffer that follows from the shapes; real files carry it
    encoder = {
        n: t for n, t in checkpoint["encoder_dict"].items() if not re.fullmatch(r"blocks\.\d+\.attn_mask", str(n))
    }
    return {"encoder_dict": encoder, "feature_dict[3]": heads[-1], "decoder_dict": checkpoint["decoder_dict"]}


def _described(sections: Mapping[str, Mapping[str, Any]], source: str) -> dict[str, Any]:
    """The description of the network that a checkpoint is of, as far as shapes say it."""

    def shape_of(name: str, axes: int | None = None) -> tuple[int, ...]:
        place = _place(name, ())
        tensor = sections[place.section].get(place.name)
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{source} lacks tensor {place.section}.{place.name}: it is incomplete.")
        if axes is not None and tensor.ndim != axes:
            raise ValueError(f"{place.name} of {source} has shape {tuple(tensor.shape)}: expected {axes} axes.")
        return tuple(tensor.shape)

    def count(section: str, pattern: str) -> int:
        numbers = {int(match[1]) for name in sections[section] if (match := re.match(pattern, str(name)))}
        if missing := set(range(len(numbers))) - numbers:
            raise ValueError(
                f"{section} of {source} names number {max(numbers)} of {pattern[:-7]}*, but lacks {min(missing)}: it "
                "is incomplete, or of another network."
            )
        return len(numbers)

    depth = count("encoder_dict", r"blocks\.(\d{1,9})\.")
    if depth == 0:
        raise ValueError(f"encoder_dict of {source} holds no blocks.*: it is incomplete.")
    encoder = encoder_sizes(shape_of, depth)
    encoder["global_blocks"] = list(encoder["global_blocks"])
    channels = shape_of("image_encoder.necks.0.reduce.weight")[0]
    return {
        "format_version": FORMAT_VERSION,
        "family": SAMAdapter3D.family,
        "backbone": name_of_sizes(encoder),
        "arguments": {},
        "parts": {
            "image_encoder": {
                **encoder,
                "out_channels": channels,
                "crop_size": VOXELS_PER_TOKEN * shape_of("image_encoder.depth_embed", 3)[1],
                "enlargement": PATCH // VOXELS_PER_TOKEN,
            },
            "prompt_head": {
                "dim": channels,
                "mlp_dim": shape_of("prompt_head.layers.0.mlp.lin1.weight")[0],
                "num_layers": count("feature_dict[3]", r"transformer\.layers\.(\d{1,9})\."),
                "num_queries": shape_of("prompt_head.layers.0.global_query", 3)[1],
            },
            "mask_decoder": {
                "in_channels": channels,
                "channels": shape_of("mask_decoder.branches.0.conv1.weight")[0],
            },
        },
    }


def _converted(sections: Mapping[str, Mapping[str, Any]], network: SAMAdapter3D, source: str) -> dict[str, Tensor]:
    """Tensors of a checkpoint by our names and in our layout, each checked against the network's."""
    published = {name: tuple(p.shape) for name, p, role in roles(network) if role not in ("added", "ablation")}
    places = {name: _place(name, shape) for name, shape in published.items()}
    expected = {f"{place.section}.{place.name}": place.shape for place in places.values()}
    expected[f"feature_dict[3].{_UNUSED}"] = (3, published["prompt_head.layers.0.norm1.weight"][0] // 2)
    given = {f"{section}.{name}": tensor for section, part in sections.items() for name, tensor in part.items()}
    check_tensors(expected, given, source)
    return {
        name: _from_published(given[f"{place.section}.{place.name}"], published[name]).float()
        for name, place in places.items()
    }


def load_published(
    checkpoint: str | Path | Mapping[str, Any] | Checkpoint,
    *,
    window_size: int = 8,
    prompt_heads: int = 8,
    network: SAMAdapter3D | None = None,
) -> SAMAdapter3D:
    """Read a checkpoint of the authors' implementation of 3DSAM-adapter with clicks (arXiv 2306.13465).

    Width, depth, heads, tables, crop and channels are read off the shapes. Two sizes leave no trace in them and are
    arguments: the side of the attention windows and the heads of the prompt head, 8 and 8 in everything published.
    Of the four stored prompt heads the last is used, as the authors do; ``epoch``, ``best_val_loss`` and the
    optimisers' states are ignored. With clicks on the lesion and no mask, the network computes what theirs does; what
    this library adds (label embedding, correction prompt) starts so that it changes nothing there.

    Args:
        checkpoint: the file (``best.pth.tar``, ``last.pth.tar``), or what was read from it.
        window_size: side of the attention windows, in tokens.
        prompt_heads: attention heads of the prompt head.
        network: where to put the weights; `window_size` and `prompt_heads` are then the network's own and these
            arguments are not used. None: a network is built.

    Returns:
        The network, in evaluation mode. Where its sizes are those of a variant it is that variant. What is trained
        is as published.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is truncated, holds more than tensors and numbers, or is no such checkpoint; if a tensor is
            missing, unexpected, of another shape or not finite (the message names it); or if the network that was
            given is of another variant, in which case it is unchanged.
    """
    content, source = opened(checkpoint)
    if window_size < 1 or prompt_heads < 1:
        raise ValueError(f"window_size={window_size}, prompt_heads={prompt_heads}: expected positive numbers.")
    sections = _sections(content, source)
    description = _described(sections, source)
    tensors = None
    if network is None:
        parts = description["parts"]
        parts["image_encoder"]["window_size"], parts["prompt_head"]["num_heads"] = window_size, prompt_heads
        held = sum(map(len, sections.values()))
        made = sketch(lambda: cast(SAMAdapter3D, build_described(description)), held, source)
        tensors = _converted(sections, made, source)
        network = cast(SAMAdapter3D, build_described(description)).set_trainable()
    elif None in describe_network(network)["parts"].values():
        raise ValueError("the network has components of its own: the published weights fit those of this library.")
    check_description(description, network, source=source)
    tensors = tensors or _converted(sections, network, source)
    network.load_state_dict({**network.state_dict(), **tensors})
    crop_size = description["parts"]["image_encoder"]["crop_size"]
    logger.info("%s: published checkpoint of %s, crop %d", source, describe(description), crop_size)
    return network.eval()
