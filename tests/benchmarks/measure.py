"""What one fresh process measures: a process' peak memory cannot fall, so each measurement has a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.benchmarks.automatic import measure_automatic
from tests.benchmarks.click import measure_click
from tests.benchmarks.communication import measure_communication
from tests.benchmarks.loading import measure_loading
from tests.benchmarks.network import measure_linear, measure_network, measure_pointwise
from tests.benchmarks.processes import measure_all_reduce, measure_processes
from tests.benchmarks.profile import measure_floor, measure_profile
from tests.benchmarks.training import measure_largest_crop, measure_training

__all__ = ["MEASUREMENTS"]

MEASUREMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "network": measure_network,
    "linear": measure_linear,
    "pointwise": measure_pointwise,
    "training": measure_training,
    "largest_crop": measure_largest_crop,
    "click": measure_click,
    "automatic": measure_automatic,
    "loading": measure_loading,
    "processes": measure_processes,
    "all_reduce": measure_all_reduce,
    "communication": measure_communication,
    "profile": measure_profile,
    "floor": measure_floor,
}
