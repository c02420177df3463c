"""The model of communication against sums done by hand."""

from __future__ import annotations

import pytest

from tests.benchmarks.communication import (
    BUCKET_BYTES,
    Cluster,
    efficiency,
    hierarchical_seconds,
    measure_communication,
    ring_seconds,
)

FAST = Cluster(node_size=8, inside_bandwidth=100e9, between_bandwidth=10e9, inside_latency=1e-6, between_latency=1e-5)


@pytest.mark.parametrize(
    ("count", "size", "bandwidth", "latency", "seconds"),
    [
        (1, 100e6, 1e9, 1e-5, 0.0),
        (2, 100e6, 1e9, 0.0, 0.1),  # each sends its half twice
        (4, 100e6, 1e9, 1e-5, 6 * (0.025 + 1e-5)),
        (512, 0.0, 1e9, 1e-5, 1022e-5),
    ],
)
def test_ring(count: int, size: float, bandwidth: float, latency: float, seconds: float) -> None:
    assert ring_seconds(count, size, bandwidth, latency) == pytest.approx(seconds)


def test_by_nodes() -> None:
    within = 14 * (10e6 / 100e9 + 1e-6)
    assert hierarchical_seconds(8, 80e6, FAST) == pytest.approx(within)
    # the eighth of each GPU, halved again for the two nodes, there and back
    assert hierarchical_seconds(16, 80e6, FAST) == pytest.approx(within + 2 * (5e6 / 10e9 + 1e-5))
    assert hierarchical_seconds(4, 80e6, FAST) == pytest.approx(6 * (20e6 / 100e9 + 1e-6))


def test_efficiency() -> None:
    size = 2 * BUCKET_BYTES
    assert efficiency(1.0, 0.5, size, 0.6) == pytest.approx((1 / 1.5, 1 / 1.25))  # half of it is the last bucket
    assert efficiency(1.0, 2.0, size, 0.6) == pytest.approx((1 / 3, 1 / 2.4))  # more than the backward pass hides
    assert efficiency(1.0, 0.5, BUCKET_BYTES / 2, 0.6) == pytest.approx((1 / 1.5, 1 / 1.5))  # one bucket: none hidden


def test_figures_of_the_table() -> None:
    figures = measure_communication(64, 25_462_400, 0.5)
    size = 4 * 25_462_400
    between = 2 * 63 * (size / 64 / 25e9 + 20e-6)
    by_nodes = 14 * (size / 8 / 200e9 + 5e-6) + 14 * (size / 64 / 25e9 + 20e-6)
    assert figures["ring_s"] == pytest.approx(between)
    assert figures["reduce_s"] == pytest.approx(by_nodes)
    assert figures["apart_share"] == pytest.approx(0.5 / (0.5 + by_nodes))
    assert figures["apart_share"] < figures["overlap_share"] < 1
    assert figures["assumed"]["between_bandwidth"] == 25e9
    assert figures["assumed"]["step_seconds"] == 0.5
    # within a node the slower links are not used
    assert measure_communication(8, 25_462_400, 0.5)["ring_s"] == pytest.approx(14 * (size / 8 / 200e9 + 5e-6))


@pytest.mark.parametrize(("count", "message"), [(0, "count=0: expected"), (12, "count=12: expected fewer than 8 GPUs")])
def test_numbers_that_make_no_sense(count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hierarchical_seconds(count, 1e6, FAST)
    with pytest.raises(ValueError, match="expected one process or more, a positive bandwidth"):
        ring_seconds(2, 1e6, 0.0, 0.0)
