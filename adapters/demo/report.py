"""The demo's report: one HTML page with everything in it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from adapters.engines.figures import draw_case

MARGIN_MM = 40.0
"""Shown round the tumour, the mask and the click."""
SOFT_TISSUE, LUNG = (-160.0, 240.0), (-1000.0, 400.0)
"""Windows in HU."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A case with its masks on one grid whose axes go from foot to head, front to back and right to left (SPL).

    Attributes:
        name: The case.
        image: (D, H, W) HU.
        truth: (D, H, W) bool, the mask that came with the scan.
        prediction: (D, H, W) bool, the network's mask.
        click: (3,) voxel of this grid.
        spacing: Millimetres along each axis.
    """

    name: str
    image: NDArray[np.float32]
    truth: NDArray[np.bool_]
    prediction: NDArray[np.bool_]
    click: NDArray[np.float64]
    spacing: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Table:
    """A table of the report: a heading for each column, and rows of text."""

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(eq=False)
class Section:
    """A part of the report, in this order: heading, paragraphs, table, pictures (base64 and caption), command."""

    heading: str
    paragraphs: Sequence[str] = ()
    table: Table | None = None
    pictures: Sequence[tuple[str, str]] = field(default_factory=tuple)
    command: str | None = None


def dice(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """2·|A and B| / (|A| + |B|) of two masks on the same grid, from 0 to 1; 1 where both are empty."""
    both = int(prediction.sum()) + int(truth.sum())
    return 2 * int((prediction & truth).sum()) / both if both else 1.0


def slices(shown: Shown) -> str:
    """Axial, coronal and sagittal slices through the click with both outlines, round the tumour, as a PNG in base64."""
    marked = shown.truth | shown.prediction
    marked[tuple(np.rint(shown.click).astype(int))] = True
    ends = np.argwhere(marked)
    margin = np.ceil(MARGIN_MM / np.array(shown.spacing)).astype(int)
    start = np.maximum(ends.min(axis=0) - margin, 0)
    cut = tuple(slice(a, b) for a, b in zip(start, ends.max(axis=0) + margin + 1, strict=True))
    image = shown.image[cut]
    # a wide window where much of what is shown is lung or air
    window = LUNG if (image < -500).mean() > 0.15 else SOFT_TISSUE
    click = (shown.click - start)[None]
    figure = draw_case(image, shown.truth[cut], shown.prediction[cut], click, shown.spacing, window=window)
    return _png(figure)


def curve(steps: Sequence[float], values: Sequence[float], *, xlabel: str, ylabel: str) -> str:
    """A curve as a PNG in base64."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, values, marker=".", color="#3366cc")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return _png(figure)


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return base64.b64encode(buffer.getvalue()).decode()


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.7rem}h2{font-size:1.25rem;margin-top:2.2rem}img{max-width:100%;height:auto}
figure{margin:1rem 0}figcaption{color:#4a5158;font-size:.92rem}
table{border-collapse:collapse}th,td{padding:.3rem .9rem;border-bottom:1px solid #d5dae0;text-align:left}
td+td{font-variant-numeric:tabular-nums}
pre{background:#f3f5f7;padding:.8rem;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.82rem}
.note{border-left:4px solid #d9a400;background:#fff9e5;padding:.5rem 1rem}
"""


def page(title: str, notes: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole page as HTML that needs nothing from anywhere else.

    Args:
        title: Its heading.
        notes: Paragraphs at the top that a reader must not miss.
        sections: Its parts.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", *(f'<p class="note">{html.escape(note)}</p>' for note in notes)]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.heading)}</h2>")
        parts += [f"<p>{html.escape(text)}</p>" for text in section.paragraphs]
        if section.table is not None:
            parts.append(_table(section.table))
        for picture, caption in section.pictures:
            alternative = html.escape(caption, quote=True)
            parts.append(
                f'<figure><img alt="{alternative}" src="data:image/png;base64,{picture}">'
                f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            )
        if section.command is not None:
            parts.append(f"<p>As typed:</p><pre>{html.escape(section.command)}</pre>")
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def _table(table: Table) -> str:
    heading = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.heading)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><thead><tr>{heading}</tr></thead><tbody>{rows}</tbody></table>"
