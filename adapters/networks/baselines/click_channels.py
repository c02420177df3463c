"""Other people's networks behind the interface of ours, to compare with."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from adapters.networks.layers.points import click_maps
from adapters.networks.promptable import PromptableNetwork, check_prompts
from adapters.prompts.tensors import PromptTensors

__all__ = ["ClickChannelNetwork"]


class ClickChannelNetwork(PromptableNetwork):
    """A segmentation network that takes clicks as input channels, or no prompt at all.

    Args:
        backbone: (B, C, *crop) to (B, 2, *crop) logits; C is 1, or 3 if it gets the clicks. A backbone with deep
            supervision may give a list or a stack of outputs, of which the first is taken.
        clicks: whether two channels with bumps round the clicks on and off the lesion are appended to the image.
        sigma: standard deviation of the bumps, in voxels.
        spatial_dims: axes of a crop, 2 or 3.

    Raises:
        ValueError: if `sigma` is not positive, or there are other numbers of axes.
    """

    family = "click_channels"
    parts: ClassVar[dict[str, type[nn.Module]]] = {"backbone": nn.Module}

    def __init__(self, backbone: nn.Module, *, clicks: bool = False, sigma: float = 2.0, spatial_dims: int = 3) -> None:
        super().__init__()
        if sigma <= 0:
            raise ValueError(f"sigma={sigma}: expected a positive number of voxels.")
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims={spatial_dims}: expected 2 or 3.")
        self.backbone = backbone
        self.clicks = clicks
        self.sigma = sigma
        self.spatial_dims = spatial_dims
        self.takes = frozenset({"points"} if clicks else ())

    def encode(self, image: Tensor) -> Tensor:
        """Nothing can be kept between clicks: the image itself."""
        return image

    def logits(self, features: Tensor, image: Tensor, prompts: PromptTensors | None = None) -> Tensor:
        """Logits (B, 2, *crop) of background and lesion."""
        prompts = check_prompts(image, prompts, self.takes)
        if self.clicks:
            shape = image.shape[2:]
            if prompts is None:
                maps = image.new_zeros(image.shape[0], 2, *shape)
            else:
                maps = click_maps(prompts.points.to(image.dtype), prompts.labels, shape, shape, self.sigma)
            image = torch.cat([image, maps], dim=1)
        logits = self.backbone(image)
        if isinstance(logits, (list, tuple)):
            return logits[0]
        return logits[:, 0] if logits.ndim == self.spatial_dims + 3 else logits
