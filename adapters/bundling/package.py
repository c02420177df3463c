"""A bundle as the Model Zoo keeps it: a zip with one folder in it, and its entry in ``model_info.json``."""

from __future__ import annotations

import json
import os
import re
import reprlib
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import yaml

from adapters.bundling.folders import find_bundle
from adapters.error_text import one_line
from adapters.files import alone, file_hash, no_weights, read_json, replacing, write_whole

__all__ = ["bundle_files", "large_files", "package"]

ZOO_URL = "https://github.com/Project-MONAI/model-zoo/releases/download/hosting_storage_v1"
"""Where the Model Zoo keeps its zips."""

LARGE_FILES = ("large_files.yml", "large_files.yaml", "large_files.json")

_TIME = (2022, 5, 30, 0, 0, 0)  # that of all files in the zoo's own zips
_VERSION = re.compile(r"\w[\w.+-]*")  # it becomes part of a file's name
_MODE = 0o100644  # a plain file that all may read
_LEFT_OUT = (
    # results, and what programs leave behind
    "eval/*",
    "*.tmp",
    "*.pyc",
    "*__pycache__/*",
    "*mlruns*",
    "configs/monailabel_*.json",
    # the state of a training, and what training starts from
    "models/last*.ckpt",
    "models/sam_vit_*.pth",
)


def large_files(bundle: Path) -> list[dict[str, Any]]:
    """What the bundle's ``large_files.yml`` lists; empty without such a file.

    Raises:
        ValueError: the file cannot be read, or is no list of entries under ``large_files``.
    """
    for path in (bundle / name for name in LARGE_FILES):
        if path.is_file():
            try:
                listed = yaml.safe_load(path.read_text(encoding="utf-8"))["large_files"]
            except Exception as error:  # whatever the parsers of YAML and JSON raise
                raise ValueError(
                    f"{path.name} cannot be read ({one_line(error)}): give a list as large_files"
                ) from error
            if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
                raise ValueError(
                    f"large_files of {path.name} is {reprlib.repr(listed)}: give a list of entries with a path"
                )
            return listed
    return []


def bundle_files(bundle: Path) -> list[str]:
    """What belongs to the bundle as it is handed on, as paths inside it, sorted.

    Hidden files, caches, results (``eval``), the state of trainings, SAM's weights and what ``large_files.yml`` lists
    are left out.

    Raises:
        ValueError: as `large_files`, or one of them is a link to something outside the bundle, or to a folder.
    """
    left_out = (*_LEFT_OUT, *(str(entry.get("path")) for entry in large_files(bundle)))
    names = []
    for path in bundle.rglob("*"):
        name = path.relative_to(bundle).as_posix()
        link = path.is_symlink()
        if not (link or path.is_file()) or any(part.startswith(".") for part in name.split("/")):
            continue
        if any(fnmatch(name, pattern) or (link and fnmatch(f"{name}/", pattern)) for pattern in left_out):
            continue
        if link and (not path.is_file() or not path.resolve().is_relative_to(bundle.resolve())):
            raise ValueError(
                f"{name} of {bundle.name} is a link to {str(path.resolve())!r}, which a copy would not have: put the "
                "file itself there, or take the link out"
            )
        names.append(name)
    return sorted(names)


def package(
    name: str | os.PathLike,
    output: str | os.PathLike = "dist",
    bundles: str | os.PathLike | None = None,
    source: str = ZOO_URL,
) -> str:
    """Writes a bundle as the Model Zoo keeps it: NAME_v<version>.zip and its entry in model_info.json.

    The same files give the same bytes, so nothing is compressed: what that gives depends on the version of zlib.

    Args:
        name: Of a folder of bundles, or the path of a bundle anywhere.
        output: The folder to write into; it is made if it is not there, and other entries of its model_info.json stay.
        bundles: The folder of bundles; left out, bundles/ here, then the library's own.
        source: The address of the folder that the zip will be offered in.

    Returns:
        What to print.

    Raises:
        FileNotFoundError: there is no such bundle.
        ValueError: its metadata have no version that is in the changelog; ``model_info.json`` cannot be read, or has
            that version with another checksum. Its weights are a pointer of git LFS, a web page or half a file.
    """
    bundle = find_bundle(name, bundles)
    key = f"{bundle.name}_v{_version(bundle)}"
    names = bundle_files(bundle)
    for inside in names:
        if inside.endswith((".pt", ".pth")) and (reason := no_weights(bundle / inside)):
            raise ValueError(f"{inside} of {bundle.name} {reason}")
    folder = Path(output).expanduser()
    _known(folder / "model_info.json")  # refuses one that cannot be read before anything is made
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key}.zip"
    with alone(folder / ".package.lock", f"writes packages into {folder}", wait=True):
        known = _known(folder / "model_info.json")
        with replacing(path) as temporary:
            with ZipFile(temporary, "w", ZIP_STORED) as archive:
                for inside in names:
                    _add(archive, bundle / inside, f"{bundle.name}/{inside}")
            checksum = file_hash(temporary, "sha1")
            if key in known and known[key].get("checksum") != checksum:
                raise ValueError(
                    f"{str(folder / 'model_info.json')!r} has {key} with another checksum, so the bundle has changed: "
                    "raise its version in configs/metadata.json and say in the changelog what changed, or, if nobody "
                    "has that version yet, take the entry out"
                )
        known[key] = {"checksum": checksum, "source": f"{source.rstrip('/')}/{path.name}"}
        write_whole(folder / "model_info.json", json.dumps(known, indent=4) + "\n")
    weights = [inside for inside in names if inside.startswith("models/")]
    return (
        f"wrote {path}: {len(names)} files, {path.stat().st_size / 1e6:.1f} MB, "
        f"{'with ' + ', '.join(weights) if weights else 'without weights'}; sha1 {checksum} in model_info.json"
    )


def _add(archive: ZipFile, path: Path, inside: str) -> None:
    entry = ZipInfo(inside, _TIME)
    entry.create_system = 3  # unix, on every system
    entry.external_attr = _MODE << 16
    entry.file_size = path.stat().st_size  # more than 2 GB need another header
    with path.open("rb") as source, archive.open(entry, "w") as target:
        shutil.copyfileobj(source, target)


def _version(bundle: Path) -> str:
    path = bundle / "configs" / "metadata.json"
    metadata = read_json(path)
    version, changelog = (metadata.get(key) if isinstance(metadata, dict) else None for key in ("version", "changelog"))
    if not isinstance(version, str) or not _VERSION.fullmatch(version) or not isinstance(changelog, dict):
        raise ValueError(
            f"{str(path)!r} gives no version and changelog ({reprlib.repr(version)}, {reprlib.repr(changelog)}): add "
            "a version such as '1.0.0', and what changed by version"
        )
    if version not in changelog:
        raise ValueError(f"version {version!r} of {str(path)!r} is not in its changelog: say there what changed")
    return version


def _known(path: Path) -> dict[str, dict[str, str]]:
    """The entries of a ``model_info.json``; none where there is no such file."""
    if not path.exists():
        return {}
    known = read_json(path, "zoo's list of bundles")
    if not isinstance(known, dict) or not all(isinstance(entry, dict) for entry in known.values()):
        raise ValueError(f"{str(path)!r} is no list of bundles as the zoo keeps it, an object of objects: move it away")
    return known
