"""Prompts on their way from a request, or from a label, to the meta of the scan tensor."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import MapTransform, Randomizable

from adapters.prompts import PADDING, ClickPolicy, Prompts, check_points, click_policy
from adapters.prompts.coordinates import move_points
from adapters.prompts.voxels import voxels_under
from adapters.transforms.loading import source_file
from adapters.transforms.request_options import with_meta

# A click on the stored grid may miss the resampled one by the rounding of its size; more means a crop cut it away.
_ROUNDING = 1.0


def _affine(image: MetaTensor, affine: Any) -> np.ndarray:
    """(n + 1, n + 1), of a tensor (C, ...) of n axes: MONAI gives an image of two axes the affine of three."""
    return to_affine_nd(image.ndim - 1, np.asarray(affine, dtype=float))


class RequestToClicksd(MapTransform):
    """Bring the prompts of a request from the stored image to the tensor, and write them into its meta.

    Put it after all spatial transforms. The data hold a request's prompts in voxels of the image as stored (frame
    ``image``, axis order i, j, k of the file, centres at integers). Clicks come in one of three forms:

    - ``points`` [[i, j, k], ...] and ``point_labels`` [1 | 0 | -1, ...] (VISTA3D, OHIF),
    - ``foreground`` [[i, j, k], ...] and/or ``background`` (MONAI Label, deepgrow),
    - a list under each name in ``label_names``, and/or ``background`` (MONAI Label, deepedit).

    Beside them, ``boxes`` [[[i, j, k], [i, j, k]], ...] have the lowest and the highest voxel of each box. ``phrases``
    [text, ...] say in words what is looked for, and ``label`` names the target.

    They are checked, moved by ``inv(image.affine) @ image.meta["original_affine"]`` and written as
    ``image.meta["prompts"]``: `adapters.prompts.Prompts` in voxels of the tensor (frame ``image``, order of its axes),
    as text. ``image.meta["clicked"]`` has the centres of the stored image's voxels that the clicks lie in, in voxels of
    the tensor: a click between two voxels belongs to one of them, which the tensor alone does not tell. The request's
    own entries are taken out of the data: every item of a batch has the same keys.

    Args:
        keys: keys of the scans (MetaTensors (C, D, H, W) or (C, H, W), loaded by LoadScand).
        label_names: names of the lesion, under which deepedit requests keep its clicks. A request's own ``label``,
            where it is a string, must be one of them, or one of several such as "tumor 2". Empty: the request's
            ``label`` is taken as the name.
        required: refuse a request without a click, a box or a phrase.

    Raises:
        ValueError: (when called) clicks that are not (N, 3), boxes that are not (M, 2, 3), values that are not finite
            or outside the stored image. Labels of another length or value, two forms at once, another ``label``, no
            prompt though ``required``. A prompt that a crop has cut away, an image that was not loaded from a file.
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
        """Write the request's prompts into the meta of each scan; see the class."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self._placed(d, d[key], str(key))
        for name in {*self._names(d), "points", "point_labels", "boxes", "phrases"} & d.keys():
            if not isinstance(d[name], (str, MetaTensor)):
                del d[name]
        return d

    def _placed(self, d: Mapping[Hashable, Any], image: Any, key: str) -> MetaTensor:
        if not isinstance(image, MetaTensor) or "original_affine" not in image.meta:
            raise ValueError(f"{key!r} has no affine of the stored image; load it from its file with LoadScand")
        axes = image.ndim - 1
        points, labels = self._clicks(d, axes)
        boxes, phrases = (d[name] if _is_given(d.get(name)) else () for name in ("boxes", "phrases"))
        if self.required and not ((labels != PADDING).any() or len(boxes) or len(phrases)):
            raise ValueError(
                "no click in the request, expected at least one: give points and point_labels, or foreground"
            )
        shape, target = image.meta.get("spatial_shape"), d.get("label")
        try:
            stored = Prompts(
                points,
                labels,
                affine=_affine(image, image.meta["original_affine"]),
                shape=None if shape is None else tuple(int(size) for size in shape)[:axes],
                boxes=boxes,
                phrases=tuple(phrases),
                target=target if isinstance(target, str) and target else None,
            )
        except ValueError as err:  # of a list of requests, which one
            raise ValueError(f"{Path(source_file(image) or key).name}: {err}") from err
        return with_meta(image, prompts=_onto(stored, image).to_json(), clicked=json.dumps(_clicked(stored, image)))

    def _names(self, d: Mapping[Hashable, Any]) -> list[str]:
        """The keys under which there may be clicks of one kind."""
        names = [*self.label_names, "foreground"]
        label = d.get("label")
        if isinstance(label, str) and label:
            if self.label_names and not any(_is_one_of(label, name) for name in self.label_names):
                raise ValueError(
                    f"the request's label is {label!r}, expected {' or '.join(map(repr, self.label_names))} (or one of "
                    f"several, such as '{self.label_names[0]} 2'): this bundle segments nothing else"
                )
            names.append(label)
        return list(dict.fromkeys([*names, "background"]))

    def _clicks(self, d: Mapping[Hashable, Any], axes: int) -> tuple[np.ndarray, np.ndarray]:
        names = self._names(d)
        for name in (*names, "points", "point_labels", "boxes", "phrases"):
            if isinstance(d.get(name), (str, int, float, Mapping)):
                raise ValueError(f"the request's {name!r} is {d[name]!r}, expected a list, one entry for each prompt")
        named = [name for name in names if _is_given(d.get(name))]
        if _is_given(d.get("points")) or _is_given(d.get("point_labels")):
            if named:
                raise ValueError(f"the request has clicks under points and under {', '.join(named)}; give one of them")
            for name in ("points", "point_labels"):
                if d.get(name) is None:
                    raise ValueError(f"the request has no {name!r}, expected points and point_labels together")
            return check_points(d["points"], d["point_labels"], name="request", spatial_dims=axes)
        read = [
            check_points(
                d[name], [int(name != "background")] * len(d[name]), name=f"request, {name!r}", spatial_dims=axes
            )
            for name in named
        ]
        read.append(check_points([], [], spatial_dims=axes))
        return np.concatenate([points for points, _ in read]), np.concatenate([labels for _, labels in read])


def _onto(stored: Prompts, image: MetaTensor) -> Prompts:
    """Prompts of the stored image on the tensor's grid; what misses it by rounding is moved to its face."""
    moved = stored.to_voxel(_affine(image, image.affine.cpu()), frame="image")
    last = np.asarray(image.shape[1:]) - 0.5
    # float32 takes away the rounding of affines, by which a click between two voxels would fall to one of them
    points, boxes = (np.clip(each, -0.5, last).astype(np.float32) for each in (moved.points, moved.boxes))
    away = np.abs(points - moved.points).max(axis=1, initial=0)
    lost = (away > _ROUNDING) & (np.asarray(moved.labels) != PADDING)
    if lost.any():
        first = int(np.flatnonzero(lost)[0])
        raise ValueError(
            f"click {first} at {stored.points[first].tolist()} of the stored image falls on "
            f"{np.round(moved.points[first], 2).tolist()}, outside the tensor of shape {tuple(image.shape[1:])}: "
            "a crop has cut it away; click inside, or crop less"
        )
    outside = (moved.boxes[:, 0] > last).any(axis=1) | (moved.boxes[:, 1] < -0.5).any(axis=1)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise ValueError(
            f"box {first} from {stored.boxes[first, 0].tolist()} to {stored.boxes[first, 1].tolist()} of the stored "
            f"image lies outside the tensor of shape {tuple(image.shape[1:])}: a crop has cut it away; crop less"
        )
    return replace(moved, points=points, boxes=boxes, shape=tuple(image.shape[1:]))


def _clicked(stored: Prompts, image: MetaTensor) -> list[list[float]] | None:
    """The centres of the stored image's voxels that clicks lie in, in voxels of the tensor; padding is left out.

    None where the shape of the stored image is not known.
    """
    real = stored.without_padding()
    if real.shape is None:
        return None
    centres = move_points(voxels_under(real.points, real.shape), real.affine, _affine(image, image.affine.cpu()))
    return np.round(centres, 3).tolist()


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
        keys: keys of the scans (MetaTensors (C, D, H, W) or (C, H, W)).
        label_key: key of the label (1, D, H, W) or (1, H, W) on the same grid.
        policy: name of the user (:data:`adapters.prompts.USERS`), or a :class:`adapters.prompts.ClickPolicy`.
        num: number of clicks, 0 for none; or the key under which a case holds its number, 1 where it has no such key.
        label_value: value of the lesion in the label; None: all but 0.
        seed: with a number, clicks depend on it and the case alone: its entry ``case``, or else the last folder and the
            name of its label's file. None: new clicks each time, from the transform's random state.

    Writes ``image.meta["prompts"]``: `adapters.prompts.Prompts` in voxels of the tensor (frame ``image``), as text;
    N = 0 if the label has no lesion (``stray`` clicks need none).

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

    def _generator(self, d: Mapping[Hashable, Any]) -> np.random.Generator:
        if self.seed is None:
            return np.random.default_rng(self.R.randint(2**31, size=4))
        case = str(d.get("case") or "/".join(Path(source_file(d[self.label_key])).parts[-2:]))
        return np.random.default_rng([self.seed, zlib.crc32(case.encode())])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write simulated clicks into the meta of each scan; see the class."""
        d = dict(data)
        label = d.get(self.label_key)
        if not isinstance(label, torch.Tensor) or label.ndim not in (3, 4):
            raise ValueError(f"{self.label_key!r} is not a label (1, D, H, W) or (1, H, W); load it, channel first")
        lesion = np.asarray(label[0].detach().cpu())
        lesion = lesion != 0 if self.label_value is None else lesion == self.label_value
        num = d.get(self.num, 1) if isinstance(self.num, str) else self.num
        if not isinstance(num, int) or num < 0:
            raise ValueError(f"the number of clicks ({self.num!r}) is {num!r}, expected a whole number of at least 0")
        prompts = self.policy(lesion, self._generator(d), num) if num else Prompts(shape=lesion.shape)
        for key in self.key_iterator(d):
            image = d[key]
            if image.shape[1:] != label.shape[1:]:
                raise ValueError(
                    f"{key!r} and {self.label_key!r} are on different grids: shapes {tuple(image.shape[1:])} and "
                    f"{tuple(label.shape[1:])}; put both through the same transforms"
                )
            image = image if isinstance(image, MetaTensor) else MetaTensor(image)
            d[key] = with_meta(image, prompts=replace(prompts, affine=_affine(image, image.affine.cpu())).to_json())
        return d
