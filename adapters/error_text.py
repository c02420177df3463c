"""What an error has to say, for messages of one line."""

from __future__ import annotations

__all__ = ["innermost", "one_line", "sentence"]

_LONGEST = 300  # characters
_TRACEBACK = "Traceback (most recent call last):"
_MISTAKES = {kind.__name__: kind for kind in (ValueError, OSError, FileNotFoundError, PermissionError)}


def innermost(error: BaseException) -> BaseException:
    """The error that says what was wrong: MONAI wraps each one in a configuration in RuntimeErrors, which do not.

    What an error of ours was caused by is another library's, and says less, or what nobody should do. Of an error in a
    writer MONAI's SaveImage has nothing but the text, which ends with what Python prints of it.
    """
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    kind, _, said = str(error).rstrip().rpartition("\n")[2].partition(": ")
    if type(error) is RuntimeError and _TRACEBACK in str(error) and kind in _MISTAKES:
        return _MISTAKES[kind](said)
    return error


def one_line(message: object) -> str:
    """A text, or an error with its type, on one line that is cut where it is very long."""
    text = f"{type(message).__name__}: {message}" if isinstance(message, BaseException) else str(message)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def sentence(error: BaseException) -> str:
    """The innermost error on one line; with its type, if that is none that a user's mistake raises."""
    said = innermost(error)
    name = "" if isinstance(said, (ValueError, OSError, ImportError)) else f"{type(said).__name__}: "
    return name + " ".join(str(said).split())
