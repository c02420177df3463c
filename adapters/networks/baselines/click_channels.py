"""Other people's networks behind the interface of ours, to compare with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from adapters.networks.samadapter3d.mask_decoder import click_maps

__all__ = ["ClickChannelNetwork"]


class ClickChannelNetwork(nn.Module):
    """A segmentation network that takes clicks as input channels, or ignores them.

    Args:
        backbone: (B, C, D, H, W) to (B, 2, D, H, W) logits; C is 1, or 3 if it gets the clicks. A backbone with deep
            supervision may give a list or a stack of outputs, of which the first is taken.
        clicks: whether two channels with bumps round the clicks on and off the lesion are appended to the image.
        sigma: standard deviation of the bumps, in voxels.

    Raises:
        ValueError: if `sigma` is not positive.
    """

    def __init__(self, backbone: nn.Module, *, clicks: bool = False, sigma: float = 2.0) -> None:
        super().__init__()
        if sigma <= 0:
            raise ValueError(f"sigma={sigma}: expected a positive number of voxels.")
        self.backbone = backbone
        self.clicks = clicks
        self.sigma = sigma

    def encode(self, image: Tensor) -> Tensor:
        """Nothing can be kept between clicks: the image itself."""
        return image

    def decode(
        self,
        features: Tensor,
        image: Tensor,
        clicks: Tensor | None = None,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, 2, D, H, W); arguments as for `SAMAdapter3D.decode`, the mask is ignored."""
        if self.clicks:
            shape: Sequence[int] = image.shape[2:]
            if clicks is None or clicks.shape[1] == 0:
                maps = image.new_zeros(image.shape[0], 2, *shape)
            else:
                if labels is None:
                    labels = torch.ones(clicks.shape[:2], dtype=torch.long, device=clicks.device)
                maps = click_maps(clicks.to(image.dtype), labels, shape, shape, self.sigma)
            image = torch.cat([image, maps], dim=1)
        logits = self.backbone(image)
        if isinstance(logits, (list, tuple)):
            return logits[0]
        return logits[:, 0] if logits.ndim == 6 else logits

    def forward(
        self, image: Tensor, clicks: Tensor | None = None, labels: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """As `decode`."""
        return self.decode(image, image, clicks, labels, mask)
