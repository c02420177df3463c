"""Files from the web: fetched whole or not at all, gone on with after a break, checked.

The standard library's urllib fetches them: MONAI's `download_url` and pooch start over after every break, and what is
fetched here has up to 27 GB.
"""

from __future__ import annotations

import logging
import math
import re
import shutil
import time
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from adapters import __version__
from adapters.files import file_hash, lock

logger = logging.getLogger(__name__)

_TIMEOUT_S = 30.0  # without a byte
_BREAKS = 3  # in a row, after which it is left to the user to go on
_WAIT_S = 1.0  # after the first break; longer after the next
_CHUNK = 2**20  # bytes
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')  # the only kind that If-Range may compare
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # a server's answers that may be others a moment later


@dataclass(frozen=True)
class WebFile:
    """A file that can be fetched."""

    url: str  # http or https
    digest: str  # of the whole file, hexadecimal
    kind: str = "sha256"  # of the digest, a name that hashlib knows
    size: int = 0  # bytes; 0: what the server says

    def fault(self, path: Path) -> str:
        """What is wrong with a copy of it, empty if nothing is."""
        if self.size and (size := path.stat().st_size) != self.size:
            return f"has {size} bytes, expected {self.size}"
        if (digest := file_hash(path, self.kind)) != self.digest:
            return f"has the {self.kind} {digest}, expected {self.digest}"
        return ""


class _BrokenError(Exception):
    """The transfer stopped before its end; the message says why."""


class _UnreachableError(_BrokenError):
    """There was no answer at all."""


def fetch(web: WebFile, target: Path, *, or_else: str, progress: bool = True) -> None:
    """Fetch a file, unless it is there already, and check it.

    The bytes go into ``<target>.part``, which takes the target's place once size and digest are right. After a break
    the rest is asked for, in the same call or in the next one: HTTP Range, with If-Range where the server gave a strong
    ETag. A server that cannot do that sends it all again.

    Args:
        web: the file.
        target: where it goes; the folder exists.
        or_else: what a user may do beside fetching the file by hand, as the end of a sentence.
        progress: whether a terminal shows a progress bar.

    Raises:
        ValueError: content of another size or digest, from the server or in a target that was there before.
        OSError: the server cannot be reached or has no such file, the transfer breaks again and again, another process
            fetches to the same place, or the disk is too small.
    """
    if target.exists():
        if fault := web.fault(target):
            raise ValueError(f"{target} is there already, but {fault}: remove it to have it fetched")
        logger.info("%s is there already", target)
        return
    part, tag = (target.with_name(f"{target.name}.part{ending}") for ending in ("", ".etag"))
    with part.open("ab") as file:
        lock(file, f"another process is writing {file.name}: wait until it is done, or choose another folder")
        try:
            _transfer(web, file, tag, target, or_else=or_else, progress=progress)
            file.flush()
            if fault := web.fault(part):
                _empty(file)
                raise ValueError(
                    f"what came from {web.url} {fault}, and was removed: run it again, and if that does not help, this "
                    "address has another file"
                )
            part.replace(target)
        finally:
            if not file.tell():
                part.unlink()
            if not part.exists():
                tag.unlink(missing_ok=True)


def _transfer(web: WebFile, file: BinaryIO, tag: Path, target: Path, *, or_else: str, progress: bool) -> None:
    """Brings the file to its full size, from where it stands."""
    size = web.size
    if file.seek(0, 2) > (size or math.inf):
        _empty(file)
    _check_room(target, size - file.tell())
    by_hand = (
        f"fetch that file{f' ({_mb(size)})' if size else ''} where there is a network and put it at {target.absolute()}"
    )
    breaks, furthest, answered = 0, file.tell(), False
    # the delay keeps the bar off the screen until something has come
    with tqdm(
        desc=target.name,
        total=size or None,
        initial=furthest,
        unit="B",
        unit_scale=True,
        disable=None if progress else True,
        delay=0.01,
    ) as bar:
        while not size or file.tell() < size:
            try:
                response, told = _open(web, file, tag, target.name)
                answered = True
                with response:
                    size = bar.total = size or told
                    _check_room(target, size - file.tell())
                    _copy(response, file, size or math.inf, bar)
                if not size:  # the server does not say: the digest will
                    return
                if file.tell() < size:
                    raise _BrokenError("the connection was closed")
            except HTTPError as error:
                raise OSError(
                    f"{web.url} cannot be fetched ({error.code} {error.reason}): {by_hand}, or {or_else}"
                ) from error
            except _BrokenError as error:
                if isinstance(error, _UnreachableError) and not answered:
                    raise OSError(f"{web.url} cannot be reached ({error}): {by_hand}, or {or_else}") from error
                breaks = 1 if file.tell() > furthest else breaks + 1
                furthest = max(furthest, file.tell())
                state = f"broke off after {file.tell()} of {size or 'unknown'} bytes"
                if breaks > _BREAKS:
                    raise OSError(
                        f"the transfer of {web.url} {state} ({error}): run it again to go on from there, or {by_hand}"
                    ) from error
                logger.info("the transfer %s: %s", state, error)
                time.sleep(_WAIT_S * breaks)


def _check_room(target: Path, missing: int) -> None:
    if (free := shutil.disk_usage(target.parent).free) < missing:
        raise OSError(
            f"{target.parent} has {_mb(free)} free, but {target.name} needs {_mb(missing)}: make room, or choose "
            "another folder (--output)"
        )


def _open(web: WebFile, file: BinaryIO, tag: Path, name: str) -> tuple[HTTPResponse, int]:
    """Asks for the file, or its rest; the file is emptied where the answer is the whole.

    Returns:
        The answer, and how many bytes the whole file has; 0 if the server does not say.

    Raises:
        _BrokenError: if there is no answer, or one that may be another later.
        HTTPError: if the server refuses.
        ValueError: if the answer is not the right file.
    """
    headers = {"User-Agent": f"monai-sam-adapters/{__version__}", "Accept-Encoding": "identity"}
    etag = ""
    if start := file.tell():
        headers["Range"] = f"bytes={start}-"
        etag = tag.read_text(encoding="ascii", errors="replace").strip() if tag.is_file() else ""
        if _STRONG_ETAG.fullmatch(etag):
            headers["If-Range"] = etag
    try:
        response: HTTPResponse = urlopen(Request(web.url, headers=headers), timeout=_TIMEOUT_S)
    except HTTPError as error:
        error.close()
        if error.code == 416:
            _empty(file)
        if error.code == 416 or error.code in _PASSING:
            raise _BrokenError(f"{error.code} {error.reason}") from error
        raise
    except (OSError, HTTPException) as error:
        raise _UnreachableError(_reason(error)) from error
    try:
        begin, size = _extent(response)
        if response.headers.get_content_type() == "text/html":
            raise ValueError(
                f"{web.url} answered with a web page instead of {name}: if the network wants a login, log in first; "
                "else the address has another file"
            )
        if web.size and size not in {0, web.size}:
            raise ValueError(f"{web.url} has {size} bytes, expected {web.size}: the address has another file")
        sent = response.headers.get("ETag", "")
        if response.status == 206:
            if begin != start or ("If-Range" in headers and sent not in {"", etag}):
                _empty(file)
                raise _BrokenError("the server sent another part than was asked for")
        else:
            if start:
                logger.info("%s sends the file from its start", web.url)
            _empty(file)
            tag.unlink(missing_ok=True)
            if _STRONG_ETAG.fullmatch(sent):
                tag.write_text(sent, encoding="ascii")
    except BaseException:
        response.close()
        raise
    return response, size


def _extent(response: HTTPResponse) -> tuple[int, int]:
    """Where in the file an answer begins, -1 if it does not say, and how long the whole file is, 0 if it does not."""
    if response.status != 206:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else 0
    part = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return (int(part[1]), 0 if part[2] == "*" else int(part[2])) if part else (-1, 0)


def _copy(response: HTTPResponse, file: BinaryIO, size: float, bar: tqdm) -> None:
    """Adds the answer's bytes to the file as they come, up to its size."""
    while file.tell() < size:
        try:
            chunk = response.read1(int(min(_CHUNK, size - file.tell())))
        except (OSError, HTTPException) as error:
            raise _BrokenError(_reason(error)) from error
        if not chunk:
            return
        _write(file, chunk)
        bar.update(file.tell() - bar.n)


def _write(file: BinaryIO, chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise OSError(
            f"{file.name} cannot be written ({_reason(error)}): make room there and run it again, which goes on from "
            "what has come"
        ) from error


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _reason(error: BaseException) -> str:
    """What an error of a connection or a disk says, without codes."""
    if isinstance(error, URLError) and isinstance(error.reason, BaseException):
        error = error.reason
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
