"""Where a bundle lies."""

from __future__ import annotations

import os
from pathlib import Path

import adapters

__all__ = ["bundles_in", "find_bundle"]

BUNDLES = "bundles"
_ENDING = "_samadapter_deepgrow"


def bundles_in(folder: Path) -> list[Path]:
    """The folders with ``configs`` in them, by name."""
    return sorted(path.parent for path in folder.glob("*/configs"))


def find_bundle(name: str | os.PathLike, bundles: str | os.PathLike = BUNDLES) -> Path:
    """The folder of a bundle.

    Args:
        name: of a folder in `bundles`, where the ending ``_samadapter_deepgrow`` may be left out, or the path of a
            bundle anywhere.
        bundles: a folder of bundles. The default, ``bundles`` in the current folder, is followed by that of the source
            checkout that this library is installed from.

    Returns:
        The absolute path.

    Raises:
        FileNotFoundError: there is no bundle: no folder with ``configs`` in it; the message names those that there are.
    """
    homes = [Path(bundles).expanduser()]
    if Path(bundles) == Path(BUNDLES):
        homes.append(Path(adapters.__file__).resolve().parents[1] / BUNDLES)
    places = [Path(name).expanduser(), *(home / f"{name}{ending}" for home in homes for ending in ("", _ENDING))]
    for folder in places:
        if (folder / "configs").is_dir():
            return folder.resolve()
    known = ", ".join(sorted({path.name for home in homes for path in bundles_in(home)})) or "none"
    raise FileNotFoundError(
        f"there is no bundle {str(name)!r}: expected a folder with configs/ in it, or the name of one in "
        f"{str(bundles)!r}, which holds {known}"
    )
