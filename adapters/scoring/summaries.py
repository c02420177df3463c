"""Scores of single predictions brought together: over cases and seeds, over clicks, by volume, by lesion.

Plain dictionaries in place of pandas: the tables have some thousand rows at most, and three helpers group them.
With pandas the module is hardly shorter, loads a second longer, and its means differ in the last digit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from adapters.metrics import area_under_clicks, clicks_needed

Row = dict[str, Any]
"""One prediction's scores: case, seed, policy, clicks, dice, nsd, seconds, lesion_ml, hd95 (mm)."""

SCORES = {"dice": "Dice", "nsd": "NSD"}
AUTOMATIC, ITERATIVE = "automatic", "iterative"
GOAL = 0.8
"""The Dice whose clicks are counted."""
STRATA_ML: Sequence[float] = (1.0, 10.0, 100.0)
"""Millilitres of lesion at which one stratum of cases ends and the next begins."""
SHOWN_ROUNDS = (1, 3, 5, 10)
"""Rounds of the iterative user that are shown where all of them would be too much."""


def order(policy: str, clicks: int) -> tuple[int, str, int]:
    """Sorts policies and numbers of clicks: automatic, placed at once, iterative, each by number of clicks."""
    return {AUTOMATIC: 0, ITERATIVE: 2}.get(policy, 1), policy, clicks


def column_name(policy: str, clicks: int) -> str:
    """What a policy with a number of clicks is called: ``automatic``, ``3 random``."""
    return f"{clicks} {policy}" if clicks else policy


def shown(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Without some rounds of the iterative user: `SHOWN_ROUNDS` and the last stay."""
    last = max((entry["clicks"] for entry in entries if entry["policy"] == ITERATIVE), default=0)
    return [entry for entry in entries if entry["policy"] != ITERATIVE or entry["clicks"] in {*SHOWN_ROUNDS, last}]


def by_policy(entries: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], Mapping[str, Any]]:
    """Entries of `summarise` by policy and number of clicks."""
    return {(entry["policy"], entry["clicks"]): entry for entry in entries}


def summarise(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Means and spreads of scores, one entry for each policy and number of clicks; all seeds have the same cases.

    Returns:
        Entries in the order automatic, placed at once, iterative, each by number of clicks. Keys are ``policy``,
        ``clicks``, ``rows`` (how many), ``dice``, ``nsd``, ``seconds`` (mean time of a prediction), and ``hd95`` (mm)
        if the rows have it. A score has ``mean`` (over cases and seeds), ``cases`` (each case's mean over the seeds)
        and ``spread``. That is the standard deviation of the seeds' means, n - 1 in the denominator; 0 for one seed.
    """
    return [
        {
            "policy": policy,
            "clicks": clicks,
            "rows": len(group),
            **{score: _over(group, score) for score in SCORES},
            "seconds": _mean(row["seconds"] for row in group),
            **({"hd95": _over(group, "hd95")} if all("hd95" in row for row in group) else {}),
        }
        for (policy, clicks), group in _by_clicks(rows)
    ]


def _by_clicks(rows: Iterable[Row]) -> list[tuple[tuple[str, int], list[Row]]]:
    groups = _grouped(rows, lambda row: (row["policy"], int(row["clicks"])))
    return sorted(groups.items(), key=lambda item: order(*item[0]))


def _grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _over(rows: Sequence[Row], score: str) -> dict[str, Any]:
    """Mean, spread between seeds and each case's mean of a score."""
    by_seed, by_case = (
        {value: _mean(row[score] for row in group) for value, group in sorted(_grouped(rows, itemgetter(key)).items())}
        for key in ("seed", "case")
    )
    spread = float(np.std([*by_seed.values()], ddof=1)) if len(by_seed) > 1 else 0.0
    return {"mean": _mean(row[score] for row in rows), "spread": spread, "cases": by_case}


def _mean(values: Iterable[float]) -> Any:
    """A float, or None where there are no values."""
    listed = list(values)
    return float(np.mean(listed)) if listed else None


def sessions(rows: Iterable[Row], *, goal: float = GOAL) -> list[Row]:
    """What each session of iterative clicks was worth: a row for each case and seed; the goal is a Dice.

    Returns:
        ``case`` and ``seed``. ``dice_area`` and ``nsd_area`` (`adapters.metrics.area_under_clicks`). ``clicks_needed``
        for the goal, one more than there were where it was not reached; ``reached`` (1.0 or 0.0).
        ``seconds_first_click``, and ``seconds_next_click``, the mean of the later ones; None if there were none.
    """
    worth: list[Row] = []
    iterative = [row for row in rows if row["policy"] == ITERATIVE]
    iterative.sort(key=lambda row: (str(row["case"]), row["seed"], row["clicks"]))
    for (case, seed), curve in _grouped(iterative, itemgetter("case", "seed")).items():
        dice = [row["dice"] for row in curve]
        worth.append(
            {
                "case": case,
                "seed": seed,
                "dice_area": area_under_clicks(dice),
                "nsd_area": area_under_clicks([row["nsd"] for row in curve]),
                "clicks_needed": clicks_needed(dice, goal),
                "reached": float(max(dice) >= goal),
                "seconds_first_click": curve[0]["seconds"],
                # a round in which nothing was left to correct predicts nothing and takes no time
                "seconds_next_click": _mean(row["seconds"] for row in curve[1:] if row["seconds"] > 0),
            }
        )
    return worth


def interaction(rows: Sequence[Row], *, goal: float = GOAL) -> dict[str, Any] | None:
    """The sessions of iterative clicks, over cases and seeds; the goal is a Dice.

    Returns:
        None where there are no iterative clicks. Else ``rounds`` and ``goal``. ``dice_area``, ``nsd_area`` and
        ``clicks_needed``, each as a score of `summarise`. ``not_reached``: what ``clicks_needed`` counts where the goal
        was not reached; ``reached``: the share of sessions in which it was. ``seconds_first_click`` and
        ``seconds_next_click``, means.
    """
    worth = sessions(rows, goal=goal)
    if not worth:
        return None
    rounds = max(int(row["clicks"]) for row in rows if row["policy"] == ITERATIVE)
    later = (session["seconds_next_click"] for session in worth)
    return {
        "rounds": rounds,
        "goal": goal,
        **{score: _over(worth, score) for score in ("dice_area", "nsd_area", "clicks_needed")},
        "not_reached": rounds + 1,
        "reached": _mean(session["reached"] for session in worth),
        "seconds_first_click": _mean(session["seconds_first_click"] for session in worth),
        "seconds_next_click": _mean(seconds for seconds in later if seconds is not None),
    }


def stratum(lesion_ml: float, bounds: Sequence[float] = STRATA_ML) -> str:
    """The stratum of a case by its volume of lesion: ``no lesion``, ``below 1 ml``, ``1 to 10 ml``, ``from 100 ml``.

    At each bound (millilitres, ascending) one stratum ends, and the next, which holds it, begins.

    Raises:
        ValueError: bounds that are not positive and ascending.
    """
    if any(not low < high for low, high in itertools.pairwise([0.0, *bounds])):
        raise ValueError(f"strata end at {list(bounds)} ml, expected positive numbers in ascending order")
    if lesion_ml <= 0:
        return "no lesion"
    if not bounds:
        return "any volume"
    place = int(np.searchsorted(bounds, lesion_ml, side="right"))
    if place == 0:
        return f"below {bounds[0]:g} ml"
    if place == len(bounds):
        return f"from {bounds[-1]:g} ml"
    return f"{bounds[place - 1]:g} to {bounds[place]:g} ml"


def strata(rows: Sequence[Row], bounds: Sequence[float] = STRATA_ML) -> list[dict[str, Any]]:
    """The same scores, stratum by stratum of volume (`stratum`); strata without a case are left out.

    Returns:
        From small to large: ``name``, ``cases`` (names), ``scores`` (as `summarise` gives them) and ``interaction`` (as
        `interaction` gives it).
    """
    ordered = sorted(rows, key=itemgetter("lesion_ml"))
    return [
        {
            "name": name,
            "cases": sorted({row["case"] for row in members}),
            "scores": summarise(members),
            "interaction": interaction(members),
        }
        for name, members in _grouped(ordered, lambda row: stratum(row["lesion_ml"], bounds)).items()
    ]


def by_lesion(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Scores of single lesions, over all lesions of all cases that have several.

    Args:
        rows: a row for each lesion and prediction: case, seed, policy, clicks, lesion, lesion_ml, clicked (how many
            clicks lie on it), dice, nsd.

    Returns:
        None without rows. Else ``cases`` and ``lesions`` (how many), and ``scores`` for each policy and number of
        clicks. ``dice`` and ``nsd`` are means over lesions and seeds, ``found`` is the share of lesions with a Dice
        above 0. ``clicked_dice`` and ``other_dice``: of lesions with and without a click on them; None without any.
    """
    if not rows:
        return None
    scores = [
        {
            "policy": policy,
            "clicks": clicks,
            "rows": len(group),
            **{score: _mean(row[score] for row in group) for score in SCORES},
            "found": _mean(row["dice"] > 0 for row in group),
            "clicked_dice": _mean(row["dice"] for row in group if row["clicked"] > 0),
            "other_dice": _mean(row["dice"] for row in group if not row["clicked"]),
        }
        for (policy, clicks), group in _by_clicks(rows)
    ]
    lesions = {(row["case"], row["lesion"]) for row in rows}
    return {"cases": len({case for case, _ in lesions}), "lesions": len(lesions), "scores": scores}


def case_rows(rows: Sequence[Row], about: Iterable[Mapping[str, Any]], bounds: Sequence[float]) -> list[Row]:
    """A row for each case and seed: its volume and stratum, its lesions, its session of clicks, its peak memory.

    ``about`` has for each case ``case``, ``lesions`` (how many) and ``peak_mib``; cases may be missing.

    Returns:
        ``case``, ``seed``, ``lesion_ml``, ``stratum``, ``lesions``, ``peak_mib``, and what `sessions` gives; None where
        something is not known.
    """
    known = {entry["case"]: entry for entry in about}
    clicked = {(session["case"], session["seed"]): session for session in sessions(rows)}
    columns = ("dice_area", "nsd_area", "clicks_needed", "reached", "seconds_first_click", "seconds_next_click")
    return [
        {
            "case": case,
            "seed": seed,
            "lesion_ml": group[0]["lesion_ml"],
            "stratum": stratum(group[0]["lesion_ml"], bounds),
            **{name: known.get(case, {}).get(name) for name in ("lesions", "peak_mib")},
            **{name: clicked.get((case, seed), {}).get(name) for name in columns},
        }
        for (case, seed), group in _grouped(rows, itemgetter("case", "seed")).items()
    ]
