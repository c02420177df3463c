"""The header of MetaImage (.mha, .mhd), read as ITK reads it, without what ITK does with patterns and endless keys."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adapters.prompts import check_affine
from adapters.transforms.scan_header import (
    LONGEST_HEADER,
    ZLIB_OR_GZIP,
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
    "CHAR": "i1",
    "UCHAR": "u1",
    "SHORT": "i2",
    "USHORT": "u2",
    "INT": "i4",
    "UINT": "u4",
    "LONG": "i4",
    "ULONG": "u4",
    "LONG_LONG": "i8",
    "ULONG_LONG": "u8",
    "FLOAT": "f4",
    "DOUBLE": "f8",
}
_SAME = {  # names that mean the same
    "Position": "Offset",
    "Origin": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
_READ = (
    *("ObjectType", "NDims", "DimSize", "ElementSpacing", "Offset", "TransformMatrix", "ElementType", "DistanceUnits"),
    *("ElementNumberOfChannels", "BinaryData", "BinaryDataByteOrderMSB", "CompressedData", "HeaderSize"),
    *("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", "ElementDataFile"),
)


def meta_image_header(path: Path) -> ScanHeader:
    """The header of a MetaImage file, with its voxels behind it or in a file beside it.

    Raises:
        FileNotFoundError: if the file of the voxels is missing.
        ValueError: for a header that is damaged, has no spacing, or names several files or one elsewhere. For voxels as
            text, scaled voxels, and lengths in another unit than mm.
    """
    fields, end = _fields(first_bytes(path, LONGEST_HEADER))
    if fields.get("ObjectType", "Image") != "Image":
        raise ValueError(f"it holds a {fields['ObjectType'][:80]!r}, expected an Image")
    sizes = whole_numbers(_given(fields, "DimSize"), "DimSize")
    axes = len(sizes)
    if whole_numbers(_given(fields, "NDims"), "NDims") != (axes,):
        raise ValueError(f"its NDims is {fields['NDims'][:80]}, and its DimSize has {axes} sizes")
    if fields.get("DistanceUnits", "mm").lower() not in ("mm", "?"):
        raise ValueError(f"its lengths are in {fields['DistanceUnits'][:80]!r} by its header, expected mm")
    scaled = [fields.get(f"ElementToIntensityFunction{name}") for name in ("Slope", "Offset")]
    if any(
        text is not None and numbers(text, "intensity function", 1) != value
        for text, value in zip(scaled, (1, 0), strict=False)
    ):
        raise ValueError(
            "its header scales its values (ElementToIntensityFunction), which ITK does not do; save them scaled"
        )
    spacing = numbers(_given(fields, "ElementSpacing"), "ElementSpacing", axes)
    if spacing.min() <= 0:
        raise ValueError(f"its ElementSpacing is {fields['ElementSpacing'][:80]!r}, expected lengths above 0 mm")
    matrix = np.eye(axes)
    if "TransformMatrix" in fields:  # a row for each axis of the file
        matrix = numbers(fields["TransformMatrix"], "TransformMatrix", axes * axes).reshape(axes, axes).T
    origin = numbers(fields["Offset"], "Offset", axes) if "Offset" in fields else np.zeros(axes)
    missing = [name for name in ("TransformMatrix", "Offset") if name not in fields]
    notes = [f"its header has no {' and no '.join(missing)}: its place is taken as ITK takes it"] if missing else []
    shape, more = spatial(sizes)
    affine = check_affine(from_lps(matrix * spacing, origin), name="its affine")
    channels = whole_numbers(fields.get("ElementNumberOfChannels", "1"), "ElementNumberOfChannels")[0]
    voxels = _voxels(path, fields, end, (channels, *sizes) if channels > 1 else sizes)
    if channels > 1:
        return ScanHeader(shape, (*more, channels), affine, voxels, notes=tuple(notes), channels_first=True)
    return ScanHeader(shape, more, affine, voxels, notes=tuple(notes))


def _fields(head: bytes) -> tuple[dict[str, str], int]:
    """What the header says, and the byte at which it ends."""
    fields: dict[str, str] = {}
    at = 0
    while at < len(head):
        end = head.find(b"\n", at)
        if end < 0 and len(head) == LONGEST_HEADER:
            break
        end = len(head) if end < 0 else end
        name, separator, value = _split(head[at:end].decode("latin-1"))
        at = end + 1
        name = _SAME.get(name, name)
        if not separator or name not in _READ:
            continue
        if fields.setdefault(name, value) != value:
            raise ValueError(f"its header has {name} twice, as {fields[name][:80]!r} and as {value[:80]!r}")
        if name == "ElementDataFile":
            return fields, at
    raise ValueError(
        f"its header is longer than {LONGEST_HEADER} bytes; save it anew without its further keys"
        if len(head) == LONGEST_HEADER
        else "its header does not say where the voxels are (ElementDataFile)"
    )


def _split(line: str) -> tuple[str, str, str]:
    at = min((line.find(mark) for mark in "=:" if mark in line), default=-1)
    return (line[:at].strip(), line[at], line[at + 1 :].strip()) if at >= 0 else (line.strip(), "", "")


def _given(fields: dict[str, str], name: str) -> str:
    if name not in fields:
        raise ValueError(f"its header has no {name}; save it anew, with its geometry")
    return fields[name]


def _voxels(path: Path, fields: dict[str, str], end: int, sizes: tuple[int, ...]) -> Voxels:
    kind = _given(fields, "ElementType").removeprefix("MET_").removesuffix("_ARRAY")
    if kind not in _TYPES:
        raise ValueError(
            f"its ElementType is {fields['ElementType'][:80]!r}, expected one of MET_{', MET_'.join(_TYPES)}"
        )
    if not _is_true(fields.get("BinaryData", "True")):
        raise ValueError("its voxels are written as text; save them in binary form")
    dtype = np.dtype((">" if _is_true(fields.get("BinaryDataByteOrderMSB", "False")) else "<") + _TYPES[kind])
    local = fields["ElementDataFile"].upper() == "LOCAL"
    file = path if local else beside(path, fields["ElementDataFile"])
    packed = _is_true(fields.get("CompressedData", "False"))
    skip = fields.get("HeaderSize", "0")
    if skip == "-1" and not packed:  # the voxels end with the file
        start = file.stat().st_size - Voxels(file, 0, dtype, sizes).nbytes
    else:
        start = whole_numbers(skip, "HeaderSize")[0] or (end if local else 0)
    if start < 0:
        raise ValueError(f"its voxels are {-start} bytes longer than the file: it is truncated")
    return Voxels(file, start, dtype, sizes, ZLIB_OR_GZIP if packed else 0)


def _is_true(text: str) -> bool:
    return text[:1] in ("T", "t", "1")
