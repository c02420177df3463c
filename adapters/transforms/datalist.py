"""Data lists: cases to train and test on, and requests with clicks. Checked before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any

from adapters.files import case_name, read_json
from adapters.prompts import check_boxes, check_points


def entry_name(entry: Mapping[str, Any]) -> str:
    """What a case of a data list is called: its ``case``, else after its image (`adapters.files.case_name`)."""
    return str(entry.get("case") or case_name(entry["image"]))


def _existing(name: Any, base_dir: Path, where: str) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where} is {name!r}, expected the path of a file")
    path = base_dir / Path(name).expanduser()
    try:
        is_there = path.exists()
    except OSError as error:  # a name that is too long
        raise ValueError(f"{where} is {name[:80]!r}..., expected the path of a file ({error.strerror})") from error
    if not is_there:
        raise FileNotFoundError(f"{where}: there is no file {str(path)!r}; check the list and the folder it refers to")
    return str(path)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file, whose keys must differ: Python would take the last of two and forget the other."""
    entry = dict(pairs)
    if len(entry) < len(pairs):
        name = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        raise ValueError(f"an object has the key {name!r} twice; put both into one, or take one away")
    return entry


def load_requests(
    path: str | PathLike, base_dir: str | PathLike | None = None, *, spatial_dims: int = 3
) -> list[dict[str, Any]]:
    """Read a JSON list of scans with clicks, in the keys of MONAI's VISTA3D bundle.

    ``[{"image": "scan.nii.gz", "points": [[i, j, k], ...], "point_labels": [1, 0, ...]}, ...]``. Points are in voxels
    of the image as stored (frame ``image``, axis order of the file). Labels are 1 on the lesion, 0 off it, -1 padding.
    Both are empty for automatic mode. ``boxes`` are ``[[lowest voxel], [highest voxel]]`` each. Other keys are kept.

    Args:
        path: the JSON file.
        base_dir: folder that relative paths of images start from; None: the folder of the JSON file.
        spatial_dims: how many coordinates a point has, 2 or 3.

    Returns:
        The entries, with full paths of images.

    Raises:
        FileNotFoundError: the list or one of its images is missing.
        ValueError: not a list of such entries: names the entry and the key; two images, or two keys, of one name.
    """
    entries = read_json(path, "data list", pairs=_each_once)
    base = Path(path).expanduser().parent if base_dir is None else Path(base_dir).expanduser()
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{str(path)!r} holds {type(entries).__name__}, expected a list of at least one entry")
    requests: list[dict[str, Any]] = []
    written: dict[str, int] = {}  # names of the masks, which follow the names of the images
    for number, entry in enumerate(entries):
        where = f"entry {number} of {str(path)!r}"
        if not isinstance(entry, Mapping):
            raise ValueError(f"{where} is {entry!r}, expected an object with image, points and point_labels")
        for key in ("image", "points", "point_labels"):
            if key not in entry:
                hint = "the path of a scan" if key == "image" else "[] where there is no click"
                raise ValueError(f"{where} has no key {key!r} (it has {', '.join(entry)}); add it, {hint}")
        check_points(entry["points"], entry["point_labels"], name=where, spatial_dims=spatial_dims)
        check_boxes(entry.get("boxes", []), name=f"{where}: boxes", spatial_dims=spatial_dims)
        image = _existing(entry["image"], base, f"{where}, 'image'")
        if Path(image).is_file() and not Path(image).stat().st_size:
            raise ValueError(f"{where}, 'image': {image!r} is empty (0 bytes); write or fetch it again")
        first = written.setdefault(case_name(image), number)
        if first != number:
            raise ValueError(
                f"{where} and entry {first} both have an image named {case_name(image)!r}, so one mask would overwrite "
                "the other: put them into lists of their own, or rename one"
            )
        requests.append({**entry, "image": image})
    return requests


def load_datalist(
    path: str | PathLike,
    section: str,
    dataset_dir: str | PathLike,
    *,
    each: Mapping[str, Sequence[Any]] | None = None,
    check: Callable[[Sequence[Mapping[str, Any]]], object] | None = None,
) -> list[dict[str, Any]]:
    """Read one section of a JSON data list for training and evaluation.

    ``{"training": [...], "validation": [...], "test": [...]}``. An entry is ``{"image": ..., "label": ...}`` with paths
    that start from ``dataset_dir``; other keys are kept. Or it is an identifier such as ``"STS_002"``, which stands for
    ``images/STS_002.nii.gz`` and ``labels/STS_002.nii.gz``.

    Args:
        path: the JSON file.
        section: name of the section.
        dataset_dir: folder that the paths start from.
        each: keys with several values, such as ``{"num_clicks": [0, 1, 3]}``: an entry comes once for each combination.
        check: called with all entries, such as `adapters.transforms.check_cases`, which looks at their headers.

    Returns:
        The entries with full paths under ``image`` and ``label``, and those keys.

    Raises:
        FileNotFoundError: the list, the folder or one of the files is missing.
        ValueError: no such section, an empty one, or an entry without a key: names the entry and the key. What
            `check` raises.
    """
    sections = read_json(path, "data list", pairs=_each_once)
    if not isinstance(sections, Mapping):
        raise ValueError(f"{str(path)!r} holds {type(sections).__name__}, expected an object with a list {section!r}")
    if section not in sections:
        raise ValueError(f"{str(path)!r} has no section {section!r}, expected one of {', '.join(sections)}")
    entries = sections[section]
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"section {section!r} of {str(path)!r} is {entries!r}, expected a list of at least one entry")
    base = Path(dataset_dir).expanduser()
    if not base.is_dir():
        raise FileNotFoundError(
            f"there is no folder {str(base)!r}; set dataset_dir to the one with images/ and labels/"
        )
    cases = []
    for number, entry in enumerate(entries):
        where = f"entry {number} of section {section!r} in {str(path)!r}"
        if not isinstance(entry, (str, Mapping)):
            raise ValueError(f"{where} is {entry!r}, expected an identifier or an object with image and label")
        named = {key: f"{key}s/{entry}.nii.gz" for key in ("image", "label")}
        case = named if isinstance(entry, str) else dict(entry)
        for key in ("image", "label"):
            if key not in case:
                raise ValueError(f"{where} has no key {key!r} (it has {', '.join(case)}); add it")
            case[key] = _existing(case[key], base, f"{where}, {key!r}")
        cases.append(case)
    if check is not None:
        check(cases)
    keys = dict(each or {})
    return [{**case, **dict(zip(keys, values, strict=True))} for case in cases for values in product(*keys.values())]
