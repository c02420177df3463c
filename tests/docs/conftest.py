"""The pages' folder to run in, and the small data that other tests make."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pages import ROOT

sys.path += [str(ROOT / "tests" / name) for name in ("bundles", "datasets")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder that has the project's bundles, as a clone has."""
    (tmp_path / "bundles").mkdir()
    for bundle in (ROOT / "bundles").iterdir():
        (tmp_path / "bundles" / bundle.name).symlink_to(bundle)
    monkeypatch.chdir(tmp_path)
    return tmp_path
