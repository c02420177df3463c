"""Aggregation of the feature levels into logits (3DSAM-adapter, section 3.4), and the prompts that correct them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.networks.layers.enlarged_conv import conv_of_enlarged
from adapters.networks.layers.tracing import recorded
from adapters.networks.backbones import Variant, get_variant

__all__ = ["AggregationDecoder", "CorrectionPrompt", "build_mask_decoder", "click_maps"]


def click_maps(clicks: Tensor, labels: Tensor, shape: Sequence[int], grid: Sequence[int], sigma: float) -> Tensor:
    """Gaussian bumps round the clicks on and off the lesion.

    Args:
        clicks: (B, N, 3) voxel coordinates in the crop (depth, height, width), centres at integers.
        labels: (B, N): 1, 0, or -1 for padding.
        shape: voxels of the crop along each axis.
        grid: samples of the map along each axis; it covers the crop.
        sigma: standard deviation, in crop voxels.

    Returns:
        (B, 2, *grid): the highest bump at each place of the clicks with label 1, then with label 0.
    """
    profiles = []
    for axis in range(3):
        step = shape[axis] / grid[axis]
        centres = (torch.arange(grid[axis], device=clicks.device, dtype=clicks.dtype) + 0.5) * step - 0.5
        profiles.append(torch.exp(-0.5 * ((clicks[:, :, axis, None] - centres) / sigma) ** 2))
    if recorded():
        d, h, w = profiles
        bumps = d[:, :, :, None, None] * h[:, :, None, :, None] * w[:, :, None, None, :]
        weights = [(labels == label).to(clicks.dtype)[:, :, None, None, None] for label in (1, 0)]
        return torch.stack([(weight * bumps).amax(dim=1) for weight in weights], dim=1)
    maps = []
    for label in (1, 0):
        out = clicks.new_zeros(clicks.shape[0], *grid)
        for n in range(clicks.shape[1]):
            weight = (labels[:, n] == label).to(clicks.dtype)
            d, h, w = (p[:, n] for p in profiles)
            bump = (weight[:, None] * d)[:, :, None, None] * h[:, None, :, None] * w[:, None, None, :]
            out = torch.maximum(out, bump)
        maps.append(out)
    return torch.stack(maps, dim=1)


def click_ellipsoid(clicks: Tensor, labels: Tensor, shape: Sequence[int], grid: Sequence[int]) -> Tensor:
    """The ellipsoid that the clicks on the lesion span, as a soft map.

    Points drawn evenly from an ellipsoid have a fifth of its squared semi-axes as covariance. The clicks' covariance is
    drawn towards that of a ball of the usual size (a standard deviation of a tenth of the crop's side) by as much
    as two clicks weigh, so that few clicks, or clicks in a plane, span one too.

    Args:
        clicks: (B, N, 3) voxel coordinates in the crop (depth, height, width), centres at integers.
        labels: (B, N): 1, 0, or -1 for padding.
        shape: voxels of the crop along each axis.
        grid: samples of the map along each axis; it covers the crop.

    Returns:
        (B, 1, *grid): exp(-m / 5) with the squared Mahalanobis distance m, about 0.37 on the ellipsoid's surface; 0
        where an item has no click on the lesion.
    """
    weight = (labels == 1).float()
    number = weight.sum(dim=1)
    safe = number.clamp(min=1)
    points = clicks.float()
    centre = (weight[:, :, None] * points).sum(dim=1) / safe[:, None]
    apart = (points - centre[:, None]) * weight[:, :, None]
    usual = 2 * torch.diag((torch.tensor(shape, dtype=points.dtype, device=points.device) / 10) ** 2)
    spread = (apart.transpose(1, 2) @ apart + usual) / (number + 2)[:, None, None]
    axes = [
        (torch.arange(grid[axis], device=points.device, dtype=points.dtype) + 0.5) * (shape[axis] / grid[axis]) - 0.5
        for axis in range(3)
    ]
    away = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2) - centre[:, None]
    # ONNX has no inverse
    inverse = _inverse(spread) if torch.compiler.is_exporting() else torch.linalg.inv(spread)
    distance = (away @ inverse * away).sum(dim=-1)
    inside = torch.exp(-distance / 5) * (number > 0).float()[:, None]
    return inside.view(-1, 1, *grid).to(clicks.dtype)


def _pooled(x: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Means of (B, C, D, H, W) over boxes, down to a size."""
    if torch.compiler.is_exporting():  # ONNX has no adaptive pooling; boxes of one size are the same
        return F.avg_pool3d(x, [full // part for full, part in zip(x.shape[2:], size, strict=True)])
    return F.adaptive_avg_pool3d(x, size)


def _inverse(matrices: Tensor) -> Tensor:
    """Inverses of (B, 3, 3) matrices by their cofactors, from products and differences alone."""
    a, b, c = matrices.unbind(dim=1)
    columns = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], dim=2)
    return columns / (a * columns[:, :, 0]).sum(dim=1)[:, None, None]


class CorrectionPrompt(nn.Module):
    """Lets the decoder see what stands, where the clicks are and how many there are.

    The image, the mask of the round before, bumps round the clicks and the ellipsoid that they span pass a small
    residual network: dilated convolutions inside the decoder's resolution, which carry a correction along the
    structures of the image, and others at the tokens' resolution, which see most of the crop and the deepest feature.
    One click among ten says less of the lesion's size than a single one, so the numbers of clicks and whether a mask
    stands are inputs too. The result is added to the deepest feature, inside the decoder and to its logits. All three
    additions start at zero, so published weights are untouched, and come after the encoder, so a kept embedding stays
    valid.

    Args:
        feature_channels: channels of the deepest feature.
        head_channels: channels inside the decoder.
        channels: width of the residual network.
        fine: dilation of each 3x3x3 convolution at the decoder's resolution, before the coarse ones; one more, not
            dilated, follows them.
        coarse: dilation of each 3x3x3 convolution at the tokens' resolution.
        sigmas: standard deviations of the bumps, in crop voxels.
    """

    def __init__(
        self,
        feature_channels: int,
        head_channels: int,
        *,
        channels: int = 16,
        fine: Sequence[int] = (1, 2),
        coarse: Sequence[int] = (1, 2),
        sigmas: Sequence[float] = (1.5, 5.0, 15.0),
    ) -> None:
        super().__init__()
        self.sigmas = tuple(sigmas)
        self.stem = nn.Conv3d(6 + 2 * len(self.sigmas), channels, 1)
        self.fine = nn.ModuleList(_dilated(channels, dilation) for dilation in fine)
        self.from_feature = nn.Conv3d(feature_channels, channels, 1)
        self.overview = nn.Linear(channels, channels)
        self.coarse = nn.ModuleList(_dilated(channels, dilation) for dilation in coarse)
        self.last = _dilated(channels, 1)
        self.to_feature = nn.Conv3d(channels, feature_channels, 1)
        self.to_head = nn.Conv3d(channels, head_channels, 1)
        self.to_logits = nn.Conv3d(channels, 2, 1)
        for conv in (self.to_feature, self.to_head, self.to_logits):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def _inputs(
        self,
        image: Tensor,
        clicks: Tensor | None,
        labels: Tensor | None,
        mask: Tensor | None,
        size: tuple[int, int, int],
    ) -> Tensor:
        """(B, 6 + 2 * sigmas, *size): image, mask, whether there is one, numbers of clicks, ellipsoid, bumps."""
        blank = image.new_zeros(image.shape[0], 1, *size)
        inputs = [_pooled(image, size)]
        if mask is None:
            inputs += [blank, blank]
        else:
            # from -1 (background) over 0 (unknown, or no mask) to 1 (lesion)
            inputs += [_pooled(torch.tanh(0.5 * mask.to(image.dtype)), size), blank + 1]
        for label in (1, 0):
            if clicks is None or labels is None:
                inputs.append(blank)
            else:
                number = (labels == label).sum(dim=1).to(image.dtype)
                inputs.append(blank + 0.5 * torch.log1p(number)[:, None, None, None, None])
        if clicks is None or labels is None:
            inputs += [blank] * (1 + 2 * len(self.sigmas))
        else:
            clicks = clicks.to(image.dtype)
            inputs.append(click_ellipsoid(clicks, labels, image.shape[2:], size))
            for sigma in self.sigmas:
                inputs.append(click_maps(clicks, labels, image.shape[2:], size, sigma))
        return torch.cat(inputs, dim=1)

    def forward(
        self,
        image: Tensor,
        deepest: Tensor,
        clicks: Tensor | None,
        labels: Tensor | None,
        mask: Tensor | None,
        *,
        grid: Sequence[int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What to add to the deepest feature, inside the decoder, and to its logits.

        Args:
            image: (B, 1, D, H, W).
            deepest: (B, feature_channels, d, h, w), the deepest feature, prompted.
            clicks: (B, N, 3) crop voxels, or None.
            labels: (B, N): 1, 0, or -1 for padding; or None.
            mask: (B, 1, D, H, W) logits of the lesion, or None.
            grid: resolution inside the decoder.

        Returns:
            (B, feature_channels, d, h, w), (B, head_channels, *grid) and (B, 2, *grid).
        """
        size, tokens = (grid[0], grid[1], grid[2]), (deepest.shape[2], deepest.shape[3], deepest.shape[4])
        hidden = self.stem(self._inputs(image, clicks, labels, mask, size))
        for conv in self.fine:
            hidden = hidden + F.gelu(conv(hidden))
        coarse = _pooled(hidden, tokens) + self.from_feature(deepest)
        coarse = coarse + F.gelu(self.overview(coarse.mean(dim=(2, 3, 4))))[:, :, None, None, None]
        for conv in self.coarse:
            coarse = coarse + F.gelu(conv(coarse))
        hidden = hidden + F.interpolate(coarse, size=size, mode="trilinear", align_corners=False)
        hidden = hidden + F.gelu(self.last(hidden))
        added = (self.to_feature(coarse), self.to_head(hidden), self.to_logits(hidden))
        if mask is None and labels is not None:
            # an item without a click is in automatic mode, whatever the others of its batch are in
            active = (labels >= 0).any(dim=1).to(image.dtype)[:, None, None, None, None]
            added = (added[0] * active, added[1] * active, added[2] * active)
        return added


def _dilated(channels: int, dilation: int) -> nn.Conv3d:
    return nn.Conv3d(channels, channels, 3, padding=dilation, dilation=dilation)


class _Branch(nn.Module):
    """Two 3x3x3 convolutions with instance norm and ReLU."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.instance_norm(self.conv1(x)))
        return F.relu(F.instance_norm(self.conv2(x)))


class AggregationDecoder(nn.Module):
    """The levels and the image, aggregated (3DSAM-adapter, section 3.4).

    Each level passes a branch and is enlarged two times; they and the image at that resolution are
    concatenated, convolved to two logits and enlarged to the crop. The convolution over the concatenation is a
    sum of convolutions, so what does not depend on the clicks (`context`) is computed once for all of them.

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

    def __init__(
        self,
        in_channels: int = 256,
        *,
        channels: int = 128,
        levels: int = 4,
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
        total = F.conv3d(image, weights[-1], padding=1)
        for level, weight in enumerate(weights[:-2]):
            total = total + conv_of_enlarged(self.branches[level](levels[level]), weight)
        return total

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
        fused = context + conv_of_enlarged(self.branches[-1](deepest), self._shares()[-2])
        if added is not None:
            fused = fused + added[1]
        logits = self.classify(F.relu(F.instance_norm(fused)))
        if added is not None:
            logits = logits + added[2]
        return F.interpolate(logits, size=tuple(image.shape[2:]), mode="trilinear", align_corners=True)


def build_mask_decoder(variant: str | Variant = "vit_b", **overrides: Any) -> AggregationDecoder:
    """Mask decoder of a variant; for configs.

    Args:
        variant: name in `adapters.networks.VARIANTS`, or a `Variant`.
        **overrides: other arguments of `AggregationDecoder`, in place of the variant's.

    Raises:
        ValueError: if the variant is unknown.
    """
    v = get_variant(variant)
    sizes: dict[str, Any] = {
        "in_channels": v.out_channels,
        "channels": v.head_channels,
        "correction_channels": v.correction_channels,
        "levels": v.levels,
    }
    return AggregationDecoder(**{**sizes, **overrides})
