"""The spatial adapter of 3DSAM-adapter (section 3.2, figure 2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from adapters.networks.tuning.block import BlockPlace, BlockTuning

__all__ = ["SpatialAdapter"]


class SpatialAdapter(BlockTuning):
    """Bottleneck with a depthwise 3x3x3 convolution, added to the block's input.

    Args:
        place: the block that it is for.
        hidden: width of the bottleneck; None: half of the tokens' width, as published.
    """

    def __init__(self, place: BlockPlace, *, hidden: int | None = None) -> None:
        super().__init__(place)
        hidden = hidden or place.dim // 2
        self.down = nn.Linear(place.dim, hidden)
        self.conv = nn.Conv3d(hidden, hidden, 3, padding=1, groups=hidden)
        self.up = nn.Linear(hidden, place.dim)

    def initialise(self) -> None:
        """The linear layers start as SAM's do."""
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W, C) to the same shape."""
        y = F.relu(self.down(x), inplace=True)
        y = F.relu(self.conv(y.permute(0, 4, 1, 2, 3)), inplace=True).permute(0, 2, 3, 4, 1)
        return x + F.relu(self.up(y), inplace=True)

    def before_attention(self, x: Tensor) -> Tensor:
        """As `forward`."""
        return self(x)
