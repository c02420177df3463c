"""Patches of an enlarged volume, embedded without enlarging it."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.networks.precision import full_precision
from adapters.networks.roles import Role

__all__ = ["PATCH", "PatchEmbedding3D", "enlargement_matrix"]

PATCH = 16  # side of SAM's patches in the enlarged volume


def enlargement_matrix(enlargement: int, *, patch: int = PATCH) -> Tensor:
    """Linear interpolation of one patch of an enlarged axis, as a matrix.

    An axis is enlarged ``enlargement`` times: linear, voxel centres at +0.5, edges replicated. That makes each run of
    ``patch`` samples a linear function of ``patch // enlargement + 2`` voxels of the original.

    Args:
        enlargement: 1, 2, 4, 8 or 16.
        patch: samples of the enlarged axis in one patch.

    Returns:
        (patch, patch // enlargement + 2); column 0 is the voxel before the patch's first one.
    """
    source = (torch.arange(patch, dtype=torch.float64) + 0.5) / enlargement - 0.5 + 1.0
    low = source.floor()
    matrix = torch.zeros(patch, patch // enlargement + 2, dtype=torch.float64)
    rows = torch.arange(patch)
    matrix[rows, low.long()] = 1.0 - (source - low)
    matrix[rows, low.long() + 1] += source - low
    return matrix


class PatchEmbedding3D(nn.Module):
    """Patches of the enlarged volume, embedded without enlarging it.

    The published network enlarges the crop (trilinear), repeats it to three channels, applies SAM's 16x16
    convolution in the plane and a depthwise convolution of length 16 along depth. All of that is one linear map
    of a few voxels of the crop: a convolution with stride ``16 / enlargement`` whose kernel is folded here from the
    original weights (which stay the parameters, so checkpoints and gradients are those of the published form).

    Args:
        embed_dim: width of the tokens.
        enlargement: how many times the published form enlarges the crop: 4, or 2 in automatic mode.

    Raises:
        ValueError: if the enlargement is none of 1, 2, 4, 8.
    """

    parameter_roles: ClassVar[dict[str, Role]] = {"depth_weight": "depth", "depth_bias": "depth"}
    interpolation: Tensor

    def __init__(self, embed_dim: int, *, enlargement: int = 4) -> None:
        super().__init__()
        if enlargement not in (1, 2, 4, 8):
            raise ValueError(f"enlargement={enlargement}: expected 1, 2, 4 or 8, a divisor of SAM's patch of {PATCH}.")
        self.stride = PATCH // enlargement
        self.plane = nn.Conv2d(3, embed_dim, PATCH, PATCH)
        self.depth_weight = nn.Parameter(torch.empty(embed_dim, PATCH))
        self.depth_bias = nn.Parameter(torch.empty(embed_dim))
        self.register_buffer("interpolation", enlargement_matrix(enlargement).float(), persistent=False)
        self.start_depth()

    @torch.no_grad()
    def start_depth(self) -> None:
        """Set what SAM lacks along depth: the mean of the slices of a patch, and no bias."""
        self.depth_weight.fill_(1.0 / PATCH)
        self.depth_bias.zero_()

    def folded(self) -> tuple[Tensor, Tensor]:
        """Kernel (embed_dim, 1, k, k, k) with k = 16 / enlargement + 2, and bias (embed_dim,)."""
        plane = self.interpolation.t() @ self.plane.weight.sum(1) @ self.interpolation
        depth = self.depth_weight @ self.interpolation
        kernel = depth[:, :, None, None] * plane[:, None]
        plane_bias: Tensor = self.plane.bias  # type: ignore[assignment]  # made with one above
        bias = plane_bias * self.depth_weight.sum(1) + self.depth_bias
        return kernel[:, None], bias

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, D, H, W) image to (B, D/s, H/s, W/s, C) tokens, s = 16 / enlargement."""
        with full_precision(image.device):  # the folded kernel would be rounded three times
            kernel, bias = self.folded()
            padded = F.pad(image, (1,) * 6, mode="replicate")
            tokens = F.conv3d(padded, kernel.to(image.dtype), bias.to(image.dtype), stride=self.stride)
        return tokens.permute(0, 2, 3, 4, 1)
