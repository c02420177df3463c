"""Curves, boxes, and the slices of a case."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from adapters.scoring.figures import box_figure, curve_figure, draw_case
from adapters.scoring.summaries import summarise

ON, OFF, TRUTH, PREDICTION = "#ff3b6b", "#3bb0ff", "#35c46a", "#ff8c1a"
OURS = {("automatic", 0): 0.5, ("random", 1): 0.6, ("random", 3): 0.7, ("iterative", 1): 0.65, ("iterative", 2): 0.75}
PLAIN = {("automatic", 0): 0.7}


def rows_of(values: dict[tuple[str, int], float]) -> list[dict]:
    """Two cases of two seeds; the second seed is 0.02 better with clicks."""
    return [
        {"case": name, "seed": seed, "policy": policy, "clicks": clicks, "nsd": 0.9, "seconds": 1.0}
        | {"dice": dice + 0.02 * seed * (policy != "automatic")}
        for name in "ab"
        for seed in range(2)
        for (policy, clicks), dice in values.items()
    ]


def test_boxes() -> None:
    """A place for each number of clicks, a colour for each method; dots are the cases' means."""
    rows = rows_of(OURS)
    for row in rows:
        row["dice"] -= 0.3 * (row["case"] == "b")
    summaries = {"ours": {"scores": summarise(rows)}, "plain": {"scores": summarise(rows_of(PLAIN))}}
    axes = box_figure(summaries).axes[0]
    ticks = [tick.get_text() for tick in axes.get_xticklabels()]
    assert ticks == ["automatic", "1 random", "3 random", "1 iterative", "2 iterative"]
    dots = [np.asarray(dot.get_offsets()) for dot in axes.collections]
    assert len(dots) == 6
    assert dots[1] == pytest.approx(np.array([[0.8, 61.0], [0.8, 31.0]]))
    assert dots[5] == pytest.approx(np.array([[0.2, 70.0], [0.2, 70.0]]))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ours", "plain"]


def test_curves() -> None:
    summaries = {name: {"scores": summarise(rows_of(values))} for name, values in (("ours", OURS), ("plain", PLAIN))}
    axes = curve_figure(summaries).axes[0]
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert lines["ours (random)"] == ([0, 1, 3], pytest.approx([50, 61, 71]))
    assert lines["ours (iterative)"] == ([0, 1, 2], pytest.approx([50, 66, 76]))
    assert lines["plain (no clicks)"] == ([0, 1], pytest.approx([70, 70])), "across the whole plot"


SHAPE, SPACING = (10, 20, 30), (3.0, 1.0, 0.5)


def volume() -> tuple[np.ndarray, np.ndarray]:
    image = np.zeros(SHAPE)
    image[2, 5, 8] = 1  # near the feet, the front and the right
    return image, image > 0


def marks(axes, colour: str) -> list[list[float]]:
    return [
        offset
        for points in axes.collections
        if len(points.get_facecolor()) and len(points.get_offsets()) and points.get_offsets().any()
        if tuple(points.get_facecolor()[0][:3]) == to_rgb(colour)
        for offset in points.get_offsets().tolist()
    ]


def test_slices_are_radiological() -> None:
    """Right is on the left; the front is at the top of axial slices and left of sagittal ones; heads are up."""
    image, label = volume()
    axial, coronal, sagittal = draw_case(image, label, None, [[2, 5, 8]], SPACING, window=(0, 1)).axes
    for axes, across, down, origin in (
        (axial, 8, 5, "upper"),
        (coronal, 8, 2, "lower"),
        (sagittal, 5, 2, "lower"),
    ):
        picture = axes.images[0]
        assert np.argwhere(picture.get_array() == 1).tolist() == [[down, across]]
        assert picture.origin == origin
        assert marks(axes, ON) == [[across, down]]
        assert bool(axes.yaxis_inverted()) is (origin == "upper")
    letters = [{text.get_text(): text.get_position() for text in axes.texts} for axes in (axial, coronal, sagittal)]
    assert [(min(t, key=lambda k: t[k][0]), max(t, key=lambda k: t[k][1])) for t in letters] == [
        ("R", "A"),
        ("R", "S"),
        ("A", "S"),
    ]


def test_proportions_follow_the_spacing() -> None:
    image, label = volume()
    aspects = [axes.get_aspect() for axes in draw_case(image, label, None, [[2, 5, 8]], SPACING).axes]
    assert aspects == pytest.approx([1.0 / 0.5, 3.0 / 0.5, 3.0 / 1.0])


def test_outlines_lie_on_the_voxels_edges() -> None:
    """A box of voxels 3 to 6 down and 10 to 19 across: its outline crosses half way to the neighbours."""
    label = np.zeros(SHAPE, dtype=bool)
    label[2, 3:7, 10:20] = True
    axes = draw_case(np.zeros(SHAPE), label, np.roll(label, 1, 2), [[2, 5, 12]], SPACING).axes[0]
    boxes = [outline.get_paths()[0].get_extents() for outline in axes.collections[:2]]
    assert [[box.x0, box.x1, box.y0, box.y1] for box in boxes] == [[9.5, 19.5, 2.5, 6.5], [10.5, 20.5, 2.5, 6.5]]
    assert axes.get_xlim() == (-0.5, 29.5), "outlines leave the picture's frame alone"


def test_only_clicks_on_the_slice_are_marked() -> None:
    image, label = volume()
    clicks = [[2, 5, 8], [2, 7, 9], [4, 1, 1], [2, 9, 9]]
    axial, coronal, _ = draw_case(image, label, None, clicks, SPACING, labels=[1, 0, 1, -1]).axes
    assert marks(axial, ON) == [[8, 5]]
    assert marks(axial, OFF) == [[9, 7]]
    assert marks(coronal, ON) == [[8, 2]]
    assert marks(coronal, OFF) == []


@pytest.mark.parametrize(
    ("clicked", "shown"),
    [
        ([2.5, 5.5, 12.5], (3, 6, 13)),  # half way between two slices: the upper one
        ([-0.5, 0.5, 8.49], (0, 1, 8)),
        ([9.5, 19.5, 29.5], (9, 19, 29)),  # on the last border
    ],
)
def test_a_click_is_drawn_on_the_slice_that_is_shown(clicked: list[float], shown: tuple[int, int, int]) -> None:
    """Each voxel's value is its slice, seen along the axis through which the picture cuts."""
    for axis, axes_of in enumerate(((2, 1), (2, 0), (1, 0))):
        image = np.zeros(SHAPE) + np.arange(SHAPE[axis]).reshape([-1 if a == axis else 1 for a in range(3)])
        picture = draw_case(image, None, None, [clicked], SPACING).axes[axis]
        assert np.unique(picture.images[0].get_array()).tolist() == [shown[axis]]
        assert marks(picture, ON) == [[clicked[across] for across in axes_of]]


@pytest.mark.parametrize(("masked", "expected"), [(True, [[8, 5]]), (False, [])])
def test_without_clicks_the_lesion_is_shown(masked: bool, expected: list) -> None:
    image, label = volume()
    axial = draw_case(image, label if masked else None, None, [], SPACING).axes[0]
    assert np.argwhere(axial.images[0].get_array() == 1)[:, ::-1].tolist() == expected
    assert marks(axial, ON) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((1, *SHAPE))}, r"image has shape \(1, 10, 20, 30\)"),
        ({"label": np.zeros((10, 20, 3))}, r"truth has shape \(10, 20, 3\)"),
        ({"prediction": np.zeros((10, 20, 3))}, r"prediction has shape \(10, 20, 3\)"),
        ({"clicks": [[2, 5, 40]]}, r"point \[2.0, 5.0, 40.0\] lies outside the grid of \(10, 20, 30\)"),
        ({"labels": [1, 0]}, "there are 1 clicks but 2 labels"),
        ({"clicks": [[2, 5]]}, r"clicks have shape \(1, 2\), expected \(N, 3\)"),
        ({"spacing": (1, 1)}, "spacing is"),
    ],
)
def test_bad_pictures(change: dict, message: str) -> None:
    image, label = volume()
    arguments = {"image": image, "label": label, "prediction": None, "clicks": [[2, 5, 8]], "spacing": SPACING}
    with pytest.raises(ValueError, match=message):
        draw_case(**{**arguments, **change})
