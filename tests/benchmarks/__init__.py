"""Time and memory, beside the literal form that the tests keep as their reference."""

from tests.benchmarks.sections import SECTIONS, benchmark

__all__ = ["SECTIONS", "benchmark"]
