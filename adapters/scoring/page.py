"""Headings, paragraphs, tables and pictures, written down as Markdown or as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class Table:
    """A heading for each column, rows of text, and which rows (by number from 0) are set off from the rest."""

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: Sequence[int] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.heading):
                raise ValueError(f"a row has {len(row)} cells, expected {len(self.heading)} as in the heading")


@dataclass(frozen=True, eq=False)
class Picture:
    """A PNG and what it shows."""

    png: bytes
    caption: str


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a page, in this order: heading, paragraphs, tables, pictures, notes, the command that made it."""

    heading: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = field(default_factory=tuple)
    pictures: Sequence[Picture] = field(default_factory=tuple)
    notes: Sequence[str] = ()
    command: str | None = None


def as_markdown(title: str, about: str, sections: Sequence[Section]) -> str:
    """The page as Markdown, without its pictures and commands. A section without a heading belongs to the title."""
    blocks = [f"# {title}", about]
    for section in sections:
        blocks += [f"## {section.heading}"] if section.heading else []
        blocks += [*section.paragraphs, *map(markdown_table, section.tables), *section.notes]
    return "\n\n".join(blocks) + "\n"


def markdown_table(table: Table) -> str:
    """A table as Markdown, without a line break at its end."""
    rows = [
        [f"**{cell}**" if number in table.strong and cell else cell for cell in row]
        for number, row in enumerate(table.rows)
    ]
    lines = [table.heading, ["---"] * len(table.heading), *rows]
    first, ruler, *rest = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([first, ruler.replace(" ", ""), *rest])


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:68rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.7rem}h2{font-size:1.25rem;margin-top:2.2rem}img{max-width:100%;height:auto}
figure{margin:1rem 0}figcaption,.note{color:#4a5158;font-size:.92rem}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.8rem 0}
th,td{padding:.3rem .9rem;border-bottom:1px solid #d5dae0;text-align:left;white-space:nowrap}
td+td{font-variant-numeric:tabular-nums}tr.strong{font-weight:600;background:#f1f6ff}
pre{background:#f3f5f7;padding:.8rem;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.82rem}
.warning{border-left:4px solid #d9a400;background:#fff9e5;padding:.5rem 1rem}
"""


def as_html(title: str, about: str, sections: Sequence[Section], *, warnings: Sequence[str] = ()) -> str:
    """The whole page as HTML in one file: style and pictures are inside; at the top, what a reader must not miss."""
    parts = [f"<h1>{html.escape(title)}</h1>", *(f'<p class="warning">{html.escape(text)}</p>' for text in warnings)]
    parts += [f"<p>{html.escape(about)}</p>"] if about else []
    for section in sections:
        parts += [f"<h2>{html.escape(section.heading)}</h2>"] if section.heading else []
        parts += [f"<p>{html.escape(text)}</p>" for text in section.paragraphs]
        parts += [_html_table(table) for table in section.tables]
        parts += [_html_picture(picture) for picture in section.pictures]
        parts += [f'<p class="note">{html.escape(text)}</p>' for text in section.notes]
        parts += [f"<p>As typed:</p><pre>{html.escape(section.command)}</pre>"] if section.command else []
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def _html_table(table: Table) -> str:
    heading = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.heading)
    rows = []
    for number, row in enumerate(table.rows):
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        rows.append(f'<tr class="strong">{cells}</tr>' if number in table.strong else f"<tr>{cells}</tr>")
    return f'<div class="wide"><table><thead><tr>{heading}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _html_picture(picture: Picture) -> str:
    source = base64.b64encode(picture.png).decode()
    caption = html.escape(picture.caption, quote=True)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{source}"><figcaption>{caption}</figcaption></figure>'
    )
