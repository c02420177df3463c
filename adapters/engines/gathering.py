"""Scores of a distributed evaluation, brought together."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from ignite.engine import Engine

from adapters.engines.report import Row
from adapters.engines.scoring import ScoreWriter

__all__ = ["GatheredScoreWriter"]


class GatheredScoreWriter(ScoreWriter):
    """`ScoreWriter` for several processes, each of which scores its share of the cases: the first one writes all.

    In a single process it is a `ScoreWriter`.
    """

    def _write(self, engine: Engine) -> None:
        if dist.is_available() and dist.is_initialized():
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, self._rows)
            rows: list[Row] = [row for part in parts for row in part]
            if dist.get_rank() > 0:
                return
            self._rows = sorted(rows, key=lambda row: row["case"])
        super()._write(engine)
