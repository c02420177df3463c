"""Where a bundle lies."""

from __future__ import annotations

import os
from pathlib import Path

import adapters

__all__ = ["bundle_folder"]

_CONFIG = Path("configs", "inference.json")


def bundle_folder(name: str | os.PathLike) -> Path:
    """The folder of a bundle.

    Args:
        name: a folder's path, or the name of a bundle that lies in ``bundles/`` of the current folder or of the source
            checkout that this library is installed from. The ending ``_samadapter_deepgrow`` may be left out.

    Returns:
        The folder; it has a ``configs/inference.json``.

    Raises:
        ValueError: if there is no such bundle; the message names those that there are.
    """
    homes = list(dict.fromkeys([Path.cwd() / "bundles", Path(adapters.__file__).resolve().parents[1] / "bundles"]))
    folders = [Path(name), *(home / f"{name}{ending}" for home in homes for ending in ("", "_samadapter_deepgrow"))]
    for folder in folders:
        if (folder / _CONFIG).is_file():
            return folder.resolve()
    known = sorted({config.parents[1].name for home in homes for config in home.glob(f"*/{_CONFIG}")})
    raise ValueError(
        f"{str(name)!r} is no bundle: expected a folder with {_CONFIG}, or one of {', '.join(known) or 'none here'}."
    )
