"""A set of clicks that carries its frame and moves between frames through affines.

The frames and the axis order are explained once, in ``docs/explanation/frames.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

Frame = Literal["image", "crop", "world"]
"""``image``: voxels of an image's own grid. ``crop``: voxels of a network input. ``world``: mm, RAS+."""

FRAMES: tuple[str, ...] = get_args(Frame)
ON_LESION, OFF_LESION, PADDING = 1, 0, -1
# The volume of a voxel, relative to that of a box with the same edges, below which an affine counts as singular.
_SINGULAR = 1e-6


def _to_numpy(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def check_affine(affine: Any, *, name: str = "affine") -> np.ndarray:
    """Check that a matrix maps voxels to world and back.

    Args:
        affine: (4, 4) voxel indices to world mm (RAS+).
        name: what to call it in an error.

    Returns:
        (4, 4) float64 copy.

    Raises:
        ValueError: not (4, 4), not finite, last row not (0, 0, 0, 1), or singular.
    """
    try:
        matrix = np.array(_to_numpy(affine), dtype=np.float64)
    except (TypeError, ValueError) as err:
        raise ValueError(f"{name} is {affine!r}, expected a (4, 4) matrix of numbers: voxels to world in mm") from err
    if matrix.shape != (4, 4):
        raise ValueError(f"{name} has shape {matrix.shape}, expected (4, 4): voxels to world in mm")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{name} is not finite: {matrix.tolist()}; repair the image's header")
    if not np.allclose(matrix[3], (0, 0, 0, 1)):
        raise ValueError(f"{name} has the last row {matrix[3].tolist()}, expected [0, 0, 0, 1]")
    edges = np.linalg.norm(matrix[:3, :3], axis=0)
    if edges.min() == 0 or abs(np.linalg.det(matrix[:3, :3] / edges)) < _SINGULAR:
        raise ValueError(
            f"{name} is singular: {matrix[:3].tolist()}; expected three independent axes with a spacing above 0 mm, "
            "repair the image's header (sform and qform in NIfTI)"
        )
    return matrix


def check_points(points: Any, labels: Any = None, *, name: str = "clicks") -> tuple[np.ndarray, np.ndarray]:
    """Check the form of clicks: shape, finite, labels, equal length. Frame and grid are not looked at.

    Args:
        points: (N, 3) coordinates, N >= 0; an empty list is N = 0.
        labels: (N,) 1 on the lesion, 0 off it, -1 padding. None: all 1.
        name: what to call them in an error.

    Returns:
        (N, 3) float64 and (N,) int64 copies.

    Raises:
        ValueError: any of these is wrong.
    """
    try:
        xyz = np.array(_to_numpy(points), dtype=np.float64)
    except (TypeError, ValueError) as err:
        raise ValueError(f"{name}: points are {points!r}, expected a list of [i, j, k] numbers") from err
    if xyz.size == 0 and xyz.ndim <= 2 and (xyz.ndim < 2 or xyz.shape[0] == 0):
        xyz = np.zeros((0, 3))
    if xyz.ndim != 2 or xyz.shape[1] != 3:
        raise ValueError(f"{name}: points have shape {xyz.shape}, expected (N, 3): one [i, j, k] for each click")
    if not np.isfinite(xyz).all():
        bad = int(np.flatnonzero(~np.isfinite(xyz).all(axis=1))[0])
        raise ValueError(f"{name}: click {bad} is {xyz[bad].tolist()}, expected finite coordinates")
    if labels is None:
        return xyz, np.full(len(xyz), ON_LESION, dtype=np.int64)
    try:
        given = np.array(_to_numpy(labels), dtype=np.float64)
    except (TypeError, ValueError) as err:
        raise ValueError(f"{name}: labels are {labels!r}, expected a list of 1, 0 or -1") from err
    if given.ndim != 1:
        raise ValueError(f"{name}: labels have shape {given.shape}, expected (N,): one label for each click")
    if len(given) != len(xyz):
        raise ValueError(f"{name}: {len(xyz)} points but {len(given)} labels, expected one label for each point")
    wrong = ~np.isin(given, (ON_LESION, OFF_LESION, PADDING))
    if wrong.any():
        raise ValueError(
            f"{name}: label {given[wrong][0]:g} of click {int(np.flatnonzero(wrong)[0])}, "
            "expected 1 (on the lesion), 0 (off it) or -1 (padding)"
        )
    return xyz, given.astype(np.int64)


def move_points(points: np.ndarray, affine_from: np.ndarray | None, affine_to: np.ndarray | None) -> np.ndarray:
    """Move points between grids: ``inv(affine_to) @ affine_from @ [p, 1]``.

    Args:
        points: (N, 3) in voxels of the first grid (mm if ``affine_from`` is None).
        affine_from: (4, 4) voxels of the first grid to world mm. None: the points are in world.
        affine_to: (4, 4) voxels of the second grid to world mm. None: world is wanted.

    Returns:
        (N, 3) float64 in voxels of the second grid (mm if ``affine_to`` is None).

    Raises:
        ValueError: an affine that :func:`check_affine` refuses.
    """
    matrix = np.eye(4) if affine_from is None else check_affine(affine_from)
    if affine_to is not None:
        matrix = np.linalg.solve(check_affine(affine_to), matrix)
    return np.asarray(points, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]


@dataclass(frozen=True, eq=False)
class Clicks:
    """Clicks in one frame, checked when they are made and never changed afterwards.

    Voxel centres lie at integers and fractions are allowed: a grid of ``size`` voxels covers [-0.5, size - 0.5]
    along each axis. The coordinates follow the axis order of the array that the frame belongs to.

    Args:
        points: (N, 3) coordinates: voxels in the frames ``image`` and ``crop``, mm (RAS+) in ``world``.
        labels: (N,) 1 on the lesion, 0 off it, -1 padding.
        frame: ``image`` (voxels of an image's own grid), ``crop`` (voxels of a network input) or ``world``.
        affine: (4, 4) voxels of the frame's grid to world mm (RAS+); needed in voxel frames, None in ``world``.
        shape: size of the grid in voxels along its three axes. When given, every click that is not padding must
            lie inside it. None in ``world``.

    Raises:
        ValueError: unknown frame, points not (N, 3) or not finite, a label other than 1, 0 or -1, lengths that
            differ, an affine that is missing or singular, a click outside the grid.
    """

    points: np.ndarray
    labels: np.ndarray
    frame: Frame
    affine: np.ndarray | None = None
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.frame not in FRAMES:
            raise ValueError(f"frame {self.frame!r} is unknown, expected one of {', '.join(FRAMES)}")
        points, labels = check_points(self.points, self.labels)
        affine: np.ndarray | None = None
        if self.frame == "world":
            if self.affine is not None or self.shape is not None:
                raise ValueError("clicks in the world frame have no grid: leave affine and shape out")
        elif self.affine is None:
            raise ValueError(
                f"clicks in the {self.frame!r} frame need the affine of their grid (4, 4), got None; "
                "give image.affine, or frame='world' if they are in mm"
            )
        else:
            affine = check_affine(self.affine, name=f"affine of the {self.frame!r} frame")
        shape: tuple[int, ...] | None = None
        if self.shape is not None:
            shape = tuple(int(size) for size in self.shape)
            if len(shape) != 3 or min(shape) < 1:
                raise ValueError(f"shape is {shape}, expected three sizes of at least 1 voxel")
            self._check_inside(points, labels, shape)
        for array in (points, labels, affine):
            if array is not None:
                array.setflags(write=False)
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", shape)

    def _check_inside(self, points: np.ndarray, labels: np.ndarray, shape: tuple[int, ...]) -> None:
        outside = (points < -0.5) | (points > np.asarray(shape) - 0.5)
        bad = outside.any(axis=1) & (labels != PADDING)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"click {first} at {points[first].tolist()} is outside the grid of shape {shape} ({self.frame!r} "
                f"frame), expected each coordinate from -0.5 to the size - 0.5; give voxels in the array's own "
                "order of axes"
            )

    @classmethod
    def from_points(
        cls,
        points: Sequence[Sequence[float]] | np.ndarray | torch.Tensor,
        labels: Sequence[int] | np.ndarray | torch.Tensor | None = None,
        *,
        frame: Frame = "image",
        affine: np.ndarray | torch.Tensor | None = None,
        shape: Sequence[int] | None = None,
    ) -> Clicks:
        """Make clicks from lists, arrays or tensors; labels left out are all 1 (on the lesion).

        Args and Raises: as for the class.
        """
        xyz, given = check_points(points, labels)
        matrix = None if affine is None else _to_numpy(affine)
        return cls(xyz, given, frame, matrix, None if shape is None else tuple(shape))

    def __len__(self) -> int:
        return len(self.points)

    def expect(self, frame: Frame) -> Clicks:
        """Return self if the clicks are in ``frame``.

        Raises:
            ValueError: they are in another frame.
        """
        if self.frame != frame:
            how = "to_world()" if frame == "world" else f"to_voxel(affine, frame={frame!r})"
            raise ValueError(f"clicks are in the {self.frame!r} frame, expected {frame!r}; convert them with {how}")
        return self

    def to_world(self) -> Clicks:
        """The same clicks in world mm (RAS+)."""
        return Clicks(move_points(self.points, self.affine, None), self.labels, "world")

    def to_voxel(
        self,
        affine: np.ndarray | torch.Tensor,
        *,
        shape: Sequence[int] | None = None,
        frame: Literal["image", "crop"] = "crop",
    ) -> Clicks:
        """The same clicks in the voxels of another grid.

        Args:
            affine: (4, 4) voxels of that grid to world mm (RAS+).
            shape: size of that grid in voxels; when given, the clicks must lie inside.
            frame: the frame of that grid.

        Raises:
            ValueError: a singular affine, ``frame`` not a voxel frame, a click outside ``shape``.
        """
        if frame not in ("image", "crop"):
            raise ValueError(f"frame is {frame!r}, expected a voxel frame, 'image' or 'crop'; use to_world() for mm")
        matrix = check_affine(affine, name=f"affine of the {frame!r} frame")
        moved = move_points(self.points, self.affine, matrix)
        return Clicks(moved, self.labels, frame, matrix, None if shape is None else tuple(shape))

    def with_click(self, point: Sequence[float] | np.ndarray, label: int = ON_LESION) -> Clicks:
        """These clicks and one more, given in the same frame.

        Args:
            point: (3,) coordinates in this frame.
            label: 1 on the lesion, 0 off it.
        """
        xyz, given = check_points([point], [label])
        points, labels = np.concatenate([self.points, xyz]), np.concatenate([self.labels, given])
        return Clicks(points, labels, self.frame, self.affine, self.shape)

    def as_tensors(self, device: torch.device | str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The form that networks (frame ``crop``) and inferers (frame ``image``) take.

        Args:
            device: where to put them.

        Returns:
            clicks (1, N, 3) float32 in voxels and labels (1, N) int64.

        Raises:
            ValueError: the clicks are in world.
        """
        if self.frame == "world":
            raise ValueError(
                "clicks are in the 'world' frame, expected voxels ('image' or 'crop'); "
                "convert them with to_voxel(affine)"
            )
        return pad_clicks([(self.points, self.labels)], device=device)


def pad_clicks(
    clicks: Sequence[tuple[np.ndarray, np.ndarray]], *, device: torch.device | str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch clicks of which each item has its own number.

    Args:
        clicks: for each of B items the points (N_b, 3) in voxels and the labels (N_b,).
        device: where to put the tensors.

    Returns:
        clicks (B, N, 3) float32 and labels (B, N) int64 with N the largest N_b; what is missing has label -1.

    Raises:
        ValueError: an item that :func:`check_points` refuses, or an empty batch.
    """
    if not clicks:
        raise ValueError("an empty batch, expected at least one (points, labels) pair; use empty arrays for no click")
    checked = [check_points(points, labels, name=f"item {b}") for b, (points, labels) in enumerate(clicks)]
    most = max(len(points) for points, _ in checked)
    batch = np.zeros((len(checked), most, 3), dtype=np.float32)
    batch_labels = np.full((len(checked), most), PADDING, dtype=np.int64)
    for b, (points, labels) in enumerate(checked):
        batch[b, : len(points)] = points
        batch_labels[b, : len(points)] = labels
    return torch.from_numpy(batch).to(device), torch.from_numpy(batch_labels).to(device)
