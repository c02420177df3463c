"""Clicks on their way from a request, or from a label, to the meta of the scan tensor."""

from __future__ import annotations

import re
import zlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable

from adapters.prompts import ClickPolicy, Clicks, check_points, click_policy
from adapters.transforms.loading import source_file

# A click on the stored grid may miss the resampled one by the rounding of its size; more means a crop cut it away.
_ROUNDING = 1.0


def _write(image: MetaTensor, points: np.ndarray, labels: np.ndarray) -> MetaTensor:
    """The same tensor (memory shared) with clicks in its meta."""
    meta = dict(image.meta)
    meta["clicks"] = points.astype(np.float32).reshape(-1, 3)
    meta["click_labels"] = labels.astype(np.int64)
    return MetaTensor(image.as_tensor(), meta=meta, applied_operations=list(image.applied_operations))


class RequestToClicksd(MapTransform):
    """Bring the clicks of a request from the stored image to the tensor, and write them into its meta.

    Put it after all spatial transforms. A request gives clicks in voxels of the image as stored (frame ``image``,
    axis order i, j, k of the file, centres at integers) in one of three forms, all in the data dictionary:

    - ``points`` [[i, j, k], ...] and ``point_labels`` [1 | 0 | -1, ...] (VISTA3D, OHIF),
    - ``foreground`` [[i, j, k], ...] and/or ``background`` (MONAI Label, deepgrow),
    - a list under each name in ``label_names``, and/or ``background`` (MONAI Label, deepedit).

    They are checked, moved by ``inv(image.affine) @ image.meta["original_affine"]`` and written as
    ``image.meta["clicks"]`` (N, 3) float32, in voxels of the tensor (order of its axes), and
    ``image.meta["click_labels"]`` (N,) int64. N = 0 is an empty array. What clicks say about an image does not
    survive further spatial transforms.

    Args:
        keys: keys of the scans (MetaTensors (C, D, H, W), loaded by LoadScand).
        label_names: names of the lesion, under which deepedit requests keep its clicks. A request's own ``label``,
            where it is a string, must be one of them, or one of several such as "tumor 2". Empty: the request's
            ``label`` is taken as the name.
        required: refuse a request without a click.

    Raises:
        ValueError: (when called) clicks that are not (N, 3), not finite or outside the stored image, labels of
            another length or value, two forms at once, another ``label``, no click though ``required``, a click
            that a crop has cut away, an image that was not loaded from a file.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        *,
        label_names: Sequence[str] | str = (),
        required: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_names = (label_names,) if isinstance(label_names, str) else tuple(label_names)
        self.required = required

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the request's clicks into the meta of each scan; see the class."""
        d = dict(data)
        points, labels = self._read(d)
        if self.required and not (labels >= 0).any():
            raise ValueError(
                "no click in the request, expected at least one: give points and point_labels, or foreground"
            )
        for key in self.key_iterator(d):
            d[key] = self._move(d[key], str(key), points, labels)
        return d

    def _read(self, d: Mapping[Hashable, Any]) -> tuple[np.ndarray, np.ndarray]:
        names = [*self.label_names, "foreground"]
        label = d.get("label")
        if isinstance(label, str) and label:
            if self.label_names and not any(_is_one_of(label, name) for name in self.label_names):
                raise ValueError(
                    f"the request's label is {label!r}, expected {' or '.join(map(repr, self.label_names))} (or one of "
                    f"several, such as '{self.label_names[0]} 2'): this bundle segments nothing else"
                )
            names.append(label)
        names = list(dict.fromkeys([*names, "background"]))
        for name in (*names, "points", "point_labels"):
            if isinstance(d.get(name), (str, int, float)):
                raise ValueError(f"the request's {name!r} is {d[name]!r}, expected a list, one entry for each click")
        named = [name for name in names if _is_given(d.get(name))]
        if _is_given(d.get("points")) or _is_given(d.get("point_labels")):
            if named:
                raise ValueError(f"the request has clicks under points and under {', '.join(named)}; give one of them")
            if d.get("points") is None or d.get("point_labels") is None:
                missing = "points" if d.get("points") is None else "point_labels"
                raise ValueError(f"the request has no {missing!r}, expected points and point_labels together")
            return check_points(d["points"], d["point_labels"], name="request")
        read = [
            check_points(d[name], [int(name != "background")] * len(d[name]), name=f"request, {name!r}")
            for name in named
        ]
        read.append(check_points([], []))
        return np.concatenate([points for points, _ in read]), np.concatenate([labels for _, labels in read])

    def _move(self, image: Any, key: str, points: np.ndarray, labels: np.ndarray) -> MetaTensor:
        if not isinstance(image, MetaTensor) or "original_affine" not in image.meta:
            raise ValueError(f"{key!r} has no affine of the stored image; load it from its file with LoadScand")
        stored_shape = image.meta.get("spatial_shape")
        shape = None if stored_shape is None else tuple(int(size) for size in stored_shape)
        try:
            stored = Clicks(points, labels, "image", np.asarray(image.meta["original_affine"]), shape)
        except ValueError as err:  # of a list of requests, which one
            raise ValueError(f"{Path(source_file(image) or key).name}: {err}") from err
        moved = stored.to_voxel(image.affine, frame="image").points
        sizes = np.asarray(image.shape[1:])
        nearest = np.clip(moved, -0.5, sizes - 0.5)
        lost = (np.abs(nearest - moved).max(axis=1, initial=0) > _ROUNDING) & (labels >= 0)
        if lost.any():
            first = int(np.flatnonzero(lost)[0])
            raise ValueError(
                f"click {first} at {points[first].tolist()} of the stored image falls on "
                f"{np.round(moved[first], 2).tolist()}, outside the tensor of shape {tuple(image.shape[1:])}: "
                "a crop has cut it away; click inside, or crop less"
            )
        return _write(image, nearest, labels)


def _is_one_of(label: str, name: str) -> bool:
    """Whether a label is that name, or the name with a number or a word behind it; small or capital letters."""
    return re.match(rf"{re.escape(name)}(?![^\W\d_])", label.strip(), re.IGNORECASE) is not None


def _is_given(value: Any) -> bool:
    """True for a list or array with something in it; names such as ``label`` may also hold a string or an image."""
    return isinstance(value, (list, tuple, np.ndarray, torch.Tensor)) and len(value) > 0


class SimulateClicksd(Randomizable, MapTransform):
    """Let a simulated user click on the label, and write the clicks into the meta of the scan tensor.

    For evaluation and tests; put it after all spatial transforms.

    Args:
        keys: keys of the scans (MetaTensors (C, D, H, W)).
        label_key: key of the label (1, D, H, W) on the same grid.
        policy: name of the user (:data:`adapters.prompts.USERS`), or a :class:`adapters.prompts.ClickPolicy`.
        num: number of clicks, 0 for none; or the key under which a case holds its number, 1 where it has no such key.
        label_value: value of the lesion in the label; None: all but 0.
        seed: with a number a case gets the same clicks each time, whatever the order of cases or the number of
            workers (they depend on the seed and the name of the label's file). None: new clicks each time, from the
            transform's random state.

    Writes ``image.meta["clicks"]`` (N, 3) float32 in voxels of the tensor and ``image.meta["click_labels"]`` (N,)
    int64; N = 0 if the label has no lesion (``stray`` clicks need none).

    Raises:
        ValueError: an unknown policy; (when called) a label that is missing or on another grid.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        *,
        label_key: str = "label",
        policy: str | ClickPolicy = "random",
        num: int | str = 1,
        label_value: int | None = None,
        seed: int | None = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.label_key = label_key
        self.policy = click_policy(policy) if isinstance(policy, str) else policy
        self.num = num
        self.label_value = label_value
        self.seed = seed

    def _generator(self, label: Any) -> np.random.Generator:
        if self.seed is None:
            return np.random.default_rng(self.R.randint(2**31, size=4))
        return np.random.default_rng([self.seed, zlib.crc32(Path(source_file(label)).name.encode())])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write simulated clicks into the meta of each scan; see the class."""
        d = dict(data)
        label = d.get(self.label_key)
        if not isinstance(label, torch.Tensor) or label.ndim != 4:
            raise ValueError(f"{self.label_key!r} is not a label (1, D, H, W); load it, channel first")
        lesion = np.asarray(label[0].detach().cpu())
        lesion = lesion != 0 if self.label_value is None else lesion == self.label_value
        num = d.get(self.num, 1) if isinstance(self.num, str) else self.num
        if not isinstance(num, int) or num < 0:
            raise ValueError(f"the number of clicks ({self.num!r}) is {num!r}, expected a whole number of at least 0")
        if num == 0:
            points, labels = np.zeros((0, 3)), np.zeros(0, dtype=np.int64)
        else:
            points, labels = self.policy(lesion, self._generator(label), num)
        for key in self.key_iterator(d):
            image = d[key]
            if image.shape[1:] != label.shape[1:]:
                raise ValueError(
                    f"{key!r} and {self.label_key!r} are on different grids: shapes {tuple(image.shape[1:])} and "
                    f"{tuple(label.shape[1:])}; put both through the same transforms"
                )
            d[key] = _write(image if isinstance(image, MetaTensor) else MetaTensor(image), points, labels)
        return d
