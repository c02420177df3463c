"""Rows and tables of the benchmark: what follows from the runs, and how it is shown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Row", "Section", "derived", "medians", "table"]

_MIB = 2**20
_GB = 1e9


@dataclass(frozen=True)
class Row:
    """A form of what a section measures.

    Attributes:
        title: how the table calls it.
        measurement: a function of a module, called in a process of its own.
        arguments: of the measurement.
    """

    title: str
    measurement: Callable[..., dict[str, Any]]
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Section:
    """A table.

    Attributes:
        title: says what is measured.
        rows: the first is the one that the others are compared with.
        columns: title of each value; those that end in ``_bytes`` are shown in MiB and compared as shares, those that
            end in ``_s`` in seconds and compared as times as fast, those that end in ``_share`` as percent.
        note: what a reader has to know.
        compare: whether the other rows are compared with the first.
        small: whether times are shown in milliseconds and bytes in GB, and the titles changed to that.
        optional: whether a row that fails is left out; else nothing is shown.
        runs: what was measured, by row.
        left_out: the rows that failed, and why.
    """

    title: str
    rows: list[Row]
    columns: dict[str, str]
    note: str = ""
    compare: bool = True
    small: bool = False
    optional: bool = False
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def derived(run: Mapping[str, Any], first: Mapping[str, Any], row: Row) -> dict[str, Any]:
    """A run with what follows from it and from the first row's."""
    run = dict(run)
    if "baseline_bytes" in run:
        run["step_bytes" if "step_s" in run else "forward_bytes"] = run["peak_bytes"] - run["baseline_bytes"]
    for key in ("first_click_s", "step_s"):
        if key in run:
            run["item_s"] = run[key] / row.arguments.get("batch", 1)
    if "step_s" in run:
        run["per_second"] = 1 / run["step_s"]
    for key in ("projected", "gradient"):
        if key in run and key in first:
            reference, ours = (np.array(list(r[key].values()) if key == "gradient" else r[key]) for r in (first, run))
            run["difference"] = float(np.linalg.norm(ours - reference) / np.linalg.norm(reference))
    return run


def medians(section: Section) -> dict[str, dict[str, Any]]:
    """The median of each column's values by row; of words, the first run's."""
    rows: dict[str, dict[str, Any]] = {}
    for title, runs in section.runs.items():
        values = {key: [run[key] for run in runs] for key in section.columns if key in runs[0]}
        rows[title] = {
            key: of_runs[0] if isinstance(of_runs[0], str) else statistics.median(of_runs)
            for key, of_runs in values.items()
        }
    return rows


def _cell(key: str, value: Any, first: Any, *, compare: bool, small: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if key == "difference":
        return f"{value:.0e}"
    if key.endswith("_share"):
        return f"{value:.1%}"
    if key.endswith("_voxels"):
        return f"{value:.0f}"
    if key.endswith("_bytes"):
        text = f"{value / _GB:.2f}" if small else f"{value / _MIB:.0f}"
        return f"{text} ({value / first:.0%})" if compare and first else text
    text = f"{value * 1000:.2f}" if small and key.endswith("_s") else f"{value:.2f}"
    return f"{text} ({first / value:.2f} x)" if compare and first and value and key.endswith("_s") else text


def table(section: Section) -> str:
    """A section in Markdown: title, a line for each row, note."""
    rows = medians(section)
    first = next(iter(rows.values()))
    titles = list(section.columns.values())
    if section.small:
        titles = [title.replace("(s)", "(ms)").replace("(MiB)", "(GB)") for title in titles]
    lines = [
        section.title,
        "",
        f"| {' | '.join(['', *titles])} |",
        f"|{' --- |' * (len(titles) + 1)}",
    ]
    for number, (title, values) in enumerate(rows.items()):
        cells = [
            _cell(key, values.get(key), first.get(key), compare=section.compare and number > 0, small=section.small)
            for key in section.columns
        ]
        lines.append(f"| {' | '.join([title, *cells])} |")
    notes = [section.note, *(f"No row {title!r}: {why}" for title, why in section.left_out.items())]
    remarks = " ".join(filter(None, notes))
    return "\n".join([*lines, *(["", remarks] if remarks else [])])
