"""Segment Anything's own checkpoints (``sam_vit_b_01ec64.pth`` and its like) as the start of an adapter."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adapters.checkpoints.download import download_verb
from adapters.checkpoints.files import check_tensors, kind_of, read_checkpoint
from adapters.networks import ImageEncoder3D, SAMAdapter3D, Variant, build_sam_adapter3d, get_variant
from adapters.networks.constructor_arguments import encoder_sizes, matching_variant
from adapters.networks.samadapter3d.network import Trainable

__all__ = ["LoadedSam", "SamReport", "load_sam", "sam_tensors"]

logger = logging.getLogger(__name__)

_TUNED = (".norm1.", ".norm2.")  # SAM's tensors that the adapter trains on; all other used ones stay as SAM has them


class SamReport(NamedTuple):
    """What became of each tensor of a SAM checkpoint, and where the rest of the encoder's values came from.

    Attributes:
        variant: name of the variant that the file is of, or "custom".
        used: SAM's tensors that were taken as they are.
        unused: SAM's tensors that this network has no place for: its neck (here are four 3D ones instead), and its
            prompt encoder and mask decoder.
        derived: our tensors that were set from SAM's or to their starting values: relative positions along depth (the
            mean of height and width), the depth table (ones), the depth convolution (1/16, the mean of the slices of a
            patch, and no bias) and the gain on the relative positions (one).
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


def _sam_name(name: str) -> str:
    return name.replace("patch_embed.plane.", "patch_embed.proj.")


def _encoder_of(network: SAMAdapter3D) -> ImageEncoder3D:
    if not isinstance(network.image_encoder, ImageEncoder3D):
        raise ValueError(
            f"the network's image encoder is a {type(network.image_encoder).__name__}: SAM's weights fit an "
            "ImageEncoder3D only."
        )
    return network.image_encoder


def _is_derived(name: str) -> bool:
    return name.endswith(("depth_embed", "depth_weight", "depth_bias", "rel_pos_d", "rel_pos_gain"))


def _is_ours(name: str) -> bool:
    return ".adapter." in name or name.startswith("image_encoder.necks.")


def _wanted(network: SAMAdapter3D) -> list[str]:
    """Names in our network of the tensors that SAM gives."""
    names = [f"image_encoder.{name}" for name in _encoder_of(network).state_dict()]
    return [name for name in names if not _is_derived(name) and not _is_ours(name)]


def _sizes(state: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Sizes of the encoder in a SAM checkpoint."""
    blocks = [int(m[1]) for name in state if (m := re.match(r"image_encoder\.blocks\.(\d+)\.", str(name)))]

    def shape_of(name: str) -> tuple[int, ...]:
        if not isinstance(state.get(name), Tensor):
            raise ValueError(f"{source} lacks tensor {name}: it is incomplete, or no SAM with relative positions.")
        return tuple(state[name].shape)

    if not blocks:
        raise ValueError(f"{source} holds no image_encoder.blocks.*: expected SAM's checkpoint (ViT-B, L or H).")
    return encoder_sizes(shape_of, max(blocks) + 1)


def _read(path: str | Path) -> dict[str, Tensor]:
    if not Path(path).exists():
        raise FileNotFoundError(
            f"the checkpoint {path} does not exist: check the path, or fetch SAM's with `{download_verb(path)}`."
        )
    state = read_checkpoint(path)
    kind = kind_of(state, f"the checkpoint {path}")
    if kind != "sam":
        other = "load_published" if kind == "published" else "load_model"
        raise ValueError(f"{path} is no checkpoint of SAM but of a trained 3DSAM-adapter: read it with {other}.")
    return dict(state)


def sam_tensors(path: str | Path, network: SAMAdapter3D) -> tuple[dict[str, Tensor], tuple[str, ...], str]:
    """The tensors of a SAM checkpoint that a network takes as they are, checked.

    Args:
        path: SAM's file.
        network: the network they are for; it is not changed.

    Returns:
        Tensors by the name that they have in our network, names of SAM's tensors without a place in it, and the name
        of the file's variant.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it cannot be read, is no SAM checkpoint or of another variant than the network, or a tensor of
            its image encoder is missing, unexpected or of another shape.
    """
    return _match(_read(path), network, str(path))


def _match(
    state: Mapping[str, Tensor], network: SAMAdapter3D, source: str
) -> tuple[dict[str, Tensor], tuple[str, ...], str]:
    sizes = _sizes(state, source)
    here = {f"image_encoder.{k}": tuple(v.shape) for k, v in network.image_encoder.named_parameters()}
    wanted = _wanted(network)
    expected = encoder_sizes(here.__getitem__, len(_encoder_of(network).blocks))
    if sizes != expected:
        raise ValueError(
            f"{source} is SAM's {_said(sizes)}, but the network is {_said(expected)}: build the network with the "
            "file's variant, or take SAM's file of the network's variant."
        )
    unused = tuple(n for n in state if not n.startswith("image_encoder.") or n.startswith("image_encoder.neck."))
    check_tensors(
        {_sam_name(name): here[name] for name in wanted}, {n: t for n, t in state.items() if n not in unused}, source
    )
    return {name: state[_sam_name(name)] for name in wanted}, unused, matching_variant(sizes)


def _said(sizes: Mapping[str, Any]) -> str:
    return (
        f"{matching_variant(sizes)} (width {sizes['embed_dim']}, {sizes['depth']} blocks, {sizes['num_heads']} heads, "
        f"position table {sizes['table_size']}x{sizes['table_size']})"
    )


def frozen_names(names: Sequence[str]) -> list[str]:
    """Of the tensors that SAM gives, those that training as published leaves as they are."""
    return [name for name in names if not any(tuned in name for tuned in _TUNED)]


def load_sam(
    path: str | Path,
    network: SAMAdapter3D | None = None,
    *,
    variant: str | Variant | None = None,
    crop_size: int | Sequence[int] = 128,
    trainable: Trainable = "published",
) -> LoadedSam:
    """Start a network from SAM's weights, as 3DSAM-adapter does before training.

    Position table, patch convolution, attention, MLPs and norms are SAM's. Relative positions along depth start as
    the mean of those along height and width, the depth table starts as ones, the depth convolution as the mean over
    the 16 slices of a patch. Adapters, necks, prompt head and mask decoder are new and have yet to be trained.

    Args:
        path: SAM's ``.pth`` file, in the form of segment-anything.
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
    state = _read(path)
    if network is None:
        sizes = _sizes(state, str(path))
        if variant is None:
            name = matching_variant(sizes)
            variant = get_variant(name) if name != "custom" else Variant(name, **sizes)
        elif not sizes.items() <= asdict(get_variant(variant)).items():
            built = get_variant(variant)
            raise ValueError(
                f"{path} is SAM's {_said(sizes)}, but variant {built.name} was asked for, which is "
                f"{_said({k: getattr(built, k) for k in sizes})}: take the file of that variant, or leave variant out."
            )
        network = build_sam_adapter3d(variant, crop_size, trainable)
    tensors, unused, name = _match(state, network, str(path))
    derived = _derived(network, tensors)
    with torch.no_grad():
        parameters = dict(network.named_parameters())
        for key, value in {**tensors, **derived}.items():
            parameters[key].copy_(value)
    report = SamReport(
        variant=name,
        used=tuple(_sam_name(key) for key in tensors),
        unused=unused,
        derived=tuple(derived),
        untouched=tuple(key for key in parameters if key not in tensors and key not in derived),
    )
    logger.info("%s: %s", path, report)
    return LoadedSam(network, report)


def _derived(network: SAMAdapter3D, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Starting values of what SAM lacks because it is flat."""
    derived = {}
    for name, parameter in network.named_parameters():
        if not (name.startswith("image_encoder.") and _is_derived(name)):
            continue
        if name.endswith("rel_pos_d"):
            stem = name[: -len("d")]
            derived[name] = (tensors[stem + "h"] + tensors[stem + "w"]) / 2
        elif name.endswith("depth_weight"):
            derived[name] = torch.full(parameter.shape, 1.0 / parameter.shape[1])
        else:
            derived[name] = torch.full(parameter.shape, 0.0 if name.endswith("depth_bias") else 1.0)
    return derived
