"""The published figures of the four tumour tasks, and a run of our own beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .page import Section, Table
from .summaries import AUTOMATIC, ITERATIVE

Group = Literal["methods", "automatic", "prompt_levels", "reproduction"]
SOURCE = "Gong et al., 3DSAM-adapter, arXiv 2306.13465"
PROTOCOL = "mean over the cases of fold 0's test set; clicks drawn from the lesion with replacement, one unseeded draw"
TOLERANCE_MM = 5.0
DATA = {"kidney": "KiTS21", "pancreas": "MSD Task07", "liver": "LiTS17", "colon": "MSD Task10"}
"""The tasks with published figures, and the release that each was scored on."""
_SHOWN_CLICKS = (0, 1, 3, 10)

_Pair = tuple[float, float] | None
_OURS, _SHALLOWER = "3DSAM-adapter", "3DSAM-adapter, prompts at shallower levels too"
_ONE, _THREE, _TEN = (f"{n} a volume" for n in ("1 click", "3 clicks", "10 clicks"))
# group, method, prompts; Dice and NSD in points of kidney, pancreas, liver and colon; millions of tuned parameters
_TABLE: tuple[tuple[Group, str, str, _Pair, _Pair, _Pair, _Pair, float | None], ...] = (
    ("methods", "nnU-Net", "none", (73.07, 77.47), (41.65, 62.54), (60.10, 75.41), (43.91, 52.52), 30.76),
    ("methods", "TransBTS", "none", (40.79, 37.74), (31.90, 41.62), (34.69, 49.47), (17.05, 21.63), 32.33),
    ("methods", "nnFormer", "none", (45.14, 42.28), (36.53, 53.97), (45.54, 60.67), (24.28, 32.19), 149.49),
    ("methods", "Swin UNETR", "none", (65.54, 72.04), (40.57, 60.05), (50.26, 64.32), (35.21, 42.94), 62.19),
    ("methods", "UNETR++", "none", (56.49, 60.04), (37.25, 53.59), (37.13, 51.99), (25.36, 30.68), 55.70),
    ("methods", "3D UX-Net", "none", (57.59, 58.55), (34.83, 52.56), (45.54, 60.67), (28.50, 32.73), 53.01),
    ("methods", "SAM-B", "1 click a slice", (36.30, 29.86), (24.01, 26.74), (6.71, 7.63), (28.83, 33.63), None),
    ("methods", _OURS, _ONE, (73.78, 83.86), (54.09, 76.27), (54.78, 69.55), (48.35, 63.65), 25.46),
    ("methods", "SAM-B", "3 clicks a slice", (39.66, 34.85), (29.80, 33.24), (7.87, 6.76), (35.26, 39.31), None),
    ("methods", _OURS, _THREE, (74.91, 84.35), (54.92, 77.57), (56.30, 70.02), (49.43, 65.02), 25.46),
    ("methods", "SAM-B", "10 clicks a slice", (40.07, 34.96), (30.55, 32.91), (8.56, 5.97), (39.14, 42.70), None),
    ("methods", _OURS, _TEN, (75.95, 84.92), (57.47, 79.62), (56.61, 69.52), (49.99, 65.67), 25.46),
    ("automatic", "full fine-tuning", "none", (52.31, 50.35), (26.49, 33.28), (45.59, 52.53), (24.63, 40.67), 89.67),
    ("automatic", "Adapter", "none", (46.99, 43.76), (20.28, 30.81), (42.17, 57.52), (22.55, 38.10), 7.61),
    ("automatic", "Pro-tuning", "none", (50.73, 50.81), (18.93, 30.45), (47.33, 55.61), (21.24, 25.10), 7.17),
    ("automatic", "ST-Adapter", "none", (47.30, 45.61), (30.27, 43.53), (51.93, 59.93), (28.41, 34.60), 7.15),
    ("automatic", "Med-tuning", "none", (44.73, 40.28), (22.87, 30.02), (52.06, 68.44), (21.08, 37.78), 11.10),
    ("automatic", _OURS, "none", (61.60, 70.40), (30.20, 45.37), (49.26, 59.48), (31.97, 40.67), 15.21),
    # which combination of levels is which row is not legible in the source
    ("prompt_levels", _SHALLOWER, _ONE, (64.61, 71.33), None, None, None, None),
    ("prompt_levels", _SHALLOWER, _ONE, (66.82, 74.87), None, None, None, None),
    ("prompt_levels", _SHALLOWER, _ONE, (69.17, 77.49), None, None, None, None),
    ("prompt_levels", _SHALLOWER, _ONE, (65.39, 72.56), None, None, None, None),
    ("prompt_levels", "3DSAM-adapter, prompts at level 4 alone", _ONE, (73.78, 83.86), None, None, None, None),
    ("reproduction", "3DSAM-adapter, reproduced by others", _ONE, None, (42.43, 65.20), None, None, None),
    ("reproduction", "3DSAM-adapter, reproduced by others", _THREE, None, (46.17, 67.43), None, None, None),
    ("reproduction", "3DSAM-adapter, reproduced by others", _TEN, None, (49.56, 71.82), None, None, None),
)


@dataclass(frozen=True)
class PublishedScore:
    """A published result.

    Attributes:
        group: ``methods`` (the main table), ``automatic`` (SAM-B's encoder tuned in six ways, no clicks),
            ``prompt_levels`` (which feature levels get prompts) or ``reproduction`` (by others).
        method: what was scored.
        prompts: ``none``, ``1 click a slice``, ``3 clicks a volume``, ...
        dice: points, 0 to 100.
        nsd: points, 0 to 100, at 5 mm.
        tuned_millions: trained parameters, of the encoder alone in the group ``automatic``; None where not told.
    """

    group: Group
    method: str
    prompts: str
    dice: float
    nsd: float
    tuned_millions: float | None


def published_figures(task: str) -> tuple[PublishedScore, ...]:
    """The published figures of a task (`SOURCE`).

    Args:
        task: kidney, pancreas, liver or colon.

    Raises:
        ValueError: another task.
    """
    place = list(DATA).index(check_task(task) or task)
    return tuple(
        PublishedScore(group, method, prompts, *pair, tuned)
        for group, method, prompts, *pairs, tuned in _TABLE
        if (pair := pairs[place]) is not None
    )


def check_task(task: str | None) -> str | None:
    """The task, or None for none.

    Raises:
        ValueError: a task without published figures.
    """
    if task and task not in DATA:
        raise ValueError(f"task is {task!r}, expected one with published figures: {', '.join(DATA)}")
    return task or None


def beside_published(summary: Mapping[str, Any]) -> Section | None:
    """A run's scores in one table with the published ones; None if the summary names no task.

    Args:
        summary: what summary.json holds.
    """
    task = check_task(summary.get("task"))
    if task is None:
        return None
    ours = [
        [summary["method"] or "this run", _prompts(entry), _points(entry["dice"]), _points(entry["nsd"]), "-"]
        for entry in summary["scores"]
        if entry["clicks"] in _SHOWN_CLICKS
    ]
    theirs = [
        [
            f"{figure.method} (automatic mode)" if figure.group == "automatic" else figure.method,
            figure.prompts,
            f"{figure.dice:.2f}",
            f"{figure.nsd:.2f}",
            "-" if figure.tuned_millions is None else f"{figure.tuned_millions:g} M",
        ]
        for figure in published_figures(task)
    ]
    notes = [
        f"Published: {SOURCE}; {DATA[task]}, {PROTOCOL}.",
        "In automatic mode SAM-B's encoder was tuned in six ways; the tuned parameters are those of the encoder.",
        "Bold is this run, mean ± spread between seeds. Only a run on the same test cases can be compared.",
    ]
    if summary["tolerance_mm"] != TOLERANCE_MM:
        notes.append(
            f"The NSD of this run is at {summary['tolerance_mm']:g} mm, the published one at {TOLERANCE_MM:g} mm: "
            "they cannot be compared."
        )
    table = Table(["method", "prompts", "Dice", "NSD", "tuned"], [*ours, *theirs], strong=range(len(ours)))
    return Section(f"Beside the published figures: {task}", tables=[table], notes=notes)


def _prompts(entry: Mapping[str, Any]) -> str:
    clicks, policy = entry["clicks"], entry["policy"]
    if policy == AUTOMATIC:
        return "none"
    placed = "one by one" if policy == ITERATIVE else policy
    return f"{clicks} click{'s' if clicks > 1 else ''} a volume ({placed})"


def _points(score: Mapping[str, Any]) -> str:
    return f"{100 * score['mean']:.2f} ± {100 * score['spread']:.2f}"
