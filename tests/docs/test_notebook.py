"""The notebook of the documentation runs, and shows what it says."""

from __future__ import annotations

import copy

import pytest
from nbformat import NotebookNode
from notebooks import PICTURE, executed, pictures, printed, read, scores


@pytest.fixture(scope="module")
def committed() -> NotebookNode:
    return read()


@pytest.fixture(scope="module")
def fresh(committed: NotebookNode) -> NotebookNode:
    return executed(copy.deepcopy(committed))


def test_it_runs_and_its_clicks_correct(fresh: NotebookNode) -> None:
    dice = scores(fresh)
    assert len(dice) == 8  # five corrections, after undo, before and after the last click
    assert dice[4] > dice[5] > 0.5, "six clicks are better than one"
    assert dice[7] > dice[6], "a click corrects the mask it starts from"
    assert len(pictures(fresh)) == 2


def test_the_outputs_that_are_shown_are_those_of_the_code(committed: NotebookNode, fresh: NotebookNode) -> None:
    """Write them anew where this fails: python tests/docs/notebooks.py."""
    assert scores(committed) == pytest.approx(scores(fresh), abs=0.02)
    assert len(printed(committed).splitlines()) == len(printed(fresh).splitlines())
    assert PICTURE.read_bytes() == pictures(committed)[-1]
