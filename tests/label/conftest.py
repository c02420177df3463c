"""Servers and scans that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scans import Case, make_cases, write_small
from serving import NAMES, Server, copy_bundles, start, with_weights


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Scans with one lesion each, stored in several ways, in a folder of studies, which has some small ones too."""
    folder = tmp_path_factory.mktemp("studies")
    write_small(folder)
    return make_cases(folder)


@pytest.fixture(scope="module")
def server(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """All five bundles: the sarcomas' with its shipped weights, the others small and untrained."""
    folder = tmp_path_factory.mktemp("server")
    bundles = copy_bundles(folder / "bundles", *NAMES)
    with_weights(bundles)
    running = start(folder, bundles, next(iter(cases.values())).image.parent)
    yield running
    running.stop()
