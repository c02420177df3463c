"""An evaluator of a list of cases, of which one that fails does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch.distributed as dist
from monai.engines import SupervisedEvaluator
from monai.transforms import SaveImaged
from torch.utils.data import DataLoader, Dataset, get_worker_info

from adapters.error_text import innermost, sentence
from adapters.files import as_csv, files_of_scan, write_whole

logger = logging.getLogger(__name__)

_FILE = "failures.csv"
_SHOWN = 3  # failures that the last sentence tells in full


class CaseEvaluator(SupervisedEvaluator):
    """MONAI's evaluator, which goes on where a case of a list cannot be loaded, predicted or written.

    What fails is logged at once. When all cases were tried, the failures stand in ``output_dir`` as ``failures.csv``,
    and `run` raises. So a command ends with their reasons and an exit code that is not 0.

    Its ``state.output`` is empty after a case that failed: metrics of MONAI, which expect a prediction, do not go
    with it.

    Args:
        val_data_loader: of one case a batch, in an order that is not random; its data set's ``data`` are the entries.
        output_dir: the folder of ``failures.csv``, which is made where there is something to write. An older one of
            that name is removed when a run starts.
        check: is given each entry before the first is predicted, and raises for one that cannot be used.
        others: as `monai.engines.SupervisedEvaluator`.

    Raises:
        ValueError: (by `run`) cases have failed; where the list has one case, what it raised. Before anything is
            predicted: what `SaveImaged` of the postprocessing writes for one case would replace the image of another.
    """

    def __init__(
        self,
        *,
        val_data_loader: DataLoader,
        output_dir: str | PathLike,
        check: Callable[[Mapping[str, Any]], object] | None = None,
        **others: Any,
    ) -> None:
        super().__init__(val_data_loader=val_data_loader, **others)
        self.loader = val_data_loader
        self.output_dir = Path(output_dir)
        self.check = check
        steps = getattr(others.get("postprocessing"), "transforms", ())
        self._savers = [step.saver for step in steps if isinstance(step, SaveImaged)]
        self._step = self._process_function
        self._process_function = self._tried
        self._failed: dict[str, Exception] = {}

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]  # as MONAI's
        """Evaluate all cases; see the class."""
        entries = self._entries()
        self._keep_inputs(entries)
        self._failed = {}
        if idist.get_rank() == 0:
            (self.output_dir / _FILE).unlink(missing_ok=True)
        for entry in entries if self.check else ():
            try:
                self.check(entry)  # type: ignore[misc]  # it is there
            except (ValueError, OSError) as error:
                self._fails(entry, error)
        self.data_loader = _batches(self.loader)
        super().run(global_epoch)
        self._report(len(entries))

    def _entries(self) -> list[Mapping[str, Any]]:
        """The data list's entries in the order in which they come."""
        return [self.loader.dataset.data[index] for index in self.loader.sampler]  # type: ignore[attr-defined]

    def _keep_inputs(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Refuse a list in which what is written for one case would replace the image of another."""
        if not self._savers or not self.output_dir.is_dir():
            return
        inputs: dict[tuple[int, int], str] = {}
        for entry in entries:
            image = Path(entry["image"])
            inputs |= {_identity(file): image.name for file in files_of_scan(image) or (image,) if file.exists()}
        for entry, saver in product(entries, self._savers):
            names = saver.fname_formatter({"filename_or_obj": str(entry["image"])}, saver)
            target = Path(saver.folder_layout.filename(**names))
            if target.exists() and _identity(target) in inputs:
                raise ValueError(
                    f"the mask of {Path(entry['image']).name!r} would replace {str(target)!r}, the scan "
                    f"{inputs[_identity(target)]!r} of the list: choose another folder or another name"
                )

    def _tried(self, engine: Any, batch: Any) -> Any:
        try:
            if isinstance(batch, Exception):
                raise batch
            return self._step(engine, batch)
        except Exception as error:
            self._fails(self._entries()[self.state.iteration - 1], error)
            return {}

    def _fails(self, entry: Mapping[str, Any], error: Exception) -> None:
        name = str(entry.get("case") or entry["image"])
        if name not in self._failed:
            reason = innermost(error)
            surprise = not isinstance(reason, (ValueError, OSError))
            logger.error("%s failed: %s", name, sentence(error), exc_info=error if surprise else None)
        self._failed[name] = error

    def _report(self, cases: int) -> None:
        failed = self._failed
        if dist.is_available() and dist.is_initialized():
            parts: list[dict[str, Exception]] = [{}] * dist.get_world_size()
            told: dict[str, Exception] = {name: ValueError(sentence(error)) for name, error in failed.items()}
            dist.all_gather_object(parts, told)
            failed = {name: error for part in parts for name, error in part.items()}
        if not failed:
            return
        if cases == 1:
            raise next(iter(failed.values()))
        rows = [{"case": name, "reason": sentence(error)} for name, error in failed.items()]
        if idist.get_rank() == 0:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            write_whole(self.output_dir / _FILE, as_csv(rows))
        reasons = "; ".join(f"{row['case']}: {row['reason']}" for row in rows[:_SHOWN])
        more = f"; and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        raise ValueError(
            f"{len(rows)} of {cases} cases failed, the others are done. The reasons are in "
            f"{str(self.output_dir / _FILE)!r}: {reasons}{more}"
        )


class _Tried(Dataset):
    """Another data set's items; in the place of one that cannot be made, the error."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except Exception as error:
            # what a worker process hands on has lost its causes
            return error if get_worker_info() is None else ValueError(sentence(error))


def _batches(loader: DataLoader) -> DataLoader:
    """The same loader, which gives an error in the place of a batch that cannot be made."""

    def collate(items: list[Any]) -> Any:
        return items[0] if isinstance(items[0], Exception) else loader.collate_fn(items)

    return DataLoader(
        _Tried(loader.dataset),
        sampler=loader.sampler,
        num_workers=loader.num_workers,
        collate_fn=collate,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )


def _identity(path: Path) -> tuple[int, int]:
    """The same for all names of a file."""
    status = path.stat()
    return status.st_dev, status.st_ino
