"""One case while it is scored: what is read from a batch, a prediction with its scores, and what is kept of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import CommonKeys

from adapters.metrics import Lesions, hd95, volume_scores
from adapters.prompts import Prompts
from adapters.transforms.datalist import entry_name

from .figures import CasePicture, box_round, draw_case, png
from .summaries import Row
from .tables import caption

MARGIN_MM = 30.0
"""Shown round the lesion, the prediction and the clicks in a case's picture."""


@dataclass(frozen=True, eq=False)
class ScoredCase:
    """A case on its image's own grid: image (1, 1, D, H, W), truth (D, H, W) bool.

    ``spacing`` is in mm along the tensor's axes, ``lesion_ml`` in millilitres of the truth.
    """

    name: str
    image: torch.Tensor
    truth: np.ndarray
    spacing: tuple[float, float, float]
    lesion_ml: float
    lesions: Lesions

    @classmethod
    def read(cls, batch: Mapping[str, Any], device: torch.device, smallest_lesion_ml: float) -> ScoredCase:
        """The case of a batch, as `ScoringIteration` describes it."""
        image, label = batch[CommonKeys.IMAGE], batch[CommonKeys.LABEL]
        if image.ndim != 5 or image.shape[:2] != (1, 1):
            raise ValueError(
                f"image has shape {tuple(image.shape)}, expected one case (1, 1, D, H, W): use batch_size 1"
            )
        if label.shape != image.shape:
            raise ValueError(
                f"label has shape {tuple(label.shape)} but image {tuple(image.shape)}, expected the same grid"
            )
        affine = np.eye(4)
        if isinstance(image, MetaTensor):
            affine = np.asarray(image.affine.cpu(), dtype=float).reshape(-1, 4, 4)[0]
        i, j, k = (float(mm) for mm in np.linalg.norm(affine[:3, :3], axis=0))
        truth = torch.as_tensor(label)[0, 0].cpu().numpy() != 0
        return cls(
            name=_name(batch),
            image=image.to(device),
            truth=truth,
            spacing=(i, j, k),
            lesion_ml=float(truth.sum() * i * j * k / 1000),
            lesions=Lesions(truth, (i, j, k), smallest_ml=smallest_lesion_ml),
        )


def _name(batch: Mapping[str, Any]) -> str:
    image = batch[CommonKeys.IMAGE]
    entry = {"case": batch.get("case"), "image": image.meta.get("filename_or_obj") if hasattr(image, "meta") else None}
    for key, value in entry.items():
        first = value[0] if isinstance(value, (list, tuple)) and value else value
        entry[key] = str(first) if isinstance(first, (str, Path)) else None
    if not any(entry.values()):
        raise ValueError("a case has no name: give every entry of the data list a 'case', or load images from files")
    return entry_name(entry)


@dataclass(frozen=True, eq=False)
class Prediction:
    """A predicted mask (D, H, W), its scores, those of each lesion (the largest first), and the prompts it came from.

    ``lesions`` is empty where there is one at most; prompts are in voxels of the image; ``log_odds`` (1, 1, D, H, W) is
    None where no network was asked.
    """

    mask: np.ndarray
    scores: Mapping[str, float]
    lesions: Sequence[Mapping[str, float]]
    prompts: Prompts = field(default_factory=Prompts)
    log_odds: torch.Tensor | None = None

    @classmethod
    def score(cls, case: ScoredCase, mask: np.ndarray, *, tolerance: float, seconds: float, **more: Any) -> Prediction:
        """Score a mask (D, H, W) against the case's truth: what a `Row` says of it; NSD at ``tolerance`` mm."""
        scores = {
            **volume_scores(mask, case.truth, case.spacing, tolerance=tolerance),
            "seconds": seconds,
            "lesion_ml": case.lesion_ml,
            "hd95": hd95(mask, case.truth, case.spacing),
        }
        lesions = case.lesions.scores(mask, tolerance=tolerance) if len(case.lesions) > 1 else ()
        return cls(mask, scores, lesions, **more)


@dataclass(frozen=True, eq=False)
class ShownCase:
    """One prediction of a case as `draw_case` wants it, cut to what matters."""

    case: str
    policy: str
    clicks: int
    dice: float
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    prompts: Prompts
    spacing: tuple[float, float, float]

    @classmethod
    def cut_out(cls, case: ScoredCase, policy: str, clicks: int, prediction: Prediction) -> ShownCase:
        """Round the lesion, the prediction and the clicks; the whole image where there is none of them."""
        points = prediction.prompts.points
        box = box_round(case.truth | prediction.mask, points, case.spacing, MARGIN_MM)
        return cls(
            case=case.name,
            policy=policy,
            clicks=clicks,
            dice=prediction.scores["dice"],
            image=case.image.as_subclass(torch.Tensor)[0, 0][box].float().cpu().numpy(),
            truth=case.truth[box].copy(),
            prediction=prediction.mask[box].copy(),
            prompts=Prompts(points - [side.start for side in box], prediction.prompts.labels),
            spacing=case.spacing,
        )

    def drawn(self) -> CasePicture:
        """As a picture."""
        title = caption(self.case, self.policy, self.clicks, self.dice)
        points, labels = self.prompts.points, self.prompts.labels
        figure = draw_case(self.image, self.truth, self.prediction, points, self.spacing, labels=labels, title=title)
        return CasePicture(self.case, self.policy, self.clicks, self.dice, png(figure))


@dataclass(eq=False)
class CaseScores:
    """The rows of a case's predictions, those of its lesions, and the first seed's prediction by ``shown_policy``."""

    case: ScoredCase
    shown_policy: tuple[str, int]
    rows: list[Row] = field(default_factory=list)
    lesions: list[Row] = field(default_factory=list)
    shown: ShownCase | None = None

    def add(self, seed: int, policy: str, clicks: int, prediction: Prediction) -> None:
        """Add the prediction of a seed, a policy and a number of clicks."""
        case = self.case
        about = {"case": case.name, "seed": seed, "policy": policy, "clicks": clicks}
        self.rows.append({**about, **prediction.scores})
        if prediction.lesions:
            under = case.lesions.under(prediction.prompts.on_lesion)
            clicked = np.bincount(under, minlength=len(case.lesions) + 1)
            self.lesions += [
                {**about, "lesion": number, "lesion_ml": ml, "clicked": int(clicked[number]), **lesion}
                for number, (ml, lesion) in enumerate(zip(case.lesions.ml, prediction.lesions, strict=True), start=1)
            ]
        if seed == 0 and (policy, clicks) == self.shown_policy:
            self.shown = ShownCase.cut_out(case, policy, clicks, prediction)
