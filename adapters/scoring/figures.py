"""Plots of scores over clicks and of cases, and pictures of one case."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from adapters.metrics.volume import as_mm
from adapters.prompts.voxels import voxels_under

from .summaries import AUTOMATIC, ITERATIVE, by_policy, column_name, order, shown

_TRUTH, _PREDICTION, _ON, _OFF = "#35c46a", "#ff8c1a", "#ff3b6b", "#3bb0ff"


@dataclass(frozen=True, eq=False)
class CasePicture:
    """A case as drawn by `draw_case` (a PNG), and by what it is ranked."""

    case: str
    policy: str
    clicks: int
    dice: float
    png: bytes


def curve_figure(summaries: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Mean Dice over clicks: one colour for each method, solid for iterative clicks, broken for clicks placed at once.

    Summaries are what summary.json holds, by name of the method. A method that was scored without clicks only is a
    horizontal line. The band is the spread between seeds.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    most = max((entry["clicks"] for summary in summaries.values() for entry in summary["scores"]), default=1)
    for number, (name, summary) in enumerate(summaries.items()):
        colour, dashes = f"C{number}", itertools.cycle(["--", "-.", ":", (0, (6, 2, 1, 2, 1, 2))])
        curves: dict[str, list[Mapping[str, Any]]] = {}
        for entry in summary["scores"]:
            curves.setdefault(entry["policy"], []).append(entry)
        start = curves.pop(AUTOMATIC, [])
        if not curves:
            axes.axhline(
                100 * start[0]["dice"]["mean"], color=colour, linestyle=":", label=_as_is(f"{name} (no clicks)")
            )
        for policy, entries in curves.items():
            points = [*start, *entries]
            clicks = [entry["clicks"] for entry in points]
            mean, spread = (np.array([100 * entry["dice"][key] for entry in points]) for key in ("mean", "spread"))
            style = "-" if policy == ITERATIVE else next(dashes)
            axes.plot(clicks, mean, color=colour, linestyle=style, marker="o", label=_as_is(f"{name} ({policy})"))
            axes.fill_between(clicks, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="clicks", ylabel="Dice (points)", xlim=(-0.3, max(most, 1) + 0.3))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def box_figure(summaries: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Dice of the cases as boxes: one colour for each method, one place for each policy and number of clicks.

    Summaries as for `curve_figure`. Each dot is a case (its mean over the seeds). The box holds the middle half of the
    cases, its line is the median, the whiskers reach to the farthest case within 1.5 times the box.
    """
    methods = {name: by_policy(shown(summary["scores"])) for name, summary in summaries.items()}
    columns = sorted({key for entries in methods.values() for key in entries}, key=lambda column: order(*column))
    figure = Figure(figsize=(max(5.0, 1.0 + 0.45 * len(columns) * (len(methods) + 0.6)), 4.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(methods)
    style: dict[str, Any] = {"patch_artist": True, "showfliers": False, "manage_ticks": False}
    for number, entries in enumerate(methods.values()):
        colour = f"C{number}"
        for place, column in enumerate(columns):
            if column not in entries:
                continue
            middle = place + (number - (len(methods) - 1) / 2) * width
            values = [100 * value for value in entries[column]["dice"]["cases"].values()]
            box = axes.boxplot(values, positions=[middle], widths=0.8 * width, **style)
            box["boxes"][0].set(facecolor=colour, alpha=0.35)
            box["medians"][0].set(color="black")
            axes.scatter([middle] * len(values), values, s=12, color=colour, zorder=3)
    axes.set_xticks(range(len(columns)), [_as_is(column_name(*column)) for column in columns], rotation=30, ha="right")
    axes.set(ylabel="Dice of a case (points)", xlim=(-0.6, len(columns) - 0.4), ylim=(-2, 102))
    axes.grid(axis="y", alpha=0.3)
    handles = [Patch(facecolor=f"C{number}", alpha=0.35, label=_as_is(name)) for number, name in enumerate(methods)]
    axes.legend(handles=handles, fontsize="small")
    return figure


def draw_case(
    image: np.ndarray,
    label: np.ndarray | None,
    prediction: np.ndarray | None,
    clicks: np.ndarray | Sequence[Sequence[float]],
    spacing: Sequence[float],
    labels: Sequence[int] | np.ndarray | None = None,
    window: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Three orthogonal slices through the first click, with outlines of truth and prediction and the clicks.

    Seen as radiologists do: the patient's right on the picture's left, head or front at the top. Clicks on a shown
    slice are marked on it: a dot on the lesion, a cross off it. Without clicks the slices go through the middle of the
    label, of the prediction, or of the image.

    Args:
        image: (D, H, W) with axes from foot to head, front to back and right to left (SPL, as all tensors here).
        label: (D, H, W) mask of the lesion, or None.
        prediction: (D, H, W) mask, or None.
        clicks: (N, 3) voxels of the image (frame ``image``) in its axis order; which slice shows a click is what
            `adapters.prompts.voxels.voxels_under` says.
        spacing: mm of a voxel along each axis, (D, H, W).
        labels: (N,) 1 on the lesion, 0 off it, -1 padding (not shown); None: all 1.
        window: the image's values shown as black and white; None: its 1st and 99th percentile.
        title: heading of the picture.

    Raises:
        ValueError: an image or mask that is not (D, H, W), clicks that are not (N, 3) or lie outside. Labels of another
            length, a spacing that is not three positive numbers.
    """
    image = np.asarray(image)
    if image.ndim != 3:
        raise ValueError(f"image has shape {image.shape}, expected (D, H, W): take one item and one channel of it")
    outlines = [(_TRUTH, "truth", label), (_PREDICTION, "prediction", prediction)]
    for _, name, mask in outlines:
        if mask is not None and np.shape(mask) != image.shape:
            raise ValueError(f"{name} has shape {np.shape(mask)} but image {image.shape}, expected the same grid")
    points = np.asarray(clicks, dtype=float)
    points = points.reshape(-1, 3) if points.size == 0 else points
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"clicks have shape {points.shape}, expected (N, 3): voxels in the image's axis order")
    mm = as_mm(spacing)
    marks = np.ones(len(points), dtype=int) if labels is None else np.asarray(labels).reshape(-1)
    if len(marks) != len(points):
        raise ValueError(f"there are {len(points)} clicks but {len(marks)} labels, expected one for each")
    points, marks = points[marks >= 0], marks[marks >= 0]
    voxels = voxels_under(points, image.shape)
    if len(voxels):
        centre = voxels[0]
    else:
        filled = [np.argwhere(mask) for mask in (label, prediction) if mask is not None and np.any(mask)]
        middle = filled[0].mean(axis=0) if filled else (np.array(image.shape) - 1) / 2
        centre = voxels_under(middle, image.shape)[0]
    low, high = window or np.percentile(image, (1, 99))
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    # across and down (or up) the picture: index of the tensor's axis; what the sides are
    views = (("axial", 0, 1, 2, "RL", "AP"), ("coronal", 1, 0, 2, "RL", "SI"), ("sagittal", 2, 0, 1, "AP", "SI"))
    for axes, (name, through, vertical, across, sides, ends) in zip(figure.subplots(1, 3), views, strict=True):
        # heads are up: the first axis runs upwards, the front-to-back axis downwards
        origin = "lower" if vertical == 0 else "upper"
        cut, aspect = image.take(centre[through], through), mm[vertical] / mm[across]
        picture = axes.imshow(cut, cmap="gray", vmin=low, vmax=high, origin=origin, aspect=aspect)
        for colour, _, mask in outlines:
            if mask is not None and (cut := np.asarray(mask).take(centre[through], through) != 0).any():
                # where the outermost samples of the padded slice lie: contours do not ask for the origin
                reach = (-1, cut.shape[1], -1, cut.shape[0])
                axes.contour(np.pad(cut, 1), levels=[0.5], colors=colour, linewidths=1.3, extent=reach)
        on_slice = voxels[:, through] == centre[through]
        for value, marker, colour in ((1, "o", _ON), (0, "x", _OFF)):
            clicked = points[on_slice & (marks == value)]
            if len(clicked):
                axes.scatter(clicked[:, across], clicked[:, vertical], marker=marker, c=colour, s=45, zorder=3)
        left, right, bottom, top = picture.get_extent()
        axes.set(xticks=[], yticks=[], title=name, xlim=(left, right), ylim=(bottom, top))
        for x, y, letter in ((0.02, 0.5, sides[0]), (0.98, 0.5, sides[1]), (0.5, 0.97, ends[0]), (0.5, 0.03, ends[1])):
            axes.text(x, y, letter, transform=axes.transAxes, color="white", ha="center", va="center")
    handles = [Line2D([], [], color=colour, label=name) for colour, name, mask in outlines if mask is not None]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    if title:
        figure.suptitle(_as_is(title))
    return figure


def box_round(
    mask: np.ndarray, clicks: np.ndarray, spacing: Sequence[float], margin_mm: float
) -> tuple[slice, slice, slice]:
    """The part of a grid to show: a mask (D, H, W) and clicks (N, 3) in its voxels with a margin; all where none is."""
    shape = np.array(mask.shape)
    marked = np.concatenate([np.argwhere(mask), np.reshape(clicks, (-1, 3))])
    places = marked if len(marked) else np.stack([0 * shape, shape - 1])
    margin = margin_mm / np.array(spacing)
    start = np.floor(np.maximum(places.min(axis=0) - margin, 0)).astype(int)
    end = np.ceil(np.minimum(places.max(axis=0) + margin + 1, shape)).astype(int)
    d, h, w = (slice(int(a), int(b)) for a, b in zip(start, end, strict=True))
    return d, h, w


def _as_is(text: str) -> str:
    """One line in which matplotlib looks for no formula."""
    return " ".join(text.replace("$", r"\$").split())


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return data.getvalue()
