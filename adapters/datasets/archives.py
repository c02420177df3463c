"""Unpacking an archive whole or not at all, and nothing outside its folder.

MONAI's `safe_extract_member` checks each path. The rest is ours: for MONAI's `extractall` and tarfile's data filter, a
tar that was cut between two members is whole. They overwrite a doubled member, and know neither free room nor progress.
"""

from __future__ import annotations

import errno
import gzip
import logging
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from monai.apps.utils import safe_extract_member
from tqdm import tqdm

from adapters.files import alone

logger = logging.getLogger(__name__)

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_CHUNK = 2**20
_LARGEST_HEADER = 2**20  # bytes
_MOST_MEMBERS = 100_000
_HEADERS = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}
# what the libraries raise on a file that ends too early or has a wrong checksum
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    RuntimeError,  # a password
)


class _Header(tarfile.TarInfo):
    """A header that is not read into memory whatever its size, and of no sparse file.

    tarfile reads the names and the maps that headers may hold whole, and a compressed one of MB can have GB of them.
    """

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS and self.size > _LARGEST_HEADER:
            raise tarfile.TarError(f"a header has {self.size} bytes, expected at most {_LARGEST_HEADER}")
        if self.type == tarfile.GNUTYPE_SPARSE:
            self._refuse_sparse()
        try:
            return super()._proc_member(tar)  # type: ignore[misc]  # where tarfile goes on from a header's first block
        except (ArithmeticError, ValueError) as error:  # numbers that are none
            raise tarfile.TarError(f"a header cannot be read ({error})") from error

    def _refuse_sparse(self, *_: Any) -> NoReturn:
        raise tarfile.TarError("it holds a sparse file, which is not read: pack it without that")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


def _headers(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for number, info in enumerate(tar):
        if number >= _MOST_MEMBERS:
            raise tarfile.TarError(f"it has more than {_MOST_MEMBERS} members")
        yield info


class Member(NamedTuple):
    """A file in an archive: its path, its size in bytes, what the library knows of it, and what opens it."""

    name: str
    size: int
    info: zipfile.ZipInfo | tarfile.TarInfo
    open: Callable[[Any], Any]


def is_archive(path: Path) -> bool:
    """Whether a file's name is that of an archive which `unpack` reads."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def target(archive: Path, folder: Path) -> Path:
    """The folder of its own that `unpack` makes for an archive: ``Task10_Colon`` for ``Task10_Colon.tar``."""
    ending = next((end for end in SUFFIXES if archive.name.lower().endswith(end)), "")
    return folder / archive.name[: len(archive.name) - len(ending)]


def contents(archive: Path) -> list[str]:
    """The paths of the files in an archive, in its order, without what only macOS wants.

    A compressed tar is read to its end for this; a zip or a plain tar is not.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no archive, or is truncated or damaged.
    """
    with _explained(archive), _opened(archive) as members:
        return [member.name for member in members]


def unpack(archive: Path, folder: Path) -> Path:
    """Unpacks a zip or tar archive into a folder of its own, named as the archive.

    It is unpacked beside its place and moved there when it is whole; what an interrupted run left is removed. What only
    macOS wants (``__MACOSX``, ``._*``) is left out.

    Returns:
        The archive's own folder. If it is there already, it is taken as it is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no archive, or is truncated or damaged. A member is doubled, a link or a device, or has a path
            that leaves the folder: names it. Nothing is left unpacked.
        OSError: the disk is too small (said before anything is unpacked) or fills up; nothing is left unpacked. Another
            process unpacks it to the same place.
    """
    place = target(archive, folder)
    if place.exists() and archive.is_file():
        logger.info("%s is unpacked in %s already; remove that folder to unpack it again", archive.name, place)
        return place
    partial = folder / f".{place.name}.partial"
    with _explained(archive):
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / f"{partial.name}.lock", f"unpacks {archive.name} into {folder}"):
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir()
            try:
                _unpack(archive, partial)
                inner = partial / place.name  # an archive with one folder of its own name becomes that folder
                (inner if [*partial.iterdir()] == [inner] and inner.is_dir() else partial).replace(place)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return place


@contextmanager
def _explained(archive: Path) -> Iterator[None]:
    """Says in a sentence what the libraries found wrong with an archive or the disk."""
    if not archive.is_file():
        raise FileNotFoundError(f"there is no archive {str(archive)!r}; check the path")
    try:
        yield
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            reason = f"the disk is too small, nothing of {archive.name} is left unpacked; make room: {error.strerror}"
            raise OSError(error.errno, reason) from error
        # bz2 has no error of its own: it raises an OSError without a number
        if isinstance(error, OSError) and (error.errno is not None or isinstance(error, BlockingIOError)):
            raise
        said = str(error).partition("\n")[0]
        if type(error) is tarfile.TarError:
            raise ValueError(f"the archive {str(archive)!r} is refused, nothing was unpacked: {said}") from error
        raise ValueError(
            f"the archive {str(archive)!r} ({archive.stat().st_size} bytes) is truncated or damaged, nothing was "
            f"unpacked; fetch it again: {said}"
        ) from error


def _unpack(archive: Path, folder: Path) -> None:
    with _opened(archive) as members:
        places = _places(members, folder)
        needed = sum(member.size for member in members)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{archive.name} needs {needed} bytes, {free} are free")
        with tqdm(desc=archive.name, total=needed, unit="B", unit_scale=True) as progress:
            for place, member in places.items():
                place.parent.mkdir(parents=True, exist_ok=True)
                with member.open(member.info) as source, place.open("xb") as file:
                    while chunk := source.read(_CHUNK):
                        file.write(chunk)
                        progress.update(len(chunk))


@contextmanager
def _opened(archive: Path) -> Iterator[list[Member]]:
    """The files of the data: no folders (they are made for their files), and nothing that only macOS wants."""
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as zipped:
            files = [Member(info.filename, info.file_size, info, zipped.open) for info in zipped.infolist()]
            yield [file for file in files if _wanted(file.name) and not file.name.endswith("/")]
        return
    with tarfile.open(archive, tarinfo=_Header) as tar:
        files = [Member(info.name, info.size, info, tar.extractfile) for info in _headers(tar) if not info.isdir()]
        # a tar that was cut between two members reads like a whole one, but for the block of zeros at its end
        if tar.fileobj is not None:
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError("there is no mark where a tar ends")
        yield [file for file in files if _wanted(file.name)]


def _wanted(name: str) -> bool:
    parts = name.split("/")
    return "__MACOSX" not in parts and not parts[-1].startswith("._") and parts[-1] != ".DS_Store"


def _places(members: list[Member], folder: Path) -> dict[Path, Member]:
    """The members by where they go: inside the folder, and no two to one place."""
    places: dict[Path, Member] = {}
    for member in members:
        name, info = member.name, member.info
        if isinstance(info, tarfile.TarInfo) and not (info.isfile() or info.issym() or info.islnk()):
            raise ValueError(f"{name!r} in the archive is neither a file nor a folder; nothing was unpacked")
        try:
            place = Path(safe_extract_member(info, str(folder)))
        except ValueError as error:
            raise ValueError(f"{name!r} in the archive is refused, nothing was unpacked: {error}") from error
        if place in places:
            raise ValueError(f"{name!r} is in the archive twice, nothing was unpacked; expected each file once")
        places[place] = member
    return places
