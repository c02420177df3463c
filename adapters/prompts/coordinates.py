"""Coordinates and the affines that move them: their form is checked here, for two and three axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

ON_LESION = 1
"""Label of a click on the lesion."""
OFF_LESION = 0
"""Label of a click off it."""
PADDING = -1
"""Label of what fills a batch up and is no click."""
COUNT = {2: "two", 3: "three"}
# The volume of a voxel, relative to that of a box with the same edges, below which an affine counts as singular.
_SINGULAR = 1e-6


def to_numpy(values: Any) -> np.ndarray:
    """Lists, arrays or tensors of any device as an array."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def check_affine(affine: Any, *, name: str = "affine", spatial_dims: int = 3) -> np.ndarray:
    """Check that a matrix maps voxels to world and back.

    Args:
        affine: (n + 1, n + 1) voxel indices to world mm (RAS+), for n axes.
        name: what to call it in an error.
        spatial_dims: n, 2 or 3.

    Returns:
        (n + 1, n + 1) float64 copy.

    Raises:
        ValueError: another shape, not finite, last row not (0, ..., 0, 1), or singular.
    """
    n = spatial_dims
    try:
        matrix = np.array(to_numpy(affine), dtype=np.float64)
    except (OverflowError, TypeError, ValueError) as err:
        raise ValueError(
            f"{name} is {affine!r}, expected a {(n + 1, n + 1)} matrix of numbers: voxels to world in mm"
        ) from err
    if matrix.shape != (n + 1, n + 1):
        raise ValueError(f"{name} has shape {matrix.shape}, expected {(n + 1, n + 1)}: voxels to world in mm")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} is not finite: {matrix.tolist()}; repair the image's header")
    last_row = [0] * n + [1]
    if not np.allclose(matrix[n], last_row):
        raise ValueError(f"{name} has the last row {matrix[n].tolist()}, expected {last_row}")
    edges = np.linalg.norm(matrix[:n, :n], axis=0)
    if edges.min() == 0 or abs(np.linalg.det(matrix[:n, :n] / edges)) < _SINGULAR:
        raise ValueError(
            f"{name} is singular: {matrix[:n].tolist()}; expected {COUNT[n]} independent axes with a spacing above "
            "0 mm, repair the image's header (sform and qform in NIfTI)"
        )
    return matrix


def check_points(
    points: Any, labels: Any = None, *, name: str = "clicks", spatial_dims: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Check the form of clicks: shape, finite, labels, equal length. Frame and grid are not looked at.

    Args:
        points: (N, n) coordinates in any frame, N >= 0; an empty list is N = 0.
        labels: (N,) 1 on the lesion, 0 off it, -1 padding. None: all 1.
        name: what to call them in an error.
        spatial_dims: n, 2 or 3.

    Returns:
        (N, n) float64 and (N,) int64 copies.

    Raises:
        ValueError: any of these is wrong.
    """
    n, indices = spatial_dims, "ijk"[:spatial_dims]
    one = f"[{', '.join(indices)}]"
    try:
        coordinates = np.array(to_numpy(points), dtype=np.float64)
    except (OverflowError, TypeError, ValueError) as err:
        raise ValueError(f"{name}: points are {points!r}, expected a list of {one} numbers") from err
    if coordinates.size == 0 and coordinates.ndim <= 2 and (coordinates.ndim < 2 or coordinates.shape[0] == 0):
        coordinates = np.zeros((0, n))
    if coordinates.ndim != 2 or coordinates.shape[1] != n:
        raise ValueError(f"{name}: points have shape {coordinates.shape}, expected (N, {n}): one {one} for each click")
    if not np.isfinite(coordinates).all():
        bad = int(np.flatnonzero(~np.isfinite(coordinates).all(axis=1))[0])
        raise ValueError(f"{name}: click {bad} is {coordinates[bad].tolist()}, expected finite coordinates")
    if labels is None:
        return coordinates, np.full(len(coordinates), ON_LESION, dtype=np.int64)
    try:
        given = np.array(to_numpy(labels), dtype=np.float64)
    except (OverflowError, TypeError, ValueError) as err:
        raise ValueError(f"{name}: labels are {labels!r}, expected a list of 1, 0 or -1") from err
    if given.ndim != 1:
        raise ValueError(f"{name}: labels have shape {given.shape}, expected (N,): one label for each click")
    if len(given) != len(coordinates):
        raise ValueError(
            f"{name}: {len(coordinates)} points but {len(given)} labels, expected one label for each point"
        )
    wrong = ~np.isin(given, (ON_LESION, OFF_LESION, PADDING))
    if wrong.any():
        raise ValueError(
            f"{name}: label {given[wrong][0]:g} of click {int(np.flatnonzero(wrong)[0])}, "
            "expected 1 (on the lesion), 0 (off it) or -1 (padding)"
        )
    return coordinates, given.astype(np.int64)


def check_boxes(boxes: Any, *, name: str = "boxes", spatial_dims: int = 3) -> np.ndarray:
    """Check the form of boxes: shape, finite, lowest corner not above the highest.

    Args:
        boxes: (M, 2, n) the lowest and the highest voxel centre of each box in any frame, M >= 0.
        name: what to call them in an error.
        spatial_dims: n, 2 or 3.

    Returns:
        (M, 2, n) float64 copy.

    Raises:
        ValueError: any of these is wrong.
    """
    expected = f"(M, 2, {spatial_dims}): the lowest and the highest voxel of each box"
    try:
        corners = np.array(to_numpy(boxes), dtype=np.float64)
    except (OverflowError, TypeError, ValueError) as err:
        raise ValueError(f"{name} are {boxes!r}, expected numbers {expected}") from err
    if corners.size == 0 and len(corners.shape) <= 3:
        corners = np.zeros((0, 2, spatial_dims))
    if corners.ndim != 3 or corners.shape[1:] != (2, spatial_dims):
        raise ValueError(f"{name} have shape {corners.shape}, expected {expected}")
    wrong = ~np.isfinite(corners).all(axis=(1, 2)) | (corners[:, 0] > corners[:, 1]).any(axis=1)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"{name}: box {first} is {corners[first].tolist()}, expected finite numbers, the lowest voxel first"
        )
    return corners


def move_points(points: np.ndarray, affine_from: np.ndarray | None, affine_to: np.ndarray | None) -> np.ndarray:
    """Move points between grids: ``inv(affine_to) @ affine_from @ [p, 1]``.

    Args:
        points: (N, n) in voxels of the first grid (mm if ``affine_from`` is None).
        affine_from: (n + 1, n + 1) voxels of the first grid to world mm. None: the points are in world.
        affine_to: (n + 1, n + 1) voxels of the second grid to world mm. None: world is wanted.

    Returns:
        (N, n) float64 in voxels of the second grid (mm if ``affine_to`` is None).

    Raises:
        ValueError: an affine that :func:`check_affine` refuses.
    """
    points = np.asarray(points, dtype=np.float64)
    n = points.shape[1]
    matrix = np.eye(n + 1) if affine_from is None else check_affine(affine_from, spatial_dims=n)
    if affine_to is not None:
        matrix = np.linalg.solve(check_affine(affine_to, spatial_dims=n), matrix)
    return points @ matrix[:n, :n].T + matrix[:n, n]
