"""The shell commands that a Markdown page shows: read, and checked without running them."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["ASSIGNMENT", "INDENTED", "Block", "blocks", "check_command", "statements"]

INDENTED = "indented"
"""The language of a block without a fence."""

ASSIGNMENT = re.compile(r"(\w+)=(?!=)")
"""A statement that sets a variable begins so."""

_BLOCK = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```$|((?:^ {4}[^\n]*\n?)+)", re.MULTILINE | re.DOTALL)
_ALWAYS = {"help", "debug"}  # options of every verb


@dataclass(frozen=True)
class Block:
    """A block of code: the language behind its fence (or `INDENTED`), and its text without shared indentation."""

    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """The blocks of code of a page's text, in their order."""
    return [
        Block(INDENTED if indented else language.strip(), textwrap.dedent(indented or fenced))
        for _, language, fenced, indented in _BLOCK.findall(page)
    ]


def statements(text: str) -> Iterator[str]:
    """The statements of a shell block: continued lines and here-documents as one, without comments and prompts."""
    lines = iter(text.splitlines())
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        whole = line
        while whole.endswith("\\"):
            whole = whole[:-1] + next(lines, "")
        if end := re.search(r"<<'(\w+)'", whole):
            body = [next(lines)]
            while body[-1] != end[1]:
                body.append(next(lines))
            whole = "\n".join([whole, *body])
        yield whole.strip().removeprefix("$ ")


def check_command(
    words: Sequence[str], verbs: Mapping[str, Callable[..., Any]] | None, locate: Callable[[str], str]
) -> None:
    """Checks a call of ``python -m adapters`` or ``python -m monai.bundle``; other programs are not looked at.

    Args:
        words: the command as a shell splits it.
        verbs: the functions of ``python -m adapters`` by name; None: its commands are not checked.
        locate: gives the path of a configuration that the command names, or raises ValueError.

    Raises:
        ValueError: a verb, command, option, file or id is not there; the message names it.
    """
    if words[:1] == ["monai-sam-adapters"]:
        _check_verb(words[1:], verbs)
    elif "-m" in words:
        module, *rest = words[words.index("-m") + 1 :] or [""]
        if module == "adapters":
            _check_verb(rest, verbs)
        elif module == "monai.bundle":
            _check_bundle_command(rest, locate)


def _check_verb(words: Sequence[str], verbs: Mapping[str, Callable[..., Any]] | None) -> None:
    if not words or verbs is None:
        return
    name, *rest = words
    if name not in verbs:
        raise ValueError(f"there is no verb {name!r}, only {', '.join(verbs)}")
    known = {*inspect.signature(verbs[name]).parameters, *_ALWAYS}
    for option, _ in _options(rest):
        if option not in known and option.removeprefix("no") not in known:
            raise ValueError(f"{name} has no option --{option}")


def _check_bundle_command(words: Sequence[str], locate: Callable[[str], str]) -> None:
    import monai.bundle

    name, *rest = words or [""]
    function = getattr(monai.bundle, name, None)
    if not inspect.isfunction(function):
        raise ValueError(f"monai.bundle has no command {name!r}")
    parameters = inspect.signature(function).parameters
    known = {key for key, parameter in parameters.items() if parameter.kind is not inspect.Parameter.VAR_KEYWORD}
    options = dict(_options(rest))
    others = [option for option in options if option not in known]
    if name == "run":
        run_id = rest.pop(0) if rest and not rest[0].startswith("--") else "run"
        following = iter(rest)
        for word in following:  # all words are options with their values
            if not word.startswith("--"):
                raise ValueError(f"{word} belongs to no option")
            if "=" not in word and next(following, "--").startswith("--"):
                raise ValueError(f"{word} has no value")
        _check_run(run_id, options.get("config_file"), others, locate)
    elif others and len(known) == len(parameters):
        raise ValueError(f"{name} has no option --{others[0]}")


def _check_run(run_id: str, given: str | None, ids: Sequence[str], locate: Callable[[str], str]) -> None:
    from fire.parser import DefaultParseValue
    from monai.bundle import ConfigParser

    if given is None:
        raise ValueError("run needs --config_file")
    files = DefaultParseValue(given)
    parser = ConfigParser()
    try:
        parser.read_config([locate(file) for file in ([files] if isinstance(files, str) else files)])
    except KeyError as error:
        raise ValueError(f"the files of --config_file do not go together ({error})") from None
    if run_id not in parser:
        raise ValueError(f"{given} has no id {run_id}")
    for name in ids:
        # an option may add to a part that is there, but not make a new one
        if name not in parser and not ("#" in name and name.rpartition("#")[0] in parser):
            raise ValueError(f"{given} has no id {name}")


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options with their values, written as ``--name value`` or ``--name=value``."""
    for number, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            following = words[number + 1] if number + 1 < len(words) else ""
            yield name.replace("-", "_"), value if equals else following
