"""What a data set's images and lesions are like: intensities of the lesions, spacing, size, lesion volumes.

Lengths and sizes are given along depth (inferior to superior), height (anterior to posterior) and width (left to
right), whatever the order of the stored axes.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.transforms import ScaleIntensityRangePercentilesd
from scipy import ndimage
from tqdm import tqdm

from adapters.files import read_json, write_whole
from adapters.transforms import CheckScand, LoadScand, load_datalist
from adapters.transforms.datalist import entry_name
from adapters.transforms.labels import in_words, label_values

logger = logging.getLogger(__name__)

AXES = "depth, height, width"
LOW, HIGH = 0.5, 99.5
"""Percentiles of the lesions' voxels that the window of intensities lies between."""
_MOST_PROBLEMS = 5


@dataclass(frozen=True)
class Lesion:
    """One connected lesion (voxels that share a face, an edge or a corner)."""

    volume: float  # ml
    extent: tuple[float, float, float]  # mm along depth, height, width of the box round it


@dataclass(frozen=True, eq=False)
class Case:
    """What one image and its label are like."""

    name: str
    shape: tuple[int, ...]  # voxels along the stored axes
    axes: str  # where the stored axes point, as nibabel's axis codes
    spacing: tuple[float, ...]  # mm along depth, height, width
    size: tuple[int, ...]  # voxels along depth, height, width
    values: tuple[float, ...]  # of the label, in order
    lesions: tuple[Lesion, ...]  # the largest first
    intensities: np.ndarray  # (N,) float32, the image in the voxels of the lesions; empty unless asked for

    @property
    def volume(self) -> float:
        """Of all its lesions together, ml."""
        return sum(lesion.volume for lesion in self.lesions)


def measure(
    name: str,
    image: str | PathLike,
    label: str | PathLike,
    lesion: int,
    *,
    allowed: Collection[int] | None = None,
    intensities: bool = False,
    scaled: bool = False,
    series: str = "",
) -> Case:
    """Reads a case, refuses what cannot be trained on, and measures it.

    Args:
        name: what to call it.
        image: its scan's file.
        label: its label's file.
        lesion: the value of the lesion; a case without it is measured like any other.
        allowed: the values that the label may hold; any where None.
        intensities: whether to keep the image's values in the lesions.
        scaled: whether they are taken from the image after its percentiles 0.5 and 99.5 became 0 and 1, for scans
            without a unit (MR).
        series: of the image, where it is DICOM (`adapters.transforms.dicom.find_volume`).

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: as `CheckScand`, or a label with a value that is not allowed. It begins with the case's name.
    """
    load, check = LoadScand(["image", "label"]), CheckScand("image", label_key="label")
    try:  # MONAI's Compose would hide their errors
        loaded = check(load({"image": str(image), "label": str(label), "series": series}))
        truth = loaded["label"].numpy()[0]
        values = label_values(truth)
        if allowed is not None and (others := [value for value in values if value not in allowed]):
            raise ValueError(
                f"the label {str(label)!r} holds {in_words(others)}, expected no value but "
                f"{', '.join(map(str, sorted(allowed)))}"
            )
    except (FileNotFoundError, ValueError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{name}: {error}") from error
    if scaled:
        loaded = ScaleIntensityRangePercentilesd("image", LOW, HIGH, 0.0, 1.0)(loaded)
    affine = np.asarray(loaded["image"].meta["original_affine"], dtype=np.float64)
    # which stored axis is depth, height and width
    order = [list(nib.io_orientation(affine)[:, 0]).index(world) for world in (2, 1, 0)]
    edges = np.linalg.norm(affine[:3, :3], axis=0)[order]
    mask = truth == lesion
    return Case(
        name=name,
        shape=truth.shape,
        axes="".join(nib.aff2axcodes(affine)),
        spacing=tuple(edges.tolist()),
        size=tuple(truth.shape[axis] for axis in order),
        values=tuple(values),
        lesions=_lesions(mask, abs(np.linalg.det(affine[:3, :3])), edges, order),
        intensities=loaded["image"].numpy()[0][mask] if intensities else np.empty(0, dtype=np.float32),
    )


def _lesions(mask: np.ndarray, voxel: float, edges: np.ndarray, order: Sequence[int]) -> tuple[Lesion, ...]:
    """The connected lesions of a mask (stored axes), largest first; voxel in mm³, edges in mm along depth, ..."""
    whole = ndimage.find_objects(mask.astype(np.uint8))
    if not whole:
        return ()
    parts, _ = ndimage.label(mask[whole[0]], structure=np.ones((3, 3, 3)))
    volumes = np.bincount(parts.ravel())[1:] * voxel / 1000
    lesions = []
    for volume, box in zip(volumes.tolist(), ndimage.find_objects(parts), strict=True):
        voxels = np.array([box[axis].stop - box[axis].start for axis in order])
        depth, height, width = (voxels * edges).tolist()
        lesions.append(Lesion(volume, (depth, height, width)))
    return tuple(sorted(lesions, key=lambda lesion: -lesion.volume))


def measure_all(tasks: Sequence[Callable[[], Case]], *, workers: int = 2, title: str = "cases") -> list[Case]:
    """Measures many cases, some at a time (each holds a scan and its label in memory), with a progress bar.

    Raises:
        ValueError: cases that cannot be used: names up to five of them and what is wrong with each.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}, expected at least 1")
    cases: list[Case] = []
    problems: list[str] = []
    executor = ThreadPoolExecutor(workers)
    try:
        for future in tqdm([executor.submit(task) for task in tasks], desc=title, unit="case"):
            try:
                cases.append(future.result())
            except (ValueError, OSError) as error:
                problems.append(str(error))
                if len(problems) == _MOST_PROBLEMS:
                    break
    finally:  # what has not begun is given up
        executor.shutdown(cancel_futures=True)
    if problems:
        checked = len(cases) + len(problems)
        raise ValueError(f"{len(problems)} of {checked} cases looked at cannot be used: {'; '.join(problems)}")
    return cases


def fingerprint(
    datalist: str | PathLike,
    dataset_dir: str | PathLike | None = None,
    *,
    section: str = "training",
    label: int | None = None,
    scaled: bool = False,
    workers: int = 2,
) -> dict[str, Any]:
    """Intensities, spacing, size and lesions of the cases of a data list.

    The window of intensities lies between the percentiles 0.5 and 99.5 of all voxels of all lesions; mean and standard
    deviation are theirs too, not clipped. Take the training section: nothing of the test cases goes into the training.

    Args:
        datalist: the JSON file, as `adapters.transforms.load_datalist` reads it.
        dataset_dir: the folder that its paths start from; the file's own where None.
        section: which cases.
        label: the value of the lesion; where None, what the data list says under "lesion" (`prepare` writes that), or
            1 if the labels hold no other value.
        scaled: whether intensities are those of scans scaled to their own percentiles, see `measure`.
        workers: how many cases to read at a time.

    Returns:
        What `fingerprint.json` holds. ``section``, ``label``, ``cases`` (their number), ``without_lesion`` (names),
        ``axes`` (how many cases are stored how). ``intensity``: low, high, mean, std, median, minimum, maximum, and
        voxels, their number. With minimum, median and maximum: ``spacing`` (mm) and ``size`` (voxels) along depth,
        height, width, ``lesions`` (a case), ``lesion_volume`` (ml). ``lesion_extent`` (mm) has the 95th percentile too.

    Raises:
        FileNotFoundError: the list or a file is missing.
        ValueError: as `measure`; no case holds the lesion; the label has several values and none was named.
    """
    path = Path(datalist).expanduser()
    entries = load_datalist(path, section, path.parent if dataset_dir is None else dataset_dir)
    named = read_json(path, "data list").get("lesion") if label is None else label
    if named is not None and (not isinstance(named, int) or isinstance(named, bool)):
        raise ValueError(f"the lesion of {str(path)!r} is {named!r}, expected a value of the labels such as 1")
    lesion = 1 if named is None else named
    tasks = [
        partial(
            measure,
            entry_name(entry),
            entry["image"],
            entry["label"],
            lesion,
            intensities=True,
            scaled=scaled,
            series=entry.get("series", ""),
        )
        for entry in entries
    ]
    cases = measure_all(tasks, workers=workers, title=section)
    values = values_of(cases)
    if named is None and set(values) - {0.0, 1.0}:
        raise ValueError(f"the labels of {str(path)!r} hold {in_words(values)}: say which is the lesion (--label)")
    if lesion not in values:
        raise ValueError(
            f"no label of section {section!r} of {str(path)!r} holds the lesion {lesion}, only {in_words(values)}"
        )
    return {"section": section, "label": lesion, **summary(cases)}


def values_of(cases: Sequence[Case]) -> list[float]:
    """The values that the labels of some cases hold, in order."""
    return sorted({value for case in cases for value in case.values})


def summary(cases: Sequence[Case]) -> dict[str, Any]:
    """What `fingerprint` returns, of cases that were measured; ``intensity`` only where the values were kept."""
    lesions = [lesion for case in cases for lesion in case.lesions]
    result: dict[str, Any] = {
        "cases": len(cases),
        "without_lesion": [case.name for case in cases if not case.lesions],
        "axes": dict(Counter(case.axes for case in cases).most_common()),
        "spacing": _spread([case.spacing for case in cases]),
        "size": _spread([case.size for case in cases]),
        "lesions": _spread([len(case.lesions) for case in cases]),
    }
    if lesions:
        extents = [lesion.extent for lesion in lesions]
        result["lesion_volume"] = _spread([lesion.volume for lesion in lesions])
        result["lesion_extent"] = _spread(extents) | {"percentile_95": np.percentile(extents, 95, axis=0).tolist()}
    voxels = np.concatenate([case.intensities for case in cases])
    if len(voxels):
        low, median, high = np.percentile(voxels, [LOW, 50, HIGH]).tolist()
        result["intensity"] = {
            "low": low,
            "high": high,
            "mean": float(voxels.mean(dtype=np.float64)),
            "std": float(voxels.std(dtype=np.float64)),
            "median": median,
            "minimum": float(voxels.min()),
            "maximum": float(voxels.max()),
            "voxels": len(voxels),
        }
    return result


def _spread(values: Sequence[Any]) -> dict[str, Any]:
    """Minimum, median and maximum of numbers, or of triples axis by axis."""
    array = np.asarray(values, dtype=np.float64)
    spread = {"minimum": array.min(axis=0), "median": np.median(array, axis=0), "maximum": array.max(axis=0)}
    return {name: numbers.tolist() for name, numbers in spread.items()}


def table(columns: dict[str, dict[str, Any]]) -> str:
    """A Markdown table of what `summary` returned, by the column's title."""
    spreads = {
        f"spacing, mm ({AXES})": ("spacing", "{:.2f}"),
        f"size, voxels ({AXES})": ("size", "{:.0f}"),
        "lesions in a case": ("lesions", "{:g}"),
        "volume of a lesion, ml": ("lesion_volume", "{:.2f}"),
        f"extent of a lesion, mm ({AXES})": ("lesion_extent", "{:.0f}"),
    }
    cases = columns.values()
    lines = [
        ["median (minimum to maximum)", *columns],
        ["---"] * (len(columns) + 1),
        ["cases", *(str(column["cases"]) for column in cases)],
        ["without a lesion", *(str(len(column["without_lesion"])) for column in cases)],
        ["stored axes point to", *(", ".join(f"{axes} ({n})" for axes, n in c["axes"].items()) for c in cases)],
        *([title, *(_range(column.get(key), form) for column in cases)] for title, (key, form) in spreads.items()),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _range(spread: dict[str, Any] | None, form: str) -> str:
    if spread is None:
        return "-"
    texts = {name: " x ".join(map(form.format, np.atleast_1d(numbers))) for name, numbers in spread.items()}
    return "{median} ({minimum} to {maximum})".format(**texts)


def write_fingerprint(result: dict[str, Any], output: str | PathLike) -> str:
    """Writes what `fingerprint` returned as JSON into a file, whose folder is made if it is not there.

    Returns:
        The table to print, with the intensities below it.
    """
    file = Path(output).expanduser()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(result, indent=4) + "\n")
    voxels = result["intensity"]
    intensities = (
        f"lesions, label {result['label']}, {voxels['voxels']} voxels: percentiles {LOW} and {HIGH} are "
        f"{voxels['low']:g} and {voxels['high']:g}, mean {voxels['mean']:.6g}, standard deviation {voxels['std']:.6g}"
    )
    return "\n".join([table({result["section"]: result}), "", intensities, f"wrote {file}"])
