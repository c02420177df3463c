"""The header of NIfTI: which affine counts, what it leaves open, and the same geometry for a mask."""

from __future__ import annotations

import json
import logging
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from adapters.prompts import check_affine
from adapters.transforms.scan_header import GZIP, ScanHeader, Voxels, check_file, first_bytes, spatial

_HALVES = {".hdr": ".img", ".img": ".hdr"}
_FORMS = ("qform_code", "sform_code")
_GEOMETRY = (
    *_FORMS,
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "pixdim"),
)
_OTHER_UNITS = {1: "metres", 3: "micrometres"}  # NIfTI's codes; 2 is mm, and headers without a unit mean mm
_DISAGREE = 1e-3  # of a voxel, anywhere in the scan


def nifti_header(path: Path) -> ScanHeader:
    """The header of a NIfTI file, or of one of two (.hdr and .img).

    The affine is that of the standard: of the sform if its code is above 0, else of the qform if its code is, else what
    nibabel makes of the spacing alone.

    Raises:
        FileNotFoundError: if the other half of two files is missing.
        ValueError: for what is no NIfTI file, is damaged, in another unit than mm, or without a spacing.
    """
    header_file, data_file = _halves(path)
    unpack = [GZIP if file.name.lower().endswith(".gz") else 0 for file in (header_file, data_file)]
    raw, header = _parsed(first_bytes(header_file, 540, unpack[0]), single=header_file == data_file)
    axes, *sizes = (int(size) for size in header["dim"])
    if not 1 <= axes <= 7 or min(sizes[:axes]) < 0:
        raise ValueError(f"its dim is {axes}, {sizes} by its header, expected 1 to 7 axes with sizes above 0")
    shape, more = spatial(tuple(sizes[:axes]))
    affine, notes = _affine(raw, header, (*shape, 1, 1)[:3])
    offset = header.get_data_offset()
    if header_file == data_file and offset < header.single_vox_offset:
        raise ValueError(f"its voxels begin at byte {offset} by its header (vox_offset), which is in the header itself")
    slope, intercept = header.get_slope_inter()
    voxels = Voxels(
        data_file,
        0 if unpack[1] else offset,
        header.get_data_dtype(),
        (*shape, *more),
        unpack[1],
        offset if unpack[1] else 0,
        slope,
        intercept,
    )
    return ScanHeader(shape, more, affine, voxels, _as_text(raw), tuple(notes))


def _halves(path: Path) -> tuple[Path, Path]:
    """The file of the header and that of the voxels: the same, or the two halves of a pair."""
    base, packed = (path.stem, path.suffix) if path.suffix.lower() == ".gz" else (path.name, "")
    half = Path(base).suffix
    other = _HALVES.get(half.lower())
    if other is None:
        return path, path
    ending = other.upper() if half.isupper() else other
    names = [Path(base).with_suffix(ending).name + gz for gz in dict.fromkeys((packed, "", ".gz"))]
    beside = next((path.with_name(name) for name in names if path.with_name(name).exists()), None)
    if beside is None:
        raise FileNotFoundError(f"its other half {names[0]} is not beside it")
    check_file(beside)
    return (path, beside) if half.lower() == ".hdr" else (beside, path)


def _parsed(block: bytes, *, single: bool) -> tuple[Any, Any]:
    """The header as it is, and with nibabel's repairs (negative spacings, a handedness of 0)."""
    if len(block) < 348:
        raise ValueError(f"it has {len(block)} bytes, too few for the header of a NIfTI file")
    magics = {b"n+1": (nib.Nifti1Header, True), b"ni1": (nib.Nifti1Header, False)}
    kind = magics.get(block[344:347])
    if kind is None:
        kind = {b"n+2": (nib.Nifti2Header, True), b"ni2": (nib.Nifti2Header, False)}.get(block[4:7])
    if kind is None:
        raise ValueError(
            "it has no NIfTI header"
            if single
            else "its header is that of Analyze 7.5, which does not say where left is; save the scan as NIfTI"
        )
    of, whole = kind
    if whole != single:
        raise ValueError(f"by its header its voxels lie in {'the same file' if whole else 'a second file (.img)'}")
    block = block[: of.template_dtype.itemsize]
    # the first repairs what it can, and says what it cannot
    logger = logging.getLogger("nibabel.global")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        header = of(block)
    finally:
        logger.setLevel(level)
    return of(block, check=False), header


def _affine(raw: Any, header: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
    """The affine that counts, and a sentence on each other word of the header that says something else.

    Args:
        raw: the header as it is.
        header: with nibabel's repairs.
        shape: (I, J, K).
    """
    pixdim = np.abs(np.asarray(raw["pixdim"][1:4], dtype=float))
    unit = _OTHER_UNITS.get(int(header["xyzt_units"]) % 8)
    if unit:
        raise ValueError(
            f"its lengths are in {unit} by its header, expected mm: scale its affine, and set the unit (nibabel's "
            "header.set_xyzt_units)"
        )
    q_code, s_code = (int(header[code]) for code in _FORMS)
    spaced = bool(np.isfinite(pixdim).all() and (pixdim > 0).all())
    if s_code <= 0 and not spaced:
        raise ValueError(
            f"its header gives no spacing: pixdim is {_in_words(pixdim)} and there is no sform; set the size of its "
            "voxels (nibabel's header.set_zooms and set_sform)"
        )
    affine = check_affine(np.array(header.get_best_affine(), dtype=float), name="its affine")
    unknown = [f"its {code} is {int(raw[code])}" for code in _FORMS if int(raw[code]) > 0 >= int(header[code])]
    if unknown:
        notes = [f"{' and '.join(unknown)}, which NIfTI does not know: it is taken as 0, as nibabel takes it"]
    elif s_code <= 0 and q_code <= 0:
        notes = [
            (
                "its header has neither sform nor qform (both codes are 0), only a spacing: which side is left is not "
                "known, and it is taken as nibabel takes it"
            )
        ]
    else:
        notes = []
    if s_code <= 0:
        return affine, notes
    # pixdim is part of the qform
    name = f"qform (code {q_code})" if q_code > 0 else f"pixdim ({_in_words(pixdim)} mm)"
    try:
        other = header.get_qform() if q_code > 0 else affine * np.array([*(pixdim / _lengths(affine)), 1])
    except ValueError:  # a quaternion that is none
        other = np.full((4, 4), np.nan)
    apart = _apart(affine, other, shape)
    if apart / _lengths(affine).min() <= _DISAGREE:
        return affine, notes
    far = f"put a corner of it {apart:.3g} mm apart" if np.isfinite(apart) else "do not agree"
    return affine, [*notes, f"its sform (code {s_code}) and its {name} {far}: the sform counts, as the standard has it"]


def _lengths(affine: np.ndarray) -> np.ndarray:
    return np.linalg.norm(affine[:3, :3], axis=0)


def _apart(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """How far two grids are apart at most, in mm; infinite where one is not finite."""
    corners = np.array([(*corner, 1) for corner in product(*((0, max(size - 1, 0)) for size in shape))])
    apart = np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max()
    return float(apart) if np.isfinite(apart) else np.inf


def _in_words(values: np.ndarray) -> str:
    return " x ".join(f"{value:.6g}" for value in values)


def _as_text(header: Any) -> str:
    """The geometric fields of a header as JSON, which every loader of batches collates."""
    fields = {name: np.asarray(header[name], dtype=float).tolist() for name in _GEOMETRY}
    return json.dumps({**fields, "xyzt_units": int(header["xyzt_units"]) % 8})


def with_geometry(voxels: Any, text: str) -> nib.Nifti1Image:
    """An image with the geometry of another header: sform, qform, their codes, spacing, handedness and unit of length.

    They are those of the file, with what nibabel would repair (codes that it does not know, negative spacings): each
    viewer repairs them in its own way, and must do the same with both images.

    Args:
        voxels: (I, J, K).
        text: `ScanHeader.nifti`.
    """
    image = nib.Nifti1Image(voxels, None, dtype=voxels.dtype)
    for name, value in json.loads(text).items():
        image.header[name] = value
    image.header["pixdim"][4:] = 1  # of axes that a mask has not
    return image
