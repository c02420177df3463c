"""The scores as tables, for scores.md and for the page of ``python -m adapters report``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .page import Section, Table
from .published_figures import beside_published
from .summaries import shown

Summary = Mapping[str, Any]


def points(score: Mapping[str, float]) -> str:
    """Mean and spread between seeds of a score from 0 to 1, in points."""
    return f"{100 * score['mean']:.1f} ± {100 * score['spread']:.1f}"


def about_run(summary: Summary) -> str:
    """What was scored, in one sentence."""
    return (
        f"{len(summary['cases'])} cases, {summary['seeds']} seeds; mean ± spread between seeds, in points; "
        f"NSD at {summary['tolerance_mm']:g} mm."
    )


def score_sections(summary: Summary) -> list[Section]:
    """All tables of a run.

    Args:
        summary: what summary.json holds; what it lacks is left out.
    """
    found = [_scores(summary), _interaction(summary), beside_published(summary), _strata(summary), _lesions(summary)]
    return [section for section in found if section is not None]


def _scores(summary: Summary) -> Section:
    rows = [
        [
            str(entry["clicks"]),
            entry["policy"],
            points(entry["dice"]),
            points(entry["nsd"]),
            f"{entry['seconds']:.2f}",
            str(entry["rows"]),
            _mm(entry),
        ]
        for entry in summary["scores"]
    ]
    notes = ["Both masks empty: Dice 1, NSD 1, HD95 0 mm. One empty: Dice 0, NSD 0, HD95 the scan's diagonal."]
    if summary.get("peak_memory_mib"):
        what = "of the whole process" if summary.get("device", "cpu") == "cpu" else "of tensors on the GPU"
        notes.append(f"Peak memory {what}: {summary['peak_memory_mib']:.0f} MiB.")
    heading = ["clicks", "placed", "Dice", "NSD", "seconds", "n", "HD95 (mm)"]
    return Section("", tables=[Table(heading, rows)], notes=notes)


def _mm(entry: Mapping[str, Any]) -> str:
    return f"{entry['hd95']['mean']:.1f} ± {entry['hd95']['spread']:.1f}" if "hd95" in entry else "-"


def interaction_row(summary: Summary) -> list[str] | None:
    """Cells for `INTERACTION`; None where there were no iterative clicks."""
    found = summary.get("interaction")
    if not found:
        return None
    needed = found["clicks_needed"]
    later = found["seconds_next_click"]
    return [
        points(found["dice_area"]),
        points(found["nsd_area"]),
        f"{needed['mean']:.1f} ± {needed['spread']:.1f}",
        f"{100 * found['reached']:.0f} %",
        f"{found['seconds_first_click']:.2f}",
        "-" if later is None else f"{later:.2f}",
    ]


INTERACTION = [
    "area under Dice",
    "area under NSD",
    "clicks for the goal",
    "goal reached",
    "seconds, first click",
    "seconds, next click",
]


def interaction_notes(summary: Summary) -> list[str]:
    """How to read `INTERACTION`."""
    found = summary["interaction"]
    return [
        f"Areas are under the curve over 1 to {found['rounds']} clicks, divided by its width: its mean height.",
        f"The goal is a Dice of {found['goal']:g}; where it was never reached, {found['not_reached']} clicks count.",
    ]


def _interaction(summary: Summary) -> Section | None:
    row = interaction_row(summary)
    if row is None:
        return None
    return Section("Clicks one by one", tables=[Table(INTERACTION, [row])], notes=interaction_notes(summary))


def _label(entry: Mapping[str, Any]) -> str:
    return f"{entry['clicks']} {entry['policy']}" if entry["clicks"] else entry["policy"]


def _strata(summary: Summary) -> Section | None:
    found = summary.get("strata")
    if not found:
        return None
    entries = shown(summary["scores"])
    rows = []
    for group in found:
        by_clicks = {(entry["policy"], entry["clicks"]): entry for entry in group["scores"]}
        cells = [by_clicks.get((entry["policy"], entry["clicks"])) for entry in entries]
        rows.append(
            [
                group["name"],
                str(len(group["cases"])),
                *("-" if cell is None else points(cell["dice"]) for cell in cells),
            ]
        )
    heading = ["lesion", "cases", *(_label(entry) for entry in entries)]
    return Section("Dice by volume of the lesion", tables=[Table(heading, rows)])


def _lesions(summary: Summary) -> Section | None:
    found = summary.get("lesions")
    if not found:
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
        for entry in shown(found["scores"])
    ]
    said = (
        f"{found['lesions']} lesions in {found['cases']} cases that have several. Each voxel of a prediction counts "
        "for the lesion that it lies on, or else for the nearest one."
    )
    heading = ["clicks", "placed", "Dice", "NSD", "found", "Dice, clicked lesions", "Dice, other lesions"]
    return Section("Lesion by lesion", [said], [Table(heading, rows)])


def case_section(rows: Sequence[Mapping[str, Any]], summary: Summary) -> Section:
    """A table with a row for each case: its volume, and its mean Dice over the seeds.

    Args:
        rows: of cases.csv, text as read.
        summary: what summary.json holds.
    """
    entries = shown(summary["scores"])
    needed = (summary.get("interaction") or {}).get("clicks_needed")
    body = []
    for row in {row["case"]: row for row in rows}.values():
        case = row["case"]
        cells = [f"{100 * entry['dice']['cases'][case]:.1f}" for entry in entries]
        cells += [f"{needed['cases'][case]:.1f}"] if needed else []
        body.append([case, f"{float(row['lesion_ml']):.1f}", row["lesions"] or "-", *cells])
    heading = ["case", "ml", "lesions", *map(_label, entries), *(["clicks for the goal"] if needed else [])]
    return Section("Dice case by case", tables=[Table(heading, body)])
