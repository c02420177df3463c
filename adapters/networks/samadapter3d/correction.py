"""The prompt that corrects: what the decoder sees of clicks, their number, and the mask that stands."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.networks.layers.points import click_maps, sample_centres
from adapters.networks.precision import full_precision

__all__ = ["CorrectionPrompt", "click_ellipsoid"]


def click_ellipsoid(clicks: Tensor, labels: Tensor, shape: Sequence[int], grid: Sequence[int]) -> Tensor:
    """The ellipsoid that the clicks on the lesion span, as a soft map.

    Points drawn evenly from an ellipsoid have a fifth of its squared semi-axes as covariance. The clicks' covariance is
    drawn towards that of a ball of the usual size, a standard deviation of a tenth of the crop's side. The ball weighs
    as much as two clicks, so few clicks, or clicks in a plane, span an ellipsoid too.

    Args:
        clicks: (B, N, 3) voxel coordinates in the crop (depth, height, width), centres at integers.
        labels: (B, N): 1, 0, or -1 for padding.
        shape: voxels of the crop along each axis.
        grid: samples of the map along each axis; it covers the crop.

    Returns:
        (B, 1, *grid): exp(-m / 5) with the squared Mahalanobis distance m, about 0.37 on the ellipsoid's surface; 0
        where an item has no click on the lesion.
    """
    points = clicks.float()
    with full_precision(points.device):
        weight = (labels == 1).float()
        number = weight.sum(dim=1)
        safe = number.clamp(min=1)
        centre = (weight[:, :, None] * points).sum(dim=1) / safe[:, None]
        apart = (points - centre[:, None]) * weight[:, :, None]
        usual = 2 * torch.diag((torch.tensor(shape, dtype=points.dtype, device=points.device) / 10) ** 2)
        spread = (apart.transpose(1, 2) @ apart + usual) / (number + 2)[:, None, None]
        axes = torch.meshgrid(*sample_centres(shape, grid, points), indexing="ij")
        away = torch.stack(axes, dim=-1).flatten(0, -2) - centre[:, None]
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
    residual network. Dilated convolutions inside the decoder's resolution carry a correction along the structures of
    the image; others at the tokens' resolution see most of the crop and the deepest feature.
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
        hidden = self.stem(self._inputs(image, clicks, labels, mask, size)).to(image.dtype)
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
