"""The lesions of one case, scored one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from adapters.prompts.voxels import voxels_under

from .volume import as_mask, as_masks, as_mm, volume_scores

_TOUCHING = np.ones((3, 3, 3), dtype=bool)


class Lesions:
    """The separate lesions of a label, the largest first, and the scores of each.

    Voxels that touch, be it at a corner, are of one lesion. Specks smaller than ``smallest_ml`` are no lesions of their
    own but part of the nearest one; if there is nothing else, the largest of them is the lesion.

    Each voxel of a prediction counts for the lesion that it lies on, or else for the nearest one (as in the
    "CC-Metrics" of Jaus et al., arXiv 2410.18684). So a false alarm lowers the score of the lesion next to it.

    Args:
        label: (D, H, W) bool or integers, anything but 0 is lesion.
        spacing: mm of a voxel along each axis, in the array's axis order.
        smallest_ml: millilitres; the default is a ball of 6 mm across.

    Raises:
        ValueError: no 3D mask, a spacing that is not three positive numbers, a ``smallest_ml`` below 0.

    Example:
        >>> label = np.zeros((8, 8, 20), dtype=bool)
        >>> label[2:6, 2:6, 2:6] = label[2:6, 2:6, 12:18] = True
        >>> Lesions(label, (2.0, 2.0, 2.0)).ml
        [0.768, 0.512]
    """

    def __init__(self, label: np.ndarray, spacing: Sequence[float], *, smallest_ml: float = 0.1) -> None:
        self._truth = truth = as_mask(label, "label")
        self._mm = np.array(as_mm(spacing))
        if not (np.isfinite(smallest_ml) and smallest_ml >= 0):
            raise ValueError(f"smallest_ml is {smallest_ml!r}, expected millilitres, at least 0")
        self.smallest_ml = float(smallest_ml)
        self._start = np.zeros(3, dtype=int)
        self._numbers = np.zeros((0, 0, 0), dtype=int)
        self._voxels: list[np.ndarray] = []
        if truth.any():
            self._number(truth)

    def _number(self, truth: np.ndarray) -> None:
        (box,) = ndimage.find_objects(truth.view(np.uint8))
        self._start = np.array([side.start for side in box])
        parts, number = ndimage.label(truth[box], structure=_TOUCHING)
        sizes = np.bincount(parts.ravel(), minlength=number + 1)[1:]
        order = np.argsort(-sizes, kind="stable")
        kept = order[sizes[order] * self._mm.prod() / 1000 >= self.smallest_ml]
        kept = kept if len(kept) else order[:1]
        renumbered = np.zeros(number + 1, dtype=int)
        renumbered[kept + 1] = np.arange(1, len(kept) + 1)
        self._numbers = renumbered[parts]

        lesions = self._numbers > 0
        surface = np.argwhere(lesions & ~ndimage.binary_erosion(lesions))
        self._tree = KDTree((surface + self._start) * self._mm)
        self._owners = self._numbers[tuple(surface.T)]
        specks = np.argwhere((parts > 0) & ~lesions)
        self._numbers[tuple(specks.T)] = self._nearest(specks + self._start)
        voxels = np.argwhere(self._numbers)
        numbers = self._numbers[tuple(voxels.T)]
        self._voxels = [voxels[numbers == n] + self._start for n in range(1, len(kept) + 1)]

    def __len__(self) -> int:
        return len(self._voxels)

    @property
    def ml(self) -> list[float]:
        """The volume of each, millilitres."""
        return [float(len(voxels) * self._mm.prod() / 1000) for voxels in self._voxels]

    def under(self, points: np.ndarray) -> np.ndarray:
        """Which lesion points (N, 3) lie on, voxels of the label with centres at integers.

        Returns:
            (N,) 1 for the largest lesion, 2 for the next one, ...; 0 off all of them.

        Raises:
            ValueError: a point outside the label's grid.
        """
        places = voxels_under(points, self._truth.shape) - self._start
        inside = ((places >= 0) & (places < self._numbers.shape)).all(axis=1)
        numbers = np.zeros(len(places), dtype=int)
        numbers[inside] = self._numbers[tuple(places[inside].T)]
        return numbers

    def _nearest(self, voxels: np.ndarray) -> np.ndarray:
        if not len(voxels):
            return np.zeros(0, dtype=int)
        return self._owners[self._tree.query(voxels * self._mm)[1]]

    def scores(self, prediction: np.ndarray, *, tolerance: float = 5.0) -> list[dict[str, float]]:
        """Dice and NSD of each lesion.

        Args:
            prediction: (D, H, W) bool or integers on the label's grid, anything but 0 is lesion.
            tolerance: mm, of the normalised surface Dice.

        Returns:
            For each lesion ``dice`` and ``nsd``, as `volume_scores` gives them for the lesion and the voxels of the
            prediction that count for it; 0 where there are none. An empty list without a lesion.

        Raises:
            ValueError: as `volume_scores`.
        """
        predicted, _ = as_masks(prediction, self._truth)
        if not len(self):
            return []
        voxels = np.argwhere(predicted)
        owners = self.under(voxels)
        strays = owners == 0
        owners[strays] = self._nearest(voxels[strays])
        scores = []
        for number, lesion in enumerate(self._voxels, start=1):
            own = voxels[owners == number]
            both = np.concatenate([own, lesion])
            start = both.min(axis=0)
            masks = np.zeros((2, *(both.max(axis=0) - start + 1)), dtype=bool)
            for mask, places in zip(masks, (own, lesion), strict=True):
                mask[tuple((places - start).T)] = True
            scores.append(volume_scores(masks[0], masks[1], self._mm.tolist(), tolerance=tolerance))
        return scores
