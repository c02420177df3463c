"""Inference from clicks: crops round them, growth over the crops' borders, the kept embedding."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map
from monai.inferers import Inferer
from scipy import ndimage
from torch import nn

from adapters.inferers.automatic import AutomaticInferer, infer_resampled
from adapters.inferers.grid import Grid, Window
from adapters.inferers.inputs import (
    as_sizes,
    as_spacing,
    check_scan,
    half_precision,
    item_affines,
    item_clicks,
    like_inputs,
    network_device,
    plain,
)
from adapters.inferers.embeddings import Memory, Session, crop_key, memory_of, scan_key, weights_version

logger = logging.getLogger(__name__)

BACKGROUND_LOGITS = (10.0, -10.0)
"""Logits of background and lesion where no crop was predicted."""

_OPTIONS = frozenset({"threshold", "grow", "max_crops", "reach"})
_FACE_DEPTH = 2  # voxels: a mask this near to the face of its crop touches it
_MIN_CONTACT = 4  # voxels of contact with a face; fewer are noise
_COMFORT = 1 / 8  # of the crop: a kept crop serves a click that is at least this far from its faces


@dataclass
class _Contact:
    """Where a mask leaves its crop: voxels (n, 3) of the grid just beyond a face of it."""

    axis: int
    forward: bool
    beyond: np.ndarray


@dataclass
class _Prediction:
    """A predicted crop: logits (2, *size), the part of its mask that the clicks mean, and where that goes on."""

    window: Window
    logits: torch.Tensor
    lesion: np.ndarray
    contacts: list[_Contact]


@dataclass
class _Scan:
    """What all crops of one item share. Points are in voxels of the grid; mask is (1, D, H, W) on the scan's grid."""

    volume: torch.Tensor
    grid: Grid
    points: np.ndarray
    labels: np.ndarray
    mask: torch.Tensor | None
    decode: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
    device: torch.device


class ClickInferer(Inferer):
    """Predict crops round the clicks and put them back into the scan.

    Only crops are resampled, never the scan: a crop's voxels are those that `Spacingd` would give for the whole scan,
    trilinear (no smoothing before a coarser spacing, as in training). Where spacings agree a crop is a plain slice.

    As published (``grow=False, max_crops=1``; section "Evaluation" of arXiv 2306.13465 and its implementation): one
    crop centred on the middle of the bounding box of all clicks, everything outside is background.

    Better (the default):

    - Clicks further apart than a crop give several crops.
    - A mask that touches the face of its crop, where the scan goes on beyond it, grows into a neighbouring crop, half
      a crop further on this side. That crop gets the clicks in it, the mask that stands in the overlap (0, unknown,
      elsewhere) and, if no positive click lies on that mask well inside the crop, a click on its innermost voxel.
      Only the parts of a mask that hold a positive click grow, if there is such a part. Overlapping logits are
      blended with weights that fall towards the faces, so no straight edges remain.
    - A request that repeats the last clicks on this scan and adds some reuses the crops of that request that hold the
      clicks well inside, so that their embeddings serve again. Where that would take more than ``max_crops`` crops,
      they are placed anew, as for all clicks at once.

    A lesion that fits into one crop has the same result in both.

    The embedding of a crop is kept for the next click, where the network is in ``eval()`` and gradients are off: it
    depends on the crop's content and the weights, and is dropped when one of them changes or an optimizer steps. It
    belongs to the network and so outlives the inferer. Nothing is kept for a network with inference tensors (made
    under `torch.inference_mode`) among its parameters or buffers. Networks without ``encode`` and ``decode`` are
    called as a whole each time.

    A request's own options (`adapters.transforms.RequestOptionsd`: ``threshold``, ``grow``, ``max_crops``, ``reach``)
    come before the arguments of the same name, for that request.

    Negative clicks count for the crop's position only as long as all clicks fit into one crop, or if there are no
    positive ones; else they serve the crops they lie in.

    Args:
        crop_size: voxels of a crop, one number or (D, H, W).
        spacing: mm of a crop's voxels, one number or three in tensor axis order (D, H, W). None: the scan's own.
        automatic: inferer for scans without clicks: an `AutomaticInferer`, or any MONAI inferer (which is then given
            the whole scan resampled to ``spacing``). None: no clicks are an error.
        max_crops: crops predicted for one scan, at most.
        grow: whether masks grow over the faces of their crop.
        keep_inside: move crops that would hang over the scan into it (a scan smaller than the crop lies in its
            middle). False as published: the crop hangs over and is padded.
        cache_size: embeddings kept for one network. None: ``max_crops``, so that a grown lesion is kept whole.
        threshold: probability above which a voxel counts as lesion for growth, between 0 and 1.
        pad_value: value of crop voxels outside the scan. None: the scan's minimum.
        reach: connected parts of the mask that come nowhere within this many mm of a click on the lesion become
            background. None: all parts stay, as published.
        keep_mask: whether a mask that is given stands where no crop was predicted, and its parts are spared by
            ``reach``: for a mask to start from. False: everything outside the crops is background.
        compact: return one channel in float16, the log-odds of the lesion (its logit less the background's), a quarter
            of the size. Give ``automatic`` the same. False: both channels in float32.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> from adapters.networks import build_sam_adapter3d
        >>> network = build_sam_adapter3d("tiny", crop_size=32).eval()
        >>> inferer = ClickInferer(32, spacing=2.0)
        >>> with torch.no_grad():
        ...     logits = inferer(torch.zeros(1, 1, 50, 60, 70), network, clicks=torch.tensor([[[25.0, 30.0, 35.0]]]))
        >>> logits.shape
        torch.Size([1, 2, 50, 60, 70])
    """

    def __init__(
        self,
        crop_size: int | Sequence[int],
        spacing: float | Sequence[float] | None = None,
        *,
        automatic: Inferer | None = None,
        max_crops: int = 8,
        grow: bool = True,
        keep_inside: bool = False,
        cache_size: int | None = None,
        threshold: float = 0.5,
        pad_value: float | None = None,
        reach: float | None = None,
        keep_mask: bool = False,
        compact: bool = False,
    ) -> None:
        self.crop_size = as_sizes(crop_size, "crop_size")
        self.spacing = as_spacing(spacing)
        if automatic is not None and not isinstance(automatic, Inferer):
            raise ValueError(f"automatic is {automatic!r}: expected a MONAI inferer, such as AutomaticInferer, or None")
        if cache_size is not None and cache_size < 0:
            raise ValueError(f"cache_size is {cache_size}: expected 0 (keep nothing) or more, or None")
        self.reach = reach
        self.keep_mask = keep_mask
        self.compact = compact
        self.automatic = automatic
        self.max_crops = max_crops
        self.grow = grow
        self.keep_inside = keep_inside
        self.cache_size = max_crops if cache_size is None else cache_size
        self.threshold = threshold
        self.pad_value = pad_value
        self._check_options()

    def _check_options(self) -> None:
        """Refuses values out of range of what a request may change."""
        if self.max_crops < 1:
            raise ValueError(f"max_crops is {self.max_crops}: expected at least 1")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}: expected a probability between 0 and 1")
        if self.reach is not None and self.reach < 0:
            raise ValueError(f"reach is {self.reach}: expected mm, 0 or more, or None to keep all parts of a mask")

    @property
    def as_published(self) -> bool:
        """Whether it works as the publication's evaluation does: one crop, no growth."""
        return self.max_crops == 1 and not self.grow

    def _with_options(self, inputs: torch.Tensor) -> ClickInferer:
        """This inferer with the options of the request in place of its own; itself if there are none."""
        given = inputs.meta.get("options") if isinstance(inputs, MetaTensor) else None
        if not given:
            return self
        options = {name: np.asarray(value).reshape(-1)[0].item() for name, value in given.items()}
        if unknown := options.keys() - _OPTIONS:
            raise ValueError(f"option {unknown.pop()!r} is unknown, expected one of {', '.join(sorted(_OPTIONS))}")
        inferer = copy.copy(self)
        vars(inferer).update(options)
        inferer._check_options()
        return inferer

    @staticmethod
    def forget(network: nn.Module) -> None:
        """Drop all that is kept for a network: embeddings, and which crops the last requests used."""
        memory_of(network).clear()

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Callable[..., Any],
        clicks: Any = None,
        labels: Any = None,
        mask: torch.Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Predict from clicks.

        Args:
            inputs: (B, 1, D, H, W), normalised; a MetaTensor with its affine, or a plain tensor with voxels of 1 mm.
                Items are predicted one by one. It may lie on another device than the network.
            network: has ``encode(crop)`` and ``decode(features, crop, clicks, labels, mask)`` (`SAMAdapter3D`), or is
                called as ``network(crop, clicks, labels, mask)``; logits (1, 2, *crop_size).
            clicks: (B, N, 3) voxels of the inputs' grid in the order of its axes, centres at integers, fractions
                allowed. None: ``inputs.meta["clicks"]`` and ``inputs.meta["click_labels"]``, (N, 3) and (N,) or with
                a batch axis in front. An item without clicks is left to ``automatic``.
            labels: (B, N): 1 on the lesion, 0 off it, -1 padding. None: all 1.
            mask: (B, 1, D, H, W) logits of the lesion on the inputs' grid, from the round before.
            *args: passed to the network's ``decode``.
            **kwargs: passed to the network's ``decode``.

        Returns:
            (B, 2, D, H, W) float32 logits of background and lesion on the inputs' grid and device, a MetaTensor if
            the inputs are one; with ``compact`` (B, 1, D, H, W) float16 log-odds of the lesion. Voxels outside all
            crops are `BACKGROUND_LOGITS`, or as the mask with ``keep_mask``. What ``automatic`` returns for an item
            without clicks is brought to this form.

        Raises:
            ValueError: inputs, clicks, labels or mask of a wrong shape, a click outside the image, no click where
                there is no ``automatic``, a singular affine, logits of a wrong shape, or a bad option.
        """
        return self._with_options(inputs)._infer(inputs, network, clicks, labels, mask, args, kwargs)

    def _infer(
        self,
        inputs: torch.Tensor,
        network: Callable[..., Any],
        clicks: Any,
        labels: Any,
        mask: torch.Tensor | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> torch.Tensor:
        scans = check_scan(inputs)
        if mask is not None:
            if mask.shape != inputs.shape:
                raise ValueError(
                    f"mask has shape {tuple(mask.shape)}: expected {tuple(inputs.shape)}, logits on the inputs' grid"
                )
            mask = plain(mask).to(device=scans.device, dtype=torch.float32)
        items = []
        prompts = item_clicks(inputs, clicks, labels)
        for index, (affine, (points, marks)) in enumerate(zip(item_affines(inputs), prompts, strict=True)):
            grid = Grid.of(scans.shape[2:], affine, self.spacing)
            if len(points) == 0:
                items.append(self._in_form(self._without_clicks(scans[index], affine, grid, network)))
                continue
            keeps, weights = self._memory(network)
            scan = _Scan(
                volume=scans[index],
                grid=grid,
                points=grid.points(points),
                labels=marks,
                mask=None if mask is None else mask[index],
                decode=self._decoder(network, keeps, weights, args, kwargs),
                device=network_device(network, scans),
            )
            logits, region = self._merged(scan, self._predictions(scan, keeps, weights))
            if self.reach is not None and (marks == 1).any():
                positive = points[marks == 1] - [part.start for part in region]
                kept = scan.mask[(slice(None), *region)] if scan.mask is not None and self.keep_mask else None
                logits = self._within_reach(logits, positive, affine, kept)
            items.append(self._placed(scan, logits, region))
        return like_inputs(items[0][None] if len(items) == 1 else _stacked(items), inputs)

    def _without_clicks(
        self, volume: torch.Tensor, affine: np.ndarray, grid: Grid, network: Callable[..., Any]
    ) -> torch.Tensor:
        if self.automatic is None:
            raise ValueError("there is no click: give at least one, or give the inferer an `automatic` inferer")
        automatic = self.automatic
        if isinstance(automatic, AutomaticInferer):
            return automatic.infer_scan(volume, affine, network)
        device = network_device(network, volume)
        return infer_resampled(volume, grid, lambda scan: automatic(scan.to(device), network))

    def _lesion(self, logits: torch.Tensor) -> np.ndarray:
        """Where logits (2, D, H, W) are above the threshold."""
        odds = math.log(self.threshold / (1 - self.threshold))
        return (logits[1] - logits[0] > odds).detach().cpu().numpy()

    def _within_reach(
        self, logits: torch.Tensor, points: np.ndarray, affine: np.ndarray, kept: torch.Tensor | None
    ) -> torch.Tensor:
        """Logits (2, d, h, w) with background in the place of the parts of their mask that no click (N, 3) is near.

        Parts that share a voxel with ``kept`` (1, d, h, w), logits of a mask, stay as they are.
        """
        parts, number = ndimage.label(self._lesion(logits))
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        size = np.asarray(parts.shape)
        far = np.ones(number + 1, dtype=bool)
        far[0] = False
        for point in points:
            low = np.clip(np.floor(point - self.reach / spacing), 0, size - 1).astype(int)
            high = np.clip(np.ceil(point + self.reach / spacing), 0, size - 1).astype(int) + 1
            box = parts[tuple(slice(*ends) for ends in zip(low, high, strict=True))]
            places = np.argwhere(box)
            reached = np.linalg.norm((places + low - point) * spacing, axis=1) <= self.reach + spacing.max() / 2
            far[box[tuple(places[reached].T)]] = False
        if kept is not None:
            far[parts[(kept[0] > 0).cpu().numpy()]] = False
        if not far.any():
            return logits
        return torch.where(torch.from_numpy(far[parts]).to(logits.device), _background(logits), logits)

    def _memory(self, network: Any) -> tuple[Memory | None, tuple[Any, ...]]:
        """The network's memory, or None where nothing may be kept, and the version of its weights."""
        if not isinstance(network, nn.Module) or network.training or torch.is_grad_enabled():
            return None, ()
        weights = weights_version(network)
        return (None, ()) if weights is None else (memory_of(network), weights)

    def _decoder(
        self, network: Any, memory: Memory | None, weights: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict
    ) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]:
        """A function from crop, clicks, labels and mask to logits that encodes each crop once."""
        if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            network = network.module

        def encoded(crop: torch.Tensor) -> Any:
            if memory is None or self.cache_size == 0:
                return network.encode(crop)
            key = crop_key(crop)
            features = memory.embedding(key, weights)
            if features is None:
                features = network.encode(crop)
                memory.keep_embedding(key, weights, features, bound=self.cache_size)
            return features

        def decode(
            crop: torch.Tensor, clicks: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None
        ) -> torch.Tensor:
            if hasattr(network, "encode") and hasattr(network, "decode"):
                logits = network.decode(encoded(crop), crop, clicks, labels, mask, *args, **kwargs)
            else:
                logits = network(crop, clicks, labels, mask, *args, **kwargs)
            if logits.shape != (1, 2, *self.crop_size):
                raise ValueError(
                    f"the network returned logits of shape {tuple(logits.shape)}: expected {(1, 2, *self.crop_size)}, "
                    "background and lesion on the crop's grid"
                )
            return logits[0].float()

        return decode

    def _predictions(self, scan: _Scan, memory: Memory | None, weights: tuple[Any, ...]) -> list[_Prediction]:
        """All crops of a scan, predicted."""
        key: Any = None
        kept: tuple[Window, ...] = ()
        if memory is not None and not self.as_published:
            key = (*scan_key(scan.volume), scan.grid, self.crop_size, self.keep_inside)
            session = memory.session(key, weights)
            if session is not None and session.goes_on_with(scan.points, scan.labels):
                kept = session.windows
        windows = self._first_windows(scan, kept)
        if kept and len(windows) > self.max_crops:  # all clicks at once may need fewer
            kept, windows = (), self._first_windows(scan, ())
        if len(windows) > self.max_crops:
            logger.warning("the clicks need %d crops, the last %d are predicted", len(windows), self.max_crops)
        done: list[_Prediction] = []
        for window in windows[-self.max_crops :]:
            done.append(self._predict(scan, window))
        while self.grow and (step := self._next_step(scan, done, kept)) is not None:
            if len(done) >= self.max_crops:
                logger.warning("the mask goes on beyond its %d crops: raise max_crops to follow it", self.max_crops)
                break
            window, parent, contact = step
            done.append(self._predict(scan, window, done, parent, contact))
        if memory is not None and not self.as_published:
            session = Session(scan.points, scan.labels, tuple(p.window for p in done))
            memory.keep_session(key, weights, session)
        return done

    def _centred(self, grid: Grid, points: np.ndarray) -> Window:
        """The crop on the middle of the points' bounding box."""
        middle = np.ceil((points.min(axis=0) + points.max(axis=0)) / 2 - 0.5)
        start = middle.astype(int) - np.asarray(self.crop_size) // 2
        if self.keep_inside:
            room = np.asarray(grid.size) - self.crop_size
            start = np.where(room >= 0, np.clip(start, 0, np.maximum(room, 0)), -(-room // 2))
        return Window((int(start[0]), int(start[1]), int(start[2])), self.crop_size)

    def _first_windows(self, scan: _Scan, kept: Sequence[Window]) -> list[Window]:
        """The crops that the clicks ask for, which may be more than ``max_crops``."""
        fits = self._centred(scan.grid, scan.points)
        if self.max_crops == 1 and not kept:
            held = fits.holds(scan.points)
            if not held.all():
                logger.warning("%d of %d clicks lie outside the one crop and are left out", (~held).sum(), len(held))
            return [fits if held.any() else self._centred(scan.grid, scan.points[-1:])]
        if not kept and fits.holds(scan.points).all():
            return [fits]
        left = scan.points[scan.labels == 1]
        left = left if len(left) else scan.points
        windows: list[Window] = []
        while kept and len(left):
            counts = [int(_well_inside(window, scan.grid, left).sum()) for window in kept]
            if max(counts) == 0:
                break
            windows.append(kept[int(np.argmax(counts))])
            left = left[~_well_inside(windows[-1], scan.grid, left)]
        groups: list[np.ndarray] = []
        for click in left:
            for index, group in enumerate(groups):
                joined = np.vstack([group, click])
                if self._centred(scan.grid, joined).holds(joined).all():
                    groups[index] = joined
                    break
            else:
                groups.append(click[None])
        return windows + [self._centred(scan.grid, group) for group in groups]

    def _predict(
        self,
        scan: _Scan,
        window: Window,
        done: Sequence[_Prediction] = (),
        parent: _Prediction | None = None,
        contact: _Contact | None = None,
    ) -> _Prediction:
        """Predict a crop, from its clicks or, where it has grown out of another one, from what stands there too."""
        crop = scan.grid.read(scan.volume, window, self.pad_value)[None].to(scan.device)
        held = window.holds(scan.points)
        points, labels = scan.points[held] - window.start, scan.labels[held]
        mask = None
        if scan.mask is not None:
            mask = scan.grid.read(scan.mask, window, BACKGROUND_LOGITS[1]).to(scan.device)
        if parent is not None and contact is not None:
            mask = self._standing(window, done, mask)
            seed = self._seed(scan, window, parent, contact, points[labels == 1])
            if seed is not None:
                points, labels = np.vstack([points, seed]), np.append(labels, 1)
        logits = scan.decode(
            crop,
            torch.as_tensor(points, dtype=torch.float32, device=scan.device)[None],
            torch.as_tensor(labels, dtype=torch.long, device=scan.device)[None],
            None if mask is None else mask[None],
        )
        if not self.grow:
            return _Prediction(window, logits, np.zeros(0, dtype=bool), [])
        return self._with_contacts(scan.grid, window, logits, points[labels == 1])

    def _with_contacts(self, grid: Grid, window: Window, logits: torch.Tensor, positive: np.ndarray) -> _Prediction:
        """Find where the mask touches faces beyond which the scan goes on."""
        size = np.asarray(window.size)
        lesion = self._lesion(logits)
        faces = [
            (axis, forward)
            for axis in range(3)
            for forward in (False, True)
            if (window.start[axis] + size[axis] < grid.size[axis] if forward else window.start[axis] > 0)
            and lesion[_face(axis, forward)].any()
        ]
        if not faces:
            return _Prediction(window, logits, lesion, [])
        parts, _ = ndimage.label(lesion)
        clicked = np.clip(np.round(positive).astype(int), 0, size - 1)
        meant = np.setdiff1d(parts[tuple(clicked.T)], [0])
        if len(meant):
            lesion = np.isin(parts, meant)
        contacts = []
        for axis, forward in faces:
            touching = np.argwhere(lesion[_face(axis, forward)].any(axis=axis))
            beyond = np.insert(touching, axis, size[axis] if forward else -1, axis=1) + window.start
            beyond = beyond[np.all((beyond >= 0) & (beyond < grid.size), axis=1)]
            if len(beyond) >= _MIN_CONTACT:
                contacts.append(_Contact(axis, forward, beyond))
        return _Prediction(window, logits, lesion, contacts)

    def _next_step(
        self, scan: _Scan, done: Sequence[_Prediction], kept: Sequence[Window]
    ) -> tuple[Window, _Prediction, _Contact] | None:
        """The largest contact that no crop covers yet: the crop to add, where it comes from and through what."""
        largest: tuple[_Prediction, _Contact] | None = None
        for prediction in done:
            for contact in prediction.contacts:
                open_ = ~np.any([p.window.holds(contact.beyond) for p in done], axis=0)
                if open_.sum() >= max(_MIN_CONTACT, 0 if largest is None else len(largest[1].beyond) + 1):
                    largest = prediction, _Contact(contact.axis, contact.forward, contact.beyond[open_])
        if largest is None:
            return None
        parent, contact = largest
        return self._neighbour(scan.grid, parent.window, contact, kept), parent, contact

    def _neighbour(self, grid: Grid, window: Window, contact: _Contact, kept: Sequence[Window]) -> Window:
        """The crop half a crop further, not beyond the scan; a kept one if it reaches as far as a quarter."""
        axis, size = contact.axis, self.crop_size[contact.axis]
        for other in kept:
            reach = (other.start[axis] - window.start[axis]) * (1 if contact.forward else -1)
            if size // 4 <= reach < size and other.holds(contact.beyond).all():
                return other
        start = list(window.start)
        if contact.forward:
            start[axis] = min(start[axis] + (size + 1) // 2, grid.size[axis] - size)
        else:
            start[axis] = max(start[axis] - (size + 1) // 2, 0)
        return Window((start[0], start[1], start[2]), self.crop_size)

    def _standing(self, window: Window, done: Sequence[_Prediction], mask: torch.Tensor | None) -> torch.Tensor:
        """The lesion's logits (1, *size) that stand in a crop: new ones, else the given mask, else 0 (unknown)."""
        device = done[0].logits.device
        weights = self._weights(device)
        total = torch.zeros((1, *window.size), device=device)
        weight = torch.zeros_like(total)
        for prediction in done:
            if (shared := window.overlap(prediction.window)) is None:
                continue
            here, there = ((slice(None), *part) for part in shared)
            lesion = prediction.logits[1:] - prediction.logits[:1]
            total[here] += lesion[there] * weights[there]
            weight[here] += weights[there]
        unknown = torch.zeros_like(total) if mask is None else mask
        return torch.where(weight > 0, total / weight.clamp(min=1e-12), unknown)

    def _seed(
        self, scan: _Scan, window: Window, parent: _Prediction, contact: _Contact, positive: np.ndarray
    ) -> np.ndarray | None:
        """A click (3,) in a crop's voxels on the mask that grows into it, None if one of its own clicks lies there."""
        known = np.zeros(window.size, dtype=bool)
        if (shared := window.overlap(parent.window)) is not None:
            known[shared[0]] = parent.lesion[shared[1]]
        clicked = np.clip(np.round(positive).astype(int), 0, np.asarray(window.size) - 1)
        inner = _well_inside(window, scan.grid, positive + window.start)
        if known[tuple(clicked[inner].T)].any():
            return None
        if not known.any():
            return np.median(contact.beyond, axis=0) - window.start
        depth = ndimage.distance_transform_edt(np.pad(known, 1), sampling=scan.grid.spacing)[1:-1, 1:-1, 1:-1]
        innermost = np.argwhere(depth >= depth.max() - 1e-6).astype(float)  # several, in a mask of even thickness
        return innermost[np.argmin(np.linalg.norm(innermost - innermost.mean(axis=0), axis=1))]

    def _weights(self, device: torch.device) -> torch.Tensor:
        """Blending weights (1, *crop_size), 1 in the middle and falling towards the faces."""
        return compute_importance_map(self.crop_size, mode="gaussian", device=device)[None]

    def _merged(self, scan: _Scan, done: Sequence[_Prediction]) -> tuple[torch.Tensor, tuple[slice, ...]]:
        """The crops put together: logits (2, d, h, w) of a box of the scan, on its device, and the box (D, H, W)."""
        device = scan.volume.device
        if len(done) == 1:
            values, region = scan.grid.to_scan(done[0].logits, done[0].window)
            return values.to(device), region
        regions = [scan.grid.footprint(prediction.window) for prediction in done]
        low = [min(region[axis].start for region in regions) for axis in range(3)]
        high = [max(region[axis].stop for region in regions) for axis in range(3)]
        total = torch.zeros((3, *np.subtract(high, low)), device=device)
        weights = self._weights(done[0].logits.device)
        for prediction in done:
            values, region = scan.grid.to_scan(torch.cat([prediction.logits * weights, weights]), prediction.window)
            inner = tuple(slice(r.start - n, r.stop - n) for r, n in zip(region, low, strict=True))
            total[(slice(None), *inner)] += values.to(device)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        beside = self._beside(scan, box)
        return torch.where(total[2:] > 0, total[:2] / total[2:].clamp(min=1e-12), beside), box

    def _beside(self, scan: _Scan, box: tuple[slice, ...]) -> torch.Tensor:
        """Logits, of a shape that expands to (2, d, h, w), where a box of the scan has no crop."""
        if self.keep_mask and scan.mask is not None:
            return _logits(scan.mask[(slice(None), *box)])
        return _background(scan.volume)

    def _placed(self, scan: _Scan, logits: torch.Tensor, box: tuple[slice, ...]) -> torch.Tensor:
        """The logits (2, d, h, w) of a box in a new tensor of the scan's size, in the form that is returned."""
        if not self.compact:
            whole = self._beside(scan, (slice(None),) * 3).expand(-1, *scan.grid.scan_size).contiguous()
        elif self.keep_mask and scan.mask is not None:
            whole, logits = half_precision(scan.mask), _log_odds(logits)
        else:
            background = BACKGROUND_LOGITS[1] - BACKGROUND_LOGITS[0]
            whole = torch.full((1, *scan.grid.scan_size), background, dtype=torch.float16, device=logits.device)
            logits = _log_odds(logits)
        whole[(slice(None), *box)] = logits
        return whole

    def _in_form(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (2, ...), or log-odds (1, ...), in the form that is returned."""
        if self.compact and len(logits) == 2:
            return _log_odds(logits)
        return _logits(logits.float()) if not self.compact and len(logits) == 1 else logits


def _background(like: torch.Tensor) -> torch.Tensor:
    """The logits (2, 1, 1, 1) of background."""
    return torch.tensor(BACKGROUND_LOGITS, device=like.device)[:, None, None, None]


def _logits(log_odds: torch.Tensor) -> torch.Tensor:
    """Log-odds (1, ...) as logits of background and lesion (2, ...)."""
    return torch.cat([-log_odds / 2, log_odds / 2])


def _log_odds(logits: torch.Tensor) -> torch.Tensor:
    """Logits of background and lesion (2, ...) as log-odds (1, ...) in float16."""
    return half_precision(logits[1:] - logits[:1])


def _stacked(items: list[torch.Tensor]) -> torch.Tensor:
    if len(forms := {len(item) for item in items}) > 1:
        raise ValueError(
            f"`automatic` returned {max(forms)} channels beside logits of background and lesion: expected 2, or 1 of "
            "log-odds; predict the items without clicks in a batch of their own"
        )
    return torch.stack(items)


def _face(axis: int, forward: bool) -> tuple[slice, ...]:  # noqa: FBT001
    """Slices of the outermost voxels of a crop on one side."""
    depth = slice(-_FACE_DEPTH, None) if forward else slice(0, _FACE_DEPTH)
    return tuple(depth if a == axis else slice(None) for a in range(3))


def _well_inside(window: Window, grid: Grid, points: np.ndarray) -> np.ndarray:
    """Which points (N, 3) lie in a window and away from those of its faces beyond which the scan goes on."""
    size, start = np.asarray(window.size), np.asarray(window.start)
    margin = _COMFORT * size
    low = np.where(start > 0, start - 0.5 + margin, start - 0.5)
    high = np.where(start + size < grid.size, start + size - 0.5 - margin, start + size - 0.5)
    return np.all((points >= low) & (points <= high), axis=1)
