"""Scores of a predicted mask, of its lesions one by one, and of a session of clicks."""

from .lesions import Lesions
from .sessions import area_under_clicks, clicks_needed
from .volume import hd95, volume_scores

__all__ = ["Lesions", "area_under_clicks", "clicks_needed", "hd95", "volume_scores"]
