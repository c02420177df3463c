"""One HTML page of an evaluation, or of several methods side by side."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from adapters.files import read_csv, write_whole

from .comparison import check_alike, comparison
from .figures import box_figure, curve_figure, png
from .page import Picture, Section, Table, as_html
from .published_figures import check_task
from .score_files import check_inside, load_summary
from .tables import (
    INTERACTION,
    Summary,
    about_run,
    caption,
    case_section,
    interaction_notes,
    interaction_row,
    score_sections,
)

logger = logging.getLogger(__name__)


def html_report(folder: str | Path, *, task: str | None = None) -> Path:
    """Write ``report.html``: tables, curves, boxes and pictures in one file that needs nothing else.

    Args:
        folder: where an evaluation has written its scores; or a folder of such folders, whose methods are then put
            side by side first.
        task: whose published figures to put beside (kidney, pancreas, liver, colon); None: as evaluated.

    Returns:
        The page's path, in the folder.

    Raises:
        FileNotFoundError: no folder, or no summary.json in it.
        ValueError: a summary.json that holds no scores, an unknown task.
    """
    folder = Path(folder)
    check_task(task)
    runs = _folders(folder)
    summaries = [load_summary(run) | ({"task": task} if task else {}) for run in runs]
    first = summaries[0]
    if len(runs) == 1:
        title, about, sections = f"Scores: {first['method']}", about_run(first), _single(runs[0], first)
    else:
        title, about = f"Scores of {len(runs)} methods", "Each in points."
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
    write_whole(path, as_html(title, about, sections))
    return path


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not there: give the folder that an evaluation has written its scores into"
        )
    paths = [folder / "summary.json", *sorted(folder.glob("*/summary.json"))]
    folders = [check_inside(path, folder).parent for path in paths if path.is_file()]
    if not folders:
        raise FileNotFoundError(f"no summary.json in {folder} or in a folder in it: run the bundle's evaluation first")
    return folders


def _together(summaries: Mapping[str, Summary]) -> Section:
    try:
        check_alike(summaries)
    except ValueError as error:
        return Section("All methods", [f"They are not put side by side: {error}."])
    tables, notes = [comparison(summaries)], []
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
        sections.append(case_section(_case_rows(check_inside(cases, folder), summary), summary))
    drawn = []
    for entry in summary.get("pictures", []):
        path = folder / Path(entry["file"]).name
        if path.is_file() and not path.is_symlink():
            text = caption(entry["case"], entry["policy"], entry["clicks"], entry["dice"])
            drawn.append(Picture(path.read_bytes(), f"{entry['rank'].capitalize()} case, {text}"))
        else:
            what = "is a link" if path.is_symlink() else "is not there"
            logger.warning("%s %s: the page goes without it", path, what)
    if drawn:
        colours = "Green is the truth, orange the prediction; dots are clicks on the lesion, crosses off it."
        sections.append(Section("Best, median and worst case", [colours], pictures=drawn))
    return sections


def _case_rows(path: Path, summary: Summary) -> list[dict[str, str]]:
    """The rows of cases.csv, each of a case that the summary has scores of."""
    rows = read_csv(path, ("case", "lesion_ml", "lesions"))
    needed = (summary.get("interaction") or {}).get("clicks_needed")
    scored = [entry["dice"]["cases"].keys() for entry in summary["scores"]] + (
        [needed["cases"].keys()] if needed else []
    )
    for row in rows:
        if any(row["case"] not in names for names in scored):
            raise ValueError(f"{str(path)!r} has a case {row['case']!r} that summary.json has no scores of")
        try:
            float(row["lesion_ml"])
        except ValueError:
            raise ValueError(
                f"{str(path)!r} has lesion_ml {row['lesion_ml']!r} of case {row['case']!r}, expected a number"
            ) from None
    return rows
