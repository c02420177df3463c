"""The header of NRRD (.nrrd, .nhdr), read as ITK reads it; its keys are left where they are."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from adapters.prompts import check_affine
from adapters.transforms.scan_header import (
    GZIP,
    LONGEST_HEADER,
    ScanHeader,
    Voxels,
    beside,
    first_bytes,
    from_lps,
    numbers,
    spatial,
    whole_numbers,
)

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_TYPE_OF = {name: kind for kind, names in _TYPES.items() for name in names}
_TO_LPS = {  # signs of x and y
    **dict.fromkeys(("left-posterior-superior", "lps"), (1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1, -1)),
}
_OF_NO_SIDES = ("", "scanner-xyz", "3d-right-handed", "3d-left-handed")  # where NRRD does not say which side is left
_NOT_MM = re.compile(
    r"[uµnkc]?m|[uµ\u03bc]|in(ch(es)?)?|((centi|micro|nano|deci)?met(er|re)|micron)s?|dm", re.IGNORECASE
)
_SAME = {"datafile": "data file", "byteskip": "byte skip", "lineskip": "line skip", "axismins": "axis mins"}
_SPATIAL = ("domain", "space", "???", "none")  # kinds of axes that are no channels


def nrrd_header(path: Path) -> ScanHeader:
    """The header of a NRRD file, with its voxels behind it or in a file beside it.

    Raises:
        FileNotFoundError: if the file of the voxels is missing.
        ValueError: for a header that is damaged, has no spacing, or names several files or one elsewhere. For voxels as
            text, encodings other than raw and gzip, and lengths in another unit than mm.
    """
    fields, end = _fields(first_bytes(path, LONGEST_HEADER))
    sizes = whole_numbers(_given(fields, "sizes"), "sizes")
    if whole_numbers(_given(fields, "dimension"), "dimension") != (len(sizes),):
        raise ValueError(f"its dimension is {fields['dimension'][:80]}, and it has {len(sizes)} sizes")
    vectors = _vectors(fields, len(sizes))
    kinds = fields.get("kinds", "").lower().split()
    if vectors is None:
        further = [n for n, kind in enumerate(kinds[: len(sizes)]) if kind not in _SPATIAL]
    else:
        further = [n for n, vector in enumerate(vectors) if vector is None]
    inside = [n for n in range(len(sizes)) if n not in further]
    affine, notes = _affine(fields, inside, vectors)
    voxels = _voxels(path, fields, end, sizes)
    shape, more = spatial(tuple(sizes[n] for n in inside))
    channels = tuple(sizes[n] for n in further if sizes[n] != 1)
    if channels and more:
        raise ValueError(f"its sizes are {fields['sizes'][:80]} with kinds {fields.get('kinds')}, expected a 3D scan")
    if channels and further[-1] >= len(further):  # channels behind or between the axes of space
        if further[0] < len(inside):
            raise ValueError(f"its axis {further[0]} is a list, between those of space; save it with one channel")
        return ScanHeader(shape, channels, affine, voxels, notes=tuple(notes))
    return ScanHeader(shape, channels or more, affine, voxels, notes=tuple(notes), channels_first=bool(channels))


def _fields(head: bytes) -> tuple[dict[str, str], int]:
    """What the header says, without comments and keys (``name:=value``), and the byte at which it ends."""
    if not head.startswith(b"NRRD000"):
        raise ValueError("it does not begin as a NRRD file does")
    ending = re.search(rb"\r?\n\r?\n", head)
    if ending is None and len(head) == LONGEST_HEADER:
        raise ValueError(f"its header is longer than {LONGEST_HEADER} bytes; save it anew without its further keys")
    text = head[: ending.start() if ending else len(head)].decode("latin-1")
    fields: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        name, separator, value = line.partition(":")
        name = _SAME.get(name.strip().lower(), name.strip().lower())
        if line.startswith("#") or not separator or value.startswith("="):
            continue
        if name in fields:
            raise ValueError(f"its header has {name[:80]!r} twice")
        fields[name] = value.strip()
    return fields, ending.end() if ending else len(head)


def _given(fields: dict[str, str], name: str) -> str:
    if name not in fields:
        raise ValueError(f"its header has no {name!r}; save it anew")
    return fields[name]


def _vectors(fields: dict[str, str], axes: int) -> list[np.ndarray | None] | None:
    """The step along each axis in the header's space, None for an axis that is not in space; None without any."""
    text = fields.get("space directions")
    if text is None:
        return None
    words = re.findall(r"\([^()]*\)|none", text, re.IGNORECASE)
    if len(words) != axes:
        raise ValueError(f"its space directions are {text[:80]!r}, expected one for each of {axes} axes")
    vectors = [None if word.lower() == "none" else word.strip("()").replace(",", " ") for word in words]
    dimension = sum(vector is not None for vector in vectors)
    return [None if vector is None else numbers(vector, "space directions", dimension) for vector in vectors]


def _affine(
    fields: dict[str, str], inside: list[int], vectors: list[np.ndarray | None] | None
) -> tuple[np.ndarray, list[str]]:
    notes = []
    units = re.findall(r'"([^"]*)"', fields.get("space units", fields.get("units", "")))
    for unit in units:
        if _NOT_MM.fullmatch(unit.strip().removeprefix("\u00c2")):  # which UTF-8 leaves before a µ
            raise ValueError(f"its lengths are in {unit!r} by its header, expected mm: save it in mm")
    axes = len(inside)
    if vectors is None:
        words = fields.get("spacings", "").split()
        spacing = [words[n] for n in inside] if len(words) > max(inside, default=0) else []
        if not spacing:
            raise ValueError("its header has no space directions and no spacings; save it anew, with its geometry")
        lengths = numbers(" ".join(spacing), "spacings", axes)
        if lengths.min() <= 0:
            raise ValueError(f"its spacings are {fields['spacings'][:80]!r}, expected lengths above 0 mm")
        steps = np.diag(lengths)
        if "axis mins" in fields and "space origin" not in fields:
            raise ValueError("its header has axis mins in place of a space origin; save it anew, with its geometry")
        if "space" in fields:
            raise ValueError("its header has a space and no space directions; save it anew, with its geometry")
        notes.append("its header has a spacing alone: which side is left is not known, and it is taken as ITK takes it")
    else:
        steps = np.array([vector for vector in vectors if vector is not None]).T
    space = fields.get("space", "").lower().removesuffix("-time").removesuffix("t")
    signs = np.ones(axes)
    if space in _TO_LPS:
        signs[:2] = _TO_LPS[space][:axes]
    elif space not in _OF_NO_SIDES:
        raise ValueError(
            f"its space is {space[:80]!r}, expected left-posterior-superior, right-anterior-superior or "
            "left-anterior-superior; save it in one of them"
        )
    elif vectors is not None:
        notes.append(
            f"its space is {space[:80] or 'not given'!r}, which does not say where left is: it is taken as LPS"
        )
    origin = np.zeros(axes)
    if "space origin" in fields:
        origin = numbers(fields["space origin"].strip("()").replace(",", " "), "space origin", axes)
    elif vectors is not None:
        notes.append("its header has no space origin: its first voxel is taken to lie at 0")
    return check_affine(from_lps(signs[:, None] * steps, signs * origin), name="its affine"), notes


def _voxels(path: Path, fields: dict[str, str], end: int, sizes: tuple[int, ...]) -> Voxels:
    kind = _given(fields, "type").lower()
    if kind not in _TYPE_OF:
        raise ValueError(
            f"its type is {kind[:80]!r}, expected one of {', '.join(names[0] for names in _TYPES.values())}"
        )
    encoding = _given(fields, "encoding").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise ValueError(f"its encoding is {encoding[:80]!r}, expected raw or gzip; save it anew")
    endian = fields.get("endian", "").lower()
    if endian not in ("little", "big") and _TYPE_OF[kind][1] != "1":
        raise ValueError(f"its endian is {endian[:80]!r}, expected little or big")
    dtype = np.dtype(_TYPE_OF[kind]).newbyteorder(">" if endian == "big" else "<")
    file = beside(path, fields["data file"]) if "data file" in fields else path
    lines = whole_numbers(fields.get("line skip", "0"), "line skip")[0]
    start = _after_lines(file, 0 if file != path else end, lines)
    skip = fields.get("byte skip", "0")
    if encoding != "raw":
        return Voxels(file, start, dtype, sizes, GZIP, whole_numbers(skip, "byte skip")[0])
    if skip == "-1":  # the voxels end with the file
        start = file.stat().st_size - Voxels(file, 0, dtype, sizes).nbytes
    else:
        start += whole_numbers(skip, "byte skip")[0]
    if start < 0:
        raise ValueError(f"its voxels are {-start} bytes longer than the file: it is truncated")
    return Voxels(file, start, dtype, sizes)


def _after_lines(file: Path, start: int, lines: int) -> int:
    if not lines:
        return start
    with file.open("rb") as opened:
        opened.seek(start)
        head = opened.read(LONGEST_HEADER)
    for _ in range(lines):
        at = head.find(b"\n") + 1
        if not at:
            raise ValueError(f"its line skip is {lines}, and there are fewer lines")
        head, start = head[at:], start + at
    return start
