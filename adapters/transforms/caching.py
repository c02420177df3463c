"""Data sets that keep what is expensive of each case, in memory or on disk, and repeat what is left to chance."""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import logging
import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import monai
import torch
from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.utils import convert_to_tensor

import adapters
from adapters.files import file_hash, files_of_scan, write_whole

logger = logging.getLogger(__name__)

Cache = Literal["memory", "disk", "none"]

# Packages whose code is not looked at: known by their versions, or (these and Python's own) seldom changed.
_LIBRARIES = frozenset({"adapters", "monai", "numpy", "torch", *sys.stdlib_module_names})


def _file_state(value: Any) -> list[tuple[str, int, int]]:
    """Name, size and time of change of a scan's files; of its whole folder if they are not known, none for no path."""
    if isinstance(value, (list, tuple)):
        return [state for each in value for state in _file_state(each)]
    if not isinstance(value, (str, PathLike)) or not value:  # as a path, the empty word is the current folder
        return []
    try:
        path = Path(value).expanduser()
        if not path.exists():
            return []
    except (RuntimeError, OSError):  # a word like a user's folder that is not there, or longer than a name can be
        return []
    files = files_of_scan(path)
    if files is None:
        files = tuple(sorted(file for file in path.parent.iterdir() if file.is_file()))
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _item_hash(item: Mapping[str, Any]) -> bytes:
    """A digest of a case: of its entries, and of the states of the files that they name."""
    states = {str(key): _file_state(value) for key, value in item.items()}
    try:
        text = json.dumps([item, states], sort_keys=True, default=os.fspath)
    except TypeError as err:
        raise ValueError(
            f"cache='disk' tells cases by what they are called, and one cannot be written down ({err}): expected "
            "paths, numbers and words; take cache='memory' for others."
        ) from err
    return hashlib.sha256(text.encode()).hexdigest().encode()


class _Pickler(pickle.Pickler):
    """Python's own, which writes functions and classes by name; `code` are digests of those that no library has."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.code: dict[str, str] = {}

    def reducer_override(self, obj: Any) -> Any:
        for each in obj.__mro__ if isinstance(obj, type) else (obj,):
            module, name = getattr(each, "__module__", None), getattr(each, "__qualname__", None)  # no others by name
            if isinstance(module, str) and isinstance(name, str) and module.partition(".")[0] not in _LIBRARIES:
                self.code[f"{module}.{name}"] = _code(each, module)
        return NotImplemented


def _code(of: Any, module: str) -> str:
    """A digest of the file of a module, or of a function's or class's own lines in the script that runs."""
    file = getattr(sys.modules.get(module), "__file__", None)
    try:
        if file and module != "__main__":
            return file_hash(Path(file), "sha256")
        return hashlib.sha256(inspect.getsource(of).encode()).hexdigest()
    except (OSError, TypeError) as err:
        raise pickle.PicklingError(f"the source of {module}.{of.__qualname__} is not to be had") from err


def _transform_hash(transforms: Any) -> bytes:
    """A digest of transforms with their options, of the versions of the libraries, and of code that is in none."""
    pickled = io.BytesIO()
    pickler = _Pickler(pickled)
    try:
        pickler.dump([monai.__version__, adapters.__version__, transforms])
    except (pickle.PicklingError, AttributeError, TypeError) as err:
        raise ValueError(
            f"cache='disk' tells by its options and its source whether a transform has changed, and one cannot be "
            f"written down ({err}): expected no lambda before the first random transform, and nothing that was typed "
            "at a prompt; take a named function or a class of a module, or cache='memory'."
        ) from err
    code = json.dumps(pickler.code, sort_keys=True).encode()
    return hashlib.sha256(pickled.getvalue() + code).hexdigest().encode()


class _DiskDataset(PersistentDataset):
    """MONAI's `PersistentDataset`, with files written whole or not at all.

    MONAI's come from the system's folder of temporary files: a copy, if that is on another disk. After an interrupted
    one it does not start.
    """

    def _cachecheck(self, item_transformed: Any) -> Any:
        folder = Path(self.cache_dir)  # type: ignore[arg-type]  # always given
        file = folder / f"{self.hash_func(item_transformed).decode()}{self.transform_hash}.pt"
        if file.is_file():
            try:
                return torch.load(file, weights_only=True)
            except Exception as err:  # a damaged file raises anything
                logger.warning("%s cannot be read (%s): it is made anew", file, type(err).__name__)
        kept = convert_to_tensor(
            self._pre_transform(deepcopy(item_transformed)), convert_numeric=False, track_meta=self.track_meta
        )
        content = io.BytesIO()  # so that a full disk is an OSError
        torch.save(kept, content)
        write_whole(file, content.getvalue())
        return kept


def cached_dataset(
    data: Sequence[Mapping[str, Any]],
    transform: Callable[..., Any],
    cache: Cache = "memory",
    cache_dir: str | PathLike | None = None,
    *,
    num_workers: int = 1,
) -> Dataset:
    """A data set that keeps each case as it is before the first random transform.

    Args:
        data: the cases, with the paths of their files.
        transform: MONAI's `Compose`; what is expensive (loading, orienting, resampling) comes before what is random.
        cache: "memory" keeps all cases in this process (MONAI's `CacheDataset`), "disk" writes each to a file when it
            is first needed (MONAI's `PersistentDataset`), "none" makes all anew each time. Another file is made where
            the path, size or time of change of a scan's files has changed (of all in the folder, for a format that may
            have several). So it is with an option of a transform, a version of MONAI or of this library, and the source
            of your own code. That is its module, or its own lines in a script, but not what it calls in other modules.
            Old files stay until the folder is emptied. Files have no metadata: random transforms get plain tensors.
        cache_dir: folder for "disk"; made if it is not there. Several trainings may share it.
        num_workers: threads that fill the memory.

    Raises:
        ValueError: another word. For "disk": no folder, a transform that cannot be told from another by its options, or
            (when asked for it) a case of others than paths, numbers and words.
    """
    if cache not in get_args(Cache):
        raise ValueError(f"cache={cache!r}: expected one of {', '.join(get_args(Cache))}.")
    if cache == "memory":
        return CacheDataset(data, transform, num_workers=num_workers, progress=False)
    if cache == "none":
        return Dataset(data, transform)
    if not cache_dir:
        raise ValueError(f"cache='disk' with cache_dir={cache_dir!r}: expected the folder to write into.")
    return _DiskDataset(data, transform, Path(cache_dir), hash_func=_item_hash, hash_transform=_transform_hash)
