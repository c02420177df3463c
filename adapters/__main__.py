"""``python -m adapters <verb> [options]``: one sentence and exit code 2 on a user's mistake; `--debug` shows it all."""

from __future__ import annotations

import functools
import inspect
import io
import logging
import sys
import typing
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import Any

PROGRAM = "python -m adapters"
USER_ERROR = 2
_FIRE_SAYS = {
    "Could not consume arg:": "unknown option or value",
    "The function received no value for the required argument: ": "needs the option --",
}
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def _overview() -> str:
    from adapters.cli import VERBS

    width = max(map(len, VERBS))
    summaries = {name: (inspect.getdoc(function) or "").splitlines()[0] for name, function in VERBS.items()}
    lines = [f"  {name:<{width}}  {summary}" for name, summary in summaries.items()]
    return "\n".join([f"usage: {PROGRAM} VERB [--option value ...] [--debug]", "", *lines, "", _hint(None)])


def _hint(name: str | None) -> str:
    return f"{PROGRAM} {name} --help lists its options" if name else f"{PROGRAM} VERB --help lists a verb's options"


def _help(name: str, function: Callable[..., Any]) -> str:
    from fire.helptext import HelpText
    from fire.trace import FireTrace

    program = f"{PROGRAM} {name}"
    return HelpText(function, FireTrace(function, name=program)).replace(f"'{program}'", program)


def _reader(name: str, kind: type, given: Sequence[str]) -> Callable[[str], Any]:
    """A function that reads an option's text as its annotated type, the first of several, or says what was expected."""
    flag = f"--{name.replace('_', '-')}"
    kind = next(iter(typing.get_args(kind)), kind)
    expected = {int: "a whole number", float: "a number", bool: "True or False"}

    def read(text: str) -> Any:
        if kind is bool:
            if text.lower() in {"true", "false"}:
                return text.lower() == "true"
        else:
            # fire turns an option without a value into "True"
            if text == "True" and not any(word == "True" or word.endswith("=True") for word in given):
                raise ValueError(f"{flag} needs a value")
            try:
                return kind(text)
            except ValueError:
                pass
        raise ValueError(f"{flag} is {text!r}, expected {expected.get(kind, kind.__name__)}")

    return read


def _parse(name: str, function: Callable[..., Any], arguments: Sequence[str]) -> Callable[[], Any]:
    """Reads a verb's options through fire, without running the verb yet: nothing starts on a wrong command line."""
    import fire
    from fire.core import FireExit
    from fire.decorators import SetParseFns

    calls: list[Callable[[], Any]] = []

    @functools.wraps(function)
    def record(*positional: Any, **named: Any) -> None:
        calls.append(functools.partial(function, *positional, **named))

    kinds = {key: kind for key, kind in typing.get_type_hints(function).items() if key != "return"}
    SetParseFns(**{key: _reader(key, kind, arguments) for key, kind in kinds.items()})(record)
    try:
        with redirect_stderr(io.StringIO()):
            fire.Fire(record, command=list(arguments), name=f"{PROGRAM} {name}")
    except FireExit as error:
        reason = str(error.trace.elements[-1].ErrorAsStr())
        for theirs, ours in _FIRE_SAYS.items():
            reason = reason.replace(theirs, ours)
        raise ValueError(f"{name}: {reason}; {_hint(name)}") from None
    return calls[0]


def _answer(arguments: Sequence[str]) -> str:
    """What one command line prints."""
    from adapters.cli import VERBS

    words = [argument for argument in arguments if argument not in {"--help", "-h"}]
    if not words:
        return _overview()
    name, *options = words
    if name not in VERBS:
        raise ValueError(f"unknown verb {name!r}, expected one of {', '.join(VERBS)}")
    if len(words) < len(arguments):
        return _help(name, VERBS[name])
    return str(_parse(name, VERBS[name], options)())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0, or 2 with one sentence on a user's mistake, or 130 when interrupted.

    Args:
        arguments: What follows ``python -m adapters``; the process' own when None. ``--debug`` may stand anywhere in it
            and shows the traceback instead of the sentence.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    try:
        print(_answer([argument for argument in given if argument != "--debug"]))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(INTERRUPTED) from None
    except (ValueError, OSError, ImportError) as error:
        if debug:
            raise
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        raise SystemExit(USER_ERROR) from None


if __name__ == "__main__":
    main()
