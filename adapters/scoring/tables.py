"""The scores as tables, for scores.md and for the page of ``python -m adapters report``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .page import Section, Table
from .published_figures import DATA, PROTOCOL, SOURCE, TOLERANCE_MM, check_task, published_figures
from .summaries import AUTOMATIC, ITERATIVE, by_policy, column_name, shown

Summary = Mapping[str, Any]
"""What summary.json holds."""
_BESIDE_CLICKS = (0, 1, 3, 10)
"""Numbers of clicks that stand beside the published figures."""


def points(score: Mapping[str, float], decimals: int = 1, scale: float = 100) -> str:
    """Mean and spread between seeds: of a score from 0 to 1 in points, of others with ``scale`` 1."""
    return f"{scale * score['mean']:.{decimals}f} ± {scale * score['spread']:.{decimals}f}"


def about_run(summary: Summary) -> str:
    """What was scored, in one sentence."""
    return (
        f"{len(summary['cases'])} cases, {summary['seeds']} seeds; mean ± spread between seeds, in points; "
        f"NSD at {summary['tolerance_mm']:g} mm."
    )


def score_sections(summary: Summary) -> list[Section]:
    """All tables of a run; what its summary lacks is left out."""
    sections = [_scores(summary), _interaction(summary), beside_published(summary), _strata(summary), _lesions(summary)]
    return [section for section in sections if section is not None]


def _scores(summary: Summary) -> Section:
    rows = [
        [
            str(entry["clicks"]),
            entry["policy"],
            points(entry["dice"]),
            points(entry["nsd"]),
            f"{entry['seconds']:.2f}",
            str(entry["rows"]),
            points(entry["hd95"], scale=1) if "hd95" in entry else "-",
        ]
        for entry in summary["scores"]
    ]
    notes = ["Both masks empty: Dice 1, NSD 1, HD95 0 mm. One empty: Dice 0, NSD 0, HD95 the scan's diagonal."]
    if summary.get("peak_memory_mib"):
        what = "of the whole process" if summary.get("device", "cpu") == "cpu" else "of tensors on the GPU"
        notes.append(f"Peak memory {what}: {summary['peak_memory_mib']:.0f} MiB.")
    heading = ["clicks", "placed", "Dice", "NSD", "seconds", "n", "HD95 (mm)"]
    return Section("", tables=[Table(heading, rows)], notes=notes)


def interaction_row(summary: Summary) -> list[str] | None:
    """Cells for `INTERACTION`; None where there were no iterative clicks."""
    session = summary.get("interaction")
    return [cell(session) for cell in _CELLS.values()] if session else None


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


_CELLS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "area under Dice": lambda session: points(session["dice_area"]),
    "area under NSD": lambda session: points(session["nsd_area"]),
    "clicks for the goal": lambda session: points(session["clicks_needed"], scale=1),
    "goal reached": lambda session: f"{100 * session['reached']:.0f} %",
    "seconds, first click": lambda session: _seconds(session["seconds_first_click"]),
    "seconds, next click": lambda session: _seconds(session["seconds_next_click"]),
}
INTERACTION = list(_CELLS)


def interaction_notes(summary: Summary) -> list[str]:
    """How to read `INTERACTION`."""
    curve = summary["interaction"]
    return [
        f"Areas are under the curve over 1 to {curve['rounds']} clicks, divided by its width: its mean height.",
        f"The goal is a Dice of {curve['goal']:g}; where it was never reached, {curve['not_reached']} clicks count.",
    ]


def _interaction(summary: Summary) -> Section | None:
    row = interaction_row(summary)
    if row is None:
        return None
    return Section("Clicks one by one", tables=[Table(INTERACTION, [row])], notes=interaction_notes(summary))


def beside_published(summary: Summary) -> Section | None:
    """A run's scores in one table with the published ones; None if the summary names no task."""
    task = check_task(summary.get("task"))
    if task is None:
        return None
    ours = [
        [summary["method"] or "this run", _prompts(entry), points(entry["dice"], 2), points(entry["nsd"], 2), "-"]
        for entry in summary["scores"]
        if entry["clicks"] in _BESIDE_CLICKS
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


def _strata(summary: Summary) -> Section | None:
    strata = summary.get("strata")
    if not strata:
        return None
    entries = shown(summary["scores"])
    rows = []
    for group in strata:
        scored = by_policy(group["scores"])
        cells = [points(scored[key]["dice"]) if key in scored else "-" for key in by_policy(entries)]
        rows.append([group["name"], str(len(group["cases"])), *cells])
    heading = ["lesion", "cases", *(column_name(*key) for key in by_policy(entries))]
    return Section("Dice by volume of the lesion", tables=[Table(heading, rows)])


def _lesions(summary: Summary) -> Section | None:
    counted = summary.get("lesions")
    if not counted:
        return None
    rows = [
        [
            str(entry["clicks"]),
            entry["policy"],
            f"{100 * entry['dice']:.1f}",
            f"{100 * entry['nsd']:.1f}",
            f"{100 * entry['found']:.0f} %",
            *("-" if entry[key] is None else f"{100 * entry[key]:.1f}" for key in ("clicked_dice", "other_dice")),
        ]
        for entry in shown(counted["scores"])
    ]
    about = (
        f"{counted['lesions']} lesions in {counted['cases']} cases that have several. Each voxel of a prediction "
        "counts for the lesion that it lies on, or else for the nearest one."
    )
    heading = ["clicks", "placed", "Dice", "NSD", "found", "Dice, clicked lesions", "Dice, other lesions"]
    return Section("Lesion by lesion", [about], [Table(heading, rows)])


def case_section(rows: Sequence[Mapping[str, Any]], summary: Summary) -> Section:
    """A row for each case: its volume and its mean Dice over the seeds; of the rows of cases.csv, text as read."""
    entries = shown(summary["scores"])
    needed = (summary.get("interaction") or {}).get("clicks_needed")
    body = []
    for row in {row["case"]: row for row in rows}.values():
        case = row["case"]
        cells = [f"{100 * entry['dice']['cases'][case]:.1f}" for entry in entries]
        cells += [f"{needed['cases'][case]:.1f}"] if needed else []
        body.append([case, f"{float(row['lesion_ml']):.1f}", row["lesions"] or "-", *cells])
    names = [column_name(*key) for key in by_policy(entries)]
    heading = ["case", "ml", "lesions", *names, *(["clicks for the goal"] if needed else [])]
    return Section("Dice case by case", tables=[Table(heading, body)])


def caption(case: str, policy: str, clicks: int, dice: float) -> str:
    """What the picture of a case shows, in words."""
    placed = "no clicks" if policy == AUTOMATIC else f"{clicks} click{'s' if clicks > 1 else ''} ({policy})"
    return f"{case}: Dice {dice:.2f}, {placed}"
