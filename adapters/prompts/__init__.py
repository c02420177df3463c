"""The click with its frame, and simulated users who place clicks."""

from .prompts import Clicks, Frame, check_affine, check_points, move_points, pad_clicks
from .users import (
    USERS,
    ClickPolicy,
    centre_click,
    click_policy,
    margin_click,
    next_click,
    random_clicks,
    stray_clicks,
    surrounding_click,
)

__all__ = [
    "USERS",
    "ClickPolicy",
    "Clicks",
    "Frame",
    "centre_click",
    "check_affine",
    "check_points",
    "click_policy",
    "margin_click",
    "move_points",
    "next_click",
    "pad_clicks",
    "random_clicks",
    "stray_clicks",
    "surrounding_click",
]
