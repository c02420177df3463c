"""Aggregation of the feature levels into logits (3DSAM-adapter, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from adapters.networks.arguments import KeepsArguments
from adapters.networks.backbones import Backbone
from adapters.networks.layers.enlarged_conv import conv_of_enlarged
from adapters.networks.precision import full_precision
from adapters.networks.roles import Role
from adapters.networks.samadapter3d.correction import CorrectionPrompt
from adapters.networks.samadapter3d.sizes import LEVELS, Sizes, get_sizes

__all__ = ["AggregationDecoder", "build_mask_decoder"]


class _Branch(nn.Module):
    """Two 3x3x3 convolutions with instance norm and ReLU."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.conv1, self.conv2):
            x = F.relu(F.instance_norm(conv(x).to(conv.weight.dtype)))
        return x


class AggregationDecoder(KeepsArguments):
    """The levels and the image, aggregated (3DSAM-adapter, section 3.4).

    Each level passes a branch and is enlarged two times; they and the image at that resolution are
    concatenated, convolved to two logits and enlarged to the crop. The convolution over the concatenation is a
    sum of convolutions, so what does not depend on the clicks (`context`) is computed once for all of them.

    Under autocast the convolutions alone are in half precision: norms, sums, enlargements and the last convolution
    (two channels, a hundredth of the products) stay in the weights' type.

    Args:
        in_channels: channels of each feature level.
        channels: channels of the branches.
        levels: feature levels, published are 4.
        correction: whether to have the `CorrectionPrompt`.
        correction_channels: its width.
        dropout: share of the channels of the click-free part and of the deepest feature that are left out in
            training, so that the decoder learns to go by the clicks too.

    Raises:
        ValueError: if `dropout` is not at least 0 and below 1, or there is no level.
    """

    free_arguments = frozenset({"dropout"})
    parameter_roles: ClassVar[dict[str, Role]] = {"correction": "added"}

    def __init__(
        self,
        in_channels: int = 256,
        *,
        channels: int = 128,
        levels: int = LEVELS,
        correction: bool = True,
        correction_channels: int = 16,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: expected a share of at least 0 and below 1.")
        if levels < 1:
            raise ValueError(f"levels={levels}: expected 1 or more.")
        self.branches = nn.ModuleList(_Branch(in_channels, channels) for _ in range(levels))
        self.fuse = nn.Conv3d(levels * channels + 1, channels, 3, padding=1, bias=False)
        self.classify = nn.Conv3d(channels, 2, 3, padding=1, bias=False)
        self.correction = CorrectionPrompt(in_channels, channels, channels=correction_channels) if correction else None
        self.dropout = nn.Dropout3d(dropout)

    def _shares(self) -> tuple[Tensor, ...]:
        """The weights of the fusing convolution for each level, then for the image."""
        return self.fuse.weight.split([self.classify.in_channels] * len(self.branches) + [1], dim=1)

    @staticmethod
    def _grid(feature: Tensor) -> list[int]:
        return [2 * n for n in feature.shape[2:]]

    def context(self, levels: Sequence[Tensor], image: Tensor) -> Tensor:
        """The part of the fusing convolution that no click changes.

        Args:
            levels: the feature levels, each (B, C, d, h, w); the last one is not used.
            image: (B, 1, D, H, W).

        Returns:
            (B, channels, 2d, 2h, 2w).

        Raises:
            ValueError: if the crop is a single token, over which no instance norm can be taken, or the levels are
                not as many as the decoder has branches.
        """
        if len(levels) != len(self.branches):
            raise ValueError(
                f"there are {len(levels)} feature levels: expected {len(self.branches)}, one for each branch of the "
                "decoder; give image encoder and mask decoder the same number of levels."
            )
        if levels[0].shape[2:].numel() == 1:
            raise ValueError(
                f"a crop of {tuple(image.shape[2:])} voxels is a single token: expected at least two tokens, take a "
                "larger crop."
            )
        weights = self._shares()
        image = F.interpolate(image, size=self._grid(levels[0]), mode="trilinear", align_corners=False)
        first = F.conv3d(image, weights[-1], padding=1)
        total = first.to(image.dtype)
        for level, weight in enumerate(weights[:-2]):
            total = total + conv_of_enlarged(self.branches[level](levels[level]), weight)
        return total.to(first.dtype)  # it is kept between clicks

    def forward(
        self,
        context: Tensor,
        deepest: Tensor,
        image: Tensor,
        clicks: Tensor | None = None,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Logits of a crop.

        Args:
            context: (B, channels, 2d, 2h, 2w), from `context`.
            deepest: (B, C, d, h, w), the deepest level, prompted or not.
            image: (B, 1, D, H, W), the crop.
            clicks: (B, N, 3) crop voxels, or None.
            labels: (B, N), or None.
            mask: (B, 1, D, H, W) logits of the lesion, or None.

        Returns:
            (B, 2, D, H, W): background, lesion.
        """
        context, deepest = self.dropout(context), self.dropout(deepest)
        added = None
        if self.correction is not None and (clicks is not None or mask is not None):
            added = self.correction(image, deepest, clicks, labels, mask, grid=self._grid(deepest))
            deepest = deepest + added[0]
        fused = context.to(image.dtype) + conv_of_enlarged(self.branches[-1](deepest), self._shares()[-2])
        if added is not None:
            fused = fused + added[1]
        with full_precision(image.device):
            logits = self.classify(F.relu(F.instance_norm(fused)))
        if added is not None:
            logits = logits + added[2]
        return F.interpolate(logits, size=tuple(image.shape[2:]), mode="trilinear", align_corners=True)


def build_mask_decoder(variant: str | Backbone | Sizes = "vit_b", **overrides: Any) -> AggregationDecoder:
    """Mask decoder of a variant; for configs.

    Args:
        variant: name in `adapters.networks.BACKBONES`, or sizes.
        **overrides: other arguments of `AggregationDecoder`, in place of the variant's.

    Raises:
        ValueError: if the variant is unknown.
    """
    sizes = get_sizes(variant)
    own = {"in_channels": sizes.out_channels, "channels": sizes.head_channels, "levels": sizes.levels}
    arguments: dict[str, Any] = {**own, "correction_channels": sizes.correction_channels, **overrides}
    return AggregationDecoder(**arguments)
