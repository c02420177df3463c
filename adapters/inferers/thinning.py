"""Which clicks the network gets.

In its training the clicks of a crop were few and lay apart. Many on one place drown the others: it attends to each of
them alike, and the mask shrinks to nothing. So of clicks with the same label those are taken that lie far from each
other, the newest one first. Those left out still count where the result is made to follow them (``honouring.py``).
"""

from __future__ import annotations

import numpy as np

from adapters.prompts import Prompts

__all__ = ["thinned"]

MOST = 10
"""Clicks of one label that the network gets of a crop, as many as in training at most."""


def thinned(prompts: Prompts, distance: float) -> Prompts:
    """The clicks that say most: of each label the newest, then always the one farthest from those taken.

    Clicks of different labels may lie as near to each other as they like: that is what says where a lesion ends.

    Args:
        prompts: in voxels of a crop, without padding.
        distance: voxels of the crop that clicks of one label lie apart, at least.

    Returns:
        The prompts with at most `MOST` clicks of each label, in their order.
    """
    taken: list[int] = []
    for label in np.unique(prompts.labels):
        numbers = np.flatnonzero(prompts.labels == label)
        points = prompts.points[numbers]
        apart = np.full(len(points), np.inf)
        chosen = len(points) - 1
        for _ in range(MOST):
            taken.append(int(numbers[chosen]))
            apart = np.minimum(apart, np.linalg.norm(points - points[chosen], axis=1))
            chosen = int(np.argmax(apart))
            if apart[chosen] < distance:
                break
    return prompts.only(np.array(sorted(taken), dtype=int))
