"""A family of twenty lines in MONAI Label's server, unchanged."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from serving import start

FAMILIES = Path(__file__).resolve().parents[1] / "families"
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


def test_a_click_on_the_new_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FAMILIES))
    monkeypatch.setenv("PYTHONPATH", str(FAMILIES))
    importlib.import_module("brightness")  # moves the family in
    made = importlib.import_module("brightness_bundle")
    bundle = made.write_bundle(tmp_path / "bundles")
    (tmp_path / "studies").mkdir()
    ball = made.write_scan(tmp_path / "studies" / "scan.nii.gz")
    server = start(tmp_path / "server", bundle.parent, tmp_path / "studies")
    try:
        answer = server.infer(bundle.name, "scan", {"foreground": [made.CLICK], "background": [], "label": "tumor"})
    finally:
        server.stop()
    assert np.array_equal(answer.mask > 0, ball)
