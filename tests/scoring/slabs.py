"""A network and an inferer whose answer to each click is known, so that the curve is computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from torch import nn

from adapters.prompts import Prompts
from adapters.scoring import ScoringIteration

SIZE = (24, 16, 16)
VOXELS_ML = 0.002  # of 2 x 1 x 1 mm


class Brush(nn.Module):
    """Log-odds of 10 on the lesion and -10 off it: the image is the lesion, brighter than 0.5."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 20 * (image - 0.5)


class Slabs:
    """An inferer that answers a click with the truth in the slab of four slices in which the click lies.

    Elsewhere the mask of the round before stands; without one there is none. So each click that falls on a slab with
    errors puts all of them right, and by hand: the Dice is that of the slabs clicked so far.
    """

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self, image: torch.Tensor, network: nn.Module, prompts: Sequence[Prompts], mask: torch.Tensor | None
    ) -> torch.Tensor:
        (placed,) = prompts
        flags = {"training": network.training, "gradients": torch.is_grad_enabled()}
        self.calls.append({"prompts": placed, "mask": mask, **flags})
        truth = network(image.as_tensor())
        log_odds = torch.full_like(truth, -10.0) if mask is None else mask.clone()
        for point in placed.points:
            start = int(point[0]) // 4 * 4
            log_odds[:, :, start : start + 4] = truth[:, :, start : start + 4]
        return log_odds


def case(name: str, boxes: Sequence[tuple[int, int]], file: str | None = None) -> dict[str, Any]:
    """A batch of one case whose lesion fills 4 x 4 voxels in the given ranges of slices."""
    lesion = torch.zeros(1, 1, *SIZE)
    for start, stop in boxes:
        lesion[:, :, start:stop, 4:8, 4:8] = 1
    affine = torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0]))[[2, 1, 0, 3]]  # spacing (2, 1, 1), axes permuted
    image = MetaTensor(lesion.clone(), affine=affine[None], meta={"filename_or_obj": [file]} if file else None)
    return {"image": image, "label": lesion} | ({"case": [name]} if name else {})


def evaluator(
    batches: Sequence[dict], iteration: ScoringIteration, inferer: Any, *handlers: Any
) -> SupervisedEvaluator:
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=batches,
        network=Brush(),
        inferer=inferer,
        iteration_update=iteration,
        val_handlers=list(handlers),
    )


def score(batch: dict, iteration: ScoringIteration, inferer: Any = None) -> list[dict[str, Any]]:
    return iteration(evaluator([batch], iteration, inferer or Slabs()), batch)["rows"]


def rows_of(rows: list[dict[str, Any]], policy: str, clicks: int) -> list[dict[str, Any]]:
    return [row for row in rows if (row["policy"], row["clicks"]) == (policy, clicks)]


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
