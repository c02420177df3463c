"""``python -m adapters.bundling [--output bundles] [--check]``: write the bundles of the four tasks anew."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from adapters.bundling import TASKS, differing_files, load_task, write_bundle
from adapters.bundling.folders import BUNDLES


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the bundles, or say which of their files are not what the template gives.

    Args:
        arguments: the command line; the process' own when None.

    Returns:
        The exit code: 1 if ``--check`` found a difference.
    """
    parser = argparse.ArgumentParser(prog="python -m adapters.bundling", description=main.__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--output", default=Path(BUNDLES), type=Path, help="the folder of bundles")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    differing = []
    for name in TASKS:
        values = load_task(name)
        if options.check:
            differing += [f"{values['bundle']}/{path}" for path in differing_files(values, options.output)]
        else:
            sys.stdout.write(f"wrote {write_bundle(values, options.output)}\n")
    sys.stdout.writelines(f"{path} is not what the template gives\n" for path in differing)
    return int(bool(differing))


if __name__ == "__main__":
    raise SystemExit(main())
