"""The pictures of the demo's report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from adapters.scoring.figures import box_round, draw_case, png

MARGIN_MM = 40.0
"""Shown round the tumour, the mask and the click."""
SOFT_TISSUE, LUNG = (-160.0, 240.0), (-1000.0, 400.0)
"""Windows in HU."""


def slices(
    image: NDArray[np.float32],
    truth: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    click: NDArray[np.float64],
    spacing: Sequence[float],
) -> bytes:
    """Axial, coronal and sagittal slices through the click with both outlines, round the tumour, as a PNG.

    Args:
        image: (D, H, W) HU; its axes go from foot to head, front to back and right to left (SPL).
        truth: (D, H, W), the mask that came with the scan.
        prediction: (D, H, W), the network's mask.
        click: (3,) voxel of the image.
        spacing: Millimetres along each axis.
    """
    cut = box_round(truth | prediction, click, spacing, MARGIN_MM)
    # a wide window where much of what is shown is lung or air
    window = LUNG if (image[cut] < -500).mean() > 0.15 else SOFT_TISSUE
    clicks = (click - [side.start for side in cut])[None]
    return png(draw_case(image[cut], truth[cut], prediction[cut], clicks, spacing, window=window))


def curve(steps: Sequence[float], values: Sequence[float], *, xlabel: str, ylabel: str) -> bytes:
    """A curve as a PNG."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, values, marker=".", color="#3366cc")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return png(figure)
