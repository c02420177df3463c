"""A user's mistake as the answer of MONAI Label's server.

Transforms, networks and inferers raise `ValueError` and `FileNotFoundError` with a sentence. Uncaught, they would reach
a client of the server as "Internal Server Error". A bundle's configuration calls `answer_errors` before its first
transform, so the stock app answers with the sentence too.
"""

from __future__ import annotations

import sys
import traceback
from pickle import UnpicklingError
from typing import Any

__all__ = ["answer_errors"]

_STATUS = {ValueError: 400, FileNotFoundError: 404}
_LIBRARY = __name__.partition(".")[0]


def answer_errors() -> None:
    """Have MONAI Label's running server answer this library's errors; outside of a server nothing happens.

    A `ValueError` becomes status 400 and a `FileNotFoundError` 404, with the message as FastAPI's ``detail``. Weights
    that the server cannot unpickle become 400. Other errors of other libraries stay the server's own. Calling it again
    changes nothing.
    """
    server = sys.modules.get("monailabel.app")
    if server is None:
        return
    from starlette.middleware.exceptions import ExceptionMiddleware

    layer = server.app.middleware_stack  # the app's own handlers are read once, before it starts
    while not isinstance(layer, ExceptionMiddleware):
        layer = layer.app
    for kind in _STATUS:
        layer.add_exception_handler(kind, _answer)
    layer.add_exception_handler(UnpicklingError, _answer_for_weights)


async def _answer_for_weights(_: Any, __: Exception) -> Any:
    from starlette.responses import JSONResponse

    said = (
        "the weights cannot be read: the file is truncated, damaged or none of PyTorch; choose another model_filename"
    )
    return JSONResponse({"detail": said}, 400)


async def _answer(_: Any, error: Exception) -> Any:
    from starlette.responses import JSONResponse

    *_, (raised_in, _) = traceback.walk_tb(error.__traceback__)
    if raised_in.f_globals["__name__"].partition(".")[0] != _LIBRARY:
        raise error
    status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
    return JSONResponse({"detail": str(error)}, status)
