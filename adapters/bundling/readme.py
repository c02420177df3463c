"""The commands and links in a bundle's README, checked without running them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from adapters.bundling.shell import ASSIGNMENT, INDENTED, blocks, check_command, statements

__all__ = ["card_problems"]

_SHELLS = {"", "bash", "sh", "shell", "console", INDENTED}
_COMMAND = re.compile(r"(\w+=\S*\s+)*(python3?|torchrun|monai-sam-adapters)\s")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def card_problems(text: str, bundle: Path, verbs: Mapping[str, Callable[..., Any]] | None) -> Iterator[str]:
    """What is wrong with the commands and links of a bundle's ``docs/README.md``.

    Args:
        text: the page.
        bundle: the bundle's folder; a path in a command belongs to it if the folder's name is in it.
        verbs: the functions of ``python -m adapters`` by name; None: its commands are not checked.

    Yields:
        For each problem a sentence that says what to do.
    """
    variables: dict[str, str] = {}
    for statement in _commands(text):
        expanded = _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], match[0]), statement)
        try:
            words = _words(expanded)
            while words and ASSIGNMENT.match(words[0]):
                name, _, value = words.pop(0).partition("=")
                variables[name] = value
            check_command(words, verbs, lambda file: _inside(file, bundle))
        except ValueError as error:
            yield f"docs/README.md, {' '.join(statement.split())!r}: {error}; correct it"
    for target in _LINK.findall(text):
        path = (bundle / "docs" / target).resolve()
        if "://" not in target and not (path.exists() and path.is_relative_to(bundle)):
            yield f"docs/README.md links to {target}, which is not in the bundle: add it, or take the link out"


def _commands(text: str) -> Iterator[str]:
    """The commands and assignments in blocks of shells and in indented ones."""
    for block in blocks(text):
        if block.language in _SHELLS:
            for statement in statements(block.text):
                if _COMMAND.match(f"{statement} ") or ASSIGNMENT.match(statement):
                    yield statement


def _words(statement: str) -> list[str]:
    """The words of a statement without its comment; shlex itself takes the ``#`` inside an id for one."""
    for place in re.finditer(r"\s#", statement):
        try:
            return shlex.split(statement[: place.start()])
        except ValueError:  # a quotation is open, so this is no comment
            continue
    return shlex.split(statement)


def _inside(file: str, bundle: Path) -> str:
    """The path of a bundle's file that a command names."""
    parts = PurePosixPath(file).parts
    if unset := _VARIABLE.search(file):
        raise ValueError(f"{unset[0]} is not set above")
    if bundle.name in parts:
        parts = parts[parts.index(bundle.name) + 1 :]
    path = bundle.joinpath(*parts)
    if not path.is_file() or not path.is_relative_to(bundle):
        raise ValueError(f"the bundle has no file {PurePosixPath(*parts)}")
    return str(path)
