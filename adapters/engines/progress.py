"""Handlers that say how far a training is, and end it when it gets no better.

`Progress` logs a line for each epoch, validation in its time; Ignite's `ProgressBar` draws on the terminal alone.
`StopEarly` reads the best epoch that `Resume` restores; MONAI's `EarlyStopHandler` has no state to resume from, and
counts validations, not epochs.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator

logger = logging.getLogger(__name__)


class Progress:
    """Logs, after each epoch, which one it was, the mean loss, and how long the rest will take at this pace."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._started = 0.0
        self._first = 0

    def attach(self, engine: Engine) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)

    def _start(self, engine: Engine) -> None:
        self._losses = []
        if not self._started:
            self._started, self._first = time.monotonic(), engine.state.epoch - 1

    def _collect(self, engine: Engine) -> None:
        output: Any = engine.state.output
        items = output if isinstance(output, list) else [output]
        self._losses += [float(item["loss"]) for item in items]

    def _report(self, engine: Engine) -> None:
        epoch, last = engine.state.epoch, engine.state.max_epochs or engine.state.epoch
        pace = (time.monotonic() - self._started) / (epoch - self._first)
        mean = math.fsum(self._losses) / max(1, len(self._losses))
        hours, minutes = divmod(round(pace * (last - epoch) / 60), 60)
        left = f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
        logger.info("epoch %d of %d: loss %.4f, %s left", epoch, last, mean, left)


class StopEarly:
    """Ends a training whose key metric has not improved for some epochs.

    It works the same in every process of a distributed training, as all of them know the metric.

    Args:
        validator: the evaluator, with a key metric.
        patience: epochs without improvement after which training ends; None: never.

    Raises:
        ValueError: the patience is not positive.
    """

    def __init__(self, validator: Evaluator, patience: int | None = None) -> None:
        if patience is not None and patience < 1:
            raise ValueError(f"patience={patience}: expected a positive number of epochs, or null for no early stop.")
        self.validator = validator
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        """Listen to a trainer; put it behind the handler that validates."""
        if self.patience is not None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._check)

    def _check(self, engine: Engine) -> None:
        best = self.validator.state.best_metric_epoch
        if self.patience is not None and best > 0 and engine.state.epoch - best >= self.patience:
            logger.info("no improvement since epoch %d: training ends at epoch %d", best, engine.state.epoch)
            engine.terminate()
