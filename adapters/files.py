"""Files: written whole or not at all, JSON, CSV, digests, where fetched ones are kept, what a scan consists of."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import logging
import os
import re
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

logger = logging.getLogger(__name__)

_CHUNK = 2**20  # bytes
_LARGEST_JSON = 2**28  # bytes
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
_DEEPEST_JSON = 64  # lists and objects in one another
_MOST_NAMES = 10
_HEAD = 2**16  # bytes that are searched for the end of a header
_WHOLE = (".nii", ".nii.gz", ".dcm", ".npy", ".npz", ".png", ".jpg", ".jpeg")  # what is all in one file
_HALVES = (".hdr", ".img", ".hdr.gz", ".img.gz", ".nii", ".nii.gz")  # what a reader may take for one or the other half


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends, and is removed if it fails."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with writing(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says of a full disk in one sentence what could not be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL or not error.strerror:  # another error, or said already
            raise
        raise disk_full(path, error) from None


def disk_full(path: Path, error: Exception) -> OSError:
    """The error to raise where a path could not be written for this one."""
    reason = error.strerror if isinstance(error, OSError) else "the last bytes did not arrive"
    said = OSError(
        f"{str(path)!r} cannot be written ({reason}) and stays as it was: make room, or choose another folder"
    )
    said.errno = error.errno if isinstance(error, OSError) else errno.ENOSPC
    return said


@contextmanager
def alone(path: Path, doing: str, *, wait: bool = False) -> Iterator[None]:
    """Keeps other processes off while the block runs.

    They are told apart by a lock on a file, which is made for it and removed afterwards. The lock ends with its
    process, so that what a crash leaves keeps nobody off. Where the system has no locks, nobody is kept off.

    Args:
        path: the file, in a folder that exists.
        doing: what this process does, for the message to the others, such as "trains in models".
        wait: whether to wait until they are done.

    Raises:
        BlockingIOError: another process is at it, unless `wait`.
    """
    while True:
        with path.open("ab") as file:
            lock(file, f"another process {doing}: wait until it is done, or choose another folder", wait=wait)
            try:
                if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                    continue
            except FileNotFoundError:  # removed by the one before, after this one had opened it
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def lock(file: BinaryIO, otherwise: str, *, wait: bool = False) -> None:
    """Locks a file against other processes until it is closed, where the system can do that.

    Raises:
        BlockingIOError: another process has locked it, unless `wait`; the message is `otherwise`.
    """
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise BlockingIOError(otherwise) from error
    except OSError as error:  # a file system without locks
        logger.debug("%s is not locked: %s", file.name, error)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes; an interruption leaves no half file."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def read_json(
    path: str | os.PathLike,
    what: str = "file",
    *,
    errors: str = "strict",
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """What a JSON file holds: UTF-8, UTF-16 or UTF-32, with or without a byte-order mark.

    Args:
        path: the file.
        what: what messages call it, such as "data list".
        errors: what becomes of bytes that are no text, as for `bytes.decode`.
        pairs: as the ``object_pairs_hook`` of `json.loads`.

    Raises:
        FileNotFoundError: there is no such file; the message says which JSON files lie beside it.
        ValueError: it is no JSON, has more than 256 MB, or more than 64 lists and objects in one another.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        beside = sorted(other.name for other in file.parent.glob("*.json"))
        hint = f"its folder holds {', '.join(beside[:_MOST_NAMES])}" if beside else "check the path"
        raise FileNotFoundError(f"there is no {what} {str(file)!r}; {hint}")
    if (size := file.stat().st_size) > _LARGEST_JSON:
        raise ValueError(f"the {what} {str(file)!r} has {size} bytes, expected JSON of at most {_LARGEST_JSON}")
    content = file.read_bytes()
    try:
        value = json.loads(content.decode(json.detect_encoding(content), errors), object_pairs_hook=pairs)
        deep = _depth(value) > _DEEPEST_JSON
    except RecursionError:
        deep = True
    except ValueError as error:
        raise ValueError(f"the {what} {str(file)!r} is not JSON: {error}") from error
    if deep:
        raise ValueError(f"the {what} {str(file)!r} has more than {_DEEPEST_JSON} lists and objects in one another")
    return value


def _depth(value: Any) -> int:
    """How many lists and objects are in one another at most."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, (dict, list))]:
        depth += 1
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return depth


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as CSV, floats to six digits.

    Text that a spreadsheet would take for a formula gets a ``'`` before it, and so does text that begins with one.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV that `as_csv` wrote, its texts as they were.

    Raises:
        ValueError: it is no CSV in UTF-8, or lacks one of these columns.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="")
            names, rows = reader.fieldnames or (), list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is no CSV ({error})") from error
    if missing := [name for name in columns if name not in names]:
        raise ValueError(f"{str(path)!r} has no column {missing[0]!r}, expected {', '.join(columns)}")
    return [{key: row[key].removeprefix("'") for key in names} for row in rows]


def case_name(path: str | os.PathLike) -> str:
    """What a case is called: the name of its file without the ending, the whole name of a folder.

    Folders of DICOM, and files in them, are often named by numbers with dots, of which none is an ending. Where all
    cases have files of one name (KiTS), a data list names them (`adapters.transforms.datalist.entry_name`).
    """
    path = Path(path)
    if path.is_dir():
        return path.name
    name = re.sub(r"\.gz$", "", path.name, flags=re.IGNORECASE)
    return re.sub(r"(?<=.)\.[a-z]\w*$", "", name, flags=re.IGNORECASE)


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/monai-sam-adapters``, or under ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "monai-sam-adapters"


def file_hash(path: Path, kind: str) -> str:
    """The hexadecimal digest of a file; `kind` is a name that `hashlib` knows."""
    digest = hashlib.new(kind)
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def no_weights(path: Path) -> str:
    """Why a file cannot be weights, as the end of a sentence; empty if its beginning and its end look like some."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of git LFS, not the file itself: fetch that with `git lfs pull`, or download it"
    if re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|\?xml|head|!--)", head, re.IGNORECASE):
        return "is a web page that was saved in place of the file: download it again, after a login if one is needed"
    size = path.stat().st_size
    if not size or (head.startswith(b"PK") and not zipfile.is_zipfile(path)):
        return f"({size} bytes) cannot be read: it is truncated, damaged or no PyTorch file; fetch it again"
    if head.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type for entry in archive.infolist()):
                return "holds compressed parts, which PyTorch does not write; take the file from its authors"
    return ""


def files_of_scan(path: Path) -> tuple[Path, ...] | None:
    """The files that the values and the geometry of a scan are read from.

    All files below a folder. A file that has everything in it (NIfTI, DICOM, NumPy's, PNG, JPEG, MetaImage and NRRD
    with their data). A header with the file of its voxels (MetaImage, NRRD, the two files of NIfTI or Analyze). None
    where it cannot be told: another format, what is missing or cannot be read, a header that names a list or a pattern.
    """
    if path.is_dir():
        return tuple(sorted(file for file in path.rglob("*") if file.is_file()))
    name = path.name.lower()
    try:
        if not path.is_file():  # a pipe, which is read once
            return None
        if name.endswith(_WHOLE):
            return (path,)
        if name.endswith(_HALVES):
            return _halves(path)
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if name.endswith((".mhd", ".mha")):
            return _with_data(path, _meta_image_data(head))
        if name.endswith((".nhdr", ".nrrd")):
            return _with_data(path, _nrrd_data(head))
    except OSError:
        return None
    return (path,) if head[128:132] == b"DICM" else None


def _halves(path: Path) -> tuple[Path, ...] | None:
    """Both halves of a scan, and whatever else a reader may look for under the same name."""
    base = _ending(path)[0]
    endings = {file: _ending(file)[1] for file in path.parent.iterdir() if _ending(file)[0] == base and file.is_file()}
    both = all(any(ending.startswith(half) for ending in endings.values()) for half in (".hdr", ".img"))
    return tuple(sorted(endings)) if both else None


def _ending(path: Path) -> tuple[str | None, str]:
    """The name of a half without its ending, and this in small letters; None for what is no half."""
    ending = next((half for half in _HALVES if path.name.lower().endswith(half)), "")
    return (path.name[: -len(ending)] if ending else None), ending


def _meta_image_data(head: bytes) -> bytes | None:
    """The name of the file of a MetaImage's data, empty if they follow the header; None if the head does not say."""
    if len(head) == _HEAD:
        head = head[: head.rfind(b"\n") + 1]  # a name may be cut off
    match = re.search(rb"^[ \t]*ElementDataFile[ \t]*[=:](.*)$", head, re.MULTILINE)  # the last line of the header
    name = match[1].strip() if match else b""
    return b"" if name in (b"LOCAL", b"Local", b"local") else name or None


def _nrrd_data(head: bytes) -> bytes | None:
    """The name of the file of a NRRD's data, empty if they follow the header; None if the head does not say."""
    header, *data = re.split(rb"\r?\n\r?\n", head, maxsplit=1)
    if not head.startswith(b"NRRD") or (not data and len(head) == _HEAD):
        return None
    names = re.findall(rb"^[ \t]*data ?file[ \t]*:(?!=)(.*)$", header, re.MULTILINE | re.IGNORECASE)
    if not names:
        return b""
    return names[0].strip() or None if len(names) == 1 else None


def _with_data(header: Path, name: bytes | None) -> tuple[Path, ...] | None:
    """A header with the file of its data; None if this is not one file that exists."""
    if name == b"":
        return (header,)
    if name is None or name.startswith(b"LIST") or b"%" in name:
        return None
    data = header.parent / os.fsdecode(name)
    return (header, data) if data.is_file() else None
