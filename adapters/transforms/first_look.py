"""A first look at the entries of a list: what their files say of themselves, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.prompts import Prompts
from adapters.transforms.datalist import entry_name
from adapters.transforms.dicom import find_volume
from adapters.transforms.loading import check_scan_file, series_of

_SHOWN = 10


def check_request(entry: Mapping[str, Any], series: str = "") -> None:
    """Look at a request: at the header of its scan, and whether its clicks and boxes lie in it.

    Args:
        entry: as `adapters.transforms.load_requests` gives it; points and boxes in voxels of the image as stored.
        series: of a folder of DICOM, where the entry names none.

    Raises:
        FileNotFoundError: the scan, or a file that its header names, is not there.
        ValueError: a header that cannot be read or does not fit its file, DICOM that is not one regular volume, a click
            or a box outside the scan.
    """
    shape = _shape({**entry, "series": series_of(entry.get("series"), series)}, "image")
    try:
        Prompts(entry.get("points", ()), entry.get("point_labels", ()), shape=shape, boxes=entry.get("boxes", ()))
    except ValueError as error:
        raise ValueError(f"{Path(entry['image']).name}: {error}") from error


def check_case(entry: Mapping[str, Any]) -> None:
    """Look at a case to train or test on: at the headers of its image and its label.

    Args:
        entry: as `adapters.transforms.load_datalist` gives it.

    Raises:
        FileNotFoundError: the image or the label, or a file that a header names, is not there.
        ValueError: a header that cannot be read or does not fit its file, image and label of different shapes.
    """
    image, label = _shape(entry, "image"), _shape({**entry, "series": None}, "label")
    if image is not None and label is not None and image != label:
        raise ValueError(
            f"'image' ({Path(entry['image']).name}) and 'label' ({Path(entry['label']).name}) are on different grids: "
            f"shapes {image} and {label}; resample the label to the image"
        )


def check_cases(entries: Sequence[Mapping[str, Any]]) -> None:
    """Look at all cases of a list, and name all that cannot be used.

    Raises:
        ValueError: one of them, or several, cannot be used (`check_case`).
    """
    found: dict[str, str] = {}
    for entry in {(entry["image"], entry["label"]): entry for entry in entries}.values():
        try:
            check_case(entry)
        except (ValueError, OSError) as error:
            found[f"{entry_name(entry)} ({entry['image']})"] = " ".join(str(error).split())
    if found:
        told = "; ".join(f"{name}: {reason}" for name, reason in list(found.items())[:_SHOWN])
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ValueError(f"{len(found)} of the list's cases cannot be used: {told}{more}")


def _shape(entry: Mapping[str, Any], key: str) -> tuple[int, ...] | None:
    """The shape that a scan's headers state; None where they state no scan, which is refused when its turn comes."""
    path = Path(entry[key]).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{key!r}: there is no file or folder {str(path)!r}; check the path")
    header = check_scan_file(path, key)
    if header is None:
        try:
            return find_volume(path, series_of(entry.get("series"))).shape
        except ValueError as error:
            raise ValueError(f"{key!r}: {error}") from error
    return None if header.more or len(header.shape) != 3 else header.shape
