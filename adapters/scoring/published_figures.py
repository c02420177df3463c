"""The published figures of the four tumour tasks, as ``published_figures.json`` has them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STORED: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
SOURCE: str = _STORED["source"]
PROTOCOL: str = _STORED["protocol"]
TOLERANCE_MM: float = _STORED["tolerance_mm"]
DATA: dict[str, str] = _STORED["data"]
"""The tasks with published figures, and the release that each was scored on."""


@dataclass(frozen=True)
class PublishedScore:
    """A published result.

    Its group is ``methods`` (the main table), ``automatic`` (SAM-B's encoder tuned in six ways, no clicks),
    ``prompt_levels`` (which feature levels get prompts) or ``reproduction`` (by others).
    """

    group: str
    method: str
    prompts: str  # "none", "1 click a slice", "3 clicks a volume", ...
    dice: float  # points, 0 to 100
    nsd: float  # points, 0 to 100, at 5 mm
    tuned_millions: float | None  # trained parameters, of the encoder alone in "automatic"; None where not told


def published_figures(task: str) -> tuple[PublishedScore, ...]:
    """The published figures of a task: kidney, pancreas, liver or colon. Raises a ValueError for another."""
    check_task(task)
    return tuple(
        PublishedScore(row["group"], row["method"], row["prompts"], row[task][0], row[task][1], row["tuned_millions"])
        for row in _STORED["figures"]
        if task in row
    )


def check_task(task: str | None) -> str | None:
    """The task, or None for none; raises a ValueError for a task without published figures."""
    if task and task not in DATA:
        raise ValueError(f"task is {task!r}, expected one with published figures: {', '.join(DATA)}")
    return task or None
