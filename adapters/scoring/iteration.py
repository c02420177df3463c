"""Scores of a promptable network over numbers of clicks: the ``iteration_update`` of a MONAI evaluator."""

from __future__ import annotations

import itertools
import logging
import math
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from adapters.process_memory import peak_mib, start_peak
from adapters.prompts import ClickPolicy, Prompts

from .case import CaseScores, Prediction, ScoredCase
from .summaries import AUTOMATIC, ITERATIVE

logger = logging.getLogger(__name__)


class ScoringIteration:
    """Score one case without clicks, with clicks placed at once, and with clicks that correct round by round.

    Each call takes a batch of one case and predicts it

    - without clicks, once, if 0 is in ``num_clicks``; written for every seed as policy ``automatic``;
    - for every seed and every other number in ``num_clicks`` with so many clicks of each simulated user ``policy``;
    - for every seed ``rounds`` times with one more click of the simulated user ``iterative``: the first on the lesion,
      each next one in the largest error of the last prediction. The inferer gets all clicks so far and the last
      prediction's log-odds.

    Each case, seed, policy and number of clicks has a generator of its own, so scores do not depend on the order of
    the cases. Where a simulated user places no click although one was asked for:

    - ``iterative``, nothing is left to correct: the prediction stands and is scored again, taking 0 seconds;
    - the label is empty: the prediction without clicks counts if 0 is in ``num_clicks``, else an empty mask. (The
      iterative user then still clicks on what that prediction holds.)

    All predictions are scored on the image's grid: Dice, NSD, HD95, and the Dice and NSD of each of several lesions.
    `adapters.metrics` states the values for empty masks.

    Args:
        num_clicks: numbers of clicks placed at once, or one such number.
        policy: the simulated user who places them, see `adapters.prompts.users`, or several. With ``iterative`` there
            are at least as many rounds as the largest of ``num_clicks``; alone, it leaves nothing to place at once.
        rounds: clicks of the iterative user; 0 leaves him out.
        seeds: how often all that is left to chance is repeated.
        tolerance: mm, of the normalised surface Dice.
        threshold: probability above which a voxel is lesion, between 0 and 1.
        jitter: of the iterative user; 0 takes the innermost voxel of the error (all seeds are the same), 1 any.
        clicks: False for networks without clicks: the inferer is called with image and network alone, and only the
            prediction without clicks is scored.
        smallest_lesion_ml: millilitres; what is smaller is no lesion of its own (`adapters.metrics.Lesions`).

    Raises:
        ValueError: an argument out of its range, an unknown policy.

    Example:
        >>> ScoringIteration(num_clicks=[0, 1], rounds=0, seeds=2).num_clicks
        (0, 1)
    """

    def __init__(
        self,
        num_clicks: int | Sequence[int] = (0, 1, 3, 10),
        *,
        policy: str | Sequence[str] = "random",
        rounds: int = 10,
        seeds: int = 5,
        tolerance: float = 5.0,
        threshold: float = 0.5,
        jitter: float = 0.5,
        clicks: bool = True,
        smallest_lesion_ml: float = 0.1,
    ) -> None:
        numbers = [num_clicks] if isinstance(num_clicks, (int, float)) else list(num_clicks)
        for name, value, valid, expected in (
            ("num_clicks", numbers, all(int(n) == n >= 0 for n in numbers), "whole numbers of at least 0"),
            ("rounds", rounds, int(rounds) == rounds >= 0, "a whole number of at least 0"),
            ("seeds", seeds, int(seeds) == seeds >= 1, "a whole number of at least 1"),
            ("threshold", threshold, 0 < threshold < 1, "a probability between 0 and 1"),
            ("jitter", jitter, 0 <= jitter <= 1, "0 (innermost voxel) to 1 (anywhere in the region)"),
            ("smallest_lesion_ml", smallest_lesion_ml, smallest_lesion_ml >= 0, "millilitres, at least 0"),
        ):
            if not valid:
                raise ValueError(f"{name} is {value}, expected {expected}")
        users = list(dict.fromkeys([policy] if isinstance(policy, str) else policy))
        if not users:
            raise ValueError("policy is empty, expected a simulated user, or several")
        at_once = sorted({int(n) for n in numbers if n})
        if ITERATIVE in users:
            rounds = max([int(rounds), *at_once])
        self.policies = tuple(ClickPolicy(name) for name in users if name != ITERATIVE)
        if not (self.policies and clicks):
            at_once = []
        self.num_clicks = tuple(([0] if 0 in numbers or not clicks else []) + at_once)
        self.rounds = int(rounds) if clicks else 0
        self.seeds = int(seeds)
        self.tolerance = float(tolerance)
        self.threshold = float(threshold)
        self._threshold_log_odds = math.log(threshold / (1 - threshold))
        self.jitter = float(jitter)
        self.clicks = clicks
        self.smallest_lesion_ml = float(smallest_lesion_ml)
        if not self.rounds and not self.num_clicks:
            raise ValueError("num_clicks is empty and rounds is 0, expected something to score")
        last = (ITERATIVE, self.rounds) if self.rounds else (AUTOMATIC, 0)
        self.shown = (self.policies[0].name, at_once[0]) if at_once else last
        """Policy and number of clicks of the prediction that a case's picture shows."""

    def __call__(self, engine: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Score one case.

        Args:
            engine: a `monai.engines.SupervisedEvaluator`; its ``inferer``, ``network``, device and ``amp`` are used.
            batch: ``image`` (1, 1, D, H, W) normalised, a MetaTensor or of voxels of 1 mm. ``label`` (1, 1, D, H, W),
                anything but 0 is lesion. The name is ``case``, or after the image's file (`adapters.files.case_name`).

        Returns:
            What `ScoreWriter` collects: ``rows``, a list of `adapters.scoring.summaries.Row`; ``tolerance`` in mm.
            ``lesions``, where there are several, has the same for each of them. In place of ``seconds`` and ``hd95``
            are ``lesion`` (1 is the largest) and ``clicked`` (how many clicks lie on it). ``about`` has the case, how
            many lesions, peak_mib (`adapters.process_memory.peak_mib`) and the device's type. ``shown`` is the first
            seed's `ShownCase` from the fewest clicks placed at once, else from the last round, else without clicks.

        Raises:
            ValueError: several cases, image and label of different shapes, a case without a name, an inferer that
                returns anything but log-odds (1, 1, D, H, W).
        """
        device = torch.device(engine.state.device)
        case = ScoredCase.read(batch, device, self.smallest_lesion_ml)
        scores = CaseScores(case, self.shown)
        start = time.perf_counter()
        start_peak(device)
        with torch.no_grad(), engine.mode(engine.network):
            automatic = None
            if 0 in self.num_clicks:
                automatic = self._predict(engine, case)
                for seed in range(self.seeds):
                    scores.add(seed, AUTOMATIC, 0, automatic)
            for seed in range(self.seeds):
                self._at_once(engine, scores, seed, automatic)
                self._round_by_round(engine, scores, seed, automatic)
        logger.info("%s: %d scores in %.0f s", case.name, len(scores.rows), time.perf_counter() - start)
        about = {"case": case.name, "lesions": len(case.lesions), "peak_mib": peak_mib(device), "device": device.type}
        collected = {"rows": scores.rows, "lesions": scores.lesions, "shown": scores.shown}
        return {**collected, "tolerance": self.tolerance, "about": about}

    def _at_once(self, engine: Any, scores: CaseScores, seed: int, automatic: Prediction | None) -> None:
        case = scores.case
        for user, n in itertools.product(self.policies, filter(None, self.num_clicks)):
            prompts = user(case.truth, _generator(case.name, seed, user.name, n), n)
            prediction = self._predict(engine, case, prompts) if len(prompts) else automatic or self._empty(case)
            scores.add(seed, user.name, n, prediction)

    def _round_by_round(self, engine: Any, scores: CaseScores, seed: int, automatic: Prediction | None) -> None:
        case = scores.case
        rng = _generator(case.name, seed, ITERATIVE, 0)
        user = ClickPolicy(ITERATIVE, {"jitter": self.jitter, "spacing": case.spacing})
        prompts = Prompts(shape=case.truth.shape)
        last: Prediction | None = None
        for n in range(1, self.rounds + 1):
            click = user(case.truth, rng, prediction=None if last is None else last.mask)
            if len(click):
                prompts = prompts.with_clicks(click.points, click.labels)
                last = self._predict(engine, case, prompts, None if last is None else last.log_odds)
            elif last is None:
                last = automatic or self._empty(case)
            else:
                last = replace(last, scores={**last.scores, "seconds": 0.0})
            scores.add(seed, ITERATIVE, n, last)

    def _predict(
        self, engine: Any, case: ScoredCase, prompts: Prompts | None = None, mask: torch.Tensor | None = None
    ) -> Prediction:
        """Predict from the prompts placed so far and the log-odds (1, 1, D, H, W) of the round before."""
        # no prompt is said so: None would let the inferer look for prompts in the image's meta
        prompts = prompts or Prompts(shape=case.truth.shape)
        request = {"prompts": [prompts], "mask": mask} if self.clicks else {}
        _wait(case.image)
        start = time.perf_counter()
        with torch.autocast(case.image.device.type, **engine.amp_kwargs) if engine.amp else nullcontext():
            log_odds = engine.inferer(case.image, engine.network, **request)
        _wait(case.image)
        seconds = time.perf_counter() - start

        expected = (1, 1, *case.truth.shape)
        if not isinstance(log_odds, torch.Tensor) or tuple(log_odds.shape) != expected:
            got = tuple(log_odds.shape) if isinstance(log_odds, torch.Tensor) else type(log_odds).__name__
            raise ValueError(f"the inferer returned {got}, expected one channel of the lesion's log-odds {expected}")
        log_odds = log_odds.as_subclass(torch.Tensor)
        lesion = (log_odds[0, 0] > self._threshold_log_odds).cpu().numpy()
        return Prediction.score(
            case, lesion, tolerance=self.tolerance, seconds=seconds, prompts=prompts, log_odds=log_odds
        )

    def _empty(self, case: ScoredCase) -> Prediction:
        return Prediction.score(case, np.zeros_like(case.truth), tolerance=self.tolerance, seconds=0.0)


def _generator(case: str, seed: int, policy: str, clicks: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(case.encode()), seed, zlib.crc32(policy.encode()), clicks])


def _wait(tensor: torch.Tensor) -> None:
    """Until the device has done what was asked of it, so that times mean something."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
