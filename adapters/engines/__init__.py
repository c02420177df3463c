"""Ignite pieces: training steps, schedule, resume, evaluation."""

from adapters.engines.evaluator import CaseEvaluator
from adapters.engines.progress import Progress, StopEarly
from adapters.engines.resume import Resume
from adapters.engines.schedule import LinearDecay, ValidationWithEnd
from adapters.engines.training import ClipGradientsByPart, InteractiveUpdate, PublishedClicks
from adapters.engines.weights import WeightsLoader

__all__ = [
    "CaseEvaluator",
    "ClipGradientsByPart",
    "InteractiveUpdate",
    "LinearDecay",
    "Progress",
    "PublishedClicks",
    "Resume",
    "StopEarly",
    "ValidationWithEnd",
    "WeightsLoader",
]
