"""Scores of a promptable network over numbers of clicks, as pieces of a MONAI evaluator.

``ScoringIteration`` is the ``iteration_update`` of a `monai.engines.SupervisedEvaluator`, ``ScoreWriter`` its handler.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.utils import CommonKeys

from adapters.clicks import ClickPolicy
from adapters.metrics import volume_scores

from .report import Row, summarise, write_scores

logger = logging.getLogger(__name__)

Points = tuple[np.ndarray, np.ndarray]
NO_CLICKS: Points = (np.zeros((0, 3)), np.zeros(0, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class _Prediction:
    """Lesion logits (1, 1, D, H, W), the mask (D, H, W), and what the row of scores says of them."""

    logits: torch.Tensor | None
    mask: np.ndarray
    scores: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class _Case:
    name: str
    image: torch.Tensor
    truth: np.ndarray
    spacing: tuple[float, float, float]


class ScoringIteration:
    """Score one case without clicks, with clicks placed at once, and with clicks that correct round by round.

    Each call takes a batch of one case and predicts it

    - without clicks, once, if 0 is in ``num_clicks``; written for every seed as policy ``automatic``;
    - for every seed and every other number in ``num_clicks`` with so many clicks of the simulated user ``policy``;
    - for every seed ``rounds`` times with one more click of the simulated user ``iterative``: the first on the lesion,
      each next one in the largest error of the last prediction, on or off the lesion. All clicks so far and the last
      prediction's lesion logits go to the inferer. Policy ``iterative``.

    Chance for a case, seed, policy and number of clicks is drawn from a generator of its own, so the scores do not
    depend on the order of the cases.

    Where a simulated user places no click although one was asked for:

    - ``iterative``, nothing is left to correct: the prediction stands and is scored again, taking 0 seconds;
    - the label is empty: the prediction without clicks counts if 0 is in ``num_clicks``, else an empty mask. (The
      iterative user then still clicks on what that prediction holds.)

    Args:
        num_clicks: numbers of clicks placed at once.
        policy: the simulated user who places them, see `adapters.clicks.users`.
        rounds: clicks of the iterative user; 0 leaves him out.
        seeds: how often all that is left to chance is repeated.
        tolerance: mm, of the normalised surface Dice.
        threshold: probability above which a voxel is lesion, between 0 and 1.
        jitter: of the iterative user; 0 takes the innermost voxel of the error (all seeds are the same), 1 any.
        clicks: False for networks without clicks: the inferer is called with image and network alone, and only the
            prediction without clicks is scored.

    Raises:
        ValueError: an argument out of its range, an unknown policy.

    Example:
        >>> ScoringIteration(num_clicks=[0, 1], rounds=0, seeds=2).num_clicks
        (0, 1)
    """

    def __init__(
        self,
        num_clicks: Sequence[int] = (0, 1, 3, 10),
        *,
        policy: str = "random",
        rounds: int = 10,
        seeds: int = 5,
        tolerance: float = 5.0,
        threshold: float = 0.5,
        jitter: float = 0.5,
        clicks: bool = True,
    ) -> None:
        if any(int(n) != n or n < 0 for n in num_clicks):
            raise ValueError(f"num_clicks is {list(num_clicks)}, expected whole numbers of at least 0")
        if int(rounds) != rounds or rounds < 0:
            raise ValueError(f"rounds is {rounds}, expected a whole number of at least 0")
        if int(seeds) != seeds or seeds < 1:
            raise ValueError(f"seeds is {seeds}, expected a whole number of at least 1")
        if not 0 < threshold < 1:
            raise ValueError(f"threshold is {threshold}, expected a probability between 0 and 1")
        if not 0 <= jitter <= 1:
            raise ValueError(f"jitter is {jitter}, expected 0 (innermost voxel) to 1 (anywhere in the region)")
        if policy == "iterative":
            raise ValueError("policy is 'iterative', which places no clicks at once: give the number of rounds instead")
        self.num_clicks = tuple(sorted({int(n) for n in num_clicks})) if clicks else (0,)
        self.policy = ClickPolicy(policy)
        self.rounds = int(rounds) if clicks else 0
        self.seeds = int(seeds)
        self.tolerance = float(tolerance)
        self.threshold = float(threshold)
        self.jitter = float(jitter)
        self.clicks = clicks
        if not self.rounds and not self.num_clicks:
            raise ValueError("num_clicks is empty and rounds is 0, expected something to score")

    def __call__(self, engine: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Score one case.

        Args:
            engine: a `monai.engines.SupervisedEvaluator`; its ``inferer``, ``network``, device and ``amp`` are used.
            batch: ``image`` (1, 1, D, H, W) normalised, with its affine if it is a MetaTensor (else voxels of 1 mm),
                and ``label`` (1, 1, D, H, W), anything but 0 is lesion. The case's name is ``batch["case"]``, or
                the name of the file that the image came from.

        Returns:
            ``rows``: a list of dictionaries with case, seed, policy, clicks, dice, nsd, seconds (of the prediction)
            and lesion_ml (of the label); ``tolerance``: mm.

        Raises:
            ValueError: a batch of more than one case, image and label of different shapes, a case without a name, or
                logits that are not (1, 2, D, H, W).
        """
        case = _read(batch, torch.device(engine.state.device))
        rows: list[Row] = []
        start = time.perf_counter()
        with torch.no_grad(), engine.mode(engine.network):
            automatic = None
            if 0 in self.num_clicks:
                automatic = self._predict(engine, case)
                rows += [self._row(case, seed, "automatic", 0, automatic) for seed in range(self.seeds)]
            for seed in range(self.seeds):
                rows += self._at_once(engine, case, seed, automatic)
                rows += self._round_by_round(engine, case, seed, automatic)
        logger.info("%s: %d scores in %.0f s", case.name, len(rows), time.perf_counter() - start)
        return {"rows": rows, "tolerance": self.tolerance}

    def _at_once(self, engine: Any, case: _Case, seed: int, automatic: _Prediction | None) -> list[Row]:
        rows = []
        for n in self.num_clicks:
            if n:
                placed = self.policy(case.truth, _generator(case.name, seed, self.policy.name, n), n)
                found = self._predict(engine, case, placed) if len(placed[0]) else automatic or self._empty(case)
                rows.append(self._row(case, seed, self.policy.name, n, found))
        return rows

    def _round_by_round(self, engine: Any, case: _Case, seed: int, automatic: _Prediction | None) -> list[Row]:
        rng = _generator(case.name, seed, "iterative", 0)
        user = ClickPolicy("iterative", {"jitter": self.jitter, "spacing": case.spacing})
        rows: list[Row] = []
        points, labels = NO_CLICKS
        last: _Prediction | None = None
        for n in range(1, self.rounds + 1):
            point, label = user(case.truth, rng, prediction=None if last is None else last.mask)
            if len(point):
                points, labels = np.concatenate([points, point]), np.concatenate([labels, label])
                last = self._predict(engine, case, (points, labels), None if last is None else last.logits)
            elif last is None:
                last = automatic or self._empty(case)
            else:
                last = _Prediction(last.logits, last.mask, {**last.scores, "seconds": 0.0})
            rows.append(self._row(case, seed, "iterative", n, last))
        return rows

    def _predict(
        self, engine: Any, case: _Case, placed: Points = NO_CLICKS, mask: torch.Tensor | None = None
    ) -> _Prediction:
        prompts: dict[str, Any] = {}
        if self.clicks:
            # no clicks are said so: None would let the inferer look for some in the image's meta
            device = case.image.device
            points, labels = (torch.from_numpy(values)[None].to(device) for values in placed)
            prompts = {"clicks": points.float(), "labels": labels} | ({} if mask is None else {"mask": mask})
        _wait(case.image)
        start = time.perf_counter()
        with torch.autocast(case.image.device.type, **engine.amp_kwargs) if engine.amp else nullcontext():
            logits = engine.inferer(case.image, engine.network, **prompts)
        _wait(case.image)
        seconds = time.perf_counter() - start

        expected = (1, 2, *case.truth.shape)
        if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != expected:
            got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ValueError(f"the inferer returned {got}, expected logits of background and lesion {expected}")
        plain = (logits.as_tensor() if isinstance(logits, MetaTensor) else logits).float()
        found = (plain.softmax(dim=1)[0, 1] > self.threshold).cpu().numpy()
        return _Prediction(plain[:, 1:] - plain[:, :1], found, self._scores(case, found, seconds))

    def _empty(self, case: _Case) -> _Prediction:
        nothing = np.zeros_like(case.truth)
        return _Prediction(None, nothing, self._scores(case, nothing, 0.0))

    def _scores(self, case: _Case, mask: np.ndarray, seconds: float) -> dict[str, float]:
        return {**volume_scores(mask, case.truth, case.spacing, tolerance=self.tolerance), "seconds": seconds}

    @staticmethod
    def _row(case: _Case, seed: int, policy: str, clicks: int, found: _Prediction) -> Row:
        lesion_ml = float(case.truth.sum() * np.prod(case.spacing) / 1000)
        return {
            "case": case.name,
            "seed": seed,
            "policy": policy,
            "clicks": clicks,
            **found.scores,
            "lesion_ml": lesion_ml,
        }


class ScoreWriter:
    """Handler that collects the rows of `ScoringIteration` and writes them when the evaluator has seen all cases.

    Written into ``output_dir`` (made if it is not there), each file whole or not at all:

    - ``scores.csv``: a row for each case, seed, policy and number of clicks;
    - ``summary.json``: for each policy and number of clicks the mean over cases and seeds, the spread (standard
      deviation of the seeds' means, n - 1 in the denominator, 0 for one seed), and each case's mean;
    - ``scores.md``: the same as a table, in points (0 to 100);
    - ``curve.png``: Dice over clicks.

    Args:
        output_dir: the folder to write into.
        method: what was scored, for headings.

    Raises:
        ValueError: (while running) two cases of the same name.
        OSError: (when attached) the folder cannot be made.
    """

    def __init__(self, output_dir: str | Path, *, method: str = "3DSAM-adapter") -> None:
        self.output_dir = Path(output_dir)
        self.method = method
        self._rows: list[Row] = []
        self._tolerance = 0.0

    def attach(self, engine: Engine) -> None:
        """Listen to an evaluator whose ``iteration_update`` is a `ScoringIteration`."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, _: Engine) -> None:
        self._rows = []

    def _collect(self, engine: Engine) -> None:
        output: dict[str, Any] = engine.state.output  # type: ignore[assignment]
        name = output["rows"][0]["case"]
        if any(row["case"] == name for row in self._rows):
            raise ValueError(
                f"two cases are named {name!r}, so their scores could not be told apart: "
                "give every entry of the data list a 'case' of its own"
            )
        self._rows += output["rows"]
        self._tolerance = output["tolerance"]
        values = summarise(output["rows"])
        logger.info(
            "%s (%d of %s): Dice %s",
            name,
            engine.state.iteration,
            engine.state.epoch_length,
            ", ".join(f"{100 * v['dice']['mean']:.1f} ({v['policy']} {v['clicks']})" for v in values),
        )

    def _write(self, _: Engine) -> None:
        write_scores(self.output_dir, self._rows, method=self.method, tolerance=self._tolerance)
        logger.info("wrote the scores of %d cases into %s", len({r["case"] for r in self._rows}), self.output_dir)


def _generator(case: str, seed: int, policy: str, clicks: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(case.encode()), seed, zlib.crc32(policy.encode()), clicks])


def _wait(tensor: torch.Tensor) -> None:
    """Until the device has done what was asked of it, so that times mean something."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _read(batch: Mapping[str, Any], device: torch.device) -> _Case:
    image, label = batch[CommonKeys.IMAGE], batch[CommonKeys.LABEL]
    if image.ndim != 5 or image.shape[:2] != (1, 1):
        raise ValueError(f"image has shape {tuple(image.shape)}, expected one case (1, 1, D, H, W): use batch_size 1")
    if label.shape != image.shape:
        raise ValueError(f"label has shape {tuple(label.shape)} but image {tuple(image.shape)}, expected the same grid")
    affine = np.eye(4)
    if isinstance(image, MetaTensor):
        affine = np.asarray(image.affine.cpu(), dtype=float).reshape(-1, 4, 4)[0]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return _Case(
        name=_name(batch),
        image=image.to(device),
        truth=torch.as_tensor(label)[0, 0].cpu().numpy() != 0,
        spacing=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
    )


def _name(batch: Mapping[str, Any]) -> str:
    image = batch[CommonKeys.IMAGE]
    sources: list[tuple[Any, Callable[[str], str]]] = [(batch.get("case"), str)]
    if isinstance(image, MetaTensor):
        sources.append((image.meta.get("filename_or_obj"), _stem))
    for value, shorten in sources:
        first = value[0] if isinstance(value, (list, tuple)) and value else value
        if isinstance(first, (str, Path)) and str(first):
            return shorten(str(first))
    raise ValueError("a case has no name: give every entry of the data list a 'case', or load images from files")


def _stem(path: str) -> str:
    name = Path(path).name
    for ending in (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd"):
        name = name.removesuffix(ending)
    return name
