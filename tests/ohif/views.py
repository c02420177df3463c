"""What a viewport shows where, computed from its camera and checked against what is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.ndimage import map_coordinates

Floats = NDArray[np.float64]
WINDOW = (-160.0, 240.0)  # HU: level 40, width 400, as the series asks for


@dataclass(frozen=True, eq=False)
class View:
    """A slice through the patient in parallel projection.

    Attributes:
        corner: The viewport's upper left corner on the page, pixels.
        size: Its width and height, pixels.
        focus: The point in its middle, mm LPS.
        right: Unit vector to the right on the screen, LPS.
        up: Unit vector upwards on the screen, LPS.
        scale: Millimetres of a pixel.
    """

    corner: Floats
    size: Floats
    focus: Floats
    right: Floats
    up: Floats
    scale: float

    @classmethod
    def of(cls, seen: Mapping[str, Any]) -> View:
        """From the answer of the browser's command `view`."""
        up, towards = np.array(seen["viewUp"], float), np.array(seen["viewPlaneNormal"], float)
        return cls(
            corner=np.array([seen["x"], seen["y"]], float),
            size=np.array([seen["width"], seen["height"]], float),
            focus=np.array(seen["focalPoint"], float),
            right=np.cross(up, towards),
            up=up,
            scale=2 * seen["parallelScale"] / seen["height"],  # parallelScale is half the height in mm
        )

    @property
    def clip(self) -> dict[str, float]:
        """The viewport as a part of the page."""
        names = ("x", "y", "width", "height")
        return dict(zip(names, [*np.ceil(self.corner), *np.floor(self.size)], strict=True))

    def depth(self, point: ArrayLike) -> float:
        """Millimetres from the slice to a point (mm, LPS), positive away from the viewer."""
        return float((np.asarray(point) - self.focus) @ np.cross(self.up, self.right))

    def to_page(self, points: ArrayLike) -> Floats:
        """Pixels (..., 2) on the page of points (..., 3) in mm LPS."""
        offset = np.asarray(points) - self.focus
        return self.corner + self.size / 2 + np.stack([offset @ self.right, -offset @ self.up], -1) / self.scale

    def to_patient(self, pixel: ArrayLike) -> Floats:
        """The point (mm, LPS) of the slice under a pixel of the page."""
        x, y = (np.asarray(pixel) - self.corner - self.size / 2) * self.scale
        return self.focus + x * self.right - y * self.up


def voxels_in_plane(
    view: View, affine: Floats, shape: tuple[int, ...], around: ArrayLike, radius: int
) -> NDArray[np.int64]:
    """The voxels (n, 3) of the shown slice that are at most `radius` voxels away from one, and inside the viewport."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    axis = int(np.argmax(np.abs(np.cross(view.up, view.right) @ axes)))  # the one that is looked along
    reach = [0 if n == axis else radius for n in range(3)]
    ranges = [
        np.arange(max(0, round(centre) - r), min(size, round(centre) + r + 1))
        for centre, r, size in zip(np.asarray(around, float), reach, shape, strict=True)
    ]
    voxels = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)
    inside = view.to_page(voxels @ affine[:3, :3].T + affine[:3, 3]) - view.corner
    return voxels[((inside > 2) & (inside < view.size - 3)).all(-1)]


def seen_at(view: View, picture: Path, points: Floats) -> Floats:
    """Colours (n, 3) of a viewport's picture at points (n, 3) in mm LPS, linear between pixels' centres."""
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.convert("RGB"), float)
    x, y = (view.to_page(points) - np.ceil(view.corner) - 0.5).T
    return np.stack([map_coordinates(pixels[..., n], [y, x], order=1, mode="nearest") for n in range(3)], -1)


def best_shift(
    view: View, picture: Path, scan: Floats, affine: Floats, around: ArrayLike, radius: int
) -> tuple[tuple[int, ...], float]:
    """By how many voxels the scan would have to be shifted to be what a viewport shows round a voxel.

    Args:
        view: Where the viewport is.
        picture: Its picture.
        scan: (I, J, K) intensities in HU.
        affine: Of the scan, to mm LPS.
        around: A voxel of the shown slice.
        radius: How many voxels round it are looked at.

    Returns:
        The shift of -1, 0 or 1 voxel along each axis at which the picture and the scan correlate best, and the
        correlation there.
    """
    voxels = voxels_in_plane(view, affine, scan.shape, around, radius)
    grey = seen_at(view, picture, voxels @ affine[:3, :3].T + affine[:3, 3]).mean(-1)
    found = {}
    for shift in product((-1, 0, 1), repeat=3):
        values = scan[tuple(np.clip(voxels + shift, 0, np.array(scan.shape) - 1).T)]
        found[shift] = float(np.corrcoef(grey, np.clip(values, *WINDOW))[0, 1])
    best = max(found, key=lambda shift: found[shift])
    return best, found[best]
