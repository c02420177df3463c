"""3DSAM-adapter: image encoder, prompt head and mask decoder put together (arXiv 2306.13465)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from torch import Tensor, nn

from adapters.networks.backbones import Backbone
from adapters.networks.promptable import PromptableNetwork, check_prompts, plain
from adapters.networks.roles import Role
from adapters.networks.samadapter3d.export_forms import script_form
from adapters.networks.samadapter3d.image_encoder import ImageEncoder3D, build_image_encoder
from adapters.networks.samadapter3d.mask_decoder import AggregationDecoder, build_mask_decoder
from adapters.networks.samadapter3d.prompt_head import PointSamplerHead, build_prompt_head
from adapters.networks.samadapter3d.sizes import Sizes
from adapters.prompts.tensors import PromptTensors

__all__ = ["ImageFeatures", "SAMAdapter3D", "Trainable", "build_sam_adapter3d"]

Trainable = Literal["published", "all", "decoder"]


class ImageFeatures(NamedTuple):
    """What the network knows of a crop before any click.

    Attributes:
        levels: the feature levels, each (B, C, d, h, w), the deepest last.
        context: (B, channels, 2d, 2h, 2w), the click-free part of the decoder.
    """

    levels: tuple[Tensor, ...]
    context: Tensor


class SAMAdapter3D(PromptableNetwork):
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
        >>> clicks = PromptTensors(torch.tensor([[[16.0, 16.0, 16.0]]]), torch.tensor([[1]]))
        >>> network(image, clicks).shape
        torch.Size([1, 2, 32, 32, 32])
    """

    family = "samadapter3d"
    parts: ClassVar[dict[str, type[nn.Module]]] = {
        "image_encoder": ImageEncoder3D,
        "prompt_head": PointSamplerHead,
        "mask_decoder": AggregationDecoder,
    }
    free_arguments = frozenset({"dropout"})
    trainables = get_args(Trainable)
    takes = frozenset({"points", "mask"})

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

    @property
    def voxels_per_token(self) -> int:
        """Every side of a crop must be a multiple of this many voxels."""
        return int(self.image_encoder.voxels_per_token)  # type: ignore[arg-type]

    def encode(self, image: Tensor) -> ImageFeatures:
        """The part that depends on the image alone; keep it between prompts.

        Args:
            image: (B, 1, D, H, W) float, normalised.

        Raises:
            ValueError: if the shape does not fit the patches.
        """
        image = plain(image)
        levels = self.image_encoder(image)
        return ImageFeatures(levels, self.mask_decoder.context(levels, image))  # type: ignore[operator]

    def logits(self, features: ImageFeatures, image: Tensor, prompts: PromptTensors | None = None) -> Tensor:
        """The published logits: the part that depends on the prompts.

        Args:
            features: what `encode` gave for this image.
            image: (B, 1, D, H, W), the same image.
            prompts: points and a mask, in voxels of the crop (depth, height, width). None, or no point: automatic, the
                prompt head is skipped.

        Returns:
            (B, 2, D, H, W) logits of background and lesion.

        Raises:
            ValueError: as `check_prompts`.
        """
        image = plain(image)
        shape = tuple(image.shape[2:])
        prompts = check_prompts(image, prompts, self.takes)
        context, deepest = features.context, features.levels[-1]
        if prompts is None or not prompts.points.shape[1]:
            return self.mask_decoder(context, deepest, image, None, None, prompts and prompts.mask)
        clicks, labels = prompts.points, prompts.labels
        deepest = self.prompt_head(deepest, clicks, labels, shape)
        heads = getattr(self.prompt_head, "shallower", {})
        if len(heads):
            levels = list(features.levels)
            for number, head in heads.items():
                levels[int(number) - 1] = head(levels[int(number) - 1], clicks, labels, shape)
            context = self.mask_decoder.context(levels, image)  # type: ignore[operator]
        return self.mask_decoder(context, deepest, image, clicks, labels, prompts.mask)

    def decode(
        self, features: ImageFeatures, image: Tensor, prompts: PromptTensors | Tensor | None = None, *old: Tensor | None
    ) -> Tensor:
        """As `PromptableNetwork.decode`; with clicks, labels (and a mask) of their own, as in 0.1, its two logits."""
        if not old:
            return super().decode(features, image, prompts)  # type: ignore[arg-type]
        warnings.warn(
            "decode(features, image, clicks, labels) is called logits(features, image, PromptTensors(clicks, labels)) "
            "since 0.2",
            DeprecationWarning,
            stacklevel=2,
        )
        labels, mask = (*old, None)[:2]
        return self.logits(features, image, PromptTensors(prompts, labels, mask=mask))  # type: ignore[arg-type]

    def trains(self, name: str, role: Role, trainable: str) -> bool:
        """As published, outside the encoder everything is trained."""
        if name.startswith("image_encoder."):
            return trainable == "all" or (trainable == "published" and role != "sam")
        return True

    def __prepare_scriptable__(self) -> nn.Module:
        """What `torch.jit.script` compiles in place of this network, for one crop of its own size."""
        return script_form(self)


def build_sam_adapter3d(
    variant: str | Backbone | Sizes = "vit_b",
    crop_size: int | Sequence[int] = 128,
    trainable: str = "published",
    *,
    enlargement: int = 4,
    image_encoder: dict[str, Any] | None = None,
    prompt_head: dict[str, Any] | None = None,
    mask_decoder: dict[str, Any] | None = None,
) -> SAMAdapter3D:
    """The whole network of a variant.

    Args:
        variant: ``tiny``, ``vit_b``, ``vit_l``, ``vit_h``, or sizes.
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
    return network.set_trainable(trainable)
