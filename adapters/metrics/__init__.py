"""Scores of a predicted mask."""

from .volume import volume_scores

__all__ = ["volume_scores"]
