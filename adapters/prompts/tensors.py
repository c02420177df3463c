"""Prompts as tensors: the form in which a network takes them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["PromptTensors"]


class PromptTensors(NamedTuple):
    """The prompts of a batch, in voxels of the crop and in the order of the tensor's axes (n = 2 or 3 of them).

    Voxel centres lie at integers, fractions are allowed.

    Attributes:
        points: (B, N, n), N >= 0.
        labels: (B, N): 1 on the lesion, 0 off it, -1 padding (items of a batch may have different numbers).
        boxes: (B, M, 2, n), the lowest and the highest voxel centre of each box; NaN is padding. None: no box.
        text: (B, T, C), phrases as vectors. None: no phrase.
        mask: (B, 1, *crop), log-odds of what stands, of the round before or to start from (such as -10 outside and 10
            inside). None: nothing stands yet.
    """

    points: Tensor
    labels: Tensor
    boxes: Tensor | None = None
    text: Tensor | None = None
    mask: Tensor | None = None
