"""Which values of a label count as whole numbers, and when it holds a lesion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapters.transforms.labels import check_lesion, has_lost_header, whole_label


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1], [0, 1]),
        ([0, 255, 3000], [0, 255, 3000]),
        ([-1, 0, 1], [-1, 0, 1]),
        ([0, 1, 0.9999, 1.0009], [0, 1, 1, 1]),
        ([0, 1e-5, -1e-5, 2], [0, 0, 0, 2]),
        ([2, 2.0005, 0.0], [2, 2, 0]),
        ([0, 1.0000001, 0.99999994], [0, 1, 1]),
        ([1e-7, 1], [0, 1]),
    ],
)
def test_noise_is_rounded(values, expected):
    label, found = whole_label(torch.tensor([[values]], dtype=torch.float32), "'label'")
    assert label[0, 0].tolist() == expected
    assert found == sorted(set(expected))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([0, 0.5, 1], "holds 0, 0.5, 1, and 0.5 is no"),
        ([0, 0.9999], "holds 0, 0.9999, and 0.9999 is no"),
        ([0, 1, 1.0011], "1.0011 is no"),
        ([0, 1, 10.92], "10.92 is no"),
        ([0, 1, float("nan")], "nan is no"),
        ([0, 1, float("inf")], "inf is no"),
        (np.linspace(0, 1, 50).tolist(), r", \.\.\., and 0.02040816 is no"),
    ],
)
def test_others_are_refused_as_they_are(values, named):
    with pytest.raises(ValueError, match=f"label 'label' .*{named} whole number"):
        whole_label(torch.tensor([[values]]), "'label'")


@pytest.mark.parametrize(
    ("values", "required", "others", "passes"),
    [
        ([0, 2], True, (), True),
        ([2], False, (), True),
        ([0], True, (), False),
        ([0], False, (), True),
        ([], False, (), True),
        ([0, 1], True, (1,), False),
        ([0, 1], False, (1,), True),
        ([0, 1], False, (), False),
        ([0, 1, 255], False, (1,), False),
    ],
)
def test_whether_the_lesion_is_there(values, required, others, passes):
    if passes:
        check_lesion(values, [2], "x", required=required, others=others)
    else:
        with pytest.raises(ValueError, match="label x has no voxel of value 2, it holds 0"):
            check_lesion(values, [2], "x", required=required, others=others)


def test_a_header_is_lost_where_it_is_an_identity_and_the_images_is_not():
    image = np.diag([0.7, 0.7, 5, 1])
    assert has_lost_header(np.eye(4), image)
    assert not has_lost_header(np.eye(4), np.eye(4))
    assert not has_lost_header(np.diag([0.7, 0.7, 2.5, 1]), image)
    moved = np.eye(4)
    moved[:3, 3] = (-120.5, 80, 3)
    assert not has_lost_header(moved, image)
