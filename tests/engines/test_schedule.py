"""The learning rate over a run, and the run that ends by the clock."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

from adapters.engines import LinearDecay, ValidationWithEnd, schedule


def optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups)


@pytest.mark.parametrize(
    ("options", "progress", "expected"),
    [
        ({}, 0.0, 1.0),
        ({}, 0.5, 0.505),
        ({}, 1.0, 0.01),
        ({}, 1.7, 0.01),  # over its end
        ({}, -0.2, 1.0),
        ({"final": 0.0}, 1.0, 0.0),
        ({"final": 1.0}, 0.7, 1.0),
        ({"final": 0.0, "warmup": 0.1}, 0.0, 0.01),  # the first step of a short run moves too
        ({"final": 0.0, "warmup": 0.1}, 0.05, 0.475),  # half of 95 %
        ({"final": 0.0, "warmup": 0.1}, 0.1, 0.9),
        ({"final": 0.0, "warmup": 0.1}, 0.5, 0.5),
    ],
)
def test_factor(options: dict[str, float], progress: float, expected: float) -> None:
    assert LinearDecay(optimizer(1.0), **options).factor(progress) == pytest.approx(expected)


def run(decay: LinearDecay, steps: int, epochs: int = 1, tick: Any = None) -> tuple[list[list[float]], Engine]:
    """Rates of every parameter group, seen by every iteration."""
    rates: list[list[float]] = []

    def step(_: Engine, __: Any) -> None:
        rates.append([group["lr"] for group in decay.optimizer.param_groups])
        if tick is not None:
            tick()

    engine = Engine(step)
    decay.attach(engine)
    engine.run([0] * steps, max_epochs=epochs)
    return rates, engine


def test_rates_fall_over_the_epochs_for_all_groups() -> None:
    rates, _ = run(LinearDecay(optimizer(1.0, 0.1), final=0.0), steps=5, epochs=2)
    expected = [1 - i / 10 for i in range(10)]
    assert [r[0] for r in rates] == pytest.approx(expected)
    assert [r[1] for r in rates] == pytest.approx([0.1 * e for e in expected])


def test_rates_rise_first() -> None:
    rates, _ = run(LinearDecay(optimizer(1.0), final=1.0, warmup=0.5), steps=8)
    assert [r[0] for r in rates] == pytest.approx([0.01, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands until it is moved, in seconds."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(schedule.time, "monotonic", lambda: now.seconds)
    return now


def test_the_clock_ends_the_run_and_the_rate_follows_it(clock: SimpleNamespace) -> None:
    def tick() -> None:
        clock.seconds += 12.0  # five steps a minute

    decay = LinearDecay(optimizer(1.0), final=0.0, minutes=2.0)
    clock.seconds += 500.0  # building other things first does not count
    rates, engine = run(decay, steps=100, epochs=50, tick=tick)
    assert engine.state.iteration == 10
    assert [r[0] for r in rates] == pytest.approx([1 - i / 10 for i in range(10)])


def test_epochs_end_the_run_before_the_clock(clock: SimpleNamespace) -> None:
    rates, engine = run(LinearDecay(optimizer(1.0), final=0.0, minutes=60.0), steps=4)
    assert engine.state.iteration == 4
    assert [r[0] for r in rates] == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert clock.seconds == 1000.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"final": 1.5}, r"final=1\.5.*between 0 and 1"),
        ({"final": -0.1}, r"final=-0\.1"),
        ({"warmup": 1.0}, r"warmup=1\.0.*below 1"),
        ({"warmup": -0.5}, r"warmup=-0\.5"),
        ({"minutes": 0}, r"minutes=0.*positive"),
        ({"minutes": -3.0}, r"minutes=-3\.0.*null for no limit"),
    ],
)
def test_bad_arguments(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearDecay(optimizer(1.0), **options)


# --- validation, and one at the end


class Validator(SupervisedEvaluator):
    """Notes the epochs that it is called for."""

    def __init__(self) -> None:
        super().__init__(
            device=torch.device("cpu"),
            val_data_loader=[{"image": torch.zeros(1)}],
            network=torch.nn.Identity(),
            iteration_update=lambda *_: {},
        )
        self.epochs: list[int] = []

    def run(self, global_epoch: int = 1) -> None:
        self.epochs.append(global_epoch)
        super().run(global_epoch)


def validated(interval: int, epochs: int, stop_after: int | None = None) -> list[int]:
    """Epochs of three iterations that are validated; the run ends after so many iterations."""
    engine, validator = Engine(lambda *_: None), Validator()
    ValidationWithEnd(interval, validator).attach(engine)
    if stop_after is not None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=stop_after), lambda e: e.terminate())
    engine.run([0] * 3, max_epochs=epochs)
    return validator.epochs


@pytest.mark.parametrize(
    ("interval", "epochs", "stop_after", "expected"),
    [
        (2, 4, None, [2, 4]),  # the last epoch is validated once
        (2, 5, None, [2, 4, 5]),
        (10, 3, None, [3]),
        (2, 9, 7, [2, 3]),  # ended in epoch 3
        (2, 9, 10, [2, 4]),  # ended inside epoch 4, which is a multiple but was not completed
        (2, 9, 1, [1]),
    ],
)
def test_the_last_weights_are_validated(
    interval: int, epochs: int, stop_after: int | None, expected: list[int]
) -> None:
    assert validated(interval, epochs, stop_after) == expected
