"""Scoring with simulated clicks: the iteration, tables, figures, the report."""

from adapters.scoring.scoring import ScoreWriter, ScoringIteration

__all__ = ["ScoreWriter", "ScoringIteration"]
