"""3DSAM-adapter: image encoder, prompt head and mask decoder put together (arXiv 2306.13465)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from adapters.networks.constructor_arguments import carry_identity
from adapters.networks.samadapter3d.image_encoder import build_image_encoder
from adapters.networks.samadapter3d.mask_decoder import build_mask_decoder
from adapters.networks.samadapter3d.export_forms import script_form
from adapters.networks.samadapter3d.prompt_head import build_prompt_head
from adapters.networks.backbones import Variant

__all__ = ["ImageFeatures", "SAMAdapter3D", "Trainable", "build_sam_adapter3d", "count_parameters", "set_trainable"]

Trainable = Literal["published", "all", "decoder"]
_ADDED = ("label_embed", ".correction.")


class ImageFeatures(NamedTuple):
    """What the network knows of a crop before any click.

    Attributes:
        levels: the feature levels, each (B, C, d, h, w), the deepest last.
        context: (B, channels, 2d, 2h, 2w), the click-free part of the decoder.
    """

    levels: tuple[Tensor, ...]
    context: Tensor


class SAMAdapter3D(nn.Module):
    """Promptable 3D segmentation: clicks in, two logits a voxel out.

    Args:
        image_encoder: (B, 1, D, H, W) to feature levels; has ``voxels_per_token`` (`ImageEncoder3D`).
        prompt_head: deepest level, clicks, labels, crop shape to the prompted level (`PointSamplerHead`).
        mask_decoder: has ``context(levels, image)`` and turns context and prompted level into logits
            (`AggregationDecoder`).
        dropout: share of the channels that the decoder leaves out in training, in place of its own. MONAI Label sets
            it in ``network_def`` and scores scans by how much the masks of several passes differ.

    Raises:
        ValueError: `dropout` is not at least 0 and below 1, or the decoder has none; a level is prompted that
            there is not.

    Example:
        >>> network = build_sam_adapter3d("tiny", crop_size=32)
        >>> image = torch.zeros(1, 1, 32, 32, 32)
        >>> clicks, labels = torch.tensor([[[16.0, 16.0, 16.0]]]), torch.tensor([[1]])
        >>> network(image, clicks, labels).shape
        torch.Size([1, 2, 32, 32, 32])
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        prompt_head: nn.Module,
        mask_decoder: nn.Module,
        dropout: float | None = None,
    ) -> None:
        super().__init__()
        if dropout is not None:
            layer = getattr(mask_decoder, "dropout", None)
            if not 0 <= dropout < 1 or not isinstance(layer, nn.Dropout3d):
                raise ValueError(
                    f"dropout={dropout}: expected a share of at least 0 and below 1, and a decoder with a layer "
                    "`dropout` (torch.nn.Dropout3d)."
                )
            layer.p = dropout
        necks, prompted = getattr(image_encoder, "necks", None), getattr(prompt_head, "shallower", {})
        if necks is not None and any(int(level) >= len(necks) for level in prompted):
            raise ValueError(
                f"the prompt head prompts the levels {', '.join(prompted)} besides the deepest, the image encoder has "
                f"{len(necks)} levels: prompt those before the last."
            )
        self.image_encoder = image_encoder
        self.prompt_head = prompt_head
        self.mask_decoder = mask_decoder
        carry_identity(self)

    @property
    def voxels_per_token(self) -> int:
        """Every side of a crop must be a multiple of this many voxels."""
        return int(self.image_encoder.voxels_per_token)  # type: ignore[arg-type]

    def encode(self, image: Tensor) -> ImageFeatures:
        """The part that depends on the image alone; keep it between clicks.

        Args:
            image: (B, 1, D, H, W) float, normalised.

        Raises:
            ValueError: if the shape does not fit the patches.
        """
        image = _plain(image)
        levels = self.image_encoder(image)
        return ImageFeatures(levels, self.mask_decoder.context(levels, image))  # type: ignore[operator]

    def decode(
        self,
        features: ImageFeatures,
        image: Tensor,
        clicks: Tensor | None = None,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The part that depends on the prompts.

        Args:
            features: what `encode` gave for this image.
            image: (B, 1, D, H, W), the same image.
            clicks: (B, N, 3) voxel coordinates in the crop, in the order of the tensor's axes (depth, height,
                width), voxel centres at integers, fractions allowed. None or N = 0: automatic, the prompt head is
                skipped.
            labels: (B, N): 1 on the lesion, 0 off it, -1 padding (items of a batch may have different numbers).
                None: all on the lesion.
            mask: (B, 1, D, H, W), the lesion's logits of the round before, or a mask to start from as logits
                (for example -10 outside and 10 inside). None: nothing stands yet.

        Returns:
            (B, 2, D, H, W) logits of background and lesion.

        Raises:
            ValueError: if shapes do not agree, a label is none of 1, 0, -1, or a click lies outside the crop.
        """
        image, mask = _plain(image), None if mask is None else _plain(mask)
        shape = tuple(image.shape[2:])
        clicks, labels = _checked_prompts(image, clicks, labels, mask)
        context, deepest = features.context, features.levels[-1]
        if clicks is not None and labels is not None:
            deepest = self.prompt_head(deepest, clicks, labels, shape)
            heads = getattr(self.prompt_head, "shallower", {})
            if len(heads):
                levels = list(features.levels)
                for number, head in heads.items():
                    levels[int(number) - 1] = head(levels[int(number) - 1], clicks, labels, shape)
                context = self.mask_decoder.context(levels, image)  # type: ignore[operator]
        return self.mask_decoder(context, deepest, image, clicks, labels, mask)

    def forward(
        self, image: Tensor, clicks: Tensor | None = None, labels: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Encode and decode; arguments and result as for `encode` and `decode`."""
        return self.decode(self.encode(image), image, clicks, labels, mask)

    def __prepare_scriptable__(self) -> nn.Module:
        """What `torch.jit.script` compiles in place of this network, for one crop of its own size."""
        return script_form(self)


def _plain(tensor: Tensor) -> Tensor:
    """Without what a subclass adds: a MONAI `MetaTensor`'s metadata would follow every window of attention."""
    return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)


def _checked_prompts(
    image: Tensor, clicks: Tensor | None, labels: Tensor | None, mask: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Clicks and labels of the right shapes, or (None, None) if there is no click."""
    batch, shape = image.shape[0], tuple(image.shape[2:])
    if mask is not None and mask.shape != (batch, 1, *shape):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}: expected {(batch, 1, *shape)}, one channel of lesion logits on the "
            "image's grid."
        )
    if clicks is None:
        if labels is not None and labels.numel():
            raise ValueError(f"labels of shape {tuple(labels.shape)} were given without clicks: give both or neither.")
        return None, None
    if clicks.ndim != 3 or clicks.shape[0] != batch or clicks.shape[2] != 3:
        raise ValueError(
            f"clicks have shape {tuple(clicks.shape)}: expected ({batch}, N, 3), voxel coordinates in the crop."
        )
    if labels is None:
        labels = torch.ones(clicks.shape[:2], dtype=torch.long, device=clicks.device)
    if labels.shape != clicks.shape[:2]:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}: expected {tuple(clicks.shape[:2])}, one for each click."
        )
    if clicks.shape[1] == 0:
        return None, None
    if not bool(((labels == 1) | (labels == 0) | (labels == -1)).all()):
        raise ValueError(f"labels hold {sorted(set(labels.flatten().tolist()))}: expected 1, 0, or -1 for padding.")
    size = torch.tensor(shape, dtype=clicks.dtype, device=clicks.device)
    inside = ((clicks >= -0.5) & (clicks <= size - 0.5)).all(dim=-1) | (labels < 0)
    if not bool(inside.all()):
        outside = clicks[~inside][0].tolist()
        raise ValueError(
            f"click {outside} lies outside the crop of {shape} voxels: clicks are voxel coordinates in the crop, in "
            "the order depth, height, width."
        )
    if not bool((labels >= 0).any()):
        return None, None
    return clicks, labels.long()


def set_trainable(
    network: SAMAdapter3D, trainable: Trainable = "published", *, added: bool = True, prompts: bool = True
) -> SAMAdapter3D:
    """Choose which parameters are trained, in place.

    Args:
        network: the network.
        trainable: "published": what 3DSAM-adapter tunes (table of section 3): in the encoder the spatial adapters,
            norms, necks and everything that concerns depth, and all of prompt head and decoder; "all": everything
            but the constant gain on the relative positions; "decoder": prompt head and decoder only.
        added: whether what the published network lacks is trained too, the label embedding and the correction prompt.
        prompts: whether the prompt head is trained; False for a network of automatic mode.

    Returns:
        The same network, so that a config can make the call in one expression.

    Raises:
        ValueError: if `trainable` is none of these.
    """
    if trainable not in get_args(Trainable):
        raise ValueError(f"trainable={trainable!r}: expected one of {', '.join(get_args(Trainable))}.")
    tuned = (".adapter.", ".norm1.", ".norm2.", "necks.", "depth_", "rel_pos_d")
    for name, parameter in network.named_parameters():
        if name.endswith("rel_pos_gain"):
            parameter.requires_grad_(False)
        elif name.startswith("image_encoder."):
            parameter.requires_grad_(trainable == "all" or (trainable == "published" and any(t in name for t in tuned)))
        else:
            parameter.requires_grad_(
                (added or not any(part in name for part in _ADDED)) and (prompts or not name.startswith("prompt_head."))
            )
    return network


def count_parameters(network: nn.Module, *, trainable_only: bool = True) -> dict[str, int]:
    """Number of values by part: image encoder, prompt head, mask decoder, and what this library added to them.

    Returns:
        Keys ``image_encoder``, ``prompt_head``, ``mask_decoder`` (published parts) and ``added`` (the label
        embedding, the correction prompt and prompt heads of shallower levels, which the published network lacks).
    """
    counts = {"image_encoder": 0, "prompt_head": 0, "mask_decoder": 0, "added": 0}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad or not trainable_only:
            added = any(part in name for part in (*_ADDED, ".shallower."))
            counts["added" if added else name.split(".")[0]] += parameter.numel()
    return counts


def build_sam_adapter3d(
    variant: str | Variant = "vit_b",
    crop_size: int | Sequence[int] = 128,
    trainable: Trainable = "published",
    *,
    enlargement: int = 4,
    image_encoder: dict[str, Any] | None = None,
    prompt_head: dict[str, Any] | None = None,
    mask_decoder: dict[str, Any] | None = None,
) -> SAMAdapter3D:
    """The whole network of a variant.

    Args:
        variant: ``tiny``, ``vit_b``, ``vit_l``, ``vit_h``, or a `Variant`.
        crop_size: side of the training crops, in voxels (one number or depth, height, width).
        trainable: which parameters are trained, see `set_trainable`.
        enlargement: 4 as published, 2 in the published automatic mode (crop 256).
        image_encoder: further arguments of `ImageEncoder3D`.
        prompt_head: further arguments of `PointSamplerHead`.
        mask_decoder: further arguments of `AggregationDecoder`.

    Raises:
        ValueError: if the variant or `trainable` is unknown or the crop does not fit the patches.
    """
    network = SAMAdapter3D(
        build_image_encoder(variant, crop_size=crop_size, enlargement=enlargement, **(image_encoder or {})),
        build_prompt_head(variant, **(prompt_head or {})),
        build_mask_decoder(variant, **(mask_decoder or {})),
    )
    return set_trainable(network, trainable)
