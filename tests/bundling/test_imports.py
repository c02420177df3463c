"""Importing `adapters.bundling` brings names and files, not tensors."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import adapters.bundling

HEAVY = {"torch", "monai", "ignite", "matplotlib", "itk", "tensorboard", "scipy", "nibabel"}


def test_no_module_of_it_loads_torch() -> None:
    names = [name for _, name, _ in pkgutil.walk_packages(adapters.bundling.__path__, "adapters.bundling.")]
    assert {"adapters.bundling.check", "adapters.bundling.new", "adapters.bundling.weights"} <= set(names)
    code = f"import sys, importlib; [importlib.import_module(name) for name in {names}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == set()
