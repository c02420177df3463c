"""The name of 0.1 for what `adapters.prompts` has."""

from __future__ import annotations

import warnings

from adapters.prompts import check_affine, check_points, move_points

__all__ = ["check_affine", "check_points", "move_points"]

warnings.warn("adapters.clicks is called adapters.prompts since 0.2", DeprecationWarning, stacklevel=2)
