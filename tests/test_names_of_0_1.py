"""Modules of 0.1 that other programs import keep their names for one more version, and say the new ones."""

from __future__ import annotations

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "names", "new"),
    [
        ("adapters.clicks", ["check_affine", "check_points", "move_points"], "adapters.prompts"),
        ("adapters.engines.report", ["html_report"], "adapters.scoring.report"),
    ],
)
def test_the_old_name_says_the_new_one(module: str, names: list[str], new: str) -> None:
    sys.modules.pop(module, None)
    with pytest.warns(DeprecationWarning, match=f"{module} is called {new} since 0.2"):
        old = importlib.import_module(module)
    for name in names:
        assert getattr(old, name) is getattr(importlib.import_module(new), name)
