"""Files of scores: what an evaluation writes, several methods in one table, and one HTML page of all of it."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from adapters.files import write_whole

from .figures import box_figure, curve_figure, png
from .page import Picture, Section, Table, as_html, as_markdown, markdown_table
from .published_figures import check_task
from .tables import (
    INTERACTION,
    about_run,
    case_section,
    interaction_notes,
    interaction_row,
    points,
    score_sections,
)
from .summaries import (
    AUTOMATIC,
    ITERATIVE,
    SCORES,
    STRATA_ML,
    Row,
    by_lesion,
    case_rows,
    interaction,
    order,
    strata,
    summarise,
)

logger = logging.getLogger(__name__)

Summary = Mapping[str, Any]
COMPARED: Sequence[tuple[str, int]] = (
    (AUTOMATIC, 0),
    *(("random", n) for n in (1, 3, 10)),
    *((ITERATIVE, n) for n in (1, 3, 5, 10)),
)
"""Policies and numbers of clicks that `compare` puts side by side, besides others that were placed at once."""
RANKS = ("best", "median", "worst")


@dataclass(frozen=True, eq=False)
class CasePicture:
    """A case as drawn by `adapters.scoring.figures.draw_case` (a PNG), and by what it is ranked."""

    case: str
    policy: str
    clicks: int
    dice: float
    png: bytes


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
    """Write the scores as `ScoreWriter` lists them, each file whole or not at all.

    Args:
        folder: an existing folder.
        rows: the scores of single predictions.
        method: what was scored, for headings.
        tolerance: mm, of the normalised surface Dice.
        lesions: the scores of single lesions, of cases that have several.
        about: for each case ``case``, ``lesions`` (how many), ``peak_mib`` and ``device`` (``cpu`` or ``cuda``).
        pictures: of cases; those with the best, the median and the worst Dice are written.
        task: whose published figures to put beside (kidney, pancreas, liver, colon); None: none.
        strata_ml: millilitres of lesion at which one stratum of cases ends and the next begins.

    Raises:
        ValueError: there are no rows, an unknown task, strata that are not ascending.
    """
    if not rows:
        raise ValueError("there are no scores to write: the evaluator has seen no case")
    folder = Path(folder)
    chosen = _ranked(pictures)
    peaks = [entry["peak_mib"] for entry in about if entry.get("peak_mib") is not None]
    known = [
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
        "pictures": known,
    }
    written: dict[str, str | bytes] = {
        "scores.csv": _csv(rows),
        "cases.csv": _csv(case_rows(rows, about, strata_ml)),
        **({"lesions.csv": _csv(lesions)} if lesions else {}),
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


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    return text.getvalue()


def _ranked(pictures: Sequence[CasePicture]) -> dict[str, CasePicture]:
    """Best, median (the lower of two) and worst by Dice; no case twice where there are fewer than three."""
    ordered = sorted(pictures, key=lambda picture: (picture.dice, picture.case))
    places = {"best": len(ordered) - 1, "worst": 0, "median": (len(ordered) - 1) // 2}
    chosen: dict[str, CasePicture] = {}
    for rank, place in places.items():
        if ordered and ordered[place] not in chosen.values():
            chosen[rank] = ordered[place]
    return {rank: chosen[rank] for rank in RANKS if rank in chosen}


def load_summary(folder: Path) -> dict[str, Any]:
    """What summary.json of a folder with scores holds.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is not what `write_scores` writes.
    """
    path = folder / "summary.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: run the bundle's evaluation into {folder} first")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): run the bundle's evaluation again") from None
    wanted = {"method", "tolerance_mm", "cases", "seeds", "scores"}
    if not isinstance(summary, dict) or not wanted <= summary.keys():
        raise ValueError(f"{path} holds no scores, expected the keys {', '.join(sorted(wanted))}")
    return summary


def compare(runs: str | Mapping[str, str | Path], output: str | Path) -> Path:
    """Put the scores of several methods into one table and one plot, as a model card wants them.

    Writes ``compare.md`` (two rows for each method, Dice and NSD; the columns are `COMPARED` and whatever else was
    placed at once; a dash where a method was not scored), ``compare.png`` (Dice over clicks of all methods) and
    ``compare_boxes.png`` (Dice of the cases).

    Args:
        runs: the folder of each method's scores (`ScoreWriter`) by name, or
            ``"ours=eval/ours,SegResNet=eval/segresnet"``.
        output: the folder to write into; it is made if it is not there.

    Returns:
        The table's path.

    Raises:
        ValueError: a run without name or folder, a name given twice, or runs that differ in their cases or in the NSD's
            tolerance.
        FileNotFoundError: a folder without a summary.
    """
    summaries = {name: load_summary(Path(folder)) for name, folder in _given(runs).items()}
    _check_alike(summaries)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "compare.png", png(curve_figure(summaries)))
    write_whole(output / "compare_boxes.png", png(box_figure(summaries)))
    cases, tolerance = (next(iter(summaries.values()))[key] for key in ("cases", "tolerance_mm"))
    said = (
        f"Mean ± spread between seeds, in points, on {len(cases)} cases, by number of clicks; NSD at {tolerance:g} mm."
    )
    write_whole(output / "compare.md", f"{said}\n\n{markdown_table(_comparison(summaries))}\n")
    return output / "compare.md"


def _given(runs: str | Mapping[str, str | Path]) -> dict[str, Path]:
    if isinstance(runs, Mapping):
        pairs = [(name, str(folder)) for name, folder in runs.items()]
    else:
        pairs = [(name.strip(), folder.strip()) for name, _, folder in (run.partition("=") for run in runs.split(","))]
    if not pairs or any(not name or not folder for name, folder in pairs):
        raise ValueError(f"runs is {runs!r}, expected NAME=FOLDER, several with commas between them")
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"runs name {name!r} twice, expected a name of its own for every folder")
    return {name: Path(folder) for name, folder in pairs}


def _check_alike(summaries: Mapping[str, Summary]) -> None:
    """Only scores of the same cases at the same tolerance can be compared."""
    first, *others = summaries
    for name in others:
        for key in ("cases", "tolerance_mm"):
            if summaries[name][key] != summaries[first][key]:
                raise ValueError(
                    f"{name} has {key} {summaries[name][key]} but {first} {summaries[first][key]}: "
                    "only scores of the same cases at the same tolerance can be compared"
                )


def _comparison(summaries: Mapping[str, Summary]) -> Table:
    found = {
        name: {(entry["policy"], entry["clicks"]): entry for entry in summary["scores"]}
        for name, summary in summaries.items()
    }
    at_once = {column for entries in found.values() for column in entries if column[0] not in {AUTOMATIC, ITERATIVE}}
    columns = sorted({*COMPARED, *at_once}, key=lambda column: order(*column))
    rows = [
        [name, title, *(points(entries[column][score]) if column in entries else "-" for column in columns)]
        for name, entries in found.items()
        for score, title in SCORES.items()
    ]
    names = [str(n) if policy == AUTOMATIC else f"{n} {policy}" for policy, n in columns]
    return Table(["method", "score", *names], rows)


def html_report(folder: str | Path, *, task: str | None = None) -> Path:
    """Write ``report.html``: tables, curves, boxes and pictures in one file that needs nothing else.

    Args:
        folder: where an evaluation has written its scores; or a folder of such folders, whose methods are then put
            side by side first.
        task: whose published figures to put beside (kidney, pancreas, liver, colon); None: as evaluated.

    Returns:
        The page's path, in the folder.

    Raises:
        FileNotFoundError: the folder, or any summary.json in it, is not there.
        ValueError: a summary.json that holds no scores, an unknown task.
    """
    folder = Path(folder)
    check_task(task)
    runs = _found(folder)
    summaries = [load_summary(run) | ({"task": task} if task else {}) for run in runs]
    first = summaries[0]
    if len(runs) == 1:
        title, said, sections = f"Scores: {first['method']}", about_run(first), _single(runs[0], first)
    else:
        title, said = f"Scores of {len(runs)} methods", "Each in points."
        methods = [summary["method"] for summary in summaries]
        names = [
            method if methods.count(method) == 1 else f"{method} ({run.relative_to(folder)})"
            for method, run in zip(methods, runs, strict=True)
        ]
        sections = [_together(dict(zip(names, summaries, strict=True)))]
        for name, run, summary in zip(names, runs, summaries, strict=True):
            sections += [
                replace(part, heading=f"{name}: {part.heading}" if part.heading else name)
                for part in _single(run, summary)
            ]
    path = folder / "report.html"
    write_whole(path, as_html(title, said, sections))
    return path


def _found(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not there: give the folder that an evaluation has written its scores into"
        )
    paths = [folder / "summary.json", *sorted(folder.glob("*/summary.json"))]
    found = [path.parent for path in paths if path.is_file()]
    if not found:
        raise FileNotFoundError(f"no summary.json in {folder} or in a folder in it: run the bundle's evaluation first")
    return found


def _together(summaries: Mapping[str, Summary]) -> Section:
    try:
        _check_alike(summaries)
    except ValueError as error:
        return Section("All methods", [f"They are not put side by side: {error}."])
    tables, notes = [_comparison(summaries)], []
    clicked = {name: row for name, summary in summaries.items() if (row := interaction_row(summary)) is not None}
    if clicked:
        tables.append(Table(["method", *INTERACTION], [[name, *row] for name, row in clicked.items()]))
        notes = interaction_notes(summaries[next(iter(clicked))])
    return Section("All methods", [about_run(next(iter(summaries.values())))], tables, _plots(summaries), notes)


def _plots(summaries: Mapping[str, Summary]) -> list[Picture]:
    return [
        Picture(png(curve_figure(summaries)), "Mean Dice over clicks; the band is the spread between seeds."),
        Picture(png(box_figure(summaries)), "Dice of the cases; each dot is a case, its mean over the seeds."),
    ]


def _single(folder: Path, summary: Summary) -> list[Section]:
    first, *others = score_sections(summary)
    sections = [replace(first, pictures=_plots({summary["method"]: summary})), *others]
    cases = folder / "cases.csv"
    if cases.is_file():
        with cases.open(newline="", encoding="utf-8") as file:
            sections.append(case_section(list(csv.DictReader(file)), summary))
    drawn = []
    for entry in summary.get("pictures", []):
        path = folder / Path(entry["file"]).name
        if path.is_file():
            said = caption(entry["case"], entry["policy"], entry["clicks"], entry["dice"])
            drawn.append(Picture(path.read_bytes(), f"{entry['rank'].capitalize()} case, {said}"))
        else:
            logger.warning("%s is not there: the page goes without it", path)
    if drawn:
        colours = "Green is the truth, orange the prediction; dots are clicks on the lesion, crosses off it."
        sections.append(Section("Best, median and worst case", [colours], pictures=drawn))
    return sections


def caption(case: str, policy: str, clicks: int, dice: float) -> str:
    """What the picture of a case shows, in words."""
    placed = "no clicks" if policy == AUTOMATIC else f"{clicks} click{'s' if clicks > 1 else ''} ({policy})"
    return f"{case}: Dice {dice:.2f}, {placed}"
