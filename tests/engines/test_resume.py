"""The state of a run: what is kept, what is read, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import IgniteMetricHandler, LrScheduleHandler, ValidationHandler, from_engine

from adapters.engines.progress import Progress, StopEarly
from adapters.engines.resume import Resume

ROOT = Path(__file__).resolve().parents[2]
DATA = [{"image": torch.full((1, 1), float(n)), "label": torch.ones(1, 1)} for n in range(3)]


class InterruptionError(Exception):
    """Stands for the end of the process."""


class Noise:
    """A source of chance as the simulated users are."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng()


def made(
    folder: Path, epochs: int, *, width: int = 1, stop_in: int | None = None, losses: dict[int, float] | None = None,
    patience: int | None = None, length: int | None = None, **options: Any,
) -> SupervisedTrainer:  # fmt: skip
    """A trainer of one linear layer, whose inputs are noisy from all generators; `losses` replaces the metric.

    The rate falls over `length` epochs, which are all of them if not given.
    """
    torch.manual_seed(7)
    network = torch.nn.Linear(1, width)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=length or epochs)
    noise = Noise()

    def metric(prediction: Any, label: Any) -> torch.Tensor:
        if losses is not None:
            return torch.tensor([[losses[trainer.state.epoch]]])
        return ((prediction[0] - label[0]) ** 2).mean().reshape(1, 1)

    class Metric(IgniteMetricHandler):
        def update(self, output: Any) -> None:
            self.seen.append(metric(*output))

        def reset(self) -> None:
            self.seen: list[torch.Tensor] = []

        def compute(self) -> float:
            return float(torch.cat(self.seen).mean())

    validator = SupervisedEvaluator(
        torch.device("cpu"), DATA, network, metric_cmp_fn=lambda new, best: new < best,
        key_val_metric={"loss": Metric(loss_fn=torch.nn.MSELoss(), output_transform=from_engine(["pred", "label"]))},
    )  # fmt: skip

    def prepare(batch: dict[str, torch.Tensor], *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        chance = torch.rand(1) + float(np.random.rand()) + noise.rng.random()  # noqa: NPY002
        return batch["image"] + chance.item(), batch["label"].expand(-1, width)

    resume = Resume(
        folder, {"model": network, "optimizer": optimizer, "schedule": schedule},
        validator=validator, seed=3, reseeded=[noise, None], **options,
    )  # fmt: skip
    trainer = SupervisedTrainer(
        torch.device("cpu"), epochs, DATA, network, optimizer, torch.nn.MSELoss(), prepare_batch=prepare,
        train_handlers=[
            LrScheduleHandler(schedule), ValidationHandler(1, validator), StopEarly(validator, patience),
            resume, Progress(),
        ],
    )  # fmt: skip
    if stop_in is not None:

        def stop(engine: Engine) -> None:
            if engine.state.epoch == stop_in:
                raise InterruptionError

        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=2), stop)
    return trainer


def interrupt(trainer: SupervisedTrainer) -> None:
    with pytest.raises(InterruptionError):
        trainer.run()


def state(folder: Path, name: str = "last.ckpt") -> dict[str, Any]:
    return torch.load(folder / name, weights_only=True)


def test_an_interrupted_run_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    made(tmp_path / "whole", 5).run()
    interrupt(made(tmp_path / "parts", 5, stop_in=3))
    assert (state(tmp_path / "parts")["epoch"], state(tmp_path / "parts")["finished"]) == (2, False)
    interrupt(made(tmp_path / "parts", 5, stop_in=4))
    made(tmp_path / "parts", 5).run()
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert torch.equal(whole["parts"]["model"]["weight"], parts["parts"]["model"]["weight"])
    assert [whole[key] for key in ("finished", "epoch", "best_metric", "best_epoch")] == [
        parts[key] for key in ("finished", "epoch", "best_metric", "best_epoch")
    ]
    assert torch.equal(state(tmp_path / "whole", "model.pt")["weight"], state(tmp_path / "parts", "model.pt")["weight"])


def test_the_best_weights_outlive_an_interruption(tmp_path: Path) -> None:
    losses = {1: 0.5, 2: 0.1, 3: 0.9, 4: 0.3}
    interrupt(made(tmp_path, 4, losses=losses, stop_in=3))
    best = state(tmp_path, "model.pt")["weight"]
    made(tmp_path, 4, losses=losses).run()
    assert torch.equal(state(tmp_path, "model.pt")["weight"], best)
    assert (state(tmp_path)["best_epoch"], state(tmp_path)["best_metric"]) == (2, pytest.approx(0.1))


def epochs_of(trainer: SupervisedTrainer) -> list[int]:
    """The epochs that it trains."""
    epochs: list[int] = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: epochs.append(engine.state.epoch))
    trainer.run()
    return epochs


def digests(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_finished_run_is_left_as_it_is(epochs: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tmp_path, 2).run()
    before = digests(tmp_path)
    assert epochs_of(made(tmp_path, epochs)) == []
    assert "is of a run that has finished, after epoch 2: nothing is trained, and its weights stay" in caplog.text
    assert digests(tmp_path) == before


def test_a_run_that_was_ended_early_has_finished(tmp_path: Path) -> None:
    losses = dict.fromkeys(range(2, 10), 0.5) | {1: 0.6}
    made(tmp_path, 9, losses=losses, patience=3).run()
    before = digests(tmp_path)
    assert epochs_of(made(tmp_path, 9, losses=losses, patience=3)) == []
    assert digests(tmp_path) == before


def test_more_epochs_go_on_as_a_longer_run_would(tmp_path: Path) -> None:
    """To the bit, where the rate does not depend on the length."""
    made(tmp_path / "whole", 5, length=5).run()
    made(tmp_path / "parts", 2, length=5).run()
    assert epochs_of(made(tmp_path / "parts", 5, length=5)) == [3, 4, 5]
    for name in ("model.pt", "last.ckpt", "last.previous.ckpt"):
        whole, parts = state(tmp_path / "whole", name), state(tmp_path / "parts", name)
        model, other = (each["parts"]["model"] if "parts" in each else each for each in (whole, parts))
        assert all(torch.equal(model[key], other[key]) for key in model)
    assert epochs_of(made(tmp_path / "parts", 5, length=5)) == []


@pytest.mark.parametrize("resume", [False, "unfinished"])
def test_a_finished_run_starts_anew_where_that_is_said(
    resume: bool | str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(tmp_path, 2).run()
    first = state(tmp_path)["parts"]["model"]["weight"]
    with caplog.at_level("INFO", logger="adapters"):
        assert epochs_of(made(tmp_path, 2, resume=resume)) == [1, 2]
    assert ("is of a run that has finished: this one starts anew" in caplog.text) == (resume == "unfinished")
    assert torch.equal(state(tmp_path)["parts"]["model"]["weight"], first)


def test_an_unfinished_run_goes_on_where_no_other_does(tmp_path: Path) -> None:
    interrupt(made(tmp_path, 3, stop_in=2))
    assert epochs_of(made(tmp_path, 3, resume="unfinished")) == [2, 3]
    with pytest.raises(ValueError, match="resume is 'maybe': expected True, False or 'unfinished'"):
        made(tmp_path, 3, resume="maybe")


@pytest.mark.parametrize("name", ["loss", "weights"])
def test_a_training_that_diverges_ends_and_writes_nothing(name: str, tmp_path: Path) -> None:
    interrupt(made(tmp_path, 5, stop_in=3))
    before = digests(tmp_path)
    trainer = made(tmp_path, 5)
    network = trainer.network

    def diverge() -> None:
        if trainer.state.epoch == 3:
            torch.nn.init.constant_(network.weight, torch.nan)

    event = Events.ITERATION_STARTED if name == "loss" else Events.ITERATION_COMPLETED(every=3)
    trainer.add_event_handler(event, diverge)
    said = "the loss of epoch 3 is nan, so the training has diverged" if name == "loss" else "holds NaN or infinite"
    with pytest.raises(ValueError, match=said):
        trainer.run()
    assert digests(tmp_path) == before


OTHER = """
import sys, time
from pathlib import Path
from adapters.files import alone
with alone(Path(sys.argv[1]), "train"):
    print("there", flush=True)
    time.sleep(60)
"""


def test_a_second_training_with_the_same_files_is_refused(tmp_path: Path) -> None:
    words = [sys.executable, "-c", OTHER, str(tmp_path / ".last.ckpt.lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"there\n"
        with pytest.raises(OSError, match=f"another process trains with the files of {tmp_path}: wait"):
            made(tmp_path, 1).run()
        other.kill()
    assert [path.name for path in tmp_path.iterdir()] == [".last.ckpt.lock"]
    made(tmp_path, 1).run()  # what is left keeps nobody off
    assert not (tmp_path / ".last.ckpt.lock").exists()


def test_resume_may_be_refused(tmp_path: Path) -> None:
    interrupt(made(tmp_path, 3, stop_in=2))
    trainer = made(tmp_path, 3, resume=False)
    epochs: list[int] = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: epochs.append(engine.state.epoch))
    trainer.run()
    assert epochs == [1, 2, 3]


def test_a_half_written_state_gives_way_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    interrupt(made(tmp_path, 4, stop_in=4))
    whole = (tmp_path / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    trainer = made(tmp_path, 4)
    epochs: list[int] = []
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: epochs.append(engine.state.epoch))
    with caplog.at_level("INFO", logger="adapters"):
        trainer.run()
    assert epochs == [3, 4]
    assert "cannot be read: it is truncated, damaged" in caplog.text
    assert "goes on after epoch 2 of 4" in caplog.text


def test_states_that_are_refused(tmp_path: Path) -> None:
    interrupt(made(tmp_path, 3, stop_in=2))
    with pytest.raises(ValueError, match="of a run that does not fit this one"):
        made(tmp_path, 3, width=2).run()
    (tmp_path / "last.ckpt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"last\.ckpt .7 bytes. cannot be read: .* choose another folder"):
        made(tmp_path, 3).run()
    with pytest.raises(ValueError, match="parts are optimizer: expected one named 'model'"):
        Resume(tmp_path, {"optimizer": None})


def test_a_state_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(made(tmp_path, 3, stop_in=2))
    before = (tmp_path / "last.ckpt").read_bytes()

    def full(_: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        made(tmp_path, 3).run()
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt", "last.ckpt"}


def test_early_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = made(tmp_path, 9, losses=dict.fromkeys(range(2, 10), 0.5) | {1: 0.6}, patience=3)
    with caplog.at_level("INFO", logger="adapters"):
        trainer.run()
    assert trainer.state.epoch == 5
    assert "no improvement since epoch 2: training ends at epoch 5" in caplog.text
    with pytest.raises(ValueError, match="patience=0: expected a positive number"):
        StopEarly(trainer, patience=0)  # type: ignore[arg-type]


def test_progress_says_epoch_loss_and_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = made(tmp_path, 2)
    losses: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output[0]["loss"]))
    )
    with caplog.at_level("INFO", logger="adapters"):
        trainer.run()
    assert f"epoch 1 of 2: loss {sum(losses[:3]) / 3:.4f}, 0 min left" in caplog.text


def test_without_a_case_to_validate_on_the_last_weights_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = torch.nn.Linear(1, 1)
    validator = SupervisedEvaluator(torch.device("cpu"), [], network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    trainer = SupervisedTrainer(
        torch.device("cpu"), 2, DATA, network, optimizer, torch.nn.MSELoss(),
        train_handlers=[Resume(tmp_path, {"model": network}, validator=validator)],
    )  # fmt: skip
    assert "there is no case to validate on" in caplog.text
    trainer.run()
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=True)["weight"], network.weight)
    assert state(tmp_path)["best_epoch"] == 2


def test_a_run_that_is_shorter_than_the_unfinished_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    interrupt(made(tmp_path, 9, stop_in=4))
    before = digests(tmp_path)
    with pytest.raises(
        ValueError, match=r"last\.ckpt is of a longer run, after epoch 3, and this one has 2: give it mo"
    ):
        made(tmp_path, 2).run()
    assert digests(tmp_path) == before
    with caplog.at_level("INFO", logger="adapters"):
        made(tmp_path, 2, resume="unfinished").run()
    assert "is of a longer run, after epoch 3: this one starts anew" in caplog.text
    assert (state(tmp_path)["finished"], state(tmp_path)["epoch"]) == (True, 2)
