"""Inference on whole scans: crops round prompts, growth, the kept embedding, the sliding window."""

from .automatic import AutomaticInferer
from .blending import BACKGROUND_LOG_ODDS
from .click import ClickInferer

__all__ = ["BACKGROUND_LOG_ODDS", "AutomaticInferer", "ClickInferer"]
