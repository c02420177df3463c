"""Options as clients send them."""

from __future__ import annotations

import json

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor

from adapters.transforms import RequestOptionsd

OPTIONS = {"threshold": 0.5, "grow": True, "max_crops": 8, "reach": None}


def read(**given: object) -> dict:
    return RequestOptionsd("image", OPTIONS)({"image": MetaTensor(torch.zeros(1, 2, 2, 2)), **given})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"threshold": "0.3"}, {"threshold": 0.3}),
        ({"threshold": " 1e-1 ", "grow": "False"}, {"threshold": 0.1, "grow": False}),
        ({"grow": 1, "max_crops": "3"}, {"grow": True, "max_crops": 3}),
        ({"grow": "no", "max_crops": 3.0, "reach": "12"}, {"grow": False, "max_crops": 3, "reach": 12.0}),
        ({"threshold": "", "grow": None, "other": "x"}, {}),
    ],
)
def test_values(given: dict, expected: dict) -> None:
    data = read(**given)
    options = json.loads(data["image"].meta["options"])
    assert options == expected
    assert {name: type(value) for name, value in options.items()} == {n: type(v) for n, v in expected.items()}
    assert data.keys().isdisjoint(OPTIONS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"threshold": "half"}, "option 'threshold' is 'half', expected a number"),
        ({"threshold": "nan"}, "option 'threshold' is 'nan', expected a number"),
        ({"threshold": [0.5]}, r"option 'threshold' is \[0.5\], expected a number"),
        ({"threshold": True}, "option 'threshold' is True, expected a number"),
        ({"grow": "perhaps"}, "option 'grow' is 'perhaps', expected true or false"),
        ({"grow": 2}, "option 'grow' is 2, expected true or false"),
        ({"max_crops": "2.5"}, "option 'max_crops' is '2.5', expected a whole number"),
    ],
)
def test_bad_values(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(**given)


def test_a_default_of_another_type() -> None:
    with pytest.raises(ValueError, match=r"the default of 'threshold' is '0\.5', expected true, false or a number"):
        RequestOptionsd("image", {"threshold": "0.5"})  # type: ignore[dict-item]


def test_each_item_of_a_batch_keeps_its_own() -> None:
    given: list[dict] = [{"threshold": "0.25", "grow": "false"}, {}, {"reach": 3}]
    data = [{"image": MetaTensor(torch.zeros(1, 2, 2, 2)), **each} for each in given]
    (batch,) = DataLoader(Dataset(data, RequestOptionsd("image", OPTIONS)), batch_size=3)
    options = [json.loads(text) for text in batch["image"].meta["options"]]
    assert options == [{"threshold": 0.25, "grow": False}, {}, {"reach": 3.0}]
