"""Inference from prompts: crops round them, growth over the crops' borders, the kept embedding."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from torch import nn

from adapters.inferers.automatic import AutomaticInferer, infer_resampled
from adapters.inferers.blending import BACKGROUND_LOG_ODDS, PredictedCrop, blended, standing
from adapters.inferers.embeddings import Embeddings, Session, crop_key, embeddings_of, scan_key
from adapters.inferers.grid import Grid, Window
from adapters.inferers.honouring import honour, standing_clicks
from adapters.inferers.inputs import (
    as_sizes,
    as_spacing,
    check_scan,
    clicked_voxels,
    half_precision,
    item_affines,
    item_meta,
    item_prompts,
    like_inputs,
    network_device,
    plain,
)
from adapters.inferers.nearness import beyond_reach
from adapters.inferers.placing import CropPlacing, PlacedMask, Step, placed_mask, seed_click
from adapters.inferers.thinning import thinned
from adapters.networks.promptable import log_odds
from adapters.prompts import Prompts, PromptTensors

logger = logging.getLogger(__name__)

_OPTIONS = frozenset({"threshold", "grow", "max_crops", "reach"})
_USUAL_KINDS = frozenset({"points", "mask"})  # of prompts; for networks that do not say what they take


@dataclass
class _Scan:
    """What all crops of one item share. Prompts are in voxels of the grid; mask is (1, ...) on the scan's grid."""

    volume: torch.Tensor
    grid: Grid
    prompts: Prompts
    mask: torch.Tensor | None
    decode: Callable[[torch.Tensor, PromptTensors], torch.Tensor]
    takes_mask: bool
    phrase_encoder: Callable[[Sequence[str]], torch.Tensor] | None
    device: torch.device
    embeddings: Embeddings | None


class ClickInferer(Inferer):
    """Predict crops round the prompts and put them back into the scan.

    Only crops are resampled, never the scan: a crop's voxels are those that `Spacingd` would give for the whole scan,
    trilinear (no smoothing before a coarser spacing, as in training). Where spacings agree a crop is a plain slice.

    As published (``grow=False, max_crops=1``; section "Evaluation" of arXiv 2306.13465 and its implementation): one
    crop centred on the middle of the bounding box of all clicks, everything outside is background.

    Better (the default):

    - Clicks further apart than a crop give several crops.
    - A mask that touches the face of its crop, where the scan goes on beyond it, grows into a neighbouring crop, half
      a crop further on this side. That crop gets the clicks in it, and the mask that stands in the overlap (0, unknown,
      elsewhere). It also gets a click on that mask's innermost voxel, unless a positive click lies on the mask well
      inside the crop. Only the parts of a mask that hold a positive click grow, if there is such a part. Overlapping
      log-odds are blended with weights that fall towards the faces, so no straight edges remain.
    - A request that repeats the last prompts on this scan and adds some reuses its crops, where they hold the clicks
      well inside, so that their embeddings serve again. Where that would take more than ``max_crops`` crops, they are
      placed anew, as for all clicks at once.

    A lesion that fits into one crop has the same result in both. Where crops go is in ``placing.py``.

    The embedding of a crop is kept by the network for the next click, where the network is a `PromptableNetwork` in
    ``eval()`` and gradients are off. It depends on the crop's content and the weights. The network drops it in
    ``train()``, ``load_state_dict`` and ``forget()``. Whoever writes weights in another way calls ``forget``. Networks
    without ``encode`` and ``decode`` are called as a whole each time.

    A request's own options (`adapters.transforms.RequestOptionsd`: ``threshold``, ``grow``, ``max_crops``, ``reach``)
    come before the arguments of the same name, for that item of the batch.

    Negative clicks count for the crop's position only as long as all clicks fit into one crop, or if there are no
    positive ones; else they serve the crops they lie in. A box counts as two positive clicks on its ends or, where it
    is larger than a crop, as one in its middle.

    Args:
        crop_size: voxels of a crop, one number or one for each axis (D, H, W).
        spacing: mm of a crop's voxels, one number or one for each axis (D, H, W). None: the scan's own.
        spatial_dims: axes of the scans, 3 or 2 (H, W).
        automatic: inferer for scans without prompts: an `AutomaticInferer`, or any MONAI inferer (which is then given
            the whole scan resampled to ``spacing``). None: no prompt is an error.
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
        click_distance: of clicks with one label, voxels of the crop between those that the network gets, at least; see
            `adapters.inferers.thinning`. None: it gets all, repeats too, as published.
        honour_clicks: whether the voxel under each click on the lesion is in the mask, at any threshold, and that under
            each one off it is not; see `adapters.inferers.honouring`. False: the network may go against clicks, as
            published.

    Raises:
        ValueError: an argument out of its range.

    Example:
        >>> from adapters.networks import build_network
        >>> network = build_network("samadapter3d", "tiny", crop_size=32).eval()
        >>> inferer = ClickInferer(32, spacing=2.0)
        >>> with torch.no_grad():
        ...     log_odds = inferer(torch.zeros(1, 1, 50, 60, 70), network, Prompts([[25.0, 30.0, 35.0]]))
        >>> log_odds.shape
        torch.Size([1, 1, 50, 60, 70])
    """

    def __init__(
        self,
        crop_size: int | Sequence[int],
        spacing: float | Sequence[float] | None = None,
        *,
        spatial_dims: int = 3,
        automatic: Inferer | None = None,
        max_crops: int = 8,
        grow: bool = True,
        keep_inside: bool = False,
        cache_size: int | None = None,
        threshold: float = 0.5,
        pad_value: float | None = None,
        reach: float | None = None,
        keep_mask: bool = False,
        click_distance: float | None = None,
        honour_clicks: bool = False,
    ) -> None:
        self.spatial_dims = spatial_dims
        self.crop_size = as_sizes(crop_size, "crop_size", spatial_dims)
        self.spacing = as_spacing(spacing, spatial_dims)
        if automatic is not None and not isinstance(automatic, Inferer):
            raise ValueError(f"automatic is {automatic!r}: expected a MONAI inferer, such as AutomaticInferer, or None")
        if cache_size is not None and cache_size < 0:
            raise ValueError(f"cache_size is {cache_size}: expected 0 (keep nothing) or more, or None")
        self.reach = reach
        self.keep_mask = keep_mask
        if click_distance is not None and not click_distance > 0:
            raise ValueError(
                f"click_distance is {click_distance}: expected voxels of a crop, above 0, or None for all clicks"
            )
        self.click_distance = click_distance
        self.honour_clicks = honour_clicks
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

    def _with_options(self, text: str | None) -> ClickInferer:
        """This inferer with the options of a request (JSON) in place of its own; itself if there are none."""
        options = json.loads(text) if text else {}
        if not options:
            return self
        if unknown := options.keys() - _OPTIONS:
            raise ValueError(f"option {unknown.pop()!r} is unknown, expected one of {', '.join(sorted(_OPTIONS))}")
        inferer = copy.copy(self)
        vars(inferer).update(options)
        inferer._check_options()
        return inferer

    @staticmethod
    def forget(network: nn.Module) -> None:
        """Drop all that is kept for a network: embeddings, and which crops the last requests used."""
        getattr(network, "kept", {}).clear()

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Callable[..., Any],
        prompts: Prompts | Sequence[Prompts] | None = None,
        mask: torch.Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Predict from prompts.

        Args:
            inputs: (B, C, D, H, W), or (B, C, H, W) with two axes, normalised; a MetaTensor with its affine, or a plain
                tensor with voxels of 1 mm. Items are predicted one by one. It may lie on another device than the
                network.
            network: a `Promptable` (`adapters.networks`), or called as ``network(crop, prompt_tensors)`` for log-odds
                (1, 1, *crop_size) or logits of background and lesion (1, 2, *crop_size).
            prompts: of each item, in voxels of the inputs' grid (frame ``image``, order of its axes) or in world; of a
                batch of one, not in a list too. None: those in ``inputs.meta["prompts"]``. An item without prompts is
                left to ``automatic``.
            mask: (B, 1, D, H, W) log-odds of the lesion on the inputs' grid, from the round before; networks that take
                no mask do not see it.
            *args: passed to the network's ``decode``.
            **kwargs: passed to the network's ``decode``.

        Returns:
            (B, 1, D, H, W) float16 log-odds of the lesion on the inputs' grid and device, a MetaTensor if the inputs
            are one. Voxels outside all crops are `BACKGROUND_LOG_ODDS`, or as the mask with ``keep_mask``.

        Raises:
            ValueError: inputs, prompts, mask or an answer of the network of a wrong shape. Also a prompt outside the
                image or of a kind that the network does not take, no prompt where there is no ``automatic``, a singular
                affine, or a bad option.
        """
        scans = check_scan(inputs, self.spatial_dims, int(getattr(_unwrapped(network), "in_channels", 1)))
        if mask is not None:
            expected = (len(inputs), 1, *inputs.shape[2:])
            if mask.shape != expected:
                raise ValueError(
                    f"mask has shape {tuple(mask.shape)}: expected {expected}, log-odds on the inputs' grid"
                )
            mask = plain(mask).to(device=scans.device, dtype=torch.float32)
        affines = item_affines(inputs)
        items = item_prompts(inputs, affines, prompts)
        found = [
            self._with_options(options)._infer(
                scan, affine, network, item, clicked, None if mask is None else mask[index], args, kwargs
            )
            for index, (scan, affine, item, clicked, options) in enumerate(
                zip(
                    scans,
                    affines,
                    items,
                    clicked_voxels(inputs, items, in_meta=prompts is None),
                    item_meta(inputs, "options"),
                    strict=True,
                )
            )
        ]
        return like_inputs(found[0][None] if len(found) == 1 else torch.stack(found), inputs)

    def _infer(
        self,
        volume: torch.Tensor,
        affine: np.ndarray,
        network: Callable[..., Any],
        prompts: Prompts,
        clicked: np.ndarray,
        mask: torch.Tensor | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> torch.Tensor:
        """One item (C, ...) with its prompts, and the voxels that its clicks mean, to log-odds (1, ...) on its grid."""
        grid = Grid.of(volume.shape[1:], affine, self.spacing)
        if not prompts.kinds:
            return self._without_prompts(volume, affine, grid, network)
        if prompts.kinds == {"points"} and not len(prompts.on_lesion) and mask is None:
            logger.warning("all clicks lie off the lesion: to say which lesion is meant, click on it at least once")
        if self.honour_clicks or self.click_distance is not None:
            stands = standing_clicks(clicked, prompts.labels)
            clicked, prompts = clicked[stands], prompts.only(stands)
        takes = getattr(_unwrapped(network), "takes", _USUAL_KINDS)
        if refused := prompts.kinds - takes:
            raise ValueError(f"{' and '.join(sorted(refused))} were given, and the network takes none: leave them out")
        embeddings = self._embeddings(network)
        scan = _Scan(
            volume=volume,
            grid=grid,
            prompts=grid.prompts(prompts),
            mask=mask,
            decode=self._decoder(network, embeddings, args, kwargs),
            takes_mask="mask" in takes,
            phrase_encoder=getattr(_unwrapped(network), "encode_phrases", None),
            device=network_device(network, volume),
            embeddings=embeddings,
        )
        given = mask if self.keep_mask else None
        beside = torch.tensor(BACKGROUND_LOG_ODDS) if given is None else given
        values, box = blended(grid, self._predictions(scan), beside, volume.device)
        if self.reach is not None and len(prompts.on_lesion):
            far = beyond_reach(
                self._lesion(values),
                prompts.on_lesion - [part.start for part in box],
                np.linalg.norm(affine[:-1, :-1], axis=0),
                self.reach,
                spared=None if given is None else (given[0][box] > 0).cpu().numpy(),
            )
            values = torch.where(torch.from_numpy(far).to(values.device), BACKGROUND_LOG_ODDS, values)
        if given is None:
            whole = torch.full((1, *grid.scan_size), BACKGROUND_LOG_ODDS, dtype=torch.float16, device=volume.device)
        else:
            whole = half_precision(given)
        whole[(slice(None), *box)] = half_precision(values)
        if self.honour_clicks:
            honour(whole, clicked, prompts.labels, grid.ratio, self._log_odds)
        return whole

    def _without_prompts(
        self, volume: torch.Tensor, affine: np.ndarray, grid: Grid, network: Callable[..., Any]
    ) -> torch.Tensor:
        if self.automatic is None:
            raise ValueError("there is no click: give at least one, or give the inferer an `automatic` inferer")
        automatic = self.automatic
        if isinstance(automatic, AutomaticInferer):
            return automatic.infer_scan(volume, affine, network)
        device = network_device(network, volume)
        return half_precision(infer_resampled(volume, grid, lambda scan: automatic(scan.to(device), network)))

    def _lesion(self, values: torch.Tensor) -> np.ndarray:
        """Where log-odds (1, ...) are above the threshold."""
        return (values[0] > self._log_odds).detach().cpu().numpy()

    @property
    def _log_odds(self) -> float:
        """Of the threshold."""
        return math.log(self.threshold / (1 - self.threshold))

    def _embeddings(self, network: Any) -> Embeddings | None:
        """What the network keeps; None where nothing may be kept."""
        if not isinstance(network, nn.Module) or network.training or torch.is_grad_enabled():
            return None
        return embeddings_of(_unwrapped(network))

    def _decoder(
        self, network: Any, embeddings: Embeddings | None, args: tuple[Any, ...], kwargs: dict
    ) -> Callable[[torch.Tensor, PromptTensors], torch.Tensor]:
        """A function from crop (1, C, ...) and prompts to log-odds (1, ...) that encodes each crop once."""
        network = _unwrapped(network)

        def encoded(crop: torch.Tensor) -> Any:
            if embeddings is None or self.cache_size == 0:
                return network.encode(crop)
            key = crop_key(crop)
            features = embeddings.embedding(key)
            if features is None:
                features = network.encode(crop)
                embeddings.keep_embedding(key, features, bound=self.cache_size)
            return features

        def decode(crop: torch.Tensor, prompts: PromptTensors) -> torch.Tensor:
            if hasattr(network, "encode") and hasattr(network, "decode"):
                values = log_odds(network.decode(encoded(crop), crop, prompts, *args, **kwargs))
            else:
                values = log_odds(network(crop, prompts, *args, **kwargs))
            if values.shape != (1, 1, *self.crop_size):
                raise ValueError(
                    f"the network returned a tensor of shape {tuple(values.shape)}: expected "
                    f"{(1, 1, *self.crop_size)}, log-odds of the lesion on the crop's grid"
                )
            return values[0].float()

        return decode

    def _predictions(self, scan: _Scan) -> list[PredictedCrop]:
        """All crops of a scan, predicted."""
        placing = CropPlacing(self.crop_size, self.max_crops, self.keep_inside)
        key: Any = None
        kept: tuple[Window, ...] = ()
        embeddings = None if self.as_published else scan.embeddings
        if embeddings is not None:
            key = (*scan_key(scan.volume), scan.grid, self.crop_size, self.keep_inside)
            session = embeddings.session(key)
            if session is not None and session.goes_on_with(scan.prompts):
                kept = session.windows
        windows = placing.first_windows(scan.grid, scan.prompts, kept)
        if kept and len(windows) > self.max_crops:  # all prompts at once may need fewer
            kept, windows = (), placing.first_windows(scan.grid, scan.prompts)
        if len(windows) > self.max_crops:
            logger.warning("the clicks need %d crops, the last %d are predicted", len(windows), self.max_crops)
        if self.max_crops == 1 and not (held := windows[-1].holds(scan.prompts.points)).all():
            logger.warning("%d of %d clicks lie outside the one crop and are left out", (~held).sum(), len(held))
        crops: list[PredictedCrop] = []
        masks: list[PlacedMask] = []

        def predict(window: Window, step: Step | None = None) -> None:
            prompts = scan.prompts.inside(window)
            crops.append(PredictedCrop(window, self._predict(scan, window, prompts, crops, step)))
            if self.grow:
                masks.append(placed_mask(scan.grid, window, self._lesion(crops[-1].log_odds), prompts.on_lesion))

        for window in windows[-self.max_crops :]:
            predict(window)
        while self.grow and (step := placing.next_step(scan.grid, masks, kept)) is not None:
            if len(crops) >= self.max_crops:
                logger.warning("the mask goes on beyond its %d crops: raise max_crops to follow it", self.max_crops)
                break
            predict(step.window, step)
        if embeddings is not None:
            embeddings.keep_session(key, Session(scan.prompts, tuple(crop.window for crop in crops)))
        return crops

    def _predict(
        self, scan: _Scan, window: Window, prompts: Prompts, crops: Sequence[PredictedCrop], step: Step | None
    ) -> torch.Tensor:
        """Log-odds of a crop from its prompts and, where it has grown out of others, from what stands there too."""
        crop = scan.grid.read(scan.volume, window, self.pad_value)[None].to(scan.device)
        if self.click_distance is not None:
            prompts = thinned(prompts, self.click_distance)
        mask = None
        if scan.mask is not None and scan.takes_mask:
            mask = scan.grid.read(scan.mask, window, BACKGROUND_LOG_ODDS).to(scan.device)
        if step is not None:
            mask = standing(window, crops, mask) if scan.takes_mask else None
            seed = seed_click(scan.grid, step, prompts.on_lesion)
            if seed is not None:
                prompts = prompts.with_click(seed)
        return scan.decode(
            crop,
            prompts.as_tensors(
                scan.device, mask=None if mask is None else mask[None], phrase_encoder=scan.phrase_encoder
            ),
        )


def _unwrapped(network: Any) -> Any:
    """The network inside what distributes it."""
    return network.module if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)) else network
