"""The lowest versions that setup.cfg allows, as constraints for pip: ``python tests/oldest_versions.py > FILE``."""

from __future__ import annotations

import re
import sys
from configparser import ConfigParser
from pathlib import Path

SETUP = Path(__file__).resolve().parents[1] / "setup.cfg"
EXTRAS = ("test", "export")


def lowest_versions(setup: Path = SETUP) -> list[str]:
    """A line ``name==version`` for each requirement with a lower bound, of the library and of the tests' extras."""
    config = ConfigParser()
    config.read(setup)
    extras = config["options.extras_require"]
    requirements = "\n".join([config["options"]["install_requires"], *(extras[name] for name in EXTRAS)])
    return [f"{name}=={version}" for name, version in re.findall(r"^([\w.-]+)>=([\w.]+)", requirements, re.MULTILINE)]


if __name__ == "__main__":
    sys.stdout.write("\n".join(lowest_versions()) + "\n")
