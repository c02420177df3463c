"""Networks whose answer is known: the lesion is where the image is above one half."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Oracle(nn.Module):
    """Says lesion where the crop is brighter than 0.5, and notes what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(20.0))
        self.encoded = 0
        self.crops: list[Tensor] = []
        self.prompts: list[tuple[list, list]] = []
        self.masks: list[Tensor | None] = []
        self.eval()

    def encode(self, image: Tensor) -> Tensor:
        self.encoded += 1
        return image * self.sharpness

    def decode(self, features: Tensor, image: Tensor, clicks: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
        self.crops.append(image)
        self.prompts.append((clicks[0].tolist(), labels[0].tolist()))
        self.masks.append(mask)
        lesion = features - 0.5 * self.sharpness
        return torch.cat([-lesion, lesion], dim=1)

    def forward(self, image: Tensor, clicks=None, labels=None, mask=None) -> Tensor:
        lesion = image * self.sharpness - 0.5 * self.sharpness
        return torch.cat([-lesion, lesion], dim=1)


def ellipsoid(size: tuple[int, ...], centre: tuple[float, ...], radii: tuple[float, ...]) -> Tensor:
    """A smooth-edged ellipsoid (1, 1, D, H, W) whose surface lies where the value is 0.5."""
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in size], indexing="ij")
    distance = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)).sqrt()
    return (0.5 + (1 - distance) * min(radii) / 4).clamp(0, 1)[None, None]


def as_mask(logits: Tensor) -> Tensor:
    return torch.as_tensor(logits[:, 1] > logits[:, 0])


def dice(a: Tensor, b: Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))
