"""One volume out of DICOM files: which slices belong to it, in which order, and where they lie.

pydicom reads the headers. ITK (GDCM) decodes the pixels, compressed ones too, and applies each slice's own rescale. The
rules are ours: highdicom's `get_series_volume_positions` says only whether slices are regular, not what is wrong, and
knows no gantry tilt; dcm2niix writes files, and where slices do not fit it warns and goes on.
"""

from __future__ import annotations

import locale
import logging
import math
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import itk
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, ImplicitVRLittleEndian

from adapters.files import file_hash
from adapters.transforms.scan_header import LPS_TO_RAS, free_memory

logger = logging.getLogger(__name__)

_ENDINGS = (".dcm", ".dicom", ".ima")  # what is called so and is no DICOM is damaged
# What may tell two slices at one place apart, the most telling first; a request may choose by it.
_TELLING = (
    "SeriesDescription",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "EchoNumbers",
    "EchoTime",
    "ConvolutionKernel",
    "KVP",
    "ImageType",
    "NominalPercentageOfCardiacPhase",
    "TriggerTime",
    "DiffusionBValue",
    "StackID",
    "SliceThickness",
    "AcquisitionTime",
    "ContentTime",
    "SOPInstanceUID",
)
# What slices of one volume have in common, or change once from one part of it to the next.
_CONSTANT = (*_TELLING[:8], "DiffusionBValue", "StackID")
_WANTED = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", *_TELLING),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]
_SAME_DIRECTION = 2e-3  # of the cosines of two slices: half a millimetre at the edge of a CT
_UNDEFINED = 0xFFFFFFFF  # the length of compressed pixels, which end with an item of their own
_END_OF_SEQUENCE = 0xE0DD
_SMALL = 2**26  # bytes that a file may have, or promise, in any case
_RATIO = 1000  # what is compressed promises at most so many times its size
_DEFLATED = b"1.2.840.10008.1.2.1.99"


@dataclass(frozen=True)
class Slice:
    """A plane of a volume. Lengths in mm, world in LPS, as DICOM has them; empty where it has none.

    Attributes:
        file: where its pixels are.
        frame: which of the file's frames, from 0.
        frames: how many the file has.
        shape: columns and rows.
        position: of the centre of the first pixel (3,).
        orientation: cosines along a row, then along a column (6,).
        spacing: between columns, then between rows (2,).
        rescale: slope and intercept, then those of the file's first frame, which ITK takes for all; None: the same.
        tags: what may tell it apart from another at the same place.
    """

    file: Path
    frame: int
    frames: int
    shape: tuple[int, int]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    rescale: tuple[float, ...] | None
    tags: Mapping[str, str]

    @property
    def name(self) -> str:
        """What to call it in an error."""
        return f"frame {self.frame + 1}" if self.frames > 1 else self.file.name


@dataclass(frozen=True)
class DicomVolume:
    """The slices of one volume on a regular grid.

    Attributes:
        series: SeriesInstanceUID, and "/tag=value" where slices were chosen by a tag.
        slices: in the order of the third axis.
        affine: (4, 4), voxels (column, row, slice) to world in mm, RAS+; sheared if the gantry was tilted.
    """

    series: str
    slices: tuple[Slice, ...]
    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows, slices."""
        return (*self.slices[0].shape, len(self.slices))

    def values(self) -> np.ndarray:
        """The rescaled values (CT: HU), float32 (columns, rows, slices), the first axis the fastest in memory.

        Raises:
            ValueError: if pixels cannot be decoded, or do not fit into memory.
        """
        needed, free = 4 * math.prod(self.shape), free_memory()
        if free is not None and needed > free:
            raise ValueError(
                f"{len(self.slices)} slices of series {self.series} take {needed / 1e9:.1f} GB in memory, of which "
                f"{free / 1e9:.1f} GB are free; take fewer slices, or give the process more memory"
            )
        return _values(self.slices).T


def is_dicom(path: Path) -> bool:
    """Whether a path is a folder, or a DICOM file by its first bytes."""
    if path.is_dir():
        return True
    if not path.is_file():  # a pipe
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def find_volume(path: str | PathLike, series: str = "") -> DicomVolume:
    """Read the headers of a folder, or of a file of several frames, and find the one volume that they hold.

    What is no image (DICOMDIR, structure sets, segmentations, reports, texts) is left out, and so are, where another
    image remains: localizers, images without a position or in colour, and series at a single place. One slice that is
    there twice is taken once.

    Args:
        path: a folder, with all folders in it, or a file of several frames.
        series: the SeriesInstanceUID to take, and "/tag=value" after it to take of its slices those with this value,
            such as ``"1.2.840.1/AcquisitionNumber=2"``.

    Raises:
        ValueError: no image, several volumes, or not the one that was asked for; the message lists those there are.
            Slices that make no regular grid: other sizes, spacings or orientations, none of them given, two at one
            place, one that is missing. A damaged file, a link to none.
    """
    path = Path(path)
    files = _files(path) if path.is_dir() else [path]
    headers = [header for file in files if (header := _Header.read(file)) and header.is_image]
    if not headers:
        what = "holds no DICOM series" if path.is_dir() else "is DICOM, but no image"
        raise ValueError(f"{str(path)!r} {what}: give a folder of DICOM slices, or the file of a scan")
    uid, slash, condition = series.partition("/")
    taken = _chosen(path, headers, uid)
    for header in taken:
        if not header.has_pixels:
            raise ValueError(f"{str(header.file)!r} is truncated, its pixels are not all there: copy it again")
    slices = [each for header in taken for each in header.slices]
    name = f"{str(path)!r}" + (f", series {taken[0].uid}" if path.is_dir() else "")
    if slash:
        slices = _with_tag(name, slices, condition)
    if path.is_file() and len(slices) == 1:
        raise ValueError(f"{str(path)!r} is one slice: give the folder that holds the slices of its series")
    slices, affine = _grid(name, slices, taken[0].uid)
    return DicomVolume(taken[0].uid + slash + condition, tuple(slices), affine)


# --- files


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones and the directory of a CD."""

    def refuse(error: OSError) -> None:
        raise ValueError(f"the folder {error.filename!r} cannot be read ({error.strerror}), so slices may be missing")

    for where, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(where, name) for name in sorted(names)):
            if path.name.startswith(".") or path.name.upper() == "DICOMDIR":
                continue
            if path.is_symlink() and not path.exists():
                raise ValueError(
                    f"the link {str(path)!r} leads to no file, so a slice may be missing: bring the file back, or take "
                    "the link away"
                )
            if path.is_file():
                yield path


class _Header:
    """The header of a DICOM file: what is wanted of it.

    Attributes:
        file: its path.
        dataset: the elements that are wanted.
        uid: the SeriesInstanceUID, empty if there is none.
        frames: how many slices it has.
        shape: columns and rows.
        is_grey: whether it has one value in each pixel.
        is_image: whether it is a picture of a patient, and not a segmentation, a dose, a structure set, a report, ...
        is_localizer: whether it says that it only shows where slices lie.
        has_pixels: whether all that the header promises follow it; None: there are none.
    """

    def __init__(self, file: Path, dataset: Dataset, has_pixels: bool | None) -> None:  # noqa: FBT001
        self.file, self.dataset, self.has_pixels = file, dataset, has_pixels
        self.uid = _text(dataset, "SeriesInstanceUID")
        self.frames = max(1, int(dataset.get("NumberOfFrames") or 1))
        self.shape = (int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0))
        self.is_grey = int(dataset.get("SamplesPerPixel") or 1) == 1
        uid = _class_of(dataset)
        self.is_image = uid.name.endswith("Image Storage") or (uid.name == uid and "Rows" in dataset)
        self.is_localizer = "LOCALIZER" in _text(dataset, "ImageType").split("\\")

    @classmethod
    def read(cls, file: Path) -> _Header | None:
        """None for a file that is no DICOM.

        Raises:
            ValueError: it should be DICOM and cannot be read.
        """
        try:
            with file.open("rb") as opened:
                head = opened.read(132)
                is_marked = head[128:] == b"DICM"
                if not is_marked and (head[:2] != b"\x08\0" or head[3:4] != b"\0"):  # as files began before DICOM 3
                    if file.name.lower().endswith(_ENDINGS) or not (head.strip(b"\0") or file.suffix):
                        raise ValueError("it does not begin as DICOM files do" if head else "it is empty")
                    return None
                if _DEFLATED in opened.read(1000) and os.fstat(opened.fileno()).st_size > 2**20:
                    raise ValueError("it is deflated as a whole, and large: save it in another transfer syntax")
                opened.seek(0)
                dataset = pydicom.dcmread(opened, stop_before_pixels=True, specific_tags=_WANTED, force=not is_marked)
                header = cls(file, dataset, _has_all_pixels(opened, dataset))
            if not (_class_of(dataset) or "Rows" in dataset) or (header.is_image and header.has_pixels is None):
                raise ValueError("it ends in its header")
        except Exception as err:  # pydicom raises anything, from EOFError to RecursionError
            raise ValueError(
                f"{str(file)!r} cannot be read ({' '.join(str(err).split())[:200]}), so a slice may be missing: copy "
                "it again, or take it away if it is none"
            ) from err
        return header

    @cached_property
    def slices(self) -> list[Slice]:
        """Its frames, each with its own geometry; one without any, where the frames have none.

        Raises:
            ValueError: values that are no numbers, or cannot be read.
        """
        try:
            return self._slices()
        except ValueError:
            raise
        except Exception as err:  # pydicom unpacks sequences here, and raises anything
            raise ValueError(f"{str(self.file)!r} cannot be read ({err}): copy it again") from err

    def _slices(self) -> list[Slice]:
        ds = self.dataset
        shared = list(ds.get("SharedFunctionalGroupsSequence") or [])[:1]
        own = list(ds.get("PerFrameFunctionalGroupsSequence") or [])
        tags = {tag: text for tag in _TELLING if (text := _text(ds, tag))}
        slices: list[Slice] = []
        first = None
        for frame, group in enumerate(own if len(own) == self.frames else [Dataset()]):
            groups = [group, *shared]
            slope = self._numbers(groups, "PixelValueTransformationSequence", "RescaleSlope", 1) or (1.0,)
            intercept = self._numbers(groups, "PixelValueTransformationSequence", "RescaleIntercept", 1) or (0.0,)
            rescale = (*slope, *intercept)
            first = first or rescale
            spacing = self._numbers(groups, "PixelMeasuresSequence", "PixelSpacing", 2)
            content = _item(groups, "FrameContentSequence")
            slices.append(
                Slice(
                    self.file,
                    frame,
                    self.frames,
                    self.shape,
                    self._numbers(groups, "PlanePositionSequence", "ImagePositionPatient", 3),
                    self._numbers(groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6),
                    spacing[::-1],
                    None if rescale == first else rescale + first,
                    tags | {tag: text for tag in ("TemporalPositionIndex", "StackID") if (text := _text(content, tag))},
                )
            )
        return slices

    def _numbers(self, groups: list[Dataset], sequence: str, tag: str, count: int) -> tuple[float, ...]:
        """The numbers of a tag in the first group that has it, else those of a file of one frame; empty: none."""
        for place in [*(_item([group], sequence) for group in groups), *([self.dataset] if self.frames == 1 else [])]:
            try:
                value = place.get(tag)
                if value is None or value == "":
                    continue
                numbers = tuple(float(number) for number in np.atleast_1d(value))
                if len(numbers) == count and all(map(math.isfinite, numbers)):
                    return numbers
            except Exception:  # pydicom converts here, and raises anything
                value = "no number"
            raise ValueError(f"{tag} of {str(self.file)!r} is {value}, expected {count} finite numbers")
        return ()


def _class_of(dataset: Dataset) -> UID:
    """The class of what is stored (SOPClassUID), empty if the header does not say."""
    return UID(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")


def _item(groups: Sequence[Dataset], sequence: str) -> Dataset:
    """The item of a sequence of one, in the first group that has it; empty if none has."""
    return next((items[0] for group in groups if (items := group.get(sequence))), Dataset())


def _text(dataset: Dataset, tag: str) -> str:
    """A value on one line as DICOM writes it, several joined by a backslash; empty if there is none."""
    try:
        value = dataset.get(tag)
    except Exception:  # pydicom converts here, and raises anything
        return ""
    several = not isinstance(value, str) and isinstance(value, Iterable)
    return " ".join(("\\".join(map(str, value)) if several else str("" if value is None else value)).split())


def _has_all_pixels(file: BinaryIO, dataset: Dataset) -> bool | None:
    """Whether the pixels that a header promises follow it, where the file stands; None if there are none.

    ITK says nothing of compressed ones that are cut off, and takes the memory for what a few bytes promise.
    """
    syntax = UID(dataset.file_meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian)
    counts = (int(dataset.get(tag) or 1) for tag in ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames"))
    promised = math.prod(counts) * int(dataset.get("BitsAllocated") or 1) // 8
    size = os.fstat(file.fileno()).st_size
    if syntax.is_deflated:  # the file has been read to its end
        return promised <= max(_SMALL, _RATIO * size)
    order = "<" if syntax.is_little_endian else ">"
    head = file.read(8)
    if head[:4] != struct.pack(order + "HH", 0x7FE0, 0x0010):
        return None
    length = file.read(4) if head[4:6] in (b"OB", b"OW", b"UN") else head[4:]  # or it has no type
    (stored,) = struct.unpack(order + "I", length.ljust(4, b"\0"))
    if size > 2 * promised + _SMALL:  # ITK reads all of it into memory
        raise ValueError(f"it has {size / 2**20:.0f} MB, and its image {promised / 2**20:.0f}")
    if stored != _UNDEFINED:
        return min(stored, size - file.tell()) >= promised
    while file.tell() < size:
        item = file.read(8)
        if len(item) < 8:
            return False
        _, element, stored = struct.unpack("<HHI", item)
        if element == _END_OF_SEQUENCE:
            break
        file.seek(stored, os.SEEK_CUR)
    return file.tell() <= size and promised <= max(_SMALL, _RATIO * size)


# --- which slices


def _chosen(path: Path, headers: list[_Header], uid: str) -> list[_Header]:
    """The files of the series that is asked for, else of the only one that can be a volume."""
    headers = _without_copies(headers)
    all_series: dict[str, list[_Header]] = {}
    for header in headers:
        all_series.setdefault(header.uid, []).append(header)
    if uid:
        if uid not in all_series:
            raise ValueError(f"{str(path)!r} has no series {uid!r}, it holds {_listed(all_series)}")
        return _preferred(all_series[uid])
    left: dict[str, list[_Header]] = {}
    for header in _preferred(headers):
        left.setdefault(header.uid, []).append(header)
    volumes = {name: files for name, files in left.items() if _places(files) > 1} or left
    if len(volumes) > 1:
        one = next(iter(volumes))
        raise ValueError(
            f"{str(path)!r} holds {len(volumes)} series that can be the scan: {_listed(volumes)}; name one by its "
            f'SeriesInstanceUID: "series": "{one}" beside "image" in the list or the request, or --series {one} on '
            "the command line of a bundle's inference"
        )
    (files,) = volumes.values()
    if others := [name for name in all_series if name not in volumes]:
        logger.info("%s: series %s is read; left out: %s", path, files[0].uid, ", ".join(others))
    return files


def _preferred(headers: list[_Header]) -> list[_Header]:
    """Without localizers, images in colour, and series of images without a place, unless all are such."""
    placed = {header.uid for header in headers if header.slices[0].position}
    for is_kept in (
        lambda header: not header.is_localizer,
        lambda header: header.is_grey,
        lambda header: header.uid in placed,
    ):
        headers = [header for header in headers if is_kept(header)] or headers
    return headers


def _places(headers: list[_Header]) -> int:
    """At how many places a series has slices."""
    return len({each.position for header in headers for each in header.slices})


def _listed(series: Mapping[str, list[_Header]]) -> str:
    def described(uid: str, headers: list[_Header]) -> str:
        ds, slices = headers[0].dataset, sum(header.frames for header in headers)
        words = [_text(ds, "Modality") or "no modality", repr(_text(ds, "SeriesDescription")), f"{slices} slices"]
        return f"{uid or 'one without a UID'} ({', '.join(words)})"

    return "; ".join(described(uid, headers) for uid, headers in series.items())


def _without_copies(headers: list[_Header]) -> list[_Header]:
    """Without files of the same content as another."""
    often = Counter(_text(header.dataset, "SOPInstanceUID") for header in headers)
    kept: dict[str, _Header] = {}
    for header in headers:
        is_one = often[_text(header.dataset, "SOPInstanceUID")] == 1
        first = kept.setdefault(str(header.file) if is_one else file_hash(header.file, "sha256"), header)
        if first is not header:
            logger.info("%s is a copy of %s and is left out", header.file, first.file)
    return list(kept.values())


def _with_tag(name: str, slices: list[Slice], condition: str) -> list[Slice]:
    """The slices with ``tag=value``."""
    tag, _, value = condition.partition("=")
    if tag not in _TELLING:
        raise ValueError(
            f"{name}: {condition!r} after the series is no tag=value, expected one of {', '.join(_TELLING)}"
        )
    found = [each for each in slices if each.tags.get(tag, "") == value]
    if not found:
        values = Counter(each.tags.get(tag, "") for each in slices)
        there = ", ".join(f"{each!r} ({count} slices)" for each, count in list(values.items())[:10])
        raise ValueError(f"{name} has no slice whose {tag} is {value!r}: they have {there}")
    return found


# --- where they lie


def _grid(name: str, slices: list[Slice], uid: str) -> tuple[list[Slice], np.ndarray]:
    """The slices in order, each place once, and the affine of their grid (RAS+)."""
    across, down = _check_alike(name, slices)
    normal = np.cross(across, down)
    in_order = sorted(slices, key=lambda each: float(np.dot(each.position, normal)))
    heights = np.array([np.dot(each.position, normal) for each in in_order])
    gaps = np.diff(heights)
    apart = gaps[gaps > max(0.1 * gaps.mean(), 1e-3)] if len(gaps) else gaps  # not those between two at one place
    step = float(np.median(apart)) if len(apart) else 0.0
    if not step:
        several = "has one slice" if len(slices) == 1 else f"has {len(slices)} slices, all at one place"
        raise ValueError(f"{name} {several}: expected the slices of a 3D scan")
    places: list[list[Slice]] = [[in_order[0]]]
    for each, gap in zip(in_order[1:], gaps, strict=True):
        if gap > 0.1 * step:
            places.append([])
        places[-1].append(each)
    in_order = _one_at_each(name, places, uid)
    _check_not_mixed(name, in_order, uid)
    if len(slices) == len(in_order) and all(each.frames > 1 for each in slices):
        heights = np.array([np.dot(each.position, normal) for each in slices])
        if (np.diff(heights) < 0).all():  # the file's own order, as ITK has it
            in_order = slices

    column, row = in_order[0].spacing
    index = np.arange(len(in_order))
    positions = np.array([each.position for each in in_order]) @ np.stack([across, down, normal], axis=1)
    slopes, start = np.polyfit(index, positions, 1)
    away = np.abs(positions - start - index[:, None] * slopes)
    _check_even(name, in_order, positions[:, 2], away[:, 2])
    allowed = np.array([_rounding(column), _rounding(row)])
    if (np.abs(positions - positions.mean(axis=0))[:, :2] <= allowed).all():
        slopes[:2], start[:2] = 0, positions.mean(axis=0)[:2]
    elif (away[:, :2] > allowed).any():  # and not a tilted gantry, whose slices lie on a line
        worst = away[:, :2].max(axis=1)
        raise ValueError(
            f"{name}: slice {in_order[int(worst.argmax())].name!r} lies {worst.max():.3g} mm beside the line of the "
            "others, so that no regular grid holds them: take a volume that is reconstructed anew, or resample it"
        )
    vector, origin = (numbers @ np.stack([across, down, normal]) for numbers in (slopes, start))
    affine = np.eye(4)
    affine[:3] = np.stack([column * across, row * down, vector, origin], axis=1)
    return in_order, LPS_TO_RAS @ affine


def _rounding(spacing: float) -> float:
    """How far a slice may lie from where it should, in mm: what writing positions with a decimal or two makes."""
    return min(0.25 * spacing, max(0.06, 0.02 * spacing))


def _check_alike(name: str, slices: list[Slice]) -> tuple[np.ndarray, np.ndarray]:
    """Refuse slices without a place, or of another size, spacing or orientation; the unit vectors of rows, columns."""
    for what in ("position", "orientation", "spacing"):
        tag = {"position": "ImagePositionPatient", "orientation": "ImageOrientationPatient"}.get(what, "PixelSpacing")
        if lacking := [each for each in slices if not getattr(each, what)]:
            raise ValueError(
                f"{name}: {len(lacking)} of {len(slices)} slices have no {tag} ({lacking[0].name!r}), so that it is "
                "not known where they lie: export the original series from the archive"
            )
    if len(sizes := Counter(each.shape for each in slices)) > 1:
        several = ", ".join(f"{count} of {columns} x {rows}" for (columns, rows), count in sizes.most_common(5))
        raise ValueError(f"{name} has slices of different sizes, {several}: {_APART}")
    spacings = np.array([each.spacing for each in slices])
    if not (spacings > 0).all():
        raise ValueError(f"{name}: PixelSpacing is {spacings.min():g} mm, expected lengths above 0")
    if (np.ptp(spacings, axis=0) * slices[0].shape > 0.1 * spacings.min(axis=0)).any():
        several = ", ".join(f"{count} of {x:g} x {y:g} mm" for (x, y), count in _counted(spacings))
        raise ValueError(f"{name} has slices of different PixelSpacing, {several}: {_APART}")
    cosines = np.array([each.orientation for each in slices])
    if (np.abs(cosines - cosines[0]) > _SAME_DIRECTION).any():
        several = ", ".join(f"{count} {_plane(np.array(each))}" for each, count in _counted(np.round(cosines, 2)))
        raise ValueError(f"{name} has slices of different orientations (ImageOrientationPatient), {several}: {_APART}")
    across, down = cosines[0].reshape(2, 3)
    lengths = np.linalg.norm([across, down], axis=1)
    if (np.abs(lengths - 1) > 0.01).any() or abs(across @ down) > 0.01:
        raise ValueError(
            f"{name}: ImageOrientationPatient is {_words(cosines[0])}, expected two perpendicular vectors of length 1"
        )
    across, down = across / lengths[0], down - (down @ across) * across / lengths[0] ** 2
    return across, down / np.linalg.norm(down)


_APART = "put the slices of one volume into a folder of their own"


def _counted(rows: np.ndarray) -> list[tuple[tuple[float, ...], int]]:
    return Counter(map(tuple, rows.tolist())).most_common(5)


def _plane(cosines: np.ndarray) -> str:
    """What slices of such an orientation are called, and their cosines."""
    normal = np.abs(np.cross(cosines[:3], cosines[3:]))
    return f"{('sagittal', 'coronal', 'axial')[int(normal.argmax())]} ({_words(cosines)})"


def _words(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers)


def _one_at_each(name: str, places: list[list[Slice]], uid: str) -> list[Slice]:
    """One slice of each place; those at the same place must have the same values."""
    kept = []
    for each in places:
        first, *others = each
        if others and any(not np.array_equal(_values([first]), _values([other])) for other in others):
            raise ValueError(
                f"{name} has {'two' if len(each) == 2 else len(each)} slices at ({_words(first.position)}) mm with "
                f"different values, {first.name!r} and {others[0].name!r}, and {sum(len(p) > 1 for p in places)} such "
                f"places of {len(places)}: {_apart_by(places, uid)}"
            )
        if others:
            logger.info("%s: the slice %s is there %d times and is taken once", name, first.name, len(each))
        kept.append(first)
    return kept


def _apart_by(places: list[list[Slice]], uid: str) -> str:
    """What to do about several volumes in one series: the tag that tells them apart, if one does."""
    slices = [each for place in places for each in place]
    for tag in _TELLING:
        values = Counter(each.tags.get(tag, "") for each in slices)
        is_once = all(len({each.tags.get(tag, "") for each in place}) == len(place) for place in places)
        if is_once and len(values) == max(map(len, places)):
            several = ", ".join(f"{value!r} ({count} slices)" for value, count in values.items())
            value = next(iter(values))
            return f'they differ in {tag}, {several}: name one, "series": "{uid}/{tag}={value}", or {_APART}'
    first = next(place for place in places if len(place) > 1)
    differing = [tag for tag in _TELLING if len({each.tags.get(tag, "") for each in first}) > 1]
    return f"these two differ in {', '.join(differing) or 'no tag that is known here'}; {_APART}"


def _check_not_mixed(name: str, in_order: list[Slice], uid: str) -> None:
    """Refuse two volumes whose slices lie in turn between each other's."""
    for tag in _CONSTANT:
        values = [each.tags.get(tag, "") for each in in_order]
        number, runs = len(set(values)), len(list(groupby(values)))
        if runs > number > 1:
            several = ", ".join(f"{value!r} ({count} slices)" for value, count in Counter(values).most_common(5))
            raise ValueError(
                f"{name} has slices of several volumes between each other, which differ in {tag}, {several}: name one, "
                f'"series": "{uid}/{tag}={values[0]}", or {_APART}'
            )


def _check_even(name: str, in_order: list[Slice], heights: np.ndarray, away: np.ndarray) -> None:
    """Refuse slices that are not evenly spaced; ``away`` is how far each lies from an even grid, mm."""
    gaps = np.abs(np.diff(heights))
    usual = float(np.median(gaps))
    if np.abs(away).max() <= _rounding(usual):
        return
    worst = int(np.abs(gaps - usual).argmax())
    missing = round(float(gaps[worst]) / usual) - 1
    guess = f"; {missing} {'slice seems' if missing == 1 else 'slices seem'} to be missing" if missing > 0 else ""
    raise ValueError(
        f"{name} is unevenly spaced: a gap of {gaps[worst]:.4g} mm between slices {worst + 1} and {worst + 2} "
        f"({in_order[worst].name!r} and {in_order[worst + 1].name!r}), {usual:.4g} mm elsewhere{guess}. No regular "
        "grid holds these slices: get the whole series from the archive, or resample it"
    )


# --- pixels


def _values(slices: Sequence[Slice]) -> np.ndarray:
    """The rescaled values of slices of one size, float32 (slices, rows, columns)."""
    columns, rows = slices[0].shape
    values = np.empty((len(slices), rows, columns), dtype=np.float32)
    for file, group in groupby(enumerate(slices), lambda each: each[1].file):
        frames = _decoded(file)
        for number, each in group:
            if frames.shape != (each.frames, rows, columns):
                raise ValueError(
                    f"{str(file)!r} decodes to {frames.shape} (frames, rows, columns), expected "
                    f"{(each.frames, rows, columns)}: it is damaged"
                )
            values[number] = frames[each.frame]
            if each.rescale is not None:
                slope, intercept, first_slope, first_intercept = each.rescale
                values[number] = np.rint((values[number] - first_intercept) / first_slope) * slope + intercept
    return values


def _decoded(file: Path) -> np.ndarray:
    """The values of a file, float32 (frames, rows, columns), rescaled as it says (in all frames as in the first)."""
    spoken = locale.setlocale(locale.LC_ALL)
    try:
        reader = itk.ImageFileReader[itk.Image[itk.F, 3]].New(FileName=str(file))
        reader.SetImageIO(itk.GDCMImageIO.New())
        reader.Update()
        return itk.array_from_image(reader.GetOutput())
    except Exception as err:  # ITK raises what it likes
        lines = (line.strip() for line in str(err).splitlines())
        said = next((line for line in lines if line and ".cxx:" not in line), type(err).__name__)
        raise ValueError(f"{str(file)!r} cannot be decoded, copy it again: {said[:300]}") from err
    finally:  # JPEG 2000 leaves "C" behind, with which Python reads files as ASCII
        if locale.setlocale(locale.LC_ALL) != spoken:
            locale.setlocale(locale.LC_ALL, spoken)
