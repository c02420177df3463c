"""Networks whose answer is known: the lesion is where the image is above one half."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapters.networks.promptable import PromptableNetwork
from adapters.prompts import PromptTensors


class Oracle(PromptableNetwork):
    """Says lesion where the crop is brighter than 0.5, and notes what it was asked."""

    family = "oracle"
    takes = frozenset({"points", "boxes", "mask"})

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(20.0))
        self.encoded = 0
        self.crops: list[Tensor] = []
        self.prompts: list[tuple[list, list]] = []
        self.boxes: list[list | None] = []
        self.masks: list[Tensor | None] = []
        self.eval()

    def encode(self, image: Tensor) -> Tensor:
        self.encoded += 1
        return image * self.sharpness

    def decode(self, features: Tensor, image: Tensor, prompts: PromptTensors | None = None) -> Tensor:
        assert prompts is not None
        self.crops.append(image)
        self.prompts.append((prompts.points[0].tolist(), prompts.labels[0].tolist()))
        self.boxes.append(None if prompts.boxes is None else prompts.boxes[0].tolist())
        self.masks.append(prompts.mask)
        return super().decode(features, image, prompts)

    def logits(self, features: Tensor, image: Tensor, prompts: PromptTensors | None = None) -> Tensor:
        return 2 * features - self.sharpness


def ellipsoid(size: tuple[int, ...], centre: tuple[float, ...], radii: tuple[float, ...]) -> Tensor:
    """A smooth-edged ellipsoid (1, 1, D, H, W) whose surface lies where the value is 0.5."""
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in size], indexing="ij")
    distance = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)).sqrt()
    return (0.5 + (1 - distance) * min(radii) / 4).clamp(0, 1)[None, None]


def as_mask(log_odds: Tensor) -> Tensor:
    return torch.as_tensor(log_odds[:, 0] > 0)


def dice(a: Tensor, b: Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))
