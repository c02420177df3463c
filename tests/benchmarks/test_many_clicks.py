"""The trials of many clicks: where the clicks are, and what is counted."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.prompts import Prompts
from tests.benchmarks.many_clicks import lattice, scores

SPACING = np.array([4.0, 2.0, 2.0])
LESION = np.zeros((16, 32, 32), dtype=bool)
LESION[3:13, 6:26, 6:26] = True
IMAGE = np.where(LESION, 0.5, np.where(np.indices(LESION.shape)[1] < 3, -1.0, 0.0))  # air is lowest


def test_a_lattice_of_clicks() -> None:
    points = lattice(LESION, SPACING, 8.0)
    assert len(points) == 10
    assert LESION[tuple(points.T)].all()
    apart = np.linalg.norm((points[:, None] - points[None]) * SPACING, axis=2)
    assert apart[~np.eye(10, dtype=bool)].min() == 8.0


def test_what_is_counted() -> None:
    asked: list[Prompts] = []

    def answer(prompts: Prompts) -> np.ndarray:
        asked.append(prompts)
        return np.roll(LESION, 1, axis=0)

    found = dict(scores(IMAGE, LESION, SPACING, answer))
    assert found.pop("of these clicks, honoured") == pytest.approx(0.95, abs=0.05)
    assert list(found.values()) == pytest.approx([0.9] * len(found))
    many = asked[7]
    places = tuple(many.points.T.astype(int))
    on, off = LESION[places][many.labels == 1], IMAGE[places][many.labels == 0]
    assert on.all()
    assert (off > -1).all()
    assert [len(prompts) for prompts in asked[:4]] == [1, 2, 10, 20]
