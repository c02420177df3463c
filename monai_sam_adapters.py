"""The uniquely named door to the package ``adapters``.

PyPI's distribution `adapters` (AdapterHub) imports under the same name as ours. Where it comes first, none of our own
modules can say so, except this one: the console script ``monai-sam-adapters``, ``import adapters`` and the bundles'
``initialize`` call `check`, which fails with one sentence.
"""

from __future__ import annotations

import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

_OTHER = "adapters"


def check() -> None:
    """Makes sure that ``import adapters`` gives this project's package, and no other shares its folder.

    Raises:
        ImportError: If another package named ``adapters`` comes first on the import path, or if PyPI's distribution
            `adapters` is installed in the same environment. The message is one sentence.
    """
    ours = Path(__file__).resolve().parent / _OTHER
    remedy = (
        "uninstall it (`pip uninstall adapters`, then install monai-sam-adapters again) "
        "or give monai-sam-adapters an environment of its own"
    )
    spec = find_spec(_OTHER)
    if spec is None or spec.origin is None or Path(spec.origin).resolve().parent != ours:
        found = spec.origin if spec is not None else None
        raise ImportError(
            f"`import adapters` finds {found or 'no package'} instead of monai-sam-adapters' {ours}: "
            f"if that is PyPI's other package named `adapters`, {remedy}."
        )
    try:
        version = metadata.version(_OTHER)
    except metadata.PackageNotFoundError:
        return
    raise ImportError(
        f"PyPI's other package named `adapters` ({version}) is installed in this environment and imports under the "
        f"same name as monai-sam-adapters: {remedy}."
    )


def main() -> None:
    """The console script: checks the name, then runs the command line of ``python -m adapters``."""
    try:
        check()
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    from adapters.__main__ import main as run

    run()
