"""Inference on whole scans: crops round clicks, growth, the kept embedding, the sliding window."""

from .automatic import AutomaticInferer
from .click import BACKGROUND_LOGITS, ClickInferer

__all__ = ["BACKGROUND_LOGITS", "AutomaticInferer", "ClickInferer"]
