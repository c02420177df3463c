"""A training that can be killed at any moment and goes on as if nothing had happened.

In place of Ignite's `Checkpoint` with `DiskSaver`, which removes the last state before it writes the next one. It takes
no older state where that cannot be read, does not restore the best epoch, and seeds nothing.
"""

from __future__ import annotations

import logging
import math
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.engines import Evaluator
from monai.utils.enums import CommonKeys

from adapters import files
from adapters.checkpoints.files import read_checkpoint, replacing
from adapters.networks.description import check_finite

logger = logging.getLogger(__name__)

_FORMAT = 1
UNFINISHED = "unfinished"


class Resume:
    """Keeps the best weights and the state of the run, and goes on from that state when the run is started again.

    After each epoch (and its validation) the weights are written to ``best_file`` if they are the best so far, and
    everything that the next epoch depends on to ``last_file``. Each file is written whole or not at all. The state
    before the last one is kept beside it, and taken where the last one cannot be read.

    A training goes on after the last epoch of the run in the folder, if that has not finished or `max_epochs` is more
    now. If it has finished, nothing is done, and its weights stay. To start anew has to be said. A run that was ended
    early, after its minutes or by `StopEarly`, has finished.

    A loss or weights that are not finite end the training with an error, before anything is written. While one process
    trains, a second one that would write the same files is refused.

    Chance is not stored: at the start of each epoch all generators are seeded from ``seed``, the epoch and the number
    of the process. So an interrupted run ends with the numbers of an unbroken one on the same hardware and software.
    On a CPU they are equal to the bit; a GPU may add up in another order.

    Put it behind the handlers that validate and that set the learning rate. In a distributed training every process
    reads the state, and the first one writes it.

    Args:
        folder: where the files are; made if it is not there.
        parts: what has ``state_dict`` and ``load_state_dict``: ``model`` (its weights are the best file's), optimiser,
            schedule.
        validator: the evaluator whose key metric says what is best. None, or an evaluator without a case (MONAI Label
            gives none where few studies are labelled): the last weights are the best ones.
        best_file: name of the weights' file, a plain state dict on the CPU.
        last_file: name of the state's file.
        seed: where chance starts from.
        reseeded: datasets with random transforms, and objects with a NumPy generator ``rng``; None among them is
            passed over.
        resume: True: as above. ``"unfinished"``: start anew over a run that has finished or is longer. False: start
            anew in any case.

    Raises:
        ValueError: no part is named ``model``, or `resume` is none of these; (when the run starts) the state cannot be
            read, does not fit, or is of a longer run; (later) the training has diverged.
        OSError: (when the run starts) another process trains with these files; (later) the disk is full.
    """

    _locks: ClassVar[dict[Path, ExitStack]] = {}

    def __init__(
        self,
        folder: str | Path,
        parts: Mapping[str, Any],
        *,
        validator: Evaluator | None = None,
        best_file: str = "model.pt",
        last_file: str = "last.ckpt",
        seed: int = 0,
        reseeded: Sequence[Any] = (),
        resume: bool | str = True,
    ) -> None:
        if "model" not in parts:
            raise ValueError(f"parts are {', '.join(parts) or 'empty'}: expected one named 'model'.")
        if resume not in (True, False, UNFINISHED):
            raise ValueError(f"resume is {resume!r}: expected True, False or {UNFINISHED!r}.")
        self.best_path = Path(folder) / best_file
        self.last_path = Path(folder) / last_file
        self.parts = dict(parts)
        if validator is not None and validator.state.epoch_length == 0:
            logger.warning("there is no case to validate on: the last weights are kept as the best ones")
            validator = None
        self.validator = validator
        self.seed = seed
        self.reseeded = reseeded
        self.resume = resume
        self._kept = 0  # the epoch whose weights are in the best file
        self._idle = False  # whether there was nothing left to train

    @property
    def previous_path(self) -> Path:
        """Where the state before the last one is kept."""
        return self.last_path.with_name(f"{self.last_path.stem}.previous{self.last_path.suffix}")

    def attach(self, engine: Engine) -> None:
        """Listen to a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._reseed)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._check_loss)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._keep, finished=False)
        engine.add_event_handler(Events.COMPLETED, self._keep, finished=True)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _start(self, engine: Any) -> None:
        self._idle = False
        self._lock()
        state = self._read() if self.resume else None
        if state is None or not self._goes_on(state, engine.state.max_epochs):
            return
        if state["finished"] and engine.state.max_epochs <= state.get("max_epochs", state["epoch"]):
            logger.warning(
                "%s is of a run that has finished, after epoch %d: nothing is trained, and its weights stay. "
                "More epochs (max_epochs) go on with it; another folder (ckpt_dir), or resume=False, starts anew",
                self.last_path,
                state["epoch"],
            )
            self._idle = True
            engine.state.epoch = state["epoch"]
            if self.validator is not None:
                self.validator.state.epoch = state["epoch"]  # else the end of the run is validated
            engine.terminate()
            return
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state["parts"][name])
            if engine.scaler is not None and state["scaler"]:
                engine.scaler.load_state_dict(state["scaler"])
            engine.state.epoch = state["epoch"]
            engine.state.iteration = state["epoch"] * (engine.state.epoch_length or 0)
            self._kept = state["best_epoch"]
            if self.validator is not None:
                self.validator.state.best_metric = state["best_metric"]
                self.validator.state.best_metric_epoch = state["best_epoch"]
                self.validator.state.epoch = state["validated_epoch"]
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as err:
            raise ValueError(
                f"{self.last_path} is of a run that does not fit this one ({err}): start it with the same options, or "
                "choose another folder (ckpt_dir), or start anew (resume=False)."
            ) from err
        logger.info("the run goes on after epoch %d of %s", state["epoch"], engine.state.max_epochs)

    def _goes_on(self, state: Mapping[str, Any], epochs: int) -> bool:
        """Whether a state is gone on with, or left alone, and not written over."""
        longer = not state["finished"] and state["epoch"] >= epochs
        if self.resume == UNFINISHED and (longer or state["finished"]):
            run = "run that has finished" if state["finished"] else f"longer run, after epoch {state['epoch']}"
            logger.info("%s is of a %s: this one starts anew", self.last_path, run)
            return False
        if longer:
            raise ValueError(
                f"{self.last_path} is of a longer run, after epoch {state['epoch']}, and this one has {epochs}: give "
                "it more epochs (max_epochs), or another folder (ckpt_dir), or start anew (resume=False)."
            )
        return True

    def _lock(self) -> None:
        """Keeps other processes off these files until the run ends, or the process does."""
        place = self.last_path.absolute()
        if idist.get_rank() > 0 or place in self._locks:  # of a run of this process that was interrupted
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = ExitStack()
        lock.enter_context(
            files.alone(place.with_name(f".{place.name}.lock"), f"trains with the files of {place.parent}")
        )
        self._locks[place] = lock

    def _check_loss(self, engine: Engine) -> None:
        output: Any = engine.state.output
        for item in output if isinstance(output, list) else [output]:
            if isinstance(item, Mapping) and not math.isfinite(loss := float(item.get(CommonKeys.LOSS, 0.0))):
                raise ValueError(
                    f"the loss of epoch {engine.state.epoch} is {loss}, so the training has diverged and ends; the "
                    f"files in {self.last_path.parent} are those of before. Take a lower learning_rate."
                )

    def _reseed(self, engine: Engine) -> None:
        source = np.random.SeedSequence([self.seed, engine.state.epoch, idist.get_rank()])
        seed = int(source.generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  (MONAI's transforms and their workers may use it)
        torch.manual_seed(seed)
        for number, item in enumerate(self.reseeded):
            if isinstance(getattr(item, "rng", None), np.random.Generator):
                item.rng = np.random.default_rng([seed, number])
            elif item is not None:
                set_rnd(getattr(item, "transform", item), seed + number)

    def _keep(self, engine: Any, *, finished: bool) -> None:
        if idist.get_rank() > 0:
            return
        if not self._idle:
            self._save(engine, finished=finished)
        if finished:
            self._release()

    def _fail(self, _: Engine, error: Exception) -> None:
        self._release()
        raise error

    def _release(self) -> None:
        if lock := self._locks.pop(self.last_path.absolute(), None):
            lock.close()

    def _save(self, engine: Any, *, finished: bool) -> None:
        check_finite(self.parts["model"].state_dict(), f"the network after epoch {engine.state.epoch}")
        validated = self.validator.state if self.validator is not None else None
        best = engine.state.epoch if validated is None else validated.best_metric_epoch
        self.last_path.parent.mkdir(parents=True, exist_ok=True)
        if best == engine.state.epoch and best != self._kept:
            weights = self.parts["model"].state_dict()
            for name, tensor in weights.items():
                weights[name] = tensor.cpu()
            _write(weights, self.best_path)
            self._kept = best
        state = {
            "format": _FORMAT,
            "finished": finished,
            "epoch": engine.state.epoch,
            "max_epochs": engine.state.max_epochs,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "scaler": engine.scaler.state_dict() if engine.scaler is not None else {},
            "best_metric": float(validated.best_metric) if validated is not None else 0.0,
            "best_epoch": best,
            "validated_epoch": validated.epoch if validated is not None else 0,
        }
        _write(state, self.last_path, keep=self.previous_path)

    def _read(self) -> dict[str, Any] | None:
        """The last state that can be read; None if there is no file."""
        problems = []
        for path in (self.last_path, self.previous_path):
            if not path.exists():
                continue
            try:
                state = read_checkpoint(path)
                if not isinstance(state, dict) or state.get("format") != _FORMAT:
                    problems.append(f"{path} is no state of a training in format {_FORMAT}")
                elif not isinstance(state.get("epoch"), int) or not isinstance(state.get("finished"), bool):
                    problems.append(f"{path} does not say after which epoch it was written")
                else:
                    return state
            except ValueError as err:
                problems.append(str(err).removesuffix("; fetch it again."))
            logger.warning("%s: the state before it is taken, if there is one", problems[-1])
        if problems:
            raise ValueError(f"{'; '.join(problems)}: choose another folder (ckpt_dir), or start anew (resume=False).")
        return None


def _write(content: Any, path: Path, *, keep: Path | None = None) -> None:
    """Write to the disk itself, whole or not at all. The path, and where what it was is kept, always stand."""
    with replacing(path, overwrite=True) as temporary:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            with files.replacing(keep) as second:
                try:
                    os.link(path, second)
                except OSError:  # a file system without links
                    shutil.copyfile(path, second)
