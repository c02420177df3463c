"""Two processes do what one does with all the items."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.processes import measure_all_reduce, measure_processes, tuned_values


def test_two_processes_have_the_gradients_of_one() -> None:
    one = measure_processes(processes=1, variant="tiny", crop_size=16, batch=2)
    two = measure_processes(processes=2, variant="tiny", crop_size=16, batch=1)
    size = np.linalg.norm(one["projected"])
    assert size > 0
    assert np.linalg.norm(np.subtract(one["projected"], two["projected"])) < 1e-4 * size
    assert one["step_s"] > 0
    assert two["step_s"] > 0


def test_all_reduce() -> None:
    measured = measure_all_reduce(processes=2, values=100_000)  # the measurement checks the sum
    assert measured["reduced_bytes"] == 400_000
    assert 0 < measured["reduce_s"] < 60


@pytest.mark.parametrize(("variant", "values"), [("vit_b", 25_462_400)])
def test_what_is_tuned(variant: str, values: int) -> None:
    assert tuned_values(variant, 128) == values  # as published
