"""The prompts of one image: points, boxes and phrases that carry their frame and move between frames.

The frames and the axis order are explained once, in ``docs/explanation/frames.md``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch

from adapters.prompts.coordinates import (
    COUNT,
    ON_LESION,
    PADDING,
    check_affine,
    check_boxes,
    check_points,
    move_points,
    to_numpy,
)
from adapters.prompts.tensors import PromptTensors

Frame = Literal["image", "crop", "world"]
"""``image``: voxels of an image's own grid. ``crop``: voxels of a network input. ``world``: mm, RAS+."""

FRAMES: tuple[str, ...] = get_args(Frame)
_KINDS = ("points", "boxes", "text")


class Region(Protocol):
    """A part of a grid: its first voxel and its size along each axis, in voxels."""

    @property
    def start(self) -> tuple[int, ...]:
        """First voxel; negative where the part hangs over the grid."""
        ...

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        ...


def _move_boxes(boxes: np.ndarray, affine_from: np.ndarray | None, affine_to: np.ndarray | None) -> np.ndarray:
    """The boxes (M, 2, n) round the moved corners; the same boxes where the grids' axes are parallel."""
    if not len(boxes):
        return boxes
    corners = [
        move_points(np.stack([boxes[:, end, axis] for axis, end in enumerate(ends)], axis=1), affine_from, affine_to)
        for ends in product((0, 1), repeat=boxes.shape[2])
    ]
    return np.stack([np.min(corners, axis=0), np.max(corners, axis=0)], axis=1)


def _empty() -> np.ndarray:
    return np.zeros(0)


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts of one image in one frame, checked when they are made and never changed afterwards.

    Voxel centres lie at integers and fractions are allowed: a grid of ``size`` voxels covers [-0.5, size - 0.5]
    along each axis. The coordinates follow the axis order of the array that the frame belongs to, which has n = 2 or 3
    axes.

    Args:
        points: (N, n) clicks: voxels in the frames ``image`` and ``crop``, mm (RAS+) in ``world``; lists, arrays and
            tensors are taken.
        labels: (N,) 1 on the lesion, 0 off it, -1 padding. None: all 1.
        frame: ``image`` (voxels of an image's own grid), ``crop`` (voxels of a network input) or ``world``.
        affine: (n + 1, n + 1) voxels of the frame's grid to world mm (RAS+). None in ``world``, and for a grid of
            which it is not known where it lies: such prompts cannot be moved.
        shape: size of the grid in voxels along its axes. When given, every click that is not padding, and every box,
            must lie inside it. None in ``world``.
        boxes: (M, 2, n) the lowest and the highest voxel centre of each box.
        phrases: what is looked for, in words.
        target: name of what is to be segmented, for networks that know several; None: the lesion.

    Raises:
        ValueError: unknown frame, points or boxes of another shape or not finite, a label other than 1, 0 or -1, or
            lengths that differ. Also a singular affine, a click or a box outside the grid, a phrase that is no text.
    """

    points: Any = field(default_factory=_empty)
    labels: Any = None
    frame: Frame = "image"
    affine: np.ndarray | None = None
    shape: tuple[int, ...] | None = None
    boxes: Any = field(default_factory=_empty)
    phrases: Sequence[str] = ()
    target: str | None = None

    def __post_init__(self) -> None:
        if self.frame not in FRAMES:
            raise ValueError(f"frame {self.frame!r} is unknown, expected one of {', '.join(FRAMES)}")
        if self.frame == "world" and (self.affine is not None or self.shape is not None):
            raise ValueError("prompts in the world frame have no grid: leave affine and shape out")
        n = self._axes()
        points, labels = check_points(self.points, self.labels, spatial_dims=n)
        boxes = check_boxes(self.boxes, spatial_dims=n)
        affine: np.ndarray | None = None
        if self.affine is not None:
            affine = check_affine(self.affine, name=f"affine of the {self.frame!r} frame", spatial_dims=n)
        shape: tuple[int, ...] | None = None
        if self.shape is not None:
            shape = tuple(int(size) for size in self.shape)
            if len(shape) != n or min(shape) < 1:
                raise ValueError(f"shape is {shape}, expected {COUNT[n]} sizes of at least 1 voxel")
            self._check_inside("click", points[labels != PADDING], np.flatnonzero(labels != PADDING), shape)
            self._check_inside("box", boxes.reshape(-1, n), np.repeat(np.arange(len(boxes)), 2), shape)
        if isinstance(self.phrases, str) or not all(isinstance(phrase, str) and phrase for phrase in self.phrases):
            raise ValueError(f"phrases are {self.phrases!r}, expected a list of texts that are not empty")
        for array in (points, labels, boxes, affine):
            if array is not None:
                array.setflags(write=False)
        for name, value in (("points", points), ("labels", labels), ("boxes", boxes)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "phrases", tuple(self.phrases))

    def _axes(self) -> int:
        """The number of axes that most of affine, shape, points and boxes have; 3 if none tells."""
        votes: list[int] = []
        for values, more in ((self.affine, 1), (self.points, 0), (self.boxes, 0)):
            try:
                array = to_numpy([] if values is None else values)
            except ValueError:  # lists of different lengths, which the checks of each name
                continue
            votes += [array.shape[-1] - more] if array.ndim >= 2 and array.size else []
        votes += [] if self.shape is None else [len(self.shape)]
        return next((n for n, _ in Counter(votes).most_common() if n in COUNT), 3)

    def _check_inside(self, kind: str, points: np.ndarray, numbers: np.ndarray, shape: tuple[int, ...]) -> None:
        outside = ((points < -0.5) | (points > np.asarray(shape) - 0.5)).any(axis=1)
        if outside.any():
            first = int(np.flatnonzero(outside)[0])
            raise ValueError(
                f"{kind} {numbers[first]} at {points[first].tolist()} is outside the grid of shape {shape} "
                f"({self.frame!r} frame), expected each coordinate from -0.5 to the size - 0.5; give voxels in the "
                "array's own order of axes"
            )

    @property
    def spatial_dims(self) -> int:
        """Number of axes, 2 or 3."""
        return int(self.points.shape[1])

    @property
    def kinds(self) -> frozenset[str]:
        """What there is, of ``points`` (padding is none), ``boxes`` and ``text``."""
        present = (bool((self.labels != PADDING).any()), len(self.boxes) > 0, len(self.phrases) > 0)
        return frozenset(kind for kind, is_there in zip(_KINDS, present, strict=True) if is_there)

    @property
    def on_lesion(self) -> np.ndarray:
        """(N1, n), the points with label 1."""
        return self.points[self.labels == ON_LESION]

    def __len__(self) -> int:
        """The number of clicks, padding among them."""
        return len(self.points)

    def expect(self, frame: Frame) -> Prompts:
        """Return self if the prompts are in ``frame``.

        Raises:
            ValueError: they are in another frame.
        """
        if self.frame != frame:
            how = "to_world()" if frame == "world" else f"to_voxel(affine, frame={frame!r})"
            raise ValueError(f"prompts are in the {self.frame!r} frame, expected {frame!r}; convert them with {how}")
        return self

    def without_padding(self) -> Prompts:
        """The same prompts without the clicks of label -1."""
        real = self.labels != PADDING
        return self if real.all() else self.only(real)

    def only(self, clicks: np.ndarray) -> Prompts:
        """The same prompts with these clicks alone: (N,) bool, or their numbers."""
        return replace(self, points=self.points[clicks], labels=self.labels[clicks])

    def to_world(self) -> Prompts:
        """The same prompts in world mm (RAS+); of a box, that round its moved corners.

        Raises:
            ValueError: the affine is not known.
        """
        return self._moved(None, frame="world", shape=None)

    def to_voxel(
        self,
        affine: np.ndarray | torch.Tensor,
        *,
        shape: Sequence[int] | None = None,
        frame: Literal["image", "crop"] = "crop",
    ) -> Prompts:
        """The same prompts in the voxels of another grid; of a box, that round its moved corners.

        Args:
            affine: (n + 1, n + 1) voxels of that grid to world mm (RAS+).
            shape: size of that grid in voxels; when given, the prompts must lie inside.
            frame: the frame of that grid.

        Raises:
            ValueError: a singular affine, ``frame`` not a voxel frame, a prompt outside ``shape``, or the prompts' own
                affine is not known.
        """
        if frame not in ("image", "crop"):
            raise ValueError(f"frame is {frame!r}, expected a voxel frame, 'image' or 'crop'; use to_world() for mm")
        matrix = check_affine(affine, name=f"affine of the {frame!r} frame", spatial_dims=self.spatial_dims)
        return self._moved(matrix, frame=frame, shape=None if shape is None else tuple(shape))

    def _moved(self, affine: np.ndarray | None, *, frame: Frame, shape: tuple[int, ...] | None) -> Prompts:
        if self.frame != "world" and self.affine is None:
            raise ValueError(
                f"prompts in the {self.frame!r} frame need the affine of their grid to be moved, got None; give "
                "image.affine, or frame='world' if they are in mm"
            )
        return replace(
            self,
            points=move_points(self.points, self.affine, affine),
            boxes=_move_boxes(self.boxes, self.affine, affine),
            frame=frame,
            affine=affine,
            shape=shape,
        )

    def inside(self, region: Region) -> Prompts:
        """The prompts in a part of the grid, in its voxels (frame ``crop``).

        Args:
            region: its ``start`` and ``size`` along each axis, in voxels of this frame.

        Returns:
            The clicks and the boxes that lie in the region, boxes cut to it, and all phrases.

        Raises:
            ValueError: the prompts are in world.
        """
        self._expect_voxels()
        start, size = np.asarray(region.start), np.asarray(region.size)
        points = self.points - start
        boxes = self.boxes - start
        held = np.all((points >= -0.5) & (points <= size - 0.5), axis=1)
        met = np.all((boxes[:, 1] >= -0.5) & (boxes[:, 0] <= size - 0.5), axis=1)
        affine = self.affine
        if affine is not None:
            affine = affine.copy()
            affine[:-1, -1] += affine[:-1, :-1] @ start
        return replace(
            self,
            points=points[held],
            labels=self.labels[held],
            boxes=np.clip(boxes[met], 0, size - 1),
            frame="crop",
            affine=affine,
            shape=tuple(int(n) for n in size),
        )

    def with_click(self, point: Sequence[float] | np.ndarray, label: int = ON_LESION) -> Prompts:
        """These prompts and one more click, given in the same frame.

        Args:
            point: (n,) coordinates in this frame.
            label: 1 on the lesion, 0 off it.
        """
        return self.with_clicks([point], [label])

    def with_clicks(self, points: Any, labels: Any = None) -> Prompts:
        """These prompts and more clicks (N, n) with labels (N,), given in the same frame."""
        more, marks = check_points(points, labels, spatial_dims=self.spatial_dims)
        return replace(self, points=np.concatenate([self.points, more]), labels=np.concatenate([self.labels, marks]))

    def as_tensors(self, device: torch.device | str | None = None, **options: Any) -> PromptTensors:
        """The form that networks take, for a batch of one; see `prompt_tensors`."""
        return prompt_tensors([self], device=device, **options)

    def _expect_voxels(self) -> None:
        if self.frame == "world":
            raise ValueError(
                "prompts are in the 'world' frame, expected voxels ('image' or 'crop'); "
                "convert them with to_voxel(affine)"
            )

    def to_json(self) -> str:
        """The prompts as text, so that they can stand in the metadata of a tensor, which loaders collate."""
        values: dict[str, Any] = {
            "points": self.points.tolist(),
            "labels": self.labels.tolist(),
            "frame": self.frame,
            "affine": None if self.affine is None else self.affine.tolist(),
            "shape": self.shape,
            "boxes": self.boxes.tolist(),
            "phrases": self.phrases,
            "target": self.target,
        }
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> Prompts:
        """Prompts from what `to_json` gave, exactly as they were.

        Raises:
            ValueError: it is something else.
        """
        try:
            values = json.loads(text)
        except (TypeError, ValueError) as err:
            raise ValueError(f"prompts are {text!r:.80}, expected the text that Prompts.to_json gives") from err
        if not isinstance(values, Mapping) or values.keys() - cls.__dataclass_fields__.keys():
            raise ValueError(f"prompts are {text!r:.80}, expected the text that Prompts.to_json gives")
        return cls(**values)


def prompt_tensors(
    prompts: Sequence[Prompts],
    *,
    device: torch.device | str | None = None,
    mask: torch.Tensor | None = None,
    phrase_encoder: Callable[[Sequence[str]], torch.Tensor] | None = None,
) -> PromptTensors:
    """The prompts of a batch, of which each item has its own number, as tensors.

    Args:
        prompts: of each of B items, in voxels (frames ``image`` or ``crop``), all with the same number n of axes.
        device: where to put the tensors.
        mask: (B, 1, *crop) log-odds of what stands, handed on.
        phrase_encoder: the phrases of an item to their vectors (T, C); needed where there are phrases.

    Returns:
        Points (B, N, n) float32 and labels (B, N) int64 with N the largest number; what is missing has label -1. Boxes
        (B, M, 2, n) float32 and text (B, T, C), in which NaN and 0 stand for what is missing, or None.

    Raises:
        ValueError: an empty batch, prompts in world or of different numbers of axes, phrases without an encoder.
    """
    if not prompts:
        raise ValueError("an empty batch, expected at least one Prompts; use Prompts() for no prompt")
    if len({each.spatial_dims for each in prompts}) > 1:
        raise ValueError(f"prompts have {[each.spatial_dims for each in prompts]} axes, expected one number for all")
    for each in prompts:
        each._expect_voxels()
    points = _padded([each.points for each in prompts], 0.0, np.float32)
    labels = _padded([each.labels for each in prompts], PADDING, np.int64)
    boxes = _padded([each.boxes for each in prompts], np.nan, np.float32)
    text: torch.Tensor | None = None
    if any(each.phrases for each in prompts):
        if phrase_encoder is None:
            phrases = next(each.phrases for each in prompts if each.phrases)
            raise ValueError(f"the phrase {phrases[0]!r} was given, and the network takes none: leave phrases out")
        vectors = [phrase_encoder(each.phrases).detach().cpu().numpy() for each in prompts]
        text = torch.from_numpy(_padded(vectors, 0.0, np.float32)).to(device)
    return PromptTensors(
        torch.from_numpy(points).to(device),
        torch.from_numpy(labels).to(device),
        torch.from_numpy(boxes).to(device) if boxes.shape[1] else None,
        text,
        mask,
    )


def _padded(items: Sequence[np.ndarray], value: float, dtype: type) -> np.ndarray:
    """Arrays (N_b, ...) as one (B, N, ...), with a value where an item has fewer than the others."""
    most = max(len(item) for item in items)
    batch = np.full((len(items), most, *items[0].shape[1:]), value, dtype=dtype)
    for row, item in zip(batch, items, strict=True):
        row[: len(item)] = item
    return batch
