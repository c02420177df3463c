"""Scores of a promptable network over numbers of clicks, as pieces of a MONAI evaluator.

``ScoringIteration`` is the ``iteration_update`` of a `monai.engines.SupervisedEvaluator`, ``ScoreWriter`` its handler.
"""

from __future__ import annotations

import itertools
import logging
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.utils import CommonKeys

from adapters.prompts import ClickPolicy
from adapters.process_memory import peak_mib, start_peak
from adapters.metrics import Lesions, hd95, volume_scores

from .figures import draw_case, png
from .published_figures import check_task
from .report import CasePicture, caption, write_scores
from .summaries import AUTOMATIC, ITERATIVE, STRATA_ML, Row, stratum, summarise

logger = logging.getLogger(__name__)

Points = tuple[np.ndarray, np.ndarray]
NO_CLICKS: Points = (np.zeros((0, 3)), np.zeros(0, dtype=np.int64))
MARGIN_MM = 30.0
"""Shown round the lesion, the prediction and the clicks in a case's picture."""
_SAME_NAME = (
    "two cases are named {!r}, so their scores could not be told apart: give every entry of the data list a 'case' of "
    "its own"
)


@dataclass(frozen=True, eq=False)
class _Prediction:
    """Lesion logits (1, 1, D, H, W), the mask (D, H, W), what the row of scores says of them, and the clicks.

    ``lesions`` holds the scores of each lesion where there are several.
    """

    logits: torch.Tensor | None
    mask: np.ndarray
    scores: Mapping[str, float]
    lesions: Sequence[Mapping[str, float]] = ()
    placed: Points = NO_CLICKS


@dataclass(frozen=True, eq=False)
class _Case:
    name: str
    image: torch.Tensor
    truth: np.ndarray
    spacing: tuple[float, float, float]
    lesion_ml: float
    lesions: Lesions


@dataclass(frozen=True, eq=False)
class ShownCase:
    """One prediction of a case as `draw_case` wants it, cut to what matters."""

    case: str
    policy: str
    clicks: int
    dice: float
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    placed: Points
    spacing: tuple[float, float, float]

    def drawn(self) -> CasePicture:
        """As a picture."""
        points, labels = self.placed
        title = caption(self.case, self.policy, self.clicks, self.dice)
        figure = draw_case(self.image, self.truth, self.prediction, points, self.spacing, labels=labels, title=title)
        return CasePicture(self.case, self.policy, self.clicks, self.dice, png(figure))


@dataclass(eq=False)
class _Tally:
    """What becomes of a case's predictions: their rows, those of its lesions, and the one that is shown."""

    case: _Case
    wanted: tuple[str, int]
    rows: list[Row] = field(default_factory=list)
    lesions: list[Row] = field(default_factory=list)
    shown: ShownCase | None = None

    def add(self, seed: int, policy: str, clicks: int, found: _Prediction) -> None:
        case = self.case
        about = {"case": case.name, "seed": seed, "policy": policy, "clicks": clicks}
        scores = found.scores
        self.rows.append(
            {
                **about,
                **{name: scores[name] for name in ("dice", "nsd", "seconds")},
                "lesion_ml": case.lesion_ml,
                "hd95": scores["hd95"],
            }
        )
        points, labels = found.placed
        if found.lesions:
            clicked = np.bincount(case.lesions.under(points[labels == 1]), minlength=len(case.lesions) + 1)
            self.lesions += [
                {
                    **about,
                    "lesion": number,
                    "lesion_ml": case.lesions.ml[number - 1],
                    "clicked": int(clicked[number]),
                    **lesion,
                }
                for number, lesion in enumerate(found.lesions, start=1)
            ]
        if seed == 0 and (policy, clicks) == self.wanted:
            self.shown = _cut_out(case, policy, clicks, found)


class ScoringIteration:
    """Score one case without clicks, with clicks placed at once, and with clicks that correct round by round.

    Each call takes a batch of one case and predicts it

    - without clicks, once, if 0 is in ``num_clicks``; written for every seed as policy ``automatic``;
    - for every seed and every other number in ``num_clicks`` with so many clicks of the simulated user ``policy``, or
      of each of them;
    - for every seed ``rounds`` times with one more click of the simulated user ``iterative``: the first on the lesion,
      each next one in the largest error of the last prediction, on or off the lesion. All clicks so far and the last
      prediction's lesion logits go to the inferer. Policy ``iterative``.

    Chance for a case, seed, policy and number of clicks is drawn from a generator of its own, so the scores do not
    depend on the order of the cases.

    Where a simulated user places no click although one was asked for:

    - ``iterative``, nothing is left to correct: the prediction stands and is scored again, taking 0 seconds;
    - the label is empty: the prediction without clicks counts if 0 is in ``num_clicks``, else an empty mask. (The
      iterative user then still clicks on what that prediction holds.)

    All predictions are scored on the image's grid: Dice and NSD, HD95, and where the label holds several lesions Dice
    and NSD of each (`adapters.metrics`, which states the values for empty masks).

    Args:
        num_clicks: numbers of clicks placed at once, or one such number.
        policy: the simulated user who places them, see `adapters.prompts.users`, or several. ``iterative`` places them
            one by one: there are at least as many rounds as the largest of ``num_clicks``. By himself he leaves nothing
            to be placed at once: rounds, and 0 if it is there.
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
        if any(int(n) != n or n < 0 for n in numbers):
            raise ValueError(f"num_clicks is {numbers}, expected whole numbers of at least 0")
        if int(rounds) != rounds or rounds < 0:
            raise ValueError(f"rounds is {rounds}, expected a whole number of at least 0")
        if int(seeds) != seeds or seeds < 1:
            raise ValueError(f"seeds is {seeds}, expected a whole number of at least 1")
        if not 0 < threshold < 1:
            raise ValueError(f"threshold is {threshold}, expected a probability between 0 and 1")
        if not 0 <= jitter <= 1:
            raise ValueError(f"jitter is {jitter}, expected 0 (innermost voxel) to 1 (anywhere in the region)")
        if not smallest_lesion_ml >= 0:
            raise ValueError(f"smallest_lesion_ml is {smallest_lesion_ml}, expected millilitres, at least 0")
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
            batch: ``image`` (1, 1, D, H, W) normalised, with its affine if it is a MetaTensor (else voxels of 1 mm),
                and ``label`` (1, 1, D, H, W), anything but 0 is lesion. The case's name is ``batch["case"]``, or
                the name of the file that the image came from.

        Returns:
            ``rows``: a list of dictionaries with case, seed, policy, clicks, dice, nsd, seconds (of the prediction),
            lesion_ml (of the label) and hd95 (mm); ``tolerance``: mm; ``lesions``: where there are several, a
            dictionary for each of them and each prediction with case, seed, policy, clicks, lesion (1 is the largest),
            lesion_ml, clicked (how many clicks lie on it), dice and nsd; ``about``: case, lesions (how many),
            peak_mib (`adapters.process_memory.peak_mib`) and device (its type); ``shown``: a `ShownCase`, the first
            seed's prediction from the fewest clicks placed at once, else from the last round, else without clicks.

        Raises:
            ValueError: a batch of more than one case, image and label of different shapes, a case without a name, or
                logits that are not (1, 2, D, H, W).
        """
        device = torch.device(engine.state.device)
        case = _read(batch, device, self.smallest_lesion_ml)
        tally = _Tally(case, self.shown)
        start = time.perf_counter()
        start_peak(device)
        with torch.no_grad(), engine.mode(engine.network):
            automatic = None
            if 0 in self.num_clicks:
                automatic = self._predict(engine, case)
                for seed in range(self.seeds):
                    tally.add(seed, AUTOMATIC, 0, automatic)
            for seed in range(self.seeds):
                self._at_once(engine, tally, seed, automatic)
                self._round_by_round(engine, tally, seed, automatic)
        logger.info("%s: %d scores in %.0f s", case.name, len(tally.rows), time.perf_counter() - start)
        return {
            "rows": tally.rows,
            "tolerance": self.tolerance,
            "lesions": tally.lesions,
            "about": {
                "case": case.name,
                "lesions": len(case.lesions),
                "peak_mib": peak_mib(device),
                "device": device.type,
            },
            "shown": tally.shown,
        }

    def _at_once(self, engine: Any, tally: _Tally, seed: int, automatic: _Prediction | None) -> None:
        case = tally.case
        for user, n in itertools.product(self.policies, filter(None, self.num_clicks)):
            placed = user(case.truth, _generator(case.name, seed, user.name, n), n)
            found = self._predict(engine, case, placed) if len(placed[0]) else automatic or self._empty(case)
            tally.add(seed, user.name, n, found)

    def _round_by_round(self, engine: Any, tally: _Tally, seed: int, automatic: _Prediction | None) -> None:
        case = tally.case
        rng = _generator(case.name, seed, ITERATIVE, 0)
        user = ClickPolicy(ITERATIVE, {"jitter": self.jitter, "spacing": case.spacing})
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
                last = replace(last, scores={**last.scores, "seconds": 0.0})
            tally.add(seed, ITERATIVE, n, last)

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
        return _Prediction(
            plain[:, 1:] - plain[:, :1], found, self._scores(case, found, seconds), self._by_lesion(case, found), placed
        )

    def _empty(self, case: _Case) -> _Prediction:
        nothing = np.zeros_like(case.truth)
        return _Prediction(None, nothing, self._scores(case, nothing, 0.0), self._by_lesion(case, nothing))

    def _scores(self, case: _Case, mask: np.ndarray, seconds: float) -> dict[str, float]:
        return {
            **volume_scores(mask, case.truth, case.spacing, tolerance=self.tolerance),
            "seconds": seconds,
            "hd95": hd95(mask, case.truth, case.spacing),
        }

    def _by_lesion(self, case: _Case, mask: np.ndarray) -> Sequence[Mapping[str, float]]:
        return case.lesions.scores(mask, tolerance=self.tolerance) if len(case.lesions) > 1 else ()


class ScoreWriter:
    """Handler that collects the rows of `ScoringIteration` and writes them when the evaluator has seen all cases.

    Written into ``output_dir`` (made if it is not there), each file whole or not at all:

    - ``scores.csv``: a row for each case, seed, policy and number of clicks;
    - ``cases.csv``: a row for each case and seed: volume, stratum, lesions, and what its iterative clicks were worth;
    - ``lesions.csv``: a row for each lesion and prediction of the cases that have several;
    - ``summary.json``: for each policy and number of clicks the mean over cases and seeds, the spread (standard
      deviation of the seeds' means, n - 1 in the denominator, 0 for one seed), and each case's mean; the area under
      the iterative clicks' curve, and how many they needed for Dice 0.8 (one more than there were where never
      reached); the same by volume of the lesion; means over lesions; peak memory;
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
        name = output["rows"][0]["case"]
        if name in self._cases:
            raise ValueError(_SAME_NAME.format(name))
        picture = output["shown"].drawn() if self.pictures else None
        self._cases[name] = {**output, "shown": None, "picture": picture}  # a picture is smaller than what it shows
        values = summarise(output["rows"])
        logger.info(
            "%s (%d of %s): Dice %s",
            name,
            engine.state.iteration,
            engine.state.epoch_length,
            ", ".join(f"{100 * v['dice']['mean']:.1f} ({v['policy']} {v['clicks']})" for v in values),
        )

    def _write(self, _: Engine) -> None:
        cases = _from_all_processes(self._cases)
        if cases is None:
            return
        write_scores(
            self.output_dir,
            [row for case in cases for row in case["rows"]],
            method=self.method,
            tolerance=cases[0]["tolerance"] if cases else 0.0,
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


def _generator(case: str, seed: int, policy: str, clicks: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(case.encode()), seed, zlib.crc32(policy.encode()), clicks])


def _wait(tensor: torch.Tensor) -> None:
    """Until the device has done what was asked of it, so that times mean something."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _cut_out(case: _Case, policy: str, clicks: int, found: _Prediction) -> ShownCase:
    """Round the lesion, the prediction and the clicks; the whole image where there is none of them."""
    points, labels = found.placed
    shape = np.array(case.truth.shape)
    marked = np.argwhere(case.truth | found.mask)
    places = np.concatenate([marked, points]) if len(marked) + len(points) else np.stack([0 * shape, shape - 1])
    margin = MARGIN_MM / np.array(case.spacing)
    start = np.floor(np.maximum(places.min(axis=0) - margin, 0)).astype(int)
    end = np.ceil(np.minimum(places.max(axis=0) + margin + 1, shape)).astype(int)
    box = tuple(slice(int(a), int(b)) for a, b in zip(start, end, strict=True))
    image = case.image.as_tensor() if isinstance(case.image, MetaTensor) else case.image
    return ShownCase(
        case=case.name,
        policy=policy,
        clicks=clicks,
        dice=found.scores["dice"],
        image=image[0, 0][box].float().cpu().numpy(),
        truth=case.truth[box].copy(),
        prediction=found.mask[box].copy(),
        placed=(points - start, labels),
        spacing=case.spacing,
    )


def _read(batch: Mapping[str, Any], device: torch.device, smallest_lesion_ml: float) -> _Case:
    image, label = batch[CommonKeys.IMAGE], batch[CommonKeys.LABEL]
    if image.ndim != 5 or image.shape[:2] != (1, 1):
        raise ValueError(f"image has shape {tuple(image.shape)}, expected one case (1, 1, D, H, W): use batch_size 1")
    if label.shape != image.shape:
        raise ValueError(f"label has shape {tuple(label.shape)} but image {tuple(image.shape)}, expected the same grid")
    affine = np.eye(4)
    if isinstance(image, MetaTensor):
        affine = np.asarray(image.affine.cpu(), dtype=float).reshape(-1, 4, 4)[0]
    i, j, k = (float(mm) for mm in np.linalg.norm(affine[:3, :3], axis=0))
    truth = torch.as_tensor(label)[0, 0].cpu().numpy() != 0
    return _Case(
        name=_name(batch),
        image=image.to(device),
        truth=truth,
        spacing=(i, j, k),
        lesion_ml=float(truth.sum() * i * j * k / 1000),
        lesions=Lesions(truth, (i, j, k), smallest_ml=smallest_lesion_ml),
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
