"""Where bundles lie: in a folder of the user's, and with the library."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

__all__ = ["BUNDLES", "bundle_folder", "bundles_in", "check_own", "find_bundle", "is_installed", "shipped_bundles"]

BUNDLES = "bundles"
"""The folder of bundles, in a user's folder, in a source checkout, and inside the installed library."""

ENDING = "_samadapter_deepgrow"
"""What a bundle's name may leave out. MONAI Label takes a ``deepgrow`` in it for one model that takes clicks."""


def _installed() -> Path:
    return Path(str(resources.files("adapters"))).resolve() / BUNDLES


def shipped_bundles() -> Path:
    """The bundles that come with the library: inside it where it was installed, beside it in a source checkout."""
    installed = _installed()
    return installed if installed.is_dir() else installed.parents[1] / BUNDLES


def bundle_folder(given: str | os.PathLike | None = None) -> Path:
    """The folder of bundles that a command goes through.

    Args:
        given: it; None or empty: ``bundles`` in the current folder, or the library's own where there is none.
    """
    if given:
        return Path(given).expanduser()
    return Path(BUNDLES) if Path(BUNDLES).is_dir() else shipped_bundles()


def bundles_in(folder: Path) -> list[Path]:
    """The folders with ``configs`` in them, by name."""
    return sorted(path.parent for path in folder.glob("*/configs"))


def find_bundle(name: str | os.PathLike, bundles: str | os.PathLike | None = None) -> Path:
    """The folder of a bundle.

    Args:
        name: of a folder in `bundles`, where the ending ``_samadapter_deepgrow`` may be left out, or the path of a
            bundle anywhere.
        bundles: a folder of bundles. None or empty: ``bundles`` in the current folder, then the library's own.

    Returns:
        The absolute path.

    Raises:
        FileNotFoundError: there is no bundle: no folder with ``configs`` in it; the message names those that there are.
    """
    homes = [Path(bundles).expanduser()] if bundles else [Path(BUNDLES), shipped_bundles()]
    places = [Path(name).expanduser(), *(home / f"{name}{ending}" for home in homes for ending in ("", ENDING))]
    for folder in places:
        if (folder / "configs").is_dir():
            return folder.resolve()
    known = " or in ".join(
        f"{str(home)!r}, which holds {', '.join(path.name for path in bundles_in(home)) or 'none'}" for home in homes
    )
    raise FileNotFoundError(
        f"there is no bundle {str(name)!r}: expected a folder with configs/ in it, or the name of one in {known}"
    )


def is_installed(bundle: Path) -> bool:
    """Whether a bundle is part of the installed library, which nothing but pip may change."""
    return bundle.resolve().is_relative_to(_installed())


def check_own(bundle: Path, otherwise: str = "") -> Path:
    """The bundle, if it may be written into.

    Args:
        bundle: its folder.
        otherwise: what a user can do instead of copying it, for the message.

    Raises:
        ValueError: it is part of the installed library; the message says how to copy it.
    """
    if is_installed(bundle):
        raise ValueError(
            f"{bundle.name} is part of the installed library, which stays as it is: copy it "
            f"(`python -m adapters get {bundle.name}`) and go on with the copy{otherwise and f', or {otherwise}'}"
        )
    return bundle
