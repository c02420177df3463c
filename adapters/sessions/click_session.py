"""Prompts on one image, one after the other, with undo: a bundle's inference for notebooks and programs."""

from __future__ import annotations

import functools
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImaged
from nibabel.orientations import apply_orientation

from adapters.inferers import ClickInferer
from adapters.inferers.embeddings import Session, embeddings_of
from adapters.prompts import Prompts, check_affine
from adapters.sessions.bundle import bundle_network, parsed, read_bundle
from adapters.transforms import RequestToClicksd
from adapters.transforms.saving import write_mask

__all__ = ["ClickSession"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_ROUNDING = 1e-3  # of affines
_CERTAIN = 10.0  # log-odds of a mask to start from, as `PromptTensors` suggests


def _one_at_a_time(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """A method of a session that waits until the one before has ended, in whatever thread."""

    @functools.wraps(method)
    def waiting(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with args[0]._lock:  # type: ignore[attr-defined]  # the session
            return method(*args, **kwargs)

    return waiting


@dataclass(frozen=True)
class _Image:
    """The scan after all transforms but the prompts', and what the file says of it."""

    scan: MetaTensor
    affine: np.ndarray
    shape: tuple[int, ...]

    @property
    def untouched(self) -> _State:
        """What stands before the first step: no prompts."""
        return _State(Prompts(frame="image", affine=self.affine, shape=self.shape))


@dataclass(frozen=True)
class _State:
    """What stands after a step. Masks are packed to bits; `windows` is what the inferer knows of the last prompts."""

    prompts: Prompts
    start: np.ndarray | None = None
    mask: np.ndarray | None = None
    windows: tuple[tuple[Any, Session], ...] = ()


class ClickSession:
    """Segments a lesion click by click, as ``python -m monai.bundle run`` and MONAI Label do with the same bundle.

    The bundle's own ``configs/inference.json`` is used: its preprocessing, inferer, postprocessing, weights and
    precision. The image is read and preprocessed once; the embedding of a crop serves all clicks in it. Threads may
    share a session: their steps come one after the other.

    Args:
        bundle: name or folder of a bundle, such as ``"soft_tissue_sarcoma_ct"``.
        device: where to compute, such as ``"cpu"`` or ``"cuda:0"``. None: what the configuration says.
        **overrides: other values for ids of the configuration, such as ``reach=None`` or ``checkpoint="best.pt"``.

    Raises:
        FileNotFoundError: if there is no such bundle or it has no weights.
        ValueError: if an override is none of its ids, the weights are of another network, or the bundle takes no
            clicks. While there is no image, all methods and properties but `set_image` raise it too.

    Example:
        >>> session = ClickSession("soft_tissue_sarcoma_ct")  # doctest: +SKIP
        >>> session.set_image("scan.nii.gz")  # doctest: +SKIP
        >>> mask = session.add_click((26, 17, 15))  # doctest: +SKIP
        >>> mask = session.add_click((10, 12, 15), positive=False)  # doctest: +SKIP
        >>> session.save("mask.nii.gz")  # doctest: +SKIP
    """

    def __init__(
        self, bundle: str | os.PathLike, *, device: str | torch.device | None = None, **overrides: Any
    ) -> None:
        parser = read_bundle(bundle, overrides if device is None else {"device": str(device), **overrides})
        self._device = torch.device(parsed(parser, "device"))
        transforms = parsed(parser, "preprocessing").transforms
        at = next((i for i, each in enumerate(transforms) if isinstance(each, RequestToClicksd)), None)
        self._inferer = parsed(parser, "inferer")
        if at is None or not isinstance(self._inferer, ClickInferer):
            raise ValueError(
                f"{str(bundle)!r} takes no clicks: expected a bundle whose inference.json has RequestToClicksd in its "
                "preprocessing and a ClickInferer."
            )
        self._inferer.keep_mask = True
        self._read, self._place = transforms[:at], transforms[at:]
        self._finish = [
            each for each in parsed(parser, "postprocessing").transforms if not isinstance(each, SaveImaged)
        ]
        self._autocast = {
            "enabled": bool(parsed(parser, "evaluator#amp", False)),
            **parsed(parser, "evaluator#amp_kwargs", {}),
        }
        self._label = next(iter(transforms[at].label_names), "lesion")
        self._network = bundle_network(parser)
        self._lock = threading.RLock()
        self._image: _Image | None = None
        self._states: list[_State] = []

    @_one_at_a_time
    def set_image(
        self, image: str | os.PathLike | np.ndarray | torch.Tensor, affine: Any = None, *, series: str = ""
    ) -> None:
        """Read an image, and start anew on it.

        Args:
            image: path of a NIfTI, NRRD or MHA file or of a folder with a DICOM series. Or an array (X, Y, Z) in the
                units that the bundle expects (CT: Hounsfield units), taken as float32.
            affine: (4, 4), voxels of the array to world in mm, RAS+ (NIfTI's). A file has its own.
            series: which DICOM series of a folder with several (`adapters.transforms.dicom.find_volume`).

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the image cannot be read, is not one 3D scan with contrast, or an affine is missing, given
                for a file, or singular, or a series is given for what is no DICOM. The session is then as before.
        """
        if isinstance(image, (str, os.PathLike)):
            if affine is not None:
                raise ValueError(f"an affine was given for the file {str(image)!r}, which has its own: leave it out.")
            self._start(image, series)
            return
        if series:
            raise ValueError(f"series {series!r} was given for an array, which has none: leave it out.")
        if affine is None:
            raise ValueError("the array has no affine: give the (4, 4) matrix from its voxels to world mm (RAS+).")
        array = np.asarray(image.detach().cpu() if isinstance(image, torch.Tensor) else image)
        if array.ndim != 3 or array.dtype.kind not in "biuf":
            raise ValueError(
                f"the array has shape {array.shape} and type {array.dtype}: expected numbers (X, Y, Z), one 3D scan."
            )
        # through a file, so that an array and its file give the same mask
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "image.nii"
            nib.save(nib.Nifti1Image(array.astype(np.float32), check_affine(affine)), path)
            self._start(path)

    def _start(self, path: str | os.PathLike, series: str = "") -> None:
        scan = _through(self._read, {"image": str(path), "series": series})["image"]
        shape = tuple(int(size) for size in scan.meta["spatial_shape"])
        image = _Image(scan.to(self._device), np.asarray(scan.meta["original_affine"], dtype=float), shape)
        ClickInferer.forget(self._network)
        self._image, self._states = image, [image.untouched]

    @property
    def _now(self) -> tuple[_Image, _State]:
        if self._image is None:
            raise ValueError("the session has no image yet: call set_image first.")
        return self._image, self._states[-1]

    @property
    def affine(self) -> np.ndarray:
        """(4, 4), voxels of the image as stored to world in mm, RAS+."""
        return self._now[0].affine.copy()

    @property
    def prompts(self) -> Prompts:
        """The prompts that stand: voxels of the image as stored (frame ``image``); labels 1 on the lesion, 0 off it."""
        return self._now[1].prompts

    @property
    def mask(self) -> np.ndarray:
        """The mask that stands: bool (X, Y, Z) on the image's own grid, a copy; all False before the first click."""
        image, state = self._now
        if state.mask is None:
            return np.zeros(image.shape, dtype=bool)
        return _unpacked(state.mask, image.shape)

    @_one_at_a_time
    def add_click(self, voxel: Sequence[float], *, positive: bool = True) -> np.ndarray:
        """Click, and predict from all clicks that stand.

        The first clicks of an image give the mask that ``monai.bundle run`` gives for them, voxel for voxel. Further
        ones are predicted in the crops of those before them where they lie well inside, as in MONAI Label.

        Args:
            voxel: (i, j, k), the voxel of the image as stored, counted from 0 in the order of the array's axes.
            positive: whether the click lies on the lesion.

        Returns:
            bool (X, Y, Z), the mask on the image's own grid.

        Raises:
            ValueError: if the voxel is not three finite numbers or lies outside the image, or `positive` is no truth
                value. The session is then as before.
        """
        _, state = self._now
        if not isinstance(positive, (bool, np.bool_)):
            raise ValueError(f"positive is {positive!r}: expected True (on the lesion) or False (off it).")
        point = _numbers(voxel, f"the click is {voxel!r}", state.prompts.spatial_dims)
        return self._step(state.prompts.with_click(point, int(positive)), state.start)

    @_one_at_a_time
    def add_box(self, lowest: Sequence[float], highest: Sequence[float]) -> np.ndarray:
        """Draw a box round the lesion, and predict from all prompts that stand.

        Args:
            lowest: (i, j, k), the voxel of the box with the lowest indices, as in `add_click`.
            highest: (i, j, k), the voxel with the highest indices, which is part of the box.

        Returns:
            bool (X, Y, Z), the mask on the image's own grid.

        Raises:
            ValueError: if the corners are not three finite numbers each, lie outside the image or are exchanged, or
                the bundle's network takes no boxes. The session is then as before.
        """
        _, state = self._now
        axes = state.prompts.spatial_dims
        box = [_numbers(each, f"a corner of the box is {each!r}", axes) for each in (lowest, highest)]
        return self._step(replace(state.prompts, boxes=[*state.prompts.boxes.tolist(), box]), state.start)

    @_one_at_a_time
    def automatic(self) -> np.ndarray:
        """Predict without a click, in the bundle's automatic mode, which its network must have been trained for.

        It is a step that `undo` takes back. A click after it is predicted from the clicks alone; to correct what was
        found, start from it: ``session.start_from(session.automatic())``.

        Returns:
            bool (X, Y, Z), the mask on the image's own grid.

        Raises:
            ValueError: if the bundle has no automatic mode.
        """
        return self._step(self._now[0].untouched.prompts, None)

    @_one_at_a_time
    def start_from(self, mask: Any) -> np.ndarray:
        """Start from a mask, of another program or an earlier session, instead of nothing; clicks then correct it.

        The clicks before it no longer count. Where no later click's crop reaches, the mask stands as it is.

        Args:
            mask: bool, or 0 and 1, (X, Y, Z) on the image's own grid.

        Returns:
            The mask, as it stands now.

        Raises:
            ValueError: if the mask is on another grid or has other values, or the bundle resamples whole scans, so
                that a mask cannot be brought to its grid. The session is then as before.
        """
        image, _ = self._now
        given = np.asarray(mask.detach().cpu() if isinstance(mask, torch.Tensor) else mask)
        if given.shape != image.shape:
            raise ValueError(f"the mask has shape {given.shape}: expected {image.shape}, the image's own grid.")
        if not np.isin(given, (0, 1)).all():
            values = ", ".join(map(str, np.unique(given)[:5]))
            raise ValueError(f"the mask holds the values {values}: expected only 0 and 1, or False and True.")
        given = given.astype(bool)
        turned = _turned(given, np.linalg.inv(np.asarray(image.scan.affine.cpu())) @ image.affine)
        if turned is None or turned.shape != tuple(image.scan.shape[1:]):
            raise ValueError(
                f"the bundle's preprocessing makes a grid of {tuple(image.scan.shape[1:])} out of {image.shape}: a "
                "mask to start from needs a bundle that only turns the scan."
            )
        embeddings_of(self._network).restore_sessions(())
        self._states.append(replace(image.untouched, start=np.packbits(turned), mask=np.packbits(given)))
        return self.mask

    @_one_at_a_time
    def undo(self) -> np.ndarray:
        """Take the last click, start mask or automatic prediction back.

        Returns:
            The mask from before it, exactly as it was; all False before the first one.

        Raises:
            ValueError: if there is nothing to take back.
        """
        self._now  # noqa: B018  (says that there is no image)
        if len(self._states) == 1:
            raise ValueError("there is nothing to undo: no click stands.")
        self._states.pop()
        embeddings_of(self._network).restore_sessions(self._states[-1].windows)
        return self.mask

    @_one_at_a_time
    def reset(self) -> None:
        """Forget all clicks and masks, which cannot be undone. The image stays, and so do embeddings of its crops."""
        image, _ = self._now
        embeddings_of(self._network).restore_sessions(())
        self._states = [image.untouched]

    @_one_at_a_time
    def save(self, path: str | os.PathLike) -> Path:
        """Write the mask: 1 on the lesion, 0 elsewhere, uint8, on the image's own grid with its header's geometry.

        Args:
            path: ends in ``.nii.gz``, ``.nii``, ``.nrrd`` or ``.mha``; or in ``.dcm`` for a DICOM SEG of an image that
                is DICOM. An existing mask is replaced.

        Returns:
            The path.

        Raises:
            FileNotFoundError: if the folder does not exist.
            ValueError: if there is no mask yet, the path has another ending, or an image lies there, such as the
                session's own. For ``.dcm``, as `adapters.transforms.dicom_seg.write_segmentation`.
        """
        image, state = self._now
        path = Path(path).expanduser()
        if state.mask is None:
            raise ValueError("there is no mask to save yet: call add_click, automatic or start_from first.")
        if not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {str(path.parent)!r}: make it first.")
        write_mask(path, self.mask, image.scan.meta, image.affine, self._label)
        return path

    def _step(self, prompts: Prompts, start: np.ndarray | None) -> np.ndarray:
        """Predict from these prompts, and let the result stand."""
        image, state = self._now
        embeddings = embeddings_of(self._network)
        try:
            mask = self._predicted(image, prompts, start)
        except BaseException:
            embeddings.restore_sessions(state.windows)
            raise
        self._states.append(_State(prompts, start, np.packbits(mask), embeddings.sessions()))
        return self.mask

    def _predicted(self, image: _Image, prompts: Prompts, start: np.ndarray | None) -> np.ndarray:
        request = {"points": prompts.points, "point_labels": prompts.labels, "boxes": prompts.boxes}
        data = _through(self._place, {"image": image.scan, **request})
        stands = None
        if start is not None:
            shape = tuple(image.scan.shape[1:])
            inside = torch.from_numpy(_unpacked(start, shape)).to(self._device)[None, None]
            stands = torch.where(inside, _CERTAIN, -_CERTAIN)
        with torch.no_grad(), torch.autocast(self._device.type, **self._autocast):
            data["pred"] = self._inferer(data["image"][None], self._network, mask=stands)[0]
        return np.asarray(_through(self._finish, data)["pred"][0].cpu()) > 0


def _through(transforms: Sequence[Any], data: dict[str, Any]) -> dict[str, Any]:
    """As MONAI's Compose, but an error comes as the transform raised it."""
    for transform in transforms:
        data = transform(data)
    return data


def _turned(mask: np.ndarray, onto: np.ndarray) -> np.ndarray | None:
    """A mask on a grid that has the same voxels in another order; None if it has not.

    Args:
        mask: (I, J, K).
        onto: (4, 4), voxels of the mask to voxels of the other grid.
    """
    order = np.rint(onto[:3, :3])
    of = np.abs(order).argmax(axis=0)  # which axis of the grid each one of the mask becomes
    if np.abs(onto[:3, :3] - order).max() > _ROUNDING or sorted(of) != [0, 1, 2] or np.abs(order).sum() != 3:
        return None
    signs = order[of, range(3)]
    first = np.zeros(3)
    first[of] = np.where(signs < 0, np.array(mask.shape) - 1, 0)
    if np.abs(onto[:3, 3] - first).max() > _ROUNDING * max(mask.shape):
        return None
    return apply_orientation(mask, np.column_stack([of, signs]))


def _numbers(values: Any, name: str, axes: int) -> list[float]:
    """As many finite numbers as the image has axes; `name` begins the sentence on others."""
    try:
        numbers = [float(value) for value in values]
    except (OverflowError, TypeError, ValueError):
        numbers = []
    if len(numbers) != axes:
        raise ValueError(f"{name}: expected three numbers (i, j, k), a voxel.")
    return numbers


def _unpacked(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
