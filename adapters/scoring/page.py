"""Headings, paragraphs, tables and pictures, written down as Markdown or as one HTML page that needs nothing else.

HTML comes from a jinja2 template, ``page.html.jinja``. Markdown is blocks with empty lines between them: a join.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined


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

    @property
    def source(self) -> str:
        """The picture itself as an address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a page, in this order: heading, paragraphs, tables, pictures, notes, the command that made it."""

    heading: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()
    command: str | None = None


def as_markdown(title: str, about: str, sections: Sequence[Section]) -> str:
    """The page as Markdown, without its pictures and commands. A section without a heading belongs to the title."""
    blocks = [f"# {_text(title)}", _text(about)]
    for section in sections:
        blocks += [f"## {_text(section.heading)}"] if section.heading else []
        paragraphs, notes = ([_text(each) for each in texts] for texts in (section.paragraphs, section.notes))
        blocks += [*paragraphs, *map(markdown_table, section.tables), *notes]
    return "\n\n".join(blocks) + "\n"


def markdown_table(table: Table) -> str:
    """A table as Markdown, without a line break at its end."""
    rows = [table.heading, *table.rows]
    lines = []
    for number, row in enumerate(rows, start=-1):
        cells = [_text(cell).replace("|", "\\|") for cell in row]
        lines.append(" | ".join(f"**{cell}**" if number in table.strong and cell else cell for cell in cells))
    first, *rest = [f"| {line} |" for line in lines]
    return "\n".join([first, "|---" * len(table.heading) + "|", *rest])


def _text(words: str) -> str:
    """One line without HTML, which Markdown would pass on."""
    return " ".join(words.replace("&", "&amp;").replace("<", "&lt;").splitlines())


def as_html(title: str, about: str, sections: Sequence[Section], *, warnings: Sequence[str] = ()) -> str:
    """The whole page as HTML in one file: style and pictures are inside; at the top, what a reader must not miss."""
    environment = Environment(
        loader=PackageLoader("adapters.scoring", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template("page.html.jinja")
    return template.render(title=title, about=about, sections=sections, warnings=warnings)
