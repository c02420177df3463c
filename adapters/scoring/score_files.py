"""The files of an evaluation: what is written into its folder, and its summary read again."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapters.files import as_csv, read_json, write_whole

from .figures import CasePicture, box_figure, curve_figure, png
from .page import as_markdown
from .published_figures import check_task
from .summaries import STRATA_ML, Row, by_lesion, case_rows, interaction, strata, summarise
from .tables import about_run, score_sections

_SCHEMA = Path(__file__).with_name("summary_schema.json")
RANKS = ("best", "median", "worst")


def write_scores(
    folder: str | Path,
    rows: Sequence[Row],
    *,
    method: str,
    tolerance: float,
    lesions: Sequence[Row] = (),
    about: Sequence[Mapping[str, Any]] = (),
    pictures: Sequence[CasePicture] = (),
    task: str | None = None,
    strata_ml: Sequence[float] = STRATA_ML,
) -> None:
    """Write the scores as `ScoreWriter` lists them into an existing folder, each file whole or not at all.

    ``rows``, ``lesions``, ``about`` and ``tolerance`` (mm) are what `ScoringIteration` gives for all cases; ``method``,
    ``task`` and ``strata_ml`` are `ScoreWriter`'s. Of the pictures, those with the best, the median and the worst Dice
    are written.

    Raises:
        ValueError: there are no rows, an unknown task, strata that are not ascending.
    """
    if not rows:
        raise ValueError("there are no scores to write: the evaluator has seen no case")
    folder = Path(folder)
    chosen = _ranked(pictures)
    peaks = [entry["peak_mib"] for entry in about if entry.get("peak_mib") is not None]
    listed = [
        {"rank": rank, "file": f"{rank}.png"} | {key: value for key, value in asdict(picture).items() if key != "png"}
        for rank, picture in chosen.items()
    ]
    summary = {
        "method": method,
        "tolerance_mm": tolerance,
        "cases": sorted({row["case"] for row in rows}),
        "seeds": len({row["seed"] for row in rows}),
        "scores": summarise(rows),
        "task": check_task(task),
        "device": next((entry.get("device") for entry in about), None),
        "peak_memory_mib": max(peaks, default=None),
        "interaction": interaction(rows),
        "strata": strata(rows, strata_ml),
        "lesions": by_lesion(lesions),
        "pictures": listed,
    }
    written: dict[str, str | bytes] = {
        "scores.csv": as_csv(rows),
        "cases.csv": as_csv(case_rows(rows, about, strata_ml)),
        **({"lesions.csv": as_csv(lesions)} if lesions else {}),
        "summary.json": json.dumps(summary, indent=2) + "\n",
        "scores.md": as_markdown(method, about_run(summary), score_sections(summary)),
        "curve.png": png(curve_figure({method: summary})),
        "boxes.png": png(box_figure({method: summary})),
        **{f"{rank}.png": picture.png for rank, picture in chosen.items()},
    }
    for name, content in written.items():
        write_whole(folder / name, content)
    for name in {"lesions.csv", *(f"{rank}.png" for rank in RANKS)} - written.keys():
        (folder / name).unlink(missing_ok=True)  # of an earlier run


def _ranked(pictures: Sequence[CasePicture]) -> dict[str, CasePicture]:
    """Best, median (the lower of two) and worst by Dice; no case twice where there are fewer than three."""
    ordered = sorted(pictures, key=lambda picture: (picture.dice, picture.case))
    last = len(ordered) - 1
    # of several ranks for one place, the one that is written last holds
    ranks = {last // 2: "median", 0: "worst", last: "best"} if ordered else {}
    return {rank: ordered[place] for place, rank in sorted(ranks.items(), key=lambda item: RANKS.index(item[1]))}


def load_summary(folder: Path) -> dict[str, Any]:
    """What summary.json of a folder with scores holds.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not what `write_scores` writes.
    """
    from jsonschema import Draft7Validator
    from jsonschema.exceptions import best_match

    path = folder / "summary.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: run the bundle's evaluation into {folder} first")
    summary = read_json(path, "summary of scores")
    fault = best_match(Draft7Validator(read_json(_SCHEMA)).iter_errors(summary))
    if fault is not None:
        place = "#".join(map(str, fault.absolute_path)) or "the whole"
        raise ValueError(
            f"{path} holds no scores: {place} is {reprlib.repr(fault.instance)}, expected {fault.validator} "
            f"{reprlib.repr(fault.validator_value)}; run the bundle's evaluation again"
        )
    return summary


def check_inside(path: Path, folder: Path) -> Path:
    """The path, if it lies in the folder and is no link to somewhere else.

    Raises:
        ValueError: it is such a link.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{str(path)!r} is a link that leaves {str(folder)!r}: put a copy there in its place")
    return path
