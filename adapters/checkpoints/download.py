"""SAM's official checkpoint files: where they are, how large, and how to get one whole.

The standard library's urllib fetches them: MONAI's `download_url` and pooch start over after every break, and SAM's
largest file has 2.5 GB.
"""

from __future__ import annotations

import logging
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from adapters import __version__
from adapters.files import file_hash

__all__ = ["SAM_URL", "WEIGHTS", "WeightFile", "download_verb", "download_weights"]

logger = logging.getLogger(__name__)

SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything"

_TIMEOUT_S = 30.0  # without a byte
_BREAKS = 3  # in a row, after which it is left to the user to go on
_WAIT_S = 1.0  # after the first break; longer after the next
_CHUNK = 2**20  # bytes
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')  # the only kind that If-Range may compare
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # a server's answers that may be others a moment later


@dataclass(frozen=True)
class WeightFile:
    """A file of weights that can be fetched.

    Attributes:
        file: its name, under which it is kept too.
        size: bytes.
        sha256: of the whole file, hexadecimal.
        licence: of the weights, as an SPDX identifier.
        url: the folder that it is published in.
    """

    file: str
    size: int
    sha256: str
    licence: str = "Apache-2.0"
    url: str = SAM_URL


# SAM's file names end with the first digits of the MD5, not of the sha256, which Meta does not publish: these sha256
# are those that independent projects record, micro-sam (`micro_sam/util.py`) among them.
WEIGHTS: dict[str, WeightFile] = {
    "sam_vit_b": WeightFile(
        "sam_vit_b_01ec64.pth", 375_042_383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    ),
    "sam_vit_l": WeightFile(
        "sam_vit_l_0b3195.pth", 1_249_524_607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
    ),
    "sam_vit_h": WeightFile(
        "sam_vit_h_4b8939.pth", 2_564_550_879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    ),
}


class _BrokenError(Exception):
    """The transfer stopped before its end; the message says why."""


class _UnreachableError(_BrokenError):
    """There was no answer at all."""


def download_verb(path: str | Path) -> str:
    """The command that fetches a SAM file which is missing.

    Args:
        path: where the file was looked for; its name tells which of SAM's it is, if it has the official name.
    """
    path = Path(path)
    for name, weights in WEIGHTS.items():
        if weights.file == path.name:
            return f"python -m adapters download {name} --output {shlex.quote(str(path.parent))}"
    return f"python -m adapters download {'|'.join(WEIGHTS)}"


def download_weights(name: str, output: str | Path = ".", *, url: str = "", progress: bool = True) -> Path:
    """Fetch one of SAM's checkpoint files, unless it is there already, and check it.

    The bytes go into ``<file>.part``, which takes the file's place once size and sha256 are right. After a break the
    rest is asked for, in the same call or in the next one: HTTP Range, with If-Range where the server gave a strong
    ETag. A server that cannot do that sends it all again.

    Args:
        name: "sam_vit_b", "sam_vit_l" or "sam_vit_h".
        output: the folder that the file goes to; it is made if it is not there.
        url: the http or https address of a folder that has the file, such as a mirror. Empty: the official one.
        progress: whether a terminal shows a progress bar.

    Returns:
        The file's path.

    Raises:
        ValueError: an unknown name, another kind of address, an output that is a file. Content of another size or
            sha256, from the server or in a file that was there before.
        OSError: the server cannot be reached or has no such file, the transfer breaks again and again, another process
            fetches into the same folder, or the disk is too small.
    """
    if name not in WEIGHTS:
        raise ValueError(f"weights {name!r} are unknown, expected one of {', '.join(WEIGHTS)}")
    weights = WEIGHTS[name]
    source = f"{(url or weights.url).rstrip('/')}/{weights.file}"
    if urlsplit(source).scheme not in {"http", "https"} or not urlsplit(source).netloc:
        raise ValueError(f"url is {url!r}, expected the http or https address of a folder that has {weights.file}")
    folder = Path(output).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output is {str(output)!r}, which is a file: expected a folder for {weights.file}")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / weights.file
    if target.exists():
        if fault := _fault(target, weights):
            raise ValueError(f"{target} is there already, but {fault}: remove it to have it fetched")
        logger.info("%s is there already", target)
        return target
    part, tag = (folder / f"{weights.file}.part{ending}" for ending in ("", ".etag"))
    with part.open("ab") as file:
        _lock(file)
        _fetch(source, file, tag, target, weights, progress=progress)
        file.flush()
        if fault := _fault(part, weights):
            part.unlink()
            tag.unlink(missing_ok=True)
            raise ValueError(
                f"what came from {source} {fault}, and was removed: run it again, and if that does not help, this "
                "address has another file"
            )
        part.replace(target)
    tag.unlink(missing_ok=True)
    return target


def _fault(path: Path, weights: WeightFile) -> str:
    """What is wrong with a file, empty if nothing is."""
    if (size := path.stat().st_size) != weights.size:
        return f"has {size} bytes, expected {weights.size}"
    if (digest := file_hash(path, "sha256")) != weights.sha256:
        return f"has the sha256 {digest}, expected {weights.sha256}"
    return ""


def _lock(file: BinaryIO) -> None:
    """Keeps other processes off a file until it is closed, where the system can do that."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(
            f"another process is writing {file.name}: wait until it is done, or choose another folder (--output)"
        ) from error
    except OSError as error:  # a file system without locks
        logger.debug("%s is not locked: %s", file.name, error)


def _fetch(source: str, file: BinaryIO, tag: Path, target: Path, weights: WeightFile, *, progress: bool) -> None:
    """Brings the file to its full size, from where it stands."""
    if file.seek(0, 2) > weights.size:
        _empty(file)
    missing = weights.size - file.tell()
    if (free := shutil.disk_usage(target.parent).free) < missing:
        raise OSError(
            f"{target.parent} has {_mb(free)} free, but {weights.file} needs {_mb(missing)}: make room, or choose "
            "another folder (--output)"
        )
    by_hand = f"fetch that file ({_mb(weights.size)}) where there is a network and put it at {target.absolute()}"
    other_address = f"{by_hand}, or name another address that has it (--url)"
    breaks, furthest, answered = 0, file.tell(), False
    # the delay keeps the bar off the screen until something has come
    with tqdm(
        desc=weights.file,
        total=weights.size,
        initial=furthest,
        unit="B",
        unit_scale=True,
        disable=None if progress else True,
        delay=0.01,
    ) as bar:
        while file.tell() < weights.size:
            try:
                with _open(source, file, tag, weights) as response:
                    for chunk in _chunks(response, weights.size - file.tell()):
                        answered = True
                        _write(file, chunk)
                        bar.update(file.tell() - bar.n)
                if file.tell() < weights.size:
                    raise _BrokenError("the connection was closed")
            except HTTPError as error:
                raise OSError(f"{source} cannot be fetched ({error.code} {error.reason}): {other_address}") from error
            except _BrokenError as error:
                if isinstance(error, _UnreachableError) and not answered:
                    raise OSError(f"{source} cannot be reached ({error}): {other_address}") from error
                breaks = 1 if file.tell() > furthest else breaks + 1
                furthest = max(furthest, file.tell())
                if breaks > _BREAKS:
                    raise OSError(
                        f"the transfer of {source} broke off after {file.tell()} of {weights.size} bytes ({error}): "
                        f"run it again to go on from there, or {by_hand}"
                    ) from error
                logger.info("the transfer broke off after %d of %d bytes: %s", file.tell(), weights.size, error)
                time.sleep(_WAIT_S * breaks)


def _open(source: str, file: BinaryIO, tag: Path, weights: WeightFile) -> HTTPResponse:
    """Asks for the file, or its rest; the file is emptied where the answer is the whole.

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
        response: HTTPResponse = urlopen(Request(source, headers=headers), timeout=_TIMEOUT_S)
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
        sent = response.headers.get("ETag", "")
        if response.status == 206:
            part = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            _check_answer(response, part[2] if part else "*", source, weights)
            if part is None or int(part[1]) != start or ("If-Range" in headers and sent and sent != etag):
                _empty(file)
                raise _BrokenError("the server sent another part than was asked for")
        else:
            _check_answer(response, response.headers.get("Content-Length", "*"), source, weights)
            if start:
                logger.info("%s sends the file from its start", source)
            _empty(file)
            tag.unlink(missing_ok=True)
            if _STRONG_ETAG.fullmatch(sent):
                tag.write_text(sent, encoding="ascii")
    except BaseException:
        response.close()
        raise
    return response


def _check_answer(response: HTTPResponse, size: str, source: str, weights: WeightFile) -> None:
    """Refuses what cannot be the right file, as its type and its size in bytes tell, before any of it is taken."""
    if response.headers.get_content_type() == "text/html":
        raise ValueError(
            f"{source} answered with a web page instead of {weights.file}: if the network wants a login, log in first; "
            "else name another address that has the file (--url)"
        )
    if size.isdigit() and int(size) != weights.size:
        raise ValueError(
            f"{source} has {size} bytes, expected {weights.size}: it is another file; name an address that has "
            f"{weights.file} (--url)"
        )


def _chunks(response: HTTPResponse, most: int) -> Iterator[bytes]:
    """The answer's bytes as they come, no more than are wanted."""
    while most > 0:
        try:
            chunk = response.read1(min(_CHUNK, most))
        except (OSError, HTTPException) as error:
            raise _BrokenError(_reason(error)) from error
        if not chunk:
            return
        most -= len(chunk)
        yield chunk


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
