"""The handler that collects the scores of all cases and writes them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from ignite.engine import Engine, Events

from .published_figures import check_task
from .score_files import write_scores
from .summaries import STRATA_ML, stratum, summarise

logger = logging.getLogger(__name__)

_SAME_NAME = (
    "two cases are named {!r}, so their scores could not be told apart: give every entry of the data list a 'case' of "
    "its own"
)


class ScoreWriter:
    """Handler that collects the rows of `ScoringIteration` and writes them when the evaluator has seen all cases.

    Written into ``output_dir`` (made if it is not there), each file whole or not at all:

    - ``scores.csv``: a row for each case, seed, policy and number of clicks;
    - ``cases.csv``: a row for each case and seed: volume, stratum, lesions, and what its iterative clicks were worth;
    - ``lesions.csv``: a row for each lesion and prediction of the cases that have several;
    - ``summary.json``: means, spreads and each case's mean (`summarise`), what the iterative clicks were worth
      (`interaction`), both by volume of the lesion (`strata`), means over lesions (`by_lesion`), peak memory;
    - ``scores.md``: the same as tables, in points (0 to 100), beside the published figures where ``task`` says which;
    - ``curve.png``: Dice over clicks; ``boxes.png``: Dice of the cases;
    - ``best.png``, ``median.png``, ``worst.png``: slices of the case with the best, median and worst Dice.

    ``python -m adapters report`` makes one HTML page of them. In a distributed run, whose processes score different
    cases, the first process writes those of all.

    Args:
        output_dir: the folder to write into.
        method: what was scored, for headings.
        task: whose published figures to put beside (kidney, pancreas, liver, colon); None: none.
        strata_ml: millilitres of lesion at which one stratum of cases ends and the next begins.
        pictures: whether to draw cases; takes about a second for each.

    Raises:
        ValueError: an unknown task, strata that are not ascending; (while running) two cases of the same name.
        OSError: (when attached) the folder cannot be made.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        method: str = "3DSAM-adapter",
        task: str | None = None,
        strata_ml: Sequence[float] = STRATA_ML,
        pictures: bool = True,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.method = method
        self.task = check_task(task)
        self.strata_ml = tuple(float(ml) for ml in strata_ml)
        stratum(0.0, self.strata_ml)  # refuses strata that are not ascending before anything is scored
        self.pictures = pictures
        self._start()

    def attach(self, engine: Engine) -> None:
        """Listen to an evaluator whose ``iteration_update`` is a `ScoringIteration`."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, _: Engine | None = None) -> None:
        self._cases: dict[str, dict[str, Any]] = {}

    def _collect(self, engine: Engine) -> None:
        output: dict[str, Any] = engine.state.output  # type: ignore[assignment]
        if not output:  # a case that failed (`adapters.engines.CaseEvaluator`)
            return
        name = output["rows"][0]["case"]
        if name in self._cases:
            raise ValueError(_SAME_NAME.format(name))
        picture = output["shown"].drawn() if self.pictures else None
        self._cases[name] = {**output, "shown": None, "picture": picture}  # a picture is smaller than what it shows
        values = summarise(output["rows"])
        dice = ", ".join(f"{100 * v['dice']['mean']:.1f} ({v['policy']} {v['clicks']})" for v in values)
        logger.info("%s (%d of %s): Dice %s", name, engine.state.iteration, engine.state.epoch_length, dice)

    def _write(self, _: Engine) -> None:
        cases = _from_all_processes(self._cases)
        if not cases:
            return
        write_scores(
            self.output_dir,
            [row for case in cases for row in case["rows"]],
            method=self.method,
            tolerance=cases[0]["tolerance"],
            lesions=[row for case in cases for row in case["lesions"]],
            about=[case["about"] for case in cases],
            pictures=[case["picture"] for case in cases if case["picture"] is not None],
            task=self.task,
            strata_ml=self.strata_ml,
        )
        logger.info("wrote the scores of %d cases into %s", len(cases), self.output_dir)


def _from_all_processes(own: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The cases in the order of the data list, in the first process of a distributed run; None in the others."""
    if not (dist.is_available() and dist.is_initialized()):
        return list(own.values())
    parts: list[Mapping[str, dict[str, Any]]] = [own] * dist.get_world_size()
    dist.all_gather_object(parts, own)
    if dist.get_rank() != 0:
        return None
    cases: dict[str, dict[str, Any]] = {}
    # a DistributedSampler deals the cases out in turn, and some of them twice if they do not go up evenly
    for turn in itertools.zip_longest(*(part.items() for part in parts)):
        for name, case in filter(None, turn):
            if cases.setdefault(name, case)["rows"][0]["lesion_ml"] != case["rows"][0]["lesion_ml"]:
                raise ValueError(_SAME_NAME.format(name))
    return list(cases.values())
