"""Logits to masks, and labels to masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from adapters.transforms import LesionMaskd, ThresholdLesiond


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("given", "expected"), [({}, [0, 0, 1]), ({"threshold": 0.2}, [0, 1, 1]), ({"threshold": 0.9}, [0, 0, 0])]
)
def test_threshold(given: dict, expected: list[int], dtype: torch.dtype) -> None:
    odds = torch.tensor([0.1, 0.5, 0.8]).logit().reshape(1, 3, 1, 1).to(dtype)
    odds = MetaTensor(odds, meta={"options": json.dumps(given)})
    mask = ThresholdLesiond("pred", 0.5)({"pred": odds})["pred"]
    assert mask.dtype == torch.uint8
    assert mask.flatten().tolist() == expected


@pytest.mark.parametrize("threshold", [0, 1, -0.5, float("nan")])
def test_bad_threshold(threshold: float) -> None:
    message = "expected a probability between 0 and 1"
    with pytest.raises(ValueError, match=message):
        ThresholdLesiond("pred", threshold)
    odds = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"options": json.dumps({"threshold": threshold})})
    with pytest.raises(ValueError, match=message):
        ThresholdLesiond("pred")({"pred": odds})


def label() -> MetaTensor:
    values = torch.tensor([0.0, 1.0, 2.0, 3.0]).reshape(1, 4, 1, 1)
    return MetaTensor(values, affine=2 * torch.eye(4), meta={"filename_or_obj": "p01.nii.gz"})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"label_values": [2]}, [0, 0, 1, 0]),
        ({"label_values": 2}, [0, 0, 1, 0]),
        ({"label_values": [1, 3]}, [0, 1, 0, 1]),
        ({}, [0, 1, 1, 1]),  # a study that a client of MONAI Label has labelled
    ],
)
def test_lesion_mask(given: dict, expected: list[int]) -> None:
    mask = LesionMaskd("label", required=True)({"label": label(), **given})["label"]
    assert mask.flatten().tolist() == expected
    assert mask.affine[0, 0] == 2


def test_a_label_that_is_not_a_number() -> None:
    """NaN is not 0, but no lesion either; a label with values says which voxels are lesion."""
    values = np.full((1, 2, 2, 2), np.nan)
    values[0, 0, 0, 0] = 1
    with pytest.raises(ValueError, match=r"label 'label' .* holds NaN or infinity, expected 0 on what is no lesion"):
        LesionMaskd("label")({"label": values})
    assert LesionMaskd("label")({"label": values, "label_values": 1})["label"].sum() == 1


def test_a_label_without_a_lesion() -> None:
    data = {"label": label(), "label_values": [5]}
    assert not LesionMaskd("label", others=(1, 2, 3))(data)["label"].any()
    for options in ({"required": True, "others": (1, 2, 3)}, {"required": False}, {"others": (1, 2)}):
        with pytest.raises(ValueError, match=r"'label' \(p01.nii.gz\) has no voxel of value 5, it holds 0, 1, 2, 3"):
            LesionMaskd("label", **options)(data)
    empty = {"label": np.zeros((1, 2, 2, 2))}
    assert not LesionMaskd("label")({**empty, "label_values": [5]})["label"].any()
    with pytest.raises(ValueError, match="has no voxel but 0: draw the lesion, or leave the case out"):
        LesionMaskd("label", required=True)(empty)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 2, 1), (0, 2, 1, 3)], ids=str)
def test_a_mask_lies_in_memory_as_the_log_odds_do(order: tuple[int, ...]) -> None:
    """So that it is written without a change of order."""
    log_odds = torch.randn(1, 7, 9, 11)
    scan = MetaTensor(log_odds.permute(order), affine=torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0])))
    mask = ThresholdLesiond("pred")({"pred": scan})["pred"]
    assert mask.stride() == scan.stride()
    assert mask.dtype == torch.uint8
    assert torch.equal(mask.as_tensor(), (scan.as_tensor() > 0).to(torch.uint8))
    assert torch.equal(mask.affine, scan.affine)
