"""The bundle's runs, scans of all orientations, and the network whose answer is known."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / name) for name in ("bundles", "inferers", "transforms")]
