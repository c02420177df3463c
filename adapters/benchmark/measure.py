"""What one fresh process measures: a process' peak memory cannot fall, so each measurement has a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adapters.benchmark.automatic import measure_automatic
from adapters.benchmark.click import measure_click
from adapters.benchmark.communication import measure_communication
from adapters.benchmark.loading import measure_loading
from adapters.benchmark.network import measure_linear, measure_network, measure_pointwise
from adapters.benchmark.processes import measure_all_reduce, measure_processes
from adapters.benchmark.profile import measure_floor, measure_profile
from adapters.benchmark.training import measure_largest_crop, measure_training

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
