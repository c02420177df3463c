"""How long a run lasts and how its learning rate falls.

In place of Ignite's `TimeLimit`: its clock starts when it is built, and anew when a run resumes. Each process has its
own, so that processes of one run stop at different steps. The rate has to follow the same clock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import ValidationHandler

logger = logging.getLogger(__name__)

_LOWEST = 0.01  # of the rate, at the start of the warm-up: even the first step of a short run moves


class LinearDecay:
    """Linear decay of the learning rate over a run, which ends after its epochs or after its minutes.

    The published training decays linearly to 1 % over 500 epochs. A run of some minutes compares networks of different
    speed at equal training time: the decay follows the clock, and time spent in validation counts.

    Args:
        optimizer: all of its parameter groups are scaled alike.
        final: factor on the learning rate at the end.
        warmup: share of the run over which the rate first rises linearly, from 1 %.
        minutes: wall-clock length of the run; None for its epochs alone.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        final: float = 0.01,
        warmup: float = 0.0,
        minutes: float | None = None,
    ) -> None:
        if not 0 <= final <= 1 or not 0 <= warmup < 1:
            raise ValueError(f"final={final}, warmup={warmup}: expected factors between 0 and 1 (warmup below 1).")
        if minutes is not None and minutes <= 0:
            raise ValueError(f"minutes={minutes}: expected a positive number, or null for no limit.")
        self.optimizer = optimizer
        self.final = final
        self.warmup = warmup
        self.minutes = minutes
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.started = time.monotonic()

    def factor(self, progress: float) -> float:
        """Factor on the learning rate when this share of the run (0 to 1) is over."""
        progress = min(max(progress, 0.0), 1.0)
        rising = min(1.0, max(_LOWEST, progress / self.warmup)) if self.warmup else 1.0
        return rising * (1.0 - (1.0 - self.final) * progress)

    def progress(self, engine: Engine) -> float:
        """Share of the run that is over: the larger of the shares of its iterations and of its minutes."""
        share = (engine.state.iteration - 1) / max(1, (engine.state.max_epochs or 1) * (engine.state.epoch_length or 1))
        if self.minutes is not None:
            share = max(share, self._elapsed() / (60.0 * self.minutes))
        return share

    def state_dict(self) -> dict[str, float]:
        """How long the run has lasted, in seconds."""
        return {"seconds": time.monotonic() - self.started}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from there. The rates need no state: they follow from the progress."""
        self.started = time.monotonic() - state["seconds"]

    def attach(self, engine: Engine) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._set)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop)

    def _start(self, _: Engine) -> None:
        self.started = time.monotonic()

    def _set(self, engine: Engine) -> None:
        factor = self.factor(self.progress(engine))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = factor * rate

    def _elapsed(self) -> float:
        """Seconds by the clock of the first process, so that all processes go and stop together."""
        return float(idist.broadcast(time.monotonic() - self.started))  # type: ignore[arg-type]  # it is as given

    def _stop(self, engine: Engine) -> None:
        if self.minutes is not None and self._elapsed() >= 60.0 * self.minutes:
            logger.info("the run ends after %.1f minutes, at iteration %d", self.minutes, engine.state.iteration)
            engine.terminate()


class ValidationWithEnd(ValidationHandler):
    """MONAI's `ValidationHandler`, and one more validation when the run ends between two of them.

    So the last weights of a run that ends after its minutes can become the best ones.

    Args:
        interval: epochs between two validations.
        validator: the evaluator.
    """

    def __init__(self, interval: int, validator: Evaluator) -> None:
        super().__init__(interval=interval, validator=validator, epoch_level=True)

    def attach(self, engine: Engine) -> None:
        """Listen to a trainer."""
        super().attach(engine)
        engine.add_event_handler(Events.COMPLETED, self._validate_end)

    def _validate_end(self, engine: Engine) -> None:
        # a run that is ended inside an epoch does not complete it, so its number alone does not tell
        if self.validator is None or self.validator.state.epoch != engine.state.epoch:
            self(engine)
