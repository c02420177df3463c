"""``python -m adapters demo``: one click on a real CT, a short training run, its evaluation, and a report."""

from adapters.demo.run import main

__all__ = ["main"]
