"""Time and memory of the library beside the literal form of the network: ``python -m tests.benchmarks``."""
