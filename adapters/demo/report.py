"""The pictures of the demo's report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from adapters.scoring.figures import box_round, draw_case, png

MARGIN_MM = 40.0
"""Shown round the tumour, the mask and the click."""
SOFT_TISSUE, LUNG = (-160.0, 240.0), (-1000.0, 400.0)
"""Windows in HU."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A case with its masks on one grid whose axes go from foot to head, front to back and right to left (SPL).

    Attributes:
        name: The case.
        image: (D, H, W) HU.
        truth: (D, H, W) bool, the mask that came with the scan.
        prediction: (D, H, W) bool, the network's mask.
        click: (3,) voxel of this grid.
        spacing: Millimetres along each axis.
    """

    name: str
    image: NDArray[np.float32]
    truth: NDArray[np.bool_]
    prediction: NDArray[np.bool_]
    click: NDArray[np.float64]
    spacing: tuple[float, float, float]


def slices(shown: Shown) -> bytes:
    """Axial, coronal and sagittal slices through the click with both outlines, round the tumour, as a PNG."""
    cut = box_round(shown.truth | shown.prediction, shown.click, shown.spacing, MARGIN_MM)
    image = shown.image[cut]
    # a wide window where much of what is shown is lung or air
    window = LUNG if (image < -500).mean() > 0.15 else SOFT_TISSUE
    click = (shown.click - [side.start for side in cut])[None]
    figure = draw_case(image, shown.truth[cut], shown.prediction[cut], click, shown.spacing, window=window)
    return png(figure)


def curve(steps: Sequence[float], values: Sequence[float], *, xlabel: str, ylabel: str) -> bytes:
    """A curve as a PNG."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, values, marker=".", color="#3366cc")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    return png(figure)
