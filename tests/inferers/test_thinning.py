"""Which clicks the network gets, by hand-made places."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.inferers.thinning import MOST, thinned
from adapters.prompts import Prompts


def kept(points, labels=None, distance=4.0) -> list[tuple[list[float], int]]:
    prompts = thinned(Prompts(points, labels, frame="crop", shape=(64, 64, 64)), distance)
    return list(zip(prompts.points.tolist(), prompts.labels.tolist(), strict=True))


@pytest.mark.parametrize(
    ("along", "expected"),
    [
        ([20], [20]),
        ([20, 20], [20]),
        ([20] * 50, [20]),
        ([20, 23.9], [23.9]),  # the newest stays
        ([20, 24], [20, 24]),
        ([20, 22, 24, 26, 28], [20, 24, 28]),
        ([28, 26, 24, 22, 20], [28, 24, 20]),
        ([10, 12, 40, 11], [40, 11]),
        ([], []),
    ],
)
def test_the_newest_and_those_that_lie_apart(along, expected):
    assert kept([[10, 10, x] for x in along]) == [([10, 10, x], 1) for x in expected]


def test_labels_do_not_thin_each_other():
    points = [[10, 10, 10], [10, 10, 11], [10, 11, 10], [10, 10, 12]]
    assert kept(points, [1, 0, 1, 0]) == [([10, 11, 10], 1), ([10, 10, 12], 0)]
    assert kept(points, [1, 0, 1, 0], distance=0.5) == list(zip(points, [1, 0, 1, 0], strict=True))


def test_at_most_so_many_of_each_label_and_they_spread():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 63, (300, 3))
    labels = np.arange(300) % 2
    prompts = thinned(Prompts(points, labels, frame="crop"), 1.0)
    for label in (0, 1):
        chosen = prompts.points[prompts.labels == label]
        apart = np.linalg.norm(chosen[:, None] - chosen[None], axis=2) + 1000 * np.eye(len(chosen))
        assert len(chosen) == MOST
        assert apart.min() > 25
        assert np.any(np.all(chosen == points[labels == label][-1], axis=1))


def test_other_prompts_stay():
    prompts = thinned(Prompts([[1, 2, 3]] * 2, boxes=[[[1, 1, 1], [5, 5, 5]]], phrases=["cyst"], frame="crop"), 4.0)
    assert (len(prompts), len(prompts.boxes), prompts.phrases) == (1, 1, ("cyst",))
