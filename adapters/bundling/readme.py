"""The commands in a bundle's README, checked without running them."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

__all__ = ["card_problems"]

_SHELLS = {"", "bash", "sh", "shell", "console"}
_FENCE = re.compile(r"^ *```(\w*)")
_COMMAND = re.compile(r"(\w+=\S*\s+)*(python3?|torchrun|monai-sam-adapters)\s")
_ASSIGNMENT = re.compile(r"\w+=")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
_ALWAYS = {"help", "debug"}  # options of every verb


class _WrongError(Exception):
    """What is wrong with a command."""


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
    for statement in _statements(text):
        expanded = _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], match[0]), statement)
        try:
            words = _words(expanded)
            while words and _ASSIGNMENT.match(words[0]):
                name, _, value = words.pop(0).partition("=")
                variables[name] = value
            _check(words, bundle, verbs)
        except (ValueError, _WrongError) as error:
            yield f"docs/README.md, {' '.join(statement.split())!r}: {error}; correct it"
    for target in _LINK.findall(text):
        path = (bundle / "docs" / target).resolve()
        if "://" not in target and not (path.exists() and path.is_relative_to(bundle)):
            yield f"docs/README.md links to {target}, which is not in the bundle: add it, or take the link out"


def _statements(text: str) -> Iterator[str]:
    """The commands and assignments among indented lines and in blocks of shells; continued lines as one."""
    language: str | None = None
    lines = iter(text.splitlines())
    for line in lines:
        if fence := _FENCE.match(line):
            language = fence[1] if language is None else None
            continue
        if not (line.startswith("    ") if language is None else language in _SHELLS):
            continue
        whole = line.strip().removeprefix("$ ")
        while whole.endswith("\\"):
            whole = whole[:-1] + next(lines, "").strip()
        if _COMMAND.match(f"{whole} ") or _ASSIGNMENT.match(whole):
            yield whole


def _words(statement: str) -> list[str]:
    """The words of a statement without its comment; shlex itself takes the ``#`` inside an id for one."""
    for place in re.finditer(r"\s#", statement):
        try:
            return shlex.split(statement[: place.start()])
        except ValueError:  # a quotation is open, so this is no comment
            continue
    return shlex.split(statement)


def _check(words: Sequence[str], bundle: Path, verbs: Mapping[str, Callable[..., Any]] | None) -> None:
    if words[:1] == ["monai-sam-adapters"]:
        _check_verb(words[1:], verbs)
    elif "-m" in words:
        module, *rest = words[words.index("-m") + 1 :] or [""]
        if module == "adapters":
            _check_verb(rest, verbs)
        elif module == "monai.bundle":
            _check_bundle_command(rest, bundle)


def _check_verb(words: Sequence[str], verbs: Mapping[str, Callable[..., Any]] | None) -> None:
    if not words or verbs is None:
        return
    name, *rest = words
    if name not in verbs:
        raise _WrongError(f"there is no verb {name!r}, only {', '.join(verbs)}")
    known = {*inspect.signature(verbs[name]).parameters, *_ALWAYS}
    for option in _options(rest):
        if option not in known and option.removeprefix("no") not in known:
            raise _WrongError(f"{name} has no option --{option}")


def _check_bundle_command(words: Sequence[str], bundle: Path) -> None:
    import monai.bundle

    name, *rest = words or [""]
    function = getattr(monai.bundle, name, None)
    if not inspect.isfunction(function):
        raise _WrongError(f"monai.bundle has no command {name!r}")
    parameters = inspect.signature(function).parameters
    known = {key for key, parameter in parameters.items() if parameter.kind is not inspect.Parameter.VAR_KEYWORD}
    others = [option for option in _options(rest) if option not in known]
    if name == "run":
        _check_run(rest, others, bundle)
    elif others and len(known) == len(parameters):
        raise _WrongError(f"{name} has no option --{others[0]}")


def _check_run(words: Sequence[str], ids: Sequence[str], bundle: Path) -> None:
    from fire.parser import DefaultParseValue
    from monai.bundle import ConfigParser

    run_id = words[0] if words and not words[0].startswith("--") else "run"
    given = next((value for option, value in _pairs(words) if option == "config_file"), None)
    if given is None:
        raise _WrongError("run needs --config_file")
    files = DefaultParseValue(given)
    parser = ConfigParser()
    try:
        parser.read_config([_inside(file, bundle) for file in ([files] if isinstance(files, str) else files)])
    except KeyError as error:
        raise _WrongError(f"the files of --config_file do not go together ({error})") from None
    if run_id not in parser:
        raise _WrongError(f"{given} has no id {run_id}")
    for name in ids:
        # an option may add to a part that is there, but not make a new one
        if name not in parser and not ("#" in name and name.rpartition("#")[0] in parser):
            raise _WrongError(f"{given} has no id {name}")


def _inside(file: str, bundle: Path) -> str:
    """The path of a bundle's file that a command names."""
    parts = PurePosixPath(file).parts
    if unset := _VARIABLE.search(file):
        raise _WrongError(f"{unset[0]} is not set above")
    if bundle.name in parts:
        parts = parts[parts.index(bundle.name) + 1 :]
    path = bundle.joinpath(*parts)
    if not path.is_file() or not path.is_relative_to(bundle):
        raise _WrongError(f"the bundle has no file {PurePosixPath(*parts)}")
    return str(path)


def _options(words: Sequence[str]) -> list[str]:
    return [option for option, _ in _pairs(words)]


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options with their values, written as ``--name value`` or ``--name=value``."""
    for number, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            following = words[number + 1] if number + 1 < len(words) else ""
            yield name.replace("-", "_"), value if equals else following
