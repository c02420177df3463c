"""Scoring with simulated clicks: the iteration, tables, figures, the report."""

from adapters.scoring.iteration import ScoringIteration
from adapters.scoring.writer import ScoreWriter

__all__ = ["ScoreWriter", "ScoringIteration"]
