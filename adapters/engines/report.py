"""Tables and plots of scores over clicks, the comparison of several methods, and pictures of one case."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

Row = dict[str, Any]
"""One prediction's scores: case, seed, policy, clicks, dice, nsd, seconds, lesion_ml."""

SCORES = {"dice": "Dice", "nsd": "NSD"}
AUTOMATIC, ITERATIVE = "automatic", "iterative"
COMPARED: Sequence[tuple[str, int]] = (
    (AUTOMATIC, 0),
    *(("random", n) for n in (1, 3, 10)),
    *((ITERATIVE, n) for n in (1, 3, 5, 10)),
)
"""Policies and numbers of clicks that `compare` puts side by side."""

_TRUTH, _PREDICTION, _ON, _OFF = "#35c46a", "#ff8c1a", "#ff3b6b", "#3bb0ff"


def summarise(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Means and spreads of scores, one entry for each policy and number of clicks.

    Args:
        rows: the scores of single predictions; every seed has scored the same cases.

    Returns:
        Entries in the order automatic, placed at once, iterative, each by number of clicks: ``policy``, ``clicks``,
        ``rows`` (how many), ``dice`` and ``nsd`` with ``mean`` (over cases and seeds), ``spread`` (standard deviation
        of the seeds' means, n - 1 in the denominator; 0 for one seed) and ``cases`` (each case's mean over the seeds),
        ``seconds`` (mean time of a prediction).
    """
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["policy"], int(row["clicks"])), []).append(row)
    places = {AUTOMATIC: 0, ITERATIVE: 2}
    entries = []
    for (policy, clicks), group in sorted(groups.items(), key=lambda item: (places.get(item[0][0], 1), *item[0])):
        entry: dict[str, Any] = {"policy": policy, "clicks": clicks, "rows": len(group)}
        for score in SCORES:
            by_seed = list(_means(group, "seed", score).values())
            entry[score] = {
                "mean": float(np.mean([row[score] for row in group])),
                "spread": float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else 0.0,
                "cases": _means(group, "case", score),
            }
        entry["seconds"] = float(np.mean([row["seconds"] for row in group]))
        entries.append(entry)
    return entries


def _means(rows: Sequence[Row], key: str, score: str) -> dict[Any, float]:
    return {
        value: float(np.mean([row[score] for row in rows if row[key] == value]))
        for value in sorted({row[key] for row in rows})
    }


def write_scores(folder: str | Path, rows: Sequence[Row], *, method: str, tolerance: float) -> None:
    """Write scores.csv, summary.json, scores.md and curve.png, each whole or not at all.

    Args:
        folder: an existing folder.
        rows: the scores of single predictions.
        method: what was scored, for headings.
        tolerance: mm, of the normalised surface Dice.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("there are no scores to write: the evaluator has seen no case")
    folder = Path(folder)
    entries = summarise(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()} for row in rows)
    summary = {
        "method": method,
        "tolerance_mm": tolerance,
        "cases": sorted({row["case"] for row in rows}),
        "seeds": len({row["seed"] for row in rows}),
        "scores": entries,
    }
    _write(folder / "scores.csv", text.getvalue())
    _write(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    _write(folder / "scores.md", _table(summary))
    _write(folder / "curve.png", _png(curve_figure({method: summary})))


def _table(summary: Mapping[str, Any]) -> str:
    about = (
        f"{len(summary['cases'])} cases, {summary['seeds']} seeds; mean ± spread between seeds, in points; "
        f"NSD at {summary['tolerance_mm']:g} mm."
    )
    lines = [
        f"# {summary['method']}",
        "",
        about,
        "",
        "| clicks | placed | Dice | NSD | seconds | n |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {entry['clicks']} | {entry['policy']} | {_points(entry['dice'])} | {_points(entry['nsd'])} "
        f"| {entry['seconds']:.2f} | {entry['rows']} |"
        for entry in summary["scores"]
    ]
    return "\n".join(lines) + "\n"


def _points(score: Mapping[str, float]) -> str:
    return f"{100 * score['mean']:.1f} ± {100 * score['spread']:.1f}"


def curve_figure(summaries: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Mean Dice over clicks: one colour for each method, solid for iterative clicks, dashed for clicks placed at once.

    A method that was scored without clicks only is a horizontal line. The band is the spread between seeds.

    Args:
        summaries: what summary.json holds, by name of the method.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    most = max((entry["clicks"] for summary in summaries.values() for entry in summary["scores"]), default=1)
    for number, (name, summary) in enumerate(summaries.items()):
        colour = f"C{number}"
        curves = _curves(summary["scores"])
        start = curves.pop(AUTOMATIC, [])
        if not curves:
            axes.axhline(100 * start[0]["dice"]["mean"], color=colour, linestyle=":", label=f"{name} (no clicks)")
        for policy, entries in curves.items():
            points = [*start, *entries]
            clicks = [entry["clicks"] for entry in points]
            mean, spread = (np.array([100 * entry["dice"][key] for entry in points]) for key in ("mean", "spread"))
            style = "-" if policy == ITERATIVE else "--"
            axes.plot(clicks, mean, color=colour, linestyle=style, marker="o", label=f"{name} ({policy})")
            axes.fill_between(clicks, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="clicks", ylabel="Dice (points)", xlim=(-0.3, max(most, 1) + 0.3))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def _curves(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        curves.setdefault(entry["policy"], []).append(entry)
    return curves


def compare(runs: str | Mapping[str, str | Path], output: str | Path) -> Path:
    """Put the scores of several methods into one table and one plot, as a model card wants them.

    Writes ``compare.md`` (two rows for each method, Dice and NSD; see `COMPARED` for the columns; a dash where a
    method was not scored) and ``compare.png`` (Dice over clicks of all methods).

    Args:
        runs: the folder of each method's scores (`ScoreWriter`) by name, or
            ``"ours=eval/ours,SegResNet=eval/segresnet"``.
        output: the folder to write into; it is made if it is not there.

    Returns:
        The table's path.

    Raises:
        ValueError: a run without name or folder, a name given twice, or runs that differ in their cases or in the NSD's
            tolerance.
        FileNotFoundError: a folder without a summary.
    """
    summaries = {name: _load(Path(folder)) for name, folder in _runs(runs).items()}
    first, *others = summaries
    for name in others:
        for key in ("cases", "tolerance_mm"):
            if summaries[name][key] != summaries[first][key]:
                raise ValueError(
                    f"{name} has {key} {summaries[name][key]} but {first} {summaries[first][key]}: "
                    "only scores of the same cases at the same tolerance can be compared"
                )
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    _write(output / "compare.png", _png(curve_figure(summaries)))
    _write(output / "compare.md", _comparison(summaries))
    return output / "compare.md"


def _runs(runs: str | Mapping[str, str | Path]) -> dict[str, Path]:
    if isinstance(runs, Mapping):
        pairs = [(name, str(folder)) for name, folder in runs.items()]
    else:
        pairs = [(name.strip(), folder.strip()) for name, _, folder in (run.partition("=") for run in runs.split(","))]
    if not pairs or any(not name or not folder for name, folder in pairs):
        raise ValueError(f"runs is {runs!r}, expected NAME=FOLDER, several with commas between them")
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"runs name {name!r} twice, expected a name of its own for every folder")
    return {name: Path(folder) for name, folder in pairs}


def _load(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: run the bundle's evaluation into {folder} first")
    return json.loads(path.read_text(encoding="utf-8"))


def _comparison(summaries: Mapping[str, Mapping[str, Any]]) -> str:
    first = next(iter(summaries.values()))
    names = [str(n) if policy == AUTOMATIC else f"{n} {policy}" for policy, n in COMPARED]
    about = (
        f"Mean ± spread between seeds, in points, on {len(first['cases'])} cases, by number of clicks; "
        f"NSD at {first['tolerance_mm']:g} mm."
    )
    lines = [
        about,
        "",
        f"| method | score | {' | '.join(names)} |",
        "|---" * (2 + len(names)) + "|",
    ]
    for name, summary in summaries.items():
        found = {(entry["policy"], entry["clicks"]): entry for entry in summary["scores"]}
        for score, title in SCORES.items():
            cells = [_points(found[column][score]) if column in found else "-" for column in COMPARED]
            lines.append(f"| {name} | {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def case_figure(
    image: np.ndarray,
    label: np.ndarray | None,
    prediction: np.ndarray | None,
    clicks: np.ndarray | Sequence[Sequence[float]],
    path: str | Path,
    *,
    spacing: Sequence[float],
    labels: Sequence[int] | np.ndarray | None = None,
    window: tuple[float, float] | None = None,
    title: str | None = None,
) -> None:
    """Save three orthogonal slices through the first click, with outlines of truth and prediction and the clicks.

    Seen as radiologists do: the patient's right on the picture's left, head or front at the top, distances in
    proportion. Clicks on a shown slice are marked on it: a dot on the lesion, a cross off it. Without clicks the
    slices go through the middle of the label, of the prediction, or of the image.

    Args:
        image: (D, H, W) with axes from foot to head, front to back and right to left (SPL, as all tensors here).
        label: (D, H, W) mask of the lesion, or None.
        prediction: (D, H, W) mask, or None.
        clicks: (N, 3) voxels of the image in its axis order.
        path: the PNG to write.
        spacing: mm of a voxel along each axis, (D, H, W).
        labels: (N,) 1 on the lesion, 0 off it, -1 padding (not shown); None: all 1.
        window: the image's values shown as black and white; None: its 1st and 99th percentile.
        title: heading of the picture.

    Raises:
        ValueError: an image or mask that is not (D, H, W), clicks that are not (N, 3) or lie outside, labels of another
            length, a spacing that is not three positive numbers.
    """
    _write(Path(path), _png(draw_case(image, label, prediction, clicks, spacing, labels, window, title)))


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
    """The figure that `case_figure` saves; arguments as there."""
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
    if len(spacing) != 3 or not all(np.isfinite(mm) and mm > 0 for mm in spacing):
        raise ValueError(f"spacing is {spacing!r}, expected three positive numbers of mm in the image's axis order")
    marks = np.ones(len(points), dtype=int) if labels is None else np.asarray(labels).reshape(-1)
    if len(marks) != len(points):
        raise ValueError(f"there are {len(points)} clicks but {len(marks)} labels, expected one for each")
    points, marks = points[marks >= 0], marks[marks >= 0]
    for point in points:
        if not np.all((point >= -0.5) & (point <= np.array(image.shape) - 0.5)):
            raise ValueError(f"click {point.tolist()} lies outside the image of {image.shape} voxels")

    centre = _shown_voxel(image, [label, prediction], points)
    low, high = window or np.percentile(image, (1, 99))
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    # across and down (or up) the picture: index of the tensor's axis; what the sides are
    views = (("axial", 0, 1, 2, "RL", "AP"), ("coronal", 1, 0, 2, "RL", "SI"), ("sagittal", 2, 0, 1, "AP", "SI"))
    for axes, (name, through, vertical, across, sides, ends) in zip(figure.subplots(1, 3), views, strict=True):
        # heads are up: the first axis runs upwards, the front-to-back axis downwards
        origin = "lower" if vertical == 0 else "upper"
        aspect = float(spacing[vertical]) / float(spacing[across])
        picture = axes.imshow(
            image.take(centre[through], through), cmap="gray", vmin=low, vmax=high, origin=origin, aspect=aspect
        )
        for colour, _, mask in outlines:
            if mask is not None and (cut := np.asarray(mask).take(centre[through], through) != 0).any():
                axes.contour(np.pad(cut, 1), levels=[0.5], colors=colour, linewidths=1.3, extent=_padded(cut.shape))
        here = np.round(points[:, through]) == centre[through]
        for value, marker, colour in ((1, "o", _ON), (0, "x", _OFF)):
            shown = points[here & (marks == value)]
            if len(shown):
                axes.scatter(shown[:, across], shown[:, vertical], marker=marker, c=colour, s=45, zorder=3)
        left, right, bottom, top = picture.get_extent()
        axes.set(xticks=[], yticks=[], title=name, xlim=(left, right), ylim=(bottom, top))
        for x, y, letter in ((0.02, 0.5, sides[0]), (0.98, 0.5, sides[1]), (0.5, 0.97, ends[0]), (0.5, 0.03, ends[1])):
            axes.text(x, y, letter, transform=axes.transAxes, color="white", ha="center", va="center")
    handles = [Line2D([], [], color=colour, label=name) for colour, name, mask in outlines if mask is not None]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    if title:
        figure.suptitle(title)
    return figure


def _padded(shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Where the outermost sample points of a slice padded by one voxel lie: contours do not ask for the origin."""
    return -1.0, float(shape[1]), -1.0, float(shape[0])


def _shown_voxel(image: np.ndarray, masks: Sequence[np.ndarray | None], points: np.ndarray) -> list[int]:
    if len(points):
        place = points[0]
    else:
        filled = [np.argwhere(np.asarray(mask)) for mask in masks if mask is not None and np.any(mask)]
        place = filled[0].mean(axis=0) if filled else (np.array(image.shape) - 1) / 2
    return [min(max(math.floor(p + 0.5), 0), size - 1) for p, size in zip(place, image.shape, strict=True)]


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return data.getvalue()


def _write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
