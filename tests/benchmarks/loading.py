"""How long the network waits for data in a training."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from tests.benchmarks.common import timed, write_scan

__all__ = ["Waiting", "measure_loading"]


class Waiting:
    """Seconds of each epoch, and those of them in which the engine waited for the data loader.

    Ignite's `BasicTimeProfiler` keeps both by step, but puts the wait of a step in the place of the one before.
    """

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.waits: list[float] = []
        self._epoch_since = self._batch_since = 0.0

    def attach(self, engine: Engine) -> None:
        """Listen to an engine."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._batch_started)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._batch_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)

    def _epoch_started(self) -> None:
        self._epoch_since = time.perf_counter()
        self.waits.append(0.0)

    def _batch_started(self) -> None:
        self._batch_since = time.perf_counter()

    def _batch_completed(self) -> None:
        self.waits[-1] += time.perf_counter() - self._batch_since

    def _epoch_completed(self) -> None:
        self.epochs.append(time.perf_counter() - self._epoch_since)

    def shares(self) -> dict[str, float]:
        """``first_epoch_s``, ``first_share`` (of it spent waiting), ``later_epoch_s``, ``later_share`` of the others.

        Raises:
            ValueError: if the engine ran for fewer than two epochs.
        """
        if len(self.epochs) < 2:
            raise ValueError(f"the training took {len(self.epochs)} epochs: expected two or more.")
        later = sum(self.epochs[1:])
        return {
            "first_epoch_s": self.epochs[0],
            "first_share": self.waits[0] / self.epochs[0],
            "later_epoch_s": later / (len(self.epochs) - 1),
            "later_share": sum(self.waits[1:]) / later,
        }


def measure_loading(
    cache: str, num_workers: int, bundle: str, shape: Sequence[int], cases: int = 4, epochs: int = 3, **options: Any
) -> dict[str, Any]:
    """The training of a bundle's train.json on a few phantoms, without its validation and without writing weights.

    Args:
        cache: where the scans are kept, see `adapters.transforms.cached_dataset`.
        num_workers: processes that load data, beside the one that trains.
        bundle: folder of the bundle.
        shape: voxels of the scans.
        cases: how many there are.
        epochs: how many times each is seen.
        options: other ids of train.json, such as ``crop_size``.

    Returns:
        ``prepare_s`` (to make the data set, which loads all where they are kept in memory), and `Waiting.shares`.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        listed: list[dict[str, str]] = []
        for number in range(cases):
            case = {key: f"{key}_{number}.nii.gz" for key in ("image", "label")}
            if listed:
                for key, name in case.items():
                    shutil.copy(data / listed[0][key], data / name)
            else:
                write_scan(data / case["image"], shape, data / case["label"])
            listed.append(case)
        datalist = data / "datalist.json"
        datalist.write_text(json.dumps({"training": listed, "validation": listed[:1]}))
        parser = ConfigParser()
        parser.read_config(Path(bundle) / "configs" / "train.json")
        own = {"bundle_root": bundle, "dataset_dir": folder, "datalist": str(datalist), "device": "cpu"}
        own |= {"output_dir": folder, "ckpt_dir": folder, "cache_dir": str(data / "cache")}
        chosen = {"cache": cache, "num_workers": num_workers, "max_epochs": epochs}
        parser.update({**own, **chosen, "train#trainer#train_handlers": "$[@schedule]", **options})
        parser.get_parsed_content("initialize")
        prepare_s, _ = timed(partial(parser.get_parsed_content, "train#dataset"))
        waiting = Waiting()
        trainer = parser.get_parsed_content("train#trainer")
        waiting.attach(trainer)
        trainer.run()
        del trainer, parser  # and with them the workers, before their folder
    return {"prepare_s": prepare_s, **waiting.shares()}
