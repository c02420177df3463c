"""A bundle of one's own: a copy of one that comes with the library."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from adapters.bundling.folders import BUNDLES, find_bundle
from adapters.bundling.package import bundle_files
from adapters.files import writing

__all__ = ["copy_bundle", "get_bundle"]


def copy_bundle(bundle: Path, folder: Path) -> Path:
    """Copy what `bundle_files` names of a bundle; an interruption leaves no half bundle.

    Args:
        bundle: its folder.
        folder: the folder of bundles to copy it into; made if it is not there.

    Returns:
        The copy, which has the bundle's name.

    Raises:
        ValueError: there is something of that name already, which stays as it is.
    """
    copy = folder / bundle.name
    if os.path.lexists(copy):
        raise ValueError(
            f"{str(copy)!r} exists already and was left as it is: use it, move it away, or choose another --output"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with writing(copy), tempfile.TemporaryDirectory(dir=folder, prefix=".get_") as beside:
        for name in bundle_files(bundle):
            target = Path(beside) / bundle.name / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle / name, target)
        (Path(beside) / bundle.name).rename(copy)
    return copy


def get_bundle(name: str | os.PathLike, output: str | os.PathLike = BUNDLES) -> str:
    """Copies a bundle that comes with the library, to be trained or changed.

    Args:
        name: The bundle's name, or its folder.
        output: The folder of bundles to copy it into; it is made if it is not there.

    Returns:
        What to print: the copy, and what to do with it.

    Raises:
        FileNotFoundError: there is no such bundle.
        ValueError: as `copy_bundle`.
    """
    copy = copy_bundle(find_bundle(name), Path(output).expanduser())
    lines = [f"wrote {copy}: docs/README.md in it says how to train, evaluate and run it"]
    if not (copy / "models" / "model.pt").is_file():
        lines.append(f"it has no weights yet: train it, or start from SAM's: python -m adapters init {copy} --sam FILE")
    return "\n".join(lines)
