"""Fixtures that every test may use."""

from __future__ import annotations

import importlib.util
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

# in an environment of its own: `make test-label`
collect_ignore = [] if importlib.util.find_spec("monailabel") else ["label"]
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure() -> None:
    # as many threads as the caller allows, and no more than two: small tensors are slower on many
    torch.set_num_threads(min(2, int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)))


@pytest.fixture
def shared() -> Path:
    """The folder with real data and parity files beside the project."""
    if not SHARED.is_dir():
        pytest.skip(f"the data folder {SHARED} is not there")
    return SHARED


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same state of the global random generators."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (MONAI's transforms may use it)
    torch.manual_seed(0)
