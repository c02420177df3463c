"""Which of several errors has something to say."""

from __future__ import annotations

import itertools

import pytest

from adapters.error_text import sentence


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([RuntimeError("Failed to evaluate x"), RuntimeError("Failed to instantiate y"), ValueError("a\nb")], "a b"),
        ([RuntimeError("Failed"), ValueError("damaged"), KeyError("what another library says")], "damaged"),
        ([RuntimeError("Failed"), TypeError("no number")], "TypeError: no number"),
        ([RuntimeError("out of memory")], "RuntimeError: out of memory"),
    ],
)
def test_the_first_that_is_no_wrapping_of_monai(errors: list[Exception], said: str) -> None:
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
    assert sentence(errors[0]) == said
