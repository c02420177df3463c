"""Servers and scans that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from scans import Case, make_cases, write_small
from serving import NAMES, SARCOMA, Server, copy_bundles, shrink, start

from adapters.checkpoints import save_model
from adapters.networks import build_sam_adapter3d

TINY = {"variant": "tiny", "crop_size": 16, "spacing": 8.0}
SLOW = {"variant": "vit_b", "crop_size": 32, "spacing": 12.0}
"""SAM's own encoder, on crops as small as it can take: long to encode beside all else that a request costs."""
HEAVY = "kidney_tumor_ct_samadapter_deepgrow"


def with_weights(bundles: Path, **options: object) -> None:
    """Random weights for the bundles of a folder that have none, of small networks."""
    for bundle in sorted(bundles.iterdir()):
        if bundle.name != SARCOMA:
            values = {**TINY, **options} if bundle.name != HEAVY else {**SLOW, **options}
            shrink(bundle, **values)
            network = build_sam_adapter3d(str(values["variant"]), int(str(values["crop_size"])))
            (bundle / "models").mkdir()
            save_model(network, bundle / "models" / "model.pt")


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
