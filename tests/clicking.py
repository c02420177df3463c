"""Prompts for tests, from clicks alone."""

from __future__ import annotations

import torch
from torch import Tensor

from adapters.prompts.tensors import PromptTensors


def clicked(
    points: Tensor | None = None, labels: Tensor | None = None, mask: Tensor | None = None
) -> PromptTensors | None:
    """Clicks (B, N, n), all on the lesion unless `labels` (B, N) say otherwise, and a mask; None for none."""
    if points is None:
        if mask is None:
            return None
        points = torch.zeros(len(mask), 0, mask.ndim - 2)
    if labels is None:
        labels = torch.ones(points.shape[:2], dtype=torch.long)
    return PromptTensors(points, labels, mask=mask)
