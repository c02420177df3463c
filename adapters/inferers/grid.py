"""The grid that crops are cut from, and the way between it and the scan's own grid.

The *scan* frame counts voxels of the tensor that the inferer gets. The *grid* frame counts voxels of the same scan
resampled to the spacing of the crops: voxel ``k`` of the grid lies at voxel ``k * ratio`` of the scan on each axis,
exactly where MONAI's ``Spacingd`` puts it. The resampled scan itself is never computed: a crop is a window of
integer position on the grid, and only its voxels are interpolated. Where the ratio is 1 a window is a plain slice.

All works for n = 2 or 3 axes. Sizes, ratios and positions are in the order of the tensor's axes, (D, H, W) or (H, W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from adapters.prompts import Prompts

_SAME_SPACING = 1e-4  # relative: spacings this close count as equal (rounding of affines)
ON_VOXEL = 1e-6
"""Voxels: positions this close to a voxel centre count as being on it."""


@dataclass(frozen=True)
class Window:
    """A crop: its first voxel and its size along each axis, in voxels of the grid. It may hang over the scan."""

    start: tuple[int, ...]
    size: tuple[int, ...]

    def holds(self, points: np.ndarray) -> np.ndarray:
        """Which of the points (N, n), in voxels of the grid, lie in the window: (N,) bool."""
        start, size = np.asarray(self.start), np.asarray(self.size)
        return np.all((points >= start - 0.5) & (points <= start + size - 0.5), axis=-1)

    def overlap(self, other: Window) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
        """The voxels shared with another window: slices into this one and into the other, None if there are none."""
        low = np.maximum(self.start, other.start)
        high = np.minimum(np.add(self.start, self.size), np.add(other.start, other.size))
        if np.any(low >= high):
            return None
        return tuple(
            tuple(slice(int(a - s), int(b - s)) for a, b, s in zip(low, high, start, strict=True))
            for start in (self.start, other.start)
        )  # type: ignore[return-value]


@dataclass(frozen=True)
class Grid:
    """A scan's grid and the grid of its crops.

    Attributes:
        scan_size: voxels of the scan.
        ratio: scan voxels per grid voxel.
        size: voxels of the whole scan resampled to the grid.
        spacing: mm of a grid voxel.
    """

    scan_size: tuple[int, ...]
    ratio: tuple[float, ...]
    size: tuple[int, ...]
    spacing: tuple[float, ...]

    @classmethod
    def of(cls, scan_size: Sequence[int], affine: np.ndarray, spacing: Sequence[float] | None) -> Grid:
        """The grid for a scan.

        Args:
            scan_size: voxels of the scan along its n axes.
            affine: (n + 1, n + 1), scan voxels to mm, invertible.
            spacing: mm of the crop's voxels in tensor axis order, None for the scan's own.
        """
        own = np.linalg.norm(affine[:-1, :-1], axis=0)
        ratio = np.ones(len(own)) if spacing is None else np.asarray(spacing, dtype=float) / own
        ratio = np.where(np.abs(ratio - 1) < _SAME_SPACING, 1.0, ratio)
        size = np.round((np.asarray(scan_size) - 1) / ratio + 1).astype(int)
        return cls(
            tuple(int(n) for n in scan_size), tuple(ratio.tolist()), tuple(size.tolist()), tuple((own * ratio).tolist())
        )

    @property
    def whole(self) -> Window:
        """The window over the whole resampled scan."""
        return Window((0,) * len(self.size), self.size)

    def prompts(self, prompts: Prompts) -> Prompts:
        """Prompts in voxels of the scan, in voxels of the grid (frame ``image``).

        What lies in the scan's outermost half voxel that the grid does not reach is moved to its face, so that each
        click lies in a voxel of the grid.
        """
        low, high = -0.5, np.asarray(self.size) - 0.5
        points, boxes = (np.clip(each / self.ratio, low, high) for each in (prompts.points, prompts.boxes))
        return replace(prompts, points=points, boxes=boxes, affine=None, shape=self.size)

    def read(self, volume: torch.Tensor, window: Window, pad_value: float | None = None) -> torch.Tensor:
        """A window of the resampled scan, linear along each axis.

        Args:
            volume: (C, *scan_size) on the scan's grid.
            window: what to read.
            pad_value: value of the voxels outside the scan; None: the volume's minimum.

        Returns:
            (C, *window.size)
        """
        ratio = np.asarray(self.ratio)
        low = np.maximum(window.start, 0)
        high = np.minimum(np.add(window.start, window.size), self.size)
        values = interpolate(volume, [np.arange(a, b) * r for a, b, r in zip(low, high, ratio, strict=True)])
        before = low - window.start
        after = np.add(window.start, window.size) - high
        if not before.any() and not after.any():
            return values
        if pad_value is None:
            pad_value = float(volume.min())
        padding = [int(n) for pair in zip(before[::-1], after[::-1], strict=True) for n in pair]
        return F.pad(values, padding, value=pad_value)

    def footprint(self, window: Window) -> tuple[slice, ...]:
        """The scan voxels that a window covers, as slices."""
        region = []
        for n, ratio, size, start, width in zip(
            self.scan_size, self.ratio, self.size, window.start, window.size, strict=True
        ):
            low = 0 if start <= 0 else int(np.ceil((start - 0.5) * ratio - ON_VOXEL))
            high = n if start + width >= size else int(np.ceil((start + width - 0.5) * ratio - ON_VOXEL))
            region.append(slice(min(low, n), max(min(high, n), min(low, n))))
        return tuple(region)

    def to_scan(self, values: torch.Tensor, window: Window) -> tuple[torch.Tensor, tuple[slice, ...]]:
        """A window's values resampled to the scan's grid, linear along each axis.

        Args:
            values: (C, *window.size).
            window: where the values lie.

        Returns:
            the values (C, ...) on the scan's grid, and the slices of the scan that they fill.
        """
        region = self.footprint(window)
        positions = [
            np.arange(r.start, r.stop) / q - s for r, q, s in zip(region, self.ratio, window.start, strict=True)
        ]
        return interpolate(values, positions), region


def interpolate(volume: torch.Tensor, positions: Sequence[np.ndarray]) -> torch.Tensor:
    """Linear values of a volume at the outer product of lists of positions, axis by axis.

    Positions on voxel centres give the voxel's value bit for bit; positions outside the volume the border's value.

    Args:
        volume: (C, D, H, W) or (C, H, W).
        positions: an array of voxel positions for each axis but the channels.

    Returns:
        (C, len(positions[0]), len(positions[1]), ...)
    """
    places = []
    for axis, along in enumerate(positions, start=1):
        place = np.clip(along, 0, volume.shape[axis] - 1)
        nearest = np.round(place)
        place = np.where(np.abs(place - nearest) < ON_VOXEL, nearest, place)
        first, last = (int(np.floor(place.min())), int(np.ceil(place.max()))) if len(place) else (0, -1)
        volume = volume.narrow(axis, first, last - first + 1)  # all axes first: what is not needed is never touched
        places.append(place - first)
    for axis, place in enumerate(places, start=1):
        low = np.floor(place).astype(int)
        weight = place - low
        if weight.any() or not np.array_equal(low, np.arange(len(low))):
            index = torch.as_tensor(low, device=volume.device)
            share = torch.as_tensor(weight, dtype=volume.dtype, device=volume.device)
            share = share.reshape([-1 if a == axis else 1 for a in range(volume.ndim)])
            high = (index + 1).clamp(max=volume.shape[axis] - 1)
            volume = torch.lerp(volume.index_select(axis, index), volume.index_select(axis, high), share)
    return volume


def interpolation_size(source: Sequence[int], target: Sequence[int]) -> int:
    """Values that `interpolate` holds at most beside its argument, the result among them.

    Args:
        source: voxels of the part of the volume that the positions lie in.
        target: number of positions along each axis.
    """
    held, most = 0, 0  # one axis after the other: what it starts from, two neighbours of each position, the result
    for axis in range(len(source)):
        made = math.prod([*target[: axis + 1], *source[axis + 1 :]])
        most = max(most, held + 3 * made)
        held = made
    return most
