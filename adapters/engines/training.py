"""One training step with simulated clicks, for MONAI's `SupervisedTrainer`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from scipy import ndimage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from adapters.networks.promptable import PromptableNetwork, log_odds, taken
from adapters.prompts import (
    USERS,
    Prompts,
    PromptTensors,
    click_policy,
    next_click,
    prompt_tensors,
    random_clicks,
    stray_clicks,
)


class PublishedClicks:
    """`prepare_batch` with the clicks of the published training and validation.

    Draws ``lesion`` clicks from the lesion (with replacement; none if the crop has no lesion) and ``stray`` clicks from
    anywhere in the crop. All are given as on the lesion, as the published network knows no labels. 3DSAM-adapter,
    section 4.1, has 10 and 20 in training, 10 and 0 in validation.

    Args:
        lesion: clicks on the lesion.
        stray: clicks anywhere.
        policy: simulated user for the clicks on the lesion: ``random``, ``centre``, ``surrounding`` or ``margin``.
        seed: where chance starts from.

    Raises:
        ValueError: no such user, or one that answers a prediction, as there is none yet.
    """

    def __init__(self, lesion: int = 10, stray: int = 20, *, policy: str = "random", seed: int = 0) -> None:
        if policy == "iterative":
            others = ", ".join(name for name in USERS if name != policy)
            raise ValueError(
                f"policy={policy!r} corrects a prediction, and here is none yet: expected one of {others}."
            )
        self.lesion = lesion
        self.stray = stray
        self.policy = click_policy(policy)
        self.rng = np.random.default_rng(seed)

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,  # noqa: FBT001, FBT002  (MONAI calls it by position)
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, tuple[PromptTensors], dict[str, Any]]:
        """(image, label, (prompts,), {}) of a batch with ``image`` and ``label``, (B, 1, D, H, W) each."""
        image = batchdata[CommonKeys.IMAGE].to(device, non_blocking=non_blocking, **kwargs)
        label = batchdata[CommonKeys.LABEL].to(device, non_blocking=non_blocking, **kwargs)
        placed = []
        for item in _numpy(label):
            prompts = self.policy(item, self.rng, self.lesion)
            strays = stray_clicks(item, self.rng, self.stray)
            placed.append(prompts.with_clicks(strays.points, strays.labels))
        return image, label, (prompt_tensors(placed, device=image.device),), {}


class InteractiveUpdate:
    """`iteration_update` that trains one network for automatic mode, the first click and corrections.

    The image is encoded once. Then several rounds are decoded, each with more clicks than the one before and with its
    logits; the loss is the mean over the rounds. The first round has no clicks, one, or several random ones on the
    lesion. Each later one adds clicks where the last prediction was wrong, on or off the lesion (iterative clicks as in
    Medical SAM Adapter, arXiv 2304.12620). MONAI's `IterationEvents` are fired once for a step.

    Args:
        rounds: rounds of a step.
        automatic: share of the steps whose first round has no clicks.
        single: share of the steps whose first round has one click, as far as ``automatic`` leaves room; the rest has
            2 to ``max_first``.
        max_first: most clicks of the first round.
        max_added: most clicks that one later round adds.
        jitter: how far from the deepest voxel of an error its click may fall, see `adapters.prompts.next_click`.
        keep_mask: share of the later rounds that see the logits of the round before.
        automatic_first: whether every step decodes a round without clicks before these, so that the encoder learns what
            a lesion looks like. Half of the rounds after it see its logits.
        deformed: share of the steps whose second round corrects the true mask, deformed, in place of the round before.
            It keeps errors of all sizes before a network that knows its training cases well.
        seed: where chance starts from.

    Raises:
        ValueError: if a number or a share is out of range.
    """

    def __init__(
        self,
        rounds: int = 3,
        *,
        automatic: float = 0.4,
        single: float = 0.3,
        max_first: int = 10,
        max_added: int = 3,
        jitter: float = 0.5,
        keep_mask: float = 0.9,
        automatic_first: bool = False,
        deformed: float = 0.0,
        seed: int = 0,
    ) -> None:
        if rounds < 1 or max_first < 2 or max_added < 1:
            raise ValueError(
                f"rounds={rounds}, max_first={max_first}, max_added={max_added}: expected at least 1, 2 and 1."
            )
        if not all(0 <= share <= 1 for share in (automatic, single, keep_mask, deformed)):
            raise ValueError(
                f"automatic={automatic}, single={single}, keep_mask={keep_mask}, deformed={deformed}: expected shares "
                "between 0 and 1."
            )
        self.rounds = rounds
        self.automatic = automatic
        self.single = single
        self.max_first = max_first
        self.max_added = max_added
        self.jitter = jitter
        self.keep_mask = keep_mask
        self.automatic_first = automatic_first
        self.deformed = deformed
        self.rng = np.random.default_rng(seed)

    def _first(self, label: np.ndarray) -> Prompts:
        draw = self.rng.random()
        n = 0 if draw < self.automatic else 1
        if draw >= self.automatic + self.single:
            n = int(self.rng.integers(2, self.max_first + 1))
        return random_clicks(label, self.rng, n)

    def _corrected(self, prompts: Prompts, label: np.ndarray, prediction: np.ndarray) -> Prompts:
        """Up to ``max_added`` more clicks, each after the region that the one before it hit counts as corrected."""
        prediction = prediction.copy()
        for _ in range(int(self.rng.integers(1, self.max_added + 1))):
            click = next_click(label, prediction, self.rng, jitter=self.jitter)
            prompts = prompts.with_clicks(click.points, click.labels)
            for point, on_lesion in zip(click.points.astype(int), click.labels, strict=True):
                box = tuple(slice(max(0, i - 6), i + 7) for i in point)
                truth = label[box] > 0
                prediction[box] = prediction[box] | truth if on_lesion else prediction[box] & truth
        return prompts

    def _deformed(self, truth: Sequence[np.ndarray], logits: Tensor) -> Tensor:
        """Logits (B, 1, D, H, W) of the true masks with dents and bumps; those given, for items without a lesion."""
        stands = logits.clone()
        for item, label in enumerate(truth):
            lesion = label > 0
            if lesion.any() and not lesion.all():
                depth = ndimage.distance_transform_edt(lesion) - ndimage.distance_transform_edt(~lesion)
                cells = self.rng.uniform(-1, 1, (1, 1, *[int(self.rng.integers(2, 8))] * lesion.ndim))
                mode = "trilinear" if lesion.ndim == 3 else "bilinear"
                noise = F.interpolate(torch.from_numpy(cells), size=lesion.shape, mode=mode, align_corners=True)
                depth = depth + self.rng.uniform(2, 8) * noise[0, 0].numpy() + self.rng.uniform(-2, 2)
                stands[item, 0] = torch.from_numpy(np.clip(self.rng.uniform(0.3, 2) * depth, -8, 8)).to(stands)
        return stands

    def __call__(self, engine: Any, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        """Run one step.

        Args:
            engine: a MONAI `SupervisedTrainer`.
            batchdata: ``image`` and ``label``, (B, 1, D, H, W) each, on one grid.

        Returns:
            ``image``, ``label``, ``pred`` (logits of the last round) and ``loss``, a number.
        """
        image, label = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)[:2]
        network = engine.network
        if isinstance(network, DistributedDataParallel):
            network = network.module  # it brings together the gradients of one call, and here are several
        network.train()
        engine.optimizer.zero_grad()
        output: dict[str, Any] = {CommonKeys.IMAGE: image, CommonKeys.LABEL: label}
        engine.state.output = output  # what handlers of the events look at
        with torch.autocast(image.device.type, dtype=torch.bfloat16, enabled=engine.amp):
            losses = []
            for logits in self._rounds(network, image, _numpy(label)):
                losses.append(engine.loss_function(logits.float(), label))
                output[CommonKeys.PRED] = logits.detach()
            engine.fire_event(IterationEvents.FORWARD_COMPLETED)
            loss = torch.stack(losses).mean()
        output[CommonKeys.LOSS] = loss.item()
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        loss.backward()
        if dist.is_available() and dist.is_initialized():
            _average_gradients(network)
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        engine.optimizer.step()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def _rounds(self, network: PromptableNetwork, image: Tensor, truth: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """The logits of each round, of the one without clicks too if there is one."""
        placed = [self._first(item) for item in truth]
        features = network.encode(image)
        mask: Tensor | None = None
        if self.automatic_first:
            logits = network.logits(features, image)
            yield logits
            if self.rng.random() < 0.5:
                mask = log_odds(logits).detach().float()
        for number in range(self.rounds):
            if number > 0:
                stands = log_odds(logits).detach().float()
                keep = self.rng.random() < self.keep_mask
                if number == 1 and self.rng.random() < self.deformed:
                    stands, keep = self._deformed(truth, stands), True
                placed = [
                    self._corrected(prompts, item, lesion > 0)
                    for prompts, item, lesion in zip(placed, truth, _numpy(stands), strict=True)
                ]
                mask = stands if keep else None
            prompts = prompt_tensors(placed, device=image.device, mask=mask)
            logits = network.logits(features, image, taken(prompts, network.takes))
            yield logits


def _average_gradients(network: nn.Module) -> None:
    """Give every process the mean of all processes' gradients; what has none in any of them keeps none."""
    tuned = [p for p in network.parameters() if p.requires_grad]
    used = torch.tensor([p.grad is not None for p in tuned], dtype=torch.float32, device=tuned[0].device)
    dist.all_reduce(used)
    tuned = [p for p, count in zip(tuned, used.tolist(), strict=True) if count]
    gradients = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in tuned])
    dist.all_reduce(gradients)
    gradients /= dist.get_world_size()
    for p, gradient in zip(tuned, gradients.split([p.numel() for p in tuned]), strict=True):
        p.grad = gradient.view_as(p)


class ClipGradientsByPart:
    """Optimiser step hook that clips the gradients of each part of a network by itself.

    The published training clips encoder, prompt head and decoder separately to norm 1.0.

    Args:
        network: its direct children are the parts.
        max_norm: largest norm of each part's gradient.
    """

    def __init__(self, network: nn.Module, max_norm: float = 1.0) -> None:
        if max_norm <= 0:
            raise ValueError(f"max_norm={max_norm}: expected a positive number.")
        self.parts = list(network.children())
        self.max_norm = max_norm

    def __call__(self, *_: Any) -> None:
        """Clip in place; the arguments of `torch.optim.Optimizer.register_step_pre_hook` are not used."""
        for part in self.parts:
            parameters = [p for p in part.parameters() if p.grad is not None]
            if parameters:
                torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)

    @classmethod
    def on(cls, optimizer: torch.optim.Optimizer, network: nn.Module, max_norm: float = 1.0) -> torch.optim.Optimizer:
        """Attach to an optimiser and hand it back, for configs."""
        optimizer.register_step_pre_hook(cls(network, max_norm))
        return optimizer


def _numpy(volume: Tensor) -> list[np.ndarray]:
    """(B, 1, D, H, W) to a list of (D, H, W) arrays."""
    return [np.asarray(item[0].detach().cpu()) for item in volume.as_subclass(torch.Tensor)]
