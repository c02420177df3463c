"""What a scan's file says of itself: looked at before a voxel is read, and read with a bound on memory."""

from __future__ import annotations

import io
import math
import os
import re
import stat
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.volumeutils import apply_read_scaling

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
LONGEST_HEADER = 2**20  # bytes; ITK writes some kilobytes, with all keys of a DICOM series some dozens of them
GZIP = 31  # zlib's word for gzip, with its checksum
ZLIB_OR_GZIP = 47
_PIECE = 2**22  # bytes that are unpacked and converted at a time
_INPUT = 2**18  # compressed bytes that are read at a time
_BEHIND = 2**26  # bytes behind the voxels that are looked through for the checksum, or tolerated
_RATIO = 1100  # deflate makes at most 1032 bytes of one
_MEMORY = Path("/proc/meminfo")


@dataclass(frozen=True)
class Voxels:
    """Where the voxels of a scan lie, and how they are stored.

    Attributes:
        file: the file that they are in.
        start: its byte at which they begin, or at which the compressed stream begins.
        dtype: of one value, with its byte order.
        shape: sizes of the axes as stored, the fastest first.
        unpack: 0 for what is not compressed, else zlib's ``wbits``.
        skip: unpacked bytes before the voxels, where they are compressed.
        slope: what values are multiplied with; None as 1.
        intercept: what is added then; None as 0.
    """

    file: Path
    start: int
    dtype: np.dtype
    shape: tuple[int, ...]
    unpack: int = 0
    skip: int = 0
    slope: float | None = None
    intercept: float | None = None

    @property
    def nbytes(self) -> int:
        """How many bytes the values take, unpacked."""
        return math.prod(self.shape) * self.dtype.itemsize

    def check(self) -> None:
        """Refuse a file that cannot hold them, and what does not fit into memory.

        Raises:
            ValueError: it is too short, or far longer than that, or memory is too small.
        """
        if self.dtype.kind not in "biuf":
            kind = (
                "complex numbers; save their magnitude" if self.dtype.kind == "c" else "colours; save one number each"
            )
            raise ValueError(f"its values are {kind}")
        size = self.file.stat().st_size
        promised = f"its header promises {' x '.join(map(str, self.shape))} values of {self.dtype.itemsize} bytes"
        held = (size - self.start) * _RATIO if self.unpack else size - self.start
        if self.skip + self.nbytes > max(held, 0):
            raise ValueError(
                f"{promised}, which {size} bytes {'cannot hold' if self.unpack else 'do not hold'}: it is truncated, "
                "or its header is wrong; get the file anew"
            )
        if not self.unpack and held - self.nbytes > max(self.nbytes, _BEHIND):
            raise ValueError(
                f"{promised}, and {held - self.nbytes} further bytes follow: its header names a part of the file; "
                "repair the header"
            )
        needed, free = math.prod(self.shape) * 4 + self.nbytes * (self.slope is not None), free_memory()
        if free is not None and needed > free:
            raise ValueError(
                f"{promised}, which take {needed / 1e9:.1f} GB in memory, of which {free / 1e9:.1f} GB are free; cut "
                "the scan, or give the process more memory"
            )

    def read(self, dtype: Any) -> np.ndarray:
        """Read the values, a piece at a time.

        Returns:
            An array of `shape`, in the order of the file: the first axis is the fastest.

        Raises:
            ValueError: as `check`, and for what is damaged, by its checksum where it is compressed.
        """
        self.check()
        values = np.empty(math.prod(self.shape), dtype=dtype)
        size = self.dtype.itemsize
        piece = memoryview(bytearray(min(_PIECE, max(self.nbytes, 1)) // size * size or size))
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.start)
            stream = _Unpacked(file, self.unpack) if self.unpack else file
            _skip(stream, self.skip)
            at = 0
            while at < values.size:
                part = piece[: min(len(piece), (values.size - at) * size)]
                _fill(stream, part)
                raw = np.frombuffer(part, self.dtype)
                values[at : at + raw.size] = apply_read_scaling(raw, self.slope, self.intercept)
                at += raw.size
            if self.unpack:
                _read_to_the_end(stream, piece)
        return values.reshape(self.shape, order="F")


@dataclass(frozen=True)
class ScanHeader:
    """What the header of a NIfTI, NRRD or MetaImage file says: geometry, and where the voxels are. Nothing else.

    Attributes:
        shape: (I, J, K), voxels along the axes of the file; fewer of an image of fewer axes.
        more: sizes above 1 of further axes: channels or time points. Empty for a scan.
        affine: (4, 4), voxels to world in mm, RAS+.
        voxels: where they are.
        nifti: the geometric fields of a NIfTI header as text (`adapters.transforms.nifti`); empty for other formats.
        notes: sentences on what the header leaves open or says in two ways, and what is taken.
        channels_first: whether the further axes come before the others in the file.
    """

    shape: tuple[int, ...]
    more: tuple[int, ...]
    affine: np.ndarray
    voxels: Voxels
    nifti: str = ""
    notes: tuple[str, ...] = ()
    channels_first: bool = False

    def read(self, dtype: Any) -> np.ndarray:
        """The values (C, I, J, K), C = 1 for a scan, as they lie in the file. Raises as `Voxels.read`."""
        values = self.voxels.read(dtype)
        if self.channels_first:
            return values.reshape((math.prod(self.more), *self.shape), order="F")
        values = values.reshape((*self.shape, *self.more), order="F")
        return np.moveaxis(values, -1, 0) if self.more else values[None]


def scan_header(path: str | os.PathLike) -> ScanHeader | None:
    """Look at a scan's file without reading its voxels: cheap, and safe with any file.

    Args:
        path: a file or a folder.

    Returns:
        None for DICOM, files and folders, which have modules of their own.

    Raises:
        FileNotFoundError: if there is no such file, or one that its header names is missing.
        ValueError: for what is neither file nor folder (a pipe, a device), or of another format. For headers that
            cannot be read, leave the geometry open, promise voxels that the file does not hold, or name files
            elsewhere. The message is the reason alone, without the path.
    """
    from adapters.transforms.meta_image import meta_image_header
    from adapters.transforms.nifti import nifti_header
    from adapters.transforms.nrrd import nrrd_header

    path = Path(path)
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        return None
    check_file(path)
    readers: dict[tuple[str, ...], Callable[[Path], ScanHeader]] = {
        (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz"): nifti_header,
        (".mha", ".mhd"): meta_image_header,
        (".nrrd", ".nhdr"): nrrd_header,
    }
    name = path.name.lower()
    for endings, reader in readers.items():
        if name.endswith(endings):
            header = reader(path)
            header.voxels.check()
            return header
    with path.open("rb") as file:
        head = file.read(132)
    if name.endswith((".dcm", ".ima")) or head[128:] == b"DICM":
        return None
    raise ValueError(
        "expected a file that is called by its format (.nii, .nii.gz, .hdr, .img, .nrrd, .nhdr, .mha, .mhd), "
        "a DICOM file or a folder with one DICOM series; convert it to NIfTI"
    )


def check_file(path: Path) -> None:
    """Refuse what is no regular file: reading it may never end.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for a pipe, a socket, a device or a folder.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFDIR: "folder"}
        kind = kinds.get(stat.S_IFMT(mode), "device")
        raise ValueError(f"{path.name} is a {kind}, not a file; write the scan into a file first")


def beside(header: Path, name: str) -> Path:
    """The file of the voxels that a header names: in its own folder or below, without links upward in the name.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for a pattern or a list of files, and a name that leaves the folder.
    """
    if re.match(r"list(\s|$)", name, re.IGNORECASE) or "%" in name:
        raise ValueError(f"its voxels lie in several files ({name[:80]!r}); save it as one file")
    relative = Path(name.replace("\\", "/"))
    if not name or "\0" in name or relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"its header names the file {name[:80]!r} outside its own folder; put the two side by side")
    data = header.parent / relative
    try:
        check_file(data)
    except FileNotFoundError:
        raise FileNotFoundError(f"its header names the file {name[:80]!r}, which is not beside it") from None
    return data


def first_bytes(path: Path, size: int, unpack: int = 0) -> bytes:
    """Up to `size` bytes from the beginning of a file, unpacked."""
    with path.open("rb", buffering=0) as file:
        if not unpack:
            return file.read(size)
        into = memoryview(bytearray(size))
        stream, at = _Unpacked(file, unpack), 0
        while at < size:
            got = stream.readinto(into[at:])
            if not got:
                break
            at += got
        return bytes(into[:at])


def whole_numbers(text: str, name: str) -> tuple[int, ...]:
    """Sizes in a header's text, such as "512 512 80".

    Raises:
        ValueError: for what is none, is below 0 or absurd.
    """
    try:
        sizes = tuple(int(word) for word in text.split())
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 0 or max(sizes) > 2**31:
        raise ValueError(f"its {name} is {text[:80]!r}, expected whole numbers")
    return sizes


def numbers(text: str, name: str, count: int) -> np.ndarray:
    """As many finite numbers as expected in a header's text.

    Raises:
        ValueError: for anything else.
    """
    try:
        values = np.array([float(word) for word in text.split()])
    except ValueError:
        values = np.empty(0)
    if values.size != count or not np.isfinite(values).all():
        raise ValueError(f"its {name} is {text[:80]!r}, expected {count} finite numbers")
    return values


def from_lps(directions: np.ndarray, origin: Sequence[float] | np.ndarray) -> np.ndarray:
    """(4, 4) voxels to RAS+ mm, from columns (n, n) in LPS mm for each axis, and the place of the first voxel."""
    axes = min(len(directions), 3)
    affine = np.eye(4)
    affine[:axes, :axes] = np.asarray(directions)[:axes, :axes]
    affine[:axes, 3] = np.asarray(origin)[:axes]
    return LPS_TO_RAS @ affine


def spatial(sizes: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The first three axes of a file, and those of the others that are not 1."""
    return sizes[:3], tuple(size for size in sizes[3:] if size != 1)


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a zlib stream, or of the members of a gzip file; never more in memory than asked for."""

    def __init__(self, file: Any, wbits: int) -> None:
        self._file, self._wbits = file, wbits
        self._begin(b"")

    def _begin(self, rest: bytes) -> None:
        self._unzip, self._rest = zlib.decompressobj(self._wbits), rest

    def readinto(self, into: Any) -> int:
        while len(into):
            if self._unzip.eof:
                rest = (self._unzip.unused_data + self._file.read(_INPUT)).lstrip(b"\0")
                if not rest.startswith(b"\x1f\x8b"):  # what follows a file's last member is none of it
                    return 0
                self._begin(rest)
            data = self._rest or self._file.read(_INPUT)
            try:
                out = self._unzip.decompress(data, len(into))
            except zlib.error as err:
                raise ValueError(_damage(err, Path(self._file.name).name)) from err
            self._rest = self._unzip.unconsumed_tail
            if out:
                into[: len(out)] = out
                return len(out)
            if not data and not self._unzip.eof:
                raise EOFError("its compressed data end too early: it is truncated")
        return 0


def _damage(err: zlib.error, name: str) -> str:
    if "header" in str(err):
        return f"{name} is not compressed as its name or header says"
    return (
        f"CRC check failed: {name} is damaged" if "check" in str(err) else f"the compressed data of {name} are damaged"
    )


def _fill(stream: Any, part: memoryview) -> None:
    at = 0
    while at < len(part):
        got = stream.readinto(part[at:])
        if not got:
            raise EOFError("it ends before its last voxel: it is truncated")
        at += got


def _skip(stream: Any, size: int) -> None:
    scratch = memoryview(bytearray(min(size, _INPUT)))
    while size:
        part = scratch[: min(len(scratch), size)]
        _fill(stream, part)
        size -= len(part)


def _read_to_the_end(stream: Any, scratch: memoryview) -> None:
    """The checksum stands at the end of a stream. What is behind the voxels is looked through, up to a bound."""
    behind = 0
    while got := stream.readinto(scratch):
        behind += got
        if behind > _BEHIND:
            raise ValueError(
                f"more than {_BEHIND >> 20} MiB follow the voxels that its header names; repair the header"
            )


def free_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
