"""The name of 0.1 for what `adapters.scoring` has."""

from __future__ import annotations

import warnings

from adapters.scoring.comparison import compare
from adapters.scoring.report import html_report
from adapters.scoring.score_files import write_scores

__all__ = ["compare", "html_report", "write_scores"]

warnings.warn("adapters.engines.report is called adapters.scoring.report since 0.2", DeprecationWarning, stacklevel=2)
