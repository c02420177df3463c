"""Scans that are ready for the network, kept for the next click."""

from __future__ import annotations

import copy
import math
import pickle
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cachetools import LRUCache
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import pickle_hashing
from monai.transforms import Compose, InvertibleTransform, MapTransform
from monai.utils import TraceKeys

from adapters.files import case_name, file_hash, files_of_scan
from adapters.transforms.loading import scan_path, series_of

_MEGABYTE = 1024 * 1024
_LARGEST = 2  # times what is kept: a voxel takes 4 bytes there, and at most 8 in a file


SCANS: LRUCache[Hashable, MetaTensor] = LRUCache(math.inf, getsizeof=lambda scan: scan.nbytes)
"""Belongs to the process: MONAI Label makes new transforms for every request, which say how much is kept."""
_LOCK = threading.Lock()


class RememberedScand(MapTransform, InvertibleTransform):
    """The first transforms of a request, which depend on the scan alone: done once, and not again for the next click.

    A scan is known by the content of its files (`adapters.files.files_of_scan`), by the ``series`` that a request names
    of a folder of DICOM, and by the transforms. So one that was changed is prepared anew, and one that was uploaded
    again under another name is not. Nothing is kept where it is not known whether other files belong to a scan, nor
    where a transform cannot be pickled, such as one with a lambda. The voxels are shared between requests: what follows
    must not write into them.

    Args:
        keys: keys of paths of scans.
        transforms: what makes a tensor of each; they must neither look at other keys nor write any, and have
            nothing random.
        megabytes: how much is kept at most in this process; the least recently used scans go. 0: nothing.

    Raises:
        ValueError: a negative number of megabytes.
    """

    def __init__(self, keys: KeysCollection, transforms: Sequence[Callable], *, megabytes: float = 1024) -> None:
        super().__init__(keys)
        self.transforms = list(transforms)
        if not megabytes >= 0:
            raise ValueError(f"megabytes is {megabytes}: expected 0 (keep nothing) or more")
        self.megabytes = megabytes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Prepare each scan, or take it as it was prepared before."""
        d: Any = dict(data)
        names = {key: self._name(d[key], series_of(d.get("series"))) for key in self.keys}
        with _LOCK:
            kept = {key: SCANS[name] for key, name in names.items() if name in SCANS}
        if len(kept) == len(names):
            d.pop("series", None)  # as LoadScand
            for key, scan in kept.items():
                path, d[key] = scan_path(d[key]), _beside(scan)
                d[key].meta["filename_or_obj"] = str(path)
            return d
        for transform in self.transforms:
            d = transform(d)
        for key, name in names.items():
            if name is not None and isinstance(d[key], MetaTensor):
                with _LOCK:
                    SCANS[name] = _beside(d[key])
                    while SCANS.currsize > self.megabytes * _MEGABYTE:
                        SCANS.popitem()
        return d

    def inverse(self, data: Any) -> Any:
        """Undo the transforms, for a mask that goes back to the scan's own grid."""
        return Compose(self.transforms).inverse(data)

    def _name(self, path: Any, series: str) -> Hashable | None:
        """What tells a scan from others; None if it cannot be kept."""
        scan = scan_path(path) if self.megabytes else None
        if scan is None or not scan.exists():
            return None
        try:
            transforms = pickle_hashing(self.transforms)
        except (pickle.PicklingError, AttributeError, TypeError):
            return None
        digest = _digest(scan, _LARGEST * self.megabytes * _MEGABYTE)
        return None if digest is None else (digest, series, transforms)


def _digest(path: Path, largest: float = math.inf) -> Hashable | None:
    """Of the content of all files of a scan with their endings (in a folder: names).

    None if they are not known, or have more bytes together than `largest`: a file may claim terabytes.
    """
    files = files_of_scan(path)
    if files is None or sum(file.stat().st_size for file in files) > largest:
        return None
    names = [str(file.relative_to(path)) if path.is_dir() else _ending(file) for file in files]
    content = frozenset((name, file_hash(file, "sha256")) for name, file in zip(names, files, strict=True))
    return _ending(path), content


def _ending(path: Path) -> str:
    return path.name.removeprefix(case_name(path))


def _beside(scan: MetaTensor) -> MetaTensor:
    """The same voxels with metadata of their own."""
    meta, operations = copy.deepcopy((dict(scan.meta), list(scan.applied_operations)))
    for operation in operations:  # inverted by the transforms of another request, which are equal but not the same
        operation[TraceKeys.ID] = TraceKeys.NONE
    return MetaTensor(scan.as_tensor(), meta=meta, applied_operations=operations)
