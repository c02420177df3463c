"""What a user says of an image: clicks, boxes and phrases with their frame; and simulated users who place clicks."""

from adapters.prompts.coordinates import (
    OFF_LESION,
    ON_LESION,
    PADDING,
    check_affine,
    check_boxes,
    check_points,
    move_points,
)
from adapters.prompts.prompts import Frame, Prompts, prompt_tensors
from adapters.prompts.tensors import PromptTensors
from adapters.prompts.users import (
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
    "OFF_LESION",
    "ON_LESION",
    "PADDING",
    "USERS",
    "ClickPolicy",
    "Frame",
    "PromptTensors",
    "Prompts",
    "centre_click",
    "check_affine",
    "check_boxes",
    "check_points",
    "click_policy",
    "margin_click",
    "move_points",
    "next_click",
    "prompt_tensors",
    "random_clicks",
    "stray_clicks",
    "surrounding_click",
]
