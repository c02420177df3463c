"""A user's mistake as the answer of a web server.

MONAI Label runs transforms and inferers while a client waits. Its server, FastAPI, tells the client of an exception
that it knows, and of any other only "Internal Server Error". So where FastAPI is loaded, a mistake is raised as an
exception that it knows too. Everywhere else nothing changes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["answering"]

_STATUS = {ValueError: 400, FileNotFoundError: 404}


@contextmanager
def answering() -> Iterator[None]:
    """Let a `ValueError` or `FileNotFoundError` out as one that FastAPI, if it is loaded, answers with its sentence.

    It stays a `ValueError` (status 400) or `FileNotFoundError` (404) with the same message. Serves as a decorator too.
    """
    try:
        yield
    except tuple(_STATUS) as err:
        fastapi = sys.modules.get("fastapi")
        if fastapi is None or isinstance(err, fastapi.HTTPException):
            raise
        kind = FileNotFoundError if isinstance(err, FileNotFoundError) else ValueError
        raise _answer(kind, fastapi.HTTPException)(str(err)) from err


@cache
def _answer(kind: type[Exception], http_exception: type[Exception]) -> type[Exception]:
    """An exception that is both a user's mistake and an answer."""

    def start(self: Any, message: str) -> None:
        kind.__init__(self, message)
        self.status_code, self.detail, self.headers = _STATUS[kind], message, None

    return type(
        f"Answered{kind.__name__}", (kind, http_exception), {"__init__": start, "__str__": lambda self: self.detail}
    )
