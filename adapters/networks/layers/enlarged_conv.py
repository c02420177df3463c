"""A convolution of an enlarged volume, computed before enlarging.

Enlarging acts on each channel and along each axis alone, a convolution mixes the channels the same at every place. So
the channels can be mixed for the 27 taps at the low resolution, with an eighth of the products. Each axis is then
enlarged and shifted by its three taps with one small matrix.
"""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.networks.layers.tracing import recorded

__all__ = ["conv_of_enlarged"]

logger = logging.getLogger(__name__)

_WORKING_SET = 2**20  # values of one tap's output at the low resolution: what is in use then fits in the cache


def conv_of_enlarged(x: Tensor, weight: Tensor) -> Tensor:
    """3x3x3 convolution, zeros beyond the border, of a volume enlarged two times (trilinear, corners aligned).

    On CPUs, in float32 or float64, without gradient and autocast, the channels are mixed at the low resolution, which
    takes less than half the time of the plain form; everywhere else, and in exports, the plain form is computed. They
    agree to rounding.

    Args:
        x: (B, C, d, h, w).
        weight: (O, C, 3, 3, 3).

    Returns:
        (B, O, 2d, 2h, 2w).
    """
    if recorded() or torch.compiler.is_compiling() or _is_plain(x, weight):
        size = [2 * n for n in x.shape[2:]]
        return F.conv3d(F.interpolate(x, size=size, mode="trilinear", align_corners=True), weight, padding=1)
    batch, channels, depth, height, width = x.shape
    along_d, along_h, along_w = (_taps(n, x) for n in (depth, height, width))
    along_w = along_w.transpose(1, 2).contiguous()
    result = x.new_empty(batch, len(weight), 2 * depth, 4 * height * width)
    step = max(1, _WORKING_SET // (depth * height * width))
    for start in range(0, len(weight), step):
        kernel = weight[start : start + step]
        n = len(kernel)
        # (3, 3, 3 n, C): for the taps along depth and height, those along width and all output channels in one product
        mixing = kernel.permute(2, 3, 4, 0, 1).reshape(3, 3, 3 * n, channels)
        for item, out in zip(x.reshape(batch, channels, -1), result[:, start : start + n], strict=True):
            for i in range(3):
                planes = x.new_zeros(n * depth, 2 * height, 2 * width)
                for j in range(3):
                    mixed = torch.mm(mixing[i, j], item).view(3, n * depth * height, width)
                    rows = torch.mm(mixed[0], along_w[0])
                    rows.addmm_(mixed[1], along_w[1]).addmm_(mixed[2], along_w[2])
                    planes.baddbmm_(along_h[j].expand(n * depth, -1, -1), rows.view(n * depth, height, 2 * width))
                volume = planes.view(n, depth, -1)
                if i == 0:
                    torch.bmm(along_d[i].expand(n, -1, -1), volume, out=out)
                else:
                    out.baddbmm_(along_d[i].expand(n, -1, -1), volume)
    return result.view(batch, -1, 2 * depth, 2 * height, 2 * width)


def _is_plain(x: Tensor, weight: Tensor) -> bool:
    """Whether the plain form is computed; said at debug level, but for the gradients' sake."""
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return True
    reason = None
    if x.device.type != "cpu":
        reason = f"it is on {x.device}"
    elif x.dtype not in (torch.float32, torch.float64) or torch.is_autocast_enabled("cpu"):
        reason = "it is not of full precision"
    if reason:
        logger.debug("a volume is enlarged before it is convolved, as %s", reason)
    return reason is not None


def _taps(size: int, like: Tensor) -> Tensor:
    """(3, 2 size, size): an axis enlarged two times, as seen by each tap of a convolution (zeros beyond the border)."""
    unit = torch.eye(size, dtype=torch.float64)
    enlarged = F.interpolate(unit[None], size=2 * size, mode="linear", align_corners=True)[0].t()
    padded = F.pad(enlarged, (0, 0, 1, 1))
    return torch.stack([padded[tap : tap + 2 * size] for tap in range(3)]).to(like)
