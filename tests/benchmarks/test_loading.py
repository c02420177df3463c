"""How long an engine waits for its data."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from ignite.engine import Engine
from monai.utils import set_determinism

from adapters.bundling.folders import find_bundle
from tests.benchmarks.loading import Waiting, measure_loading


class Loader:
    """Four batches, each after some seconds."""

    def __init__(self, seconds: float, first: float = 0.0) -> None:
        self.seconds = seconds
        self.extra = first

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[int]:
        for number in range(len(self)):
            time.sleep(self.seconds + self.extra)
            yield number
        self.extra = 0.0


def shares(loader: Loader, epochs: int = 3) -> dict[str, float]:
    engine = Engine(lambda _, __: time.sleep(0.02))
    waiting = Waiting()
    waiting.attach(engine)
    engine.run(loader, max_epochs=epochs)
    return waiting.shares()


def test_a_slow_loader_makes_the_engine_wait() -> None:
    fast, slow, slow_at_first = shares(Loader(0.0)), shares(Loader(0.06)), shares(Loader(0.0, first=0.06))
    for epochs in (fast, slow, slow_at_first):
        assert 0 <= epochs["first_share"] <= 1
        assert 0 <= epochs["later_share"] <= 1
    assert fast["later_share"] < 0.2
    assert slow["later_share"] == pytest.approx(0.75, abs=0.1)
    assert slow["later_epoch_s"] == pytest.approx(4 * 0.08, rel=0.3)
    assert slow_at_first["first_share"] > 0.6
    assert slow_at_first["later_share"] < 0.2


def test_one_epoch_says_nothing_of_later_ones() -> None:
    with pytest.raises(ValueError, match="took 1 epochs: expected two or more"):
        shares(Loader(0.0), epochs=1)


@pytest.mark.parametrize(("cache", "num_workers"), [("none", 0), ("disk", 2)])
def test_the_training_of_a_bundle(cache: str, num_workers: int) -> None:
    options = {"crop_size": 16, "spacing": 8.0, "rounds": 1, "batch_size": 1}
    try:
        bundle = str(find_bundle("soft_tissue_sarcoma_ct"))
        seconds = measure_loading(cache, num_workers, bundle, [64, 64, 32], cases=2, epochs=2, **options)
    finally:
        set_determinism(None)
    assert seconds["prepare_s"] > 0
    for epoch in ("first", "later"):
        assert seconds[f"{epoch}_epoch_s"] > 0
        assert 0 < seconds[f"{epoch}_share"] < 1
