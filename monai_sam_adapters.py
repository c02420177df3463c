"""The uniquely named door to the package ``adapters``.

PyPI's distribution `adapters` (AdapterHub) imports under the same name as ours. Where it comes first, none of our own
modules can say so, except this one: the console script ``monai-sam-adapters``, ``import adapters`` and the bundles'
id ``library``, through `require`, call `check`, which fails with one sentence. ``python -m adapters`` prints that
sentence too: Python reports an ImportError with the package's name on one line.
"""

from __future__ import annotations

import logging
import sys
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

_OTHER = "adapters"
logger = logging.getLogger(__name__)


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
        origin = spec.origin if spec is not None else None
        raise ImportError(
            f"`import adapters` finds {origin or 'no package'} instead of monai-sam-adapters' {ours}: "
            f"if that is PyPI's other package named `adapters`, {remedy}.",
            name=_OTHER,
        )
    try:
        version = metadata.version(_OTHER)
    except metadata.PackageNotFoundError:
        return
    raise ImportError(
        f"PyPI's other package named `adapters` ({version}) is installed in this environment and imports under the "
        f"same name as monai-sam-adapters: {remedy}.",
        name=_OTHER,
    )


def require(version: str) -> ModuleType:
    """Makes sure that the installed library runs a bundle which was made for some version of it.

    In ``python -m monai.bundle`` an error is then repeated on the last line. An option that no id has, and a value that
    was changed on its way, are refused (`adapters.bundling.workflow`).

    Versions are compatible that have the same first number, and the same second one too while the first is 0. Another
    version that is compatible gives one line of warning, once in a process.

    Args:
        version: The version that the bundle was made for, such as "0.1.0".

    Returns:
        The package ``adapters.bundling``, for the bundle's further expressions.

    Raises:
        ImportError: If the installed version is not compatible, or as `check`. The message is one sentence.
        ValueError: If `version` is no version, or an option of the running workflow is no id of its configuration, or
            one of its values was changed.
    """
    from packaging.version import InvalidVersion, Version

    check()
    workflow = import_module(f"{_OTHER}.bundling.workflow")
    workflow.end_with_the_sentence()
    installed = Version(import_module(_OTHER).__version__)
    try:
        needed = Version(version)
    except InvalidVersion:
        raise ValueError(f"version is {version!r}, expected one such as '{installed}'") from None
    numbers = 1 if needed.major else 2
    if installed.release[:numbers] != needed.release[:numbers]:
        series = f"{'.'.join(map(str, needed.release[:numbers]))}.*"
        raise ImportError(
            f"this bundle was made for monai-sam-adapters {needed} and does not work with the installed {installed}: "
            f"install a version {series} of the library, or take a bundle that was made for {installed}."
        )
    if installed != needed:
        _warn(str(needed), str(installed))
    workflow.check_options()
    workflow.check_values()
    return import_module(f"{_OTHER}.bundling")


@cache
def _warn(needed: str, installed: str) -> None:
    logger.warning(
        "this bundle was made for monai-sam-adapters %s and runs with the installed %s, which should do the same",
        needed,
        installed,
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
