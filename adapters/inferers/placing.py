"""Where crops go: round the prompts, and on over the faces that a mask touches.

Numpy alone: no network, no scan. All coordinates are voxels of the grid (see ``grid.py``), in 2 or 3 axes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from adapters.inferers.grid import Grid, Window
from adapters.prompts import Prompts
from adapters.prompts.voxels import voxels_under

_FACE_DEPTH = 2  # voxels: a mask this near to the face of its crop touches it
_MIN_CONTACT = 4  # voxels of contact with a face; fewer are noise
_COMFORT = 1 / 8  # of the crop: a kept crop serves a click that is at least this far from its faces


@dataclass(frozen=True)
class Contact:
    """Where a mask leaves its crop.

    Attributes:
        axis: that the face is at right angles to.
        forward: whether it is the face of the higher indices.
        beyond: (N, n) voxels of the grid just beyond the face.
    """

    axis: int
    forward: bool
    beyond: np.ndarray


@dataclass(frozen=True)
class PlacedMask:
    """A predicted crop: the part of its mask that the clicks mean, and where that goes on.

    Attributes:
        window: of the crop.
        lesion: (*window.size) bool.
        contacts: with faces beyond which the scan goes on.
    """

    window: Window
    lesion: np.ndarray
    contacts: tuple[Contact, ...] = ()


@dataclass(frozen=True)
class Step:
    """A crop to add: where it lies, the one that the mask grows out of, and through what contact."""

    window: Window
    parent: PlacedMask
    contact: Contact


@dataclass(frozen=True)
class CropPlacing:
    """How crops are placed on a grid.

    Args:
        crop_size: voxels of a crop along each axis.
        max_crops: crops of one scan, at most. With one, it holds what it can of the prompts.
        keep_inside: move crops that would hang over the scan into it (a scan smaller than the crop lies in its
            middle).
    """

    crop_size: tuple[int, ...]
    max_crops: int = 1
    keep_inside: bool = False

    def centred(self, grid: Grid, points: np.ndarray) -> Window:
        """The crop on the middle of the bounding box of points (N, n)."""
        middle = np.ceil((points.min(axis=0) + points.max(axis=0)) / 2 - 0.5)
        start = middle.astype(int) - np.asarray(self.crop_size) // 2
        if self.keep_inside:
            room = np.asarray(grid.size) - self.crop_size
            start = np.where(room >= 0, np.clip(start, 0, np.maximum(room, 0)), -(-room // 2))
        return Window(tuple(start.tolist()), self.crop_size)

    def first_windows(self, grid: Grid, prompts: Prompts, kept: Sequence[Window] = ()) -> list[Window]:
        """The crops that the prompts ask for, which may be more than ``max_crops``.

        Clicks off the lesion count for the position only as long as all prompts fit into one crop, or if there are no
        others; else they are seen by the crops they lie in.

        Args:
            grid: that the crops lie on.
            prompts: in voxels of the grid, without padding; at least one click or box.
            kept: crops of the request before, of which those are taken again that hold clicks well inside.
        """
        boxes = self._box_points(prompts.boxes)
        sought, everything = (np.concatenate([points, boxes]) for points in (prompts.on_lesion, prompts.points))
        together = self.centred(grid, everything)
        if self.max_crops == 1 and not kept:
            return [together if together.holds(everything).any() else self.centred(grid, everything[-1:])]
        if not kept and together.holds(everything).all():
            return [together]
        left = sought if len(sought) else everything
        windows: list[Window] = []
        while kept and len(left):
            counts = [int(well_inside(window, grid, left).sum()) for window in kept]
            if max(counts) == 0:
                break
            windows.append(kept[int(np.argmax(counts))])
            left = left[~well_inside(windows[-1], grid, left)]
        groups: list[np.ndarray] = []
        for point in left:
            for index, group in enumerate(groups):
                joined = np.vstack([group, point])
                if self.centred(grid, joined).holds(joined).all():
                    groups[index] = joined
                    break
            else:
                groups.append(point[None])
        return windows + [self.centred(grid, group) for group in groups]

    def _box_points(self, boxes: np.ndarray) -> np.ndarray:
        """(N, n), what a crop is to hold of boxes: the ends of each or, where they lie too far apart, its middle."""
        fits = np.all(boxes[:, 1] - boxes[:, 0] < np.asarray(self.crop_size), axis=1)
        return np.concatenate([boxes[fits].reshape(-1, boxes.shape[2]), boxes[~fits].mean(axis=1)])

    def next_step(self, grid: Grid, done: Sequence[PlacedMask], kept: Sequence[Window] = ()) -> Step | None:
        """The crop to add where masks grow over their crops' faces, at the largest contact that no crop covers yet.

        Args:
            grid: that the crops lie on.
            done: the crops that are predicted.
            kept: crops of the request before, of which one is taken where it serves.

        Returns:
            None where no mask goes on.
        """
        largest: tuple[PlacedMask, Contact] | None = None
        for parent, contact in ((mask, contact) for mask in done for contact in mask.contacts):
            uncovered = ~np.any([other.window.holds(contact.beyond) for other in done], axis=0)
            if uncovered.sum() >= max(_MIN_CONTACT, 0 if largest is None else len(largest[1].beyond) + 1):
                largest = parent, Contact(contact.axis, contact.forward, contact.beyond[uncovered])
        if largest is None:
            return None
        return Step(self._neighbour(grid, largest[0].window, largest[1], kept), *largest)

    def _neighbour(self, grid: Grid, window: Window, contact: Contact, kept: Sequence[Window]) -> Window:
        """The crop half a crop further, not beyond the scan; a kept one if it reaches as far as a quarter."""
        axis, size = contact.axis, self.crop_size[contact.axis]
        for other in kept:
            further = (other.start[axis] - window.start[axis]) * (1 if contact.forward else -1)
            if size // 4 <= further < size and other.holds(contact.beyond).all():
                return other
        start = list(window.start)
        if contact.forward:
            start[axis] = min(start[axis] + (size + 1) // 2, grid.size[axis] - size)
        else:
            start[axis] = max(start[axis] - (size + 1) // 2, 0)
        return Window(tuple(start), self.crop_size)


def placed_mask(grid: Grid, window: Window, lesion: np.ndarray, on_lesion: np.ndarray) -> PlacedMask:
    """Find where a crop's mask touches faces beyond which the scan goes on.

    Only the parts of the mask that hold a click on the lesion count, if there is such a part.

    Args:
        grid: that the crop lies on.
        window: of the crop.
        lesion: (*window.size) bool, the crop's mask.
        on_lesion: (N, n) clicks on the lesion, in voxels of the crop.
    """
    size, axes = np.asarray(window.size), range(len(window.size))
    faces = [
        (axis, forward)
        for axis, forward in itertools.product(axes, (False, True))
        if (window.start[axis] + size[axis] < grid.size[axis] if forward else window.start[axis] > 0)
        and lesion[_face(len(size), axis, forward=forward)].any()
    ]
    if not faces:
        return PlacedMask(window, lesion)
    parts, _ = ndimage.label(lesion)
    meant = np.setdiff1d(parts[tuple(voxels_under(on_lesion, window.size).T)], [0])
    if len(meant):
        lesion = np.isin(parts, meant)
    contacts = []
    for axis, forward in faces:
        touching = np.argwhere(lesion[_face(len(size), axis, forward=forward)].any(axis=axis))
        beyond = np.insert(touching, axis, size[axis] if forward else -1, axis=1) + window.start
        beyond = beyond[np.all((beyond >= 0) & (beyond < grid.size), axis=1)]
        if len(beyond) >= _MIN_CONTACT:
            contacts.append(Contact(axis, forward, beyond))
    return PlacedMask(window, lesion, tuple(contacts))


def seed_click(grid: Grid, step: Step, on_lesion: np.ndarray) -> np.ndarray | None:
    """A click for a crop that a mask grows into: the innermost voxel of the mask in the overlap.

    Args:
        grid: that the crops lie on.
        step: the crop, and where it grows out of.
        on_lesion: (N, n) the crop's own clicks on the lesion, in its voxels.

    Returns:
        (n,) in voxels of the crop; None if one of its own clicks lies on the mask well inside the crop.
    """
    window, parent = step.window, step.parent
    known = np.zeros(window.size, dtype=bool)
    if (shared := window.overlap(parent.window)) is not None:
        known[shared[0]] = parent.lesion[shared[1]]
    inner = on_lesion[well_inside(window, grid, on_lesion + window.start)]
    if known[tuple(voxels_under(inner, window.size).T)].any():
        return None
    if not known.any():
        return np.median(step.contact.beyond, axis=0) - window.start
    depth = ndimage.distance_transform_edt(np.pad(known, 1), sampling=grid.spacing)[(slice(1, -1),) * known.ndim]
    innermost = np.argwhere(depth >= depth.max() - 1e-6).astype(float)  # several, in a mask of even thickness
    return innermost[np.argmin(np.linalg.norm(innermost - innermost.mean(axis=0), axis=1))]


def well_inside(window: Window, grid: Grid, points: np.ndarray) -> np.ndarray:
    """Which points (N, n) lie in a window and away from those of its faces beyond which the scan goes on."""
    size, start = np.asarray(window.size), np.asarray(window.start)
    margin = _COMFORT * size
    low = np.where(start > 0, start - 0.5 + margin, start - 0.5)
    high = np.where(start + size < grid.size, start + size - 0.5 - margin, start + size - 0.5)
    return np.all((points >= low) & (points <= high), axis=1)


def _face(axes: int, axis: int, *, forward: bool) -> tuple[slice, ...]:
    """Slices of the outermost voxels of a crop on one side."""
    depth = slice(-_FACE_DEPTH, None) if forward else slice(0, _FACE_DEPTH)
    return tuple(depth if a == axis else slice(None) for a in range(axes))
