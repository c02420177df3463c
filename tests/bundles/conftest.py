"""Phantoms, and one small training that all tests of the bundle share."""

from __future__ import annotations

import sys

import pytest
from bundle_runs import SMALL, TESTS, Trained, copy_bundle, make_data, run_as_typed

# the oracle network and the writers of scans are those of the inferers' and the transforms' tests
sys.path += [str(TESTS / "inferers"), str(TESTS / "transforms")]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_data(tmp_path_factory.mktemp("phantoms"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, data: dict[str, str]) -> Trained:
    bundle = copy_bundle(tmp_path_factory.mktemp("trained"))
    process = run_as_typed(bundle, "training", ["train"], {**SMALL, **data, "max_epochs": 2, "val_interval": 1})
    assert process.returncode == 0, process.stderr[-3000:]
    return Trained(bundle, data, process)
