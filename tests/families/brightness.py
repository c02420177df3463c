"""A family of twenty lines: the lesion is what is as bright as the clicks on it. Importing the module moves it in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapters.networks.families import FAMILIES, Family
from adapters.networks.layers.points import sample_feature
from adapters.networks.promptable import PromptableNetwork, check_prompts
from adapters.prompts import PromptTensors


class BrightnessNetwork(PromptableNetwork):
    family = "brightness"
    takes = frozenset({"points"})

    def __init__(self, tolerance: float = 0.25) -> None:
        super().__init__()
        self.tolerance = nn.Parameter(torch.tensor(tolerance))

    def encode(self, image: Tensor) -> Tensor:
        return image

    def logits(self, features: Tensor, image: Tensor, prompts: PromptTensors | None = None) -> Tensor:
        prompts = check_prompts(image, prompts, self.takes)
        if prompts is None:
            return torch.full_like(image, -10.0)
        brightness = sample_feature(features, prompts.points, image.shape[2:])[..., 0].masked_fill(
            prompts.labels != 1, torch.nan
        )
        return 40 * (self.tolerance - (image - brightness.nanmean(dim=1)[:, None, None, None, None]).abs())


FAMILIES["brightness"] = Family("as bright as the clicks", __name__, "BrightnessNetwork", "BrightnessNetwork")
