"""Ignite pieces: training steps and scoring with simulated clicks."""

from adapters.engines.schedule import LinearDecay, ValidationWithEnd
from adapters.engines.scoring import ScoreWriter, ScoringIteration
from adapters.engines.training import ClipGradientsByPart, InteractiveUpdate, PublishedClicks

__all__ = [
    "ClipGradientsByPart",
    "InteractiveUpdate",
    "LinearDecay",
    "PublishedClicks",
    "ScoreWriter",
    "ScoringIteration",
    "ValidationWithEnd",
]
