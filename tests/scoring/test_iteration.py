"""Scores over clicks, with a network whose answer to each click is known, so that the curve is computed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from slabs import SIZE, VOXELS_ML, Slabs, case, evaluator, rows_of, score, untimed
from torch import nn

from adapters.inferers import ClickInferer
from adapters.prompts import Prompts
from adapters.scoring import ScoringIteration


def test_iterative_curve_by_hand() -> None:
    """Slabs with 4, 2 and 1 slices of lesion: the user clicks them in this order, Dice = 2 a / (a + 7)."""
    batch = case("a", [(0, 4), (10, 12), (21, 22)])
    rows = score(batch, ScoringIteration([0], rounds=5, seeds=2))
    assert [row["dice"] for row in rows_of(rows, "automatic", 0)] == [0.0, 0.0]
    for seed in range(2):
        curve = [row["dice"] for row in rows if row["policy"] == "iterative" and row["seed"] == seed]
        assert curve == pytest.approx([8 / 11, 12 / 13, 1, 1, 1], abs=1e-6)
        assert np.all(np.diff(curve) >= 0)
    assert [row["lesion_ml"] for row in rows] == pytest.approx([7 * 16 * VOXELS_ML] * len(rows))
    assert rows_of(rows, "iterative", 3)[0]["nsd"] == 1.0


def test_all_clicks_and_the_last_logits_are_passed_on() -> None:
    inferer = Slabs()
    score(case("a", [(0, 4), (10, 12), (21, 22)]), ScoringIteration([], rounds=5, seeds=1), inferer)
    prompts = [call["prompts"] for call in inferer.calls]
    assert [placed.points.shape for placed in prompts] == [(n, 3) for n in (1, 2, 3)], "then nothing is wrong"
    assert inferer.calls[0]["mask"] is None
    mask = inferer.calls[1]["mask"]
    assert mask.shape == (1, 1, *SIZE)
    assert mask[0, 0, 2, 5, 5] == 10
    assert mask[0, 0, 10, 5, 5] == -10
    assert prompts[2].points[:2].tolist() == prompts[1].points.tolist()
    assert prompts[0].labels.tolist() == [1]


def test_prompts_are_in_voxels_of_the_image() -> None:
    inferer, batch = Slabs(), case("a", [(0, 4)])
    score(batch, ScoringIteration([1], rounds=0, seeds=1), inferer)
    (call,) = inferer.calls
    assert (call["prompts"].frame, call["prompts"].shape) == ("image", SIZE)


@pytest.mark.parametrize(("rounds", "expected"), [(0, 3), (5, 5)])
def test_the_iterative_policy_means_the_rounds_alone(rounds: int, expected: int) -> None:
    batch = case("a", [(0, 4), (10, 12), (21, 22)])
    iteration = ScoringIteration([0, 1, 3], policy="iterative", rounds=rounds, seeds=2)
    assert (iteration.num_clicks, iteration.rounds) == ((0,), expected)
    rows = untimed(score(batch, iteration))
    assert rows == untimed(score(batch, ScoringIteration([0], rounds=expected, seeds=2)))
    assert {(row["policy"], row["clicks"]) for row in rows} == {
        ("automatic", 0),
        *(("iterative", n) for n in range(1, expected + 1)),
    }


def test_the_iterative_policy_alone() -> None:
    iteration = ScoringIteration([10], policy="iterative", rounds=0)
    assert (iteration.num_clicks, iteration.rounds) == ((), 10)


def test_several_policies_in_one_run() -> None:
    """Each scores what it does by itself."""
    batch = case("a", [(0, 4), (8, 12)])
    rows = untimed(score(batch, ScoringIteration([0, 1], policy=("margin", "iterative", "centre"), rounds=0, seeds=2)))
    alone = [
        row
        for policy in ("margin", "centre", "iterative")
        for row in score(batch, ScoringIteration([1], policy=policy, rounds=0, seeds=2))
    ]
    expected = untimed(score(batch, ScoringIteration([0], rounds=0, seeds=2))) + untimed(alone)
    assert sorted(map(str, rows)) == sorted(map(str, expected))


def test_a_single_number_of_clicks() -> None:
    """As a command line gives it."""
    assert ScoringIteration(3).num_clicks == (3,)
    assert ScoringIteration(0, rounds=0).num_clicks == (0,)


def test_hd95_by_hand() -> None:
    """Nothing: the grid's diagonal. One of two boxes: the other one's far side, 8 slices of 2 mm away."""
    rows = score(case("a", [(0, 4), (10, 12)]), ScoringIteration([0], rounds=2, seeds=1))
    assert [row["hd95"] for row in rows] == pytest.approx([np.sqrt(46**2 + 15**2 + 15**2), 16.0, 0.0])


def test_lesions_are_scored_one_by_one_where_there_are_several() -> None:
    batch = case("a", [(0, 4), (10, 12), (21, 22)])
    iteration = ScoringIteration([0], rounds=2, seeds=1, smallest_lesion_ml=0.05)
    output = iteration(evaluator([batch], iteration, Slabs()), batch)
    assert output["about"]["lesions"] == 2, "the speck of 0.032 ml belongs to the lesion next to it"
    assert output["about"]["device"] == "cpu"
    scores = [(r["policy"], r["clicks"], r["lesion"], r["clicked"], round(r["dice"], 3)) for r in output["lesions"]]
    assert scores == [
        ("automatic", 0, 1, 0, 0.0),
        ("automatic", 0, 2, 0, 0.0),
        ("iterative", 1, 1, 1, 1.0),
        ("iterative", 1, 2, 0, 0.0),
        ("iterative", 2, 1, 1, 1.0),
        ("iterative", 2, 2, 1, 0.8),
    ]
    assert [row["lesion_ml"] for row in output["lesions"][:2]] == pytest.approx([64 * VOXELS_ML, 48 * VOXELS_ML])


def test_one_lesion_is_not_scored_twice() -> None:
    batch = case("a", [(0, 4)])
    iteration = ScoringIteration([0], rounds=1, seeds=1)
    output = iteration(evaluator([batch], iteration, Slabs()), batch)
    assert (output["about"]["lesions"], output["lesions"]) == (1, [])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"num_clicks": [0, 3, 1], "rounds": 2}, ("random", 1)),
        ({"num_clicks": [3], "rounds": 2, "policy": "centre"}, ("centre", 3)),
        ({"num_clicks": [3], "rounds": 2, "policy": ["iterative", "margin", "centre"]}, ("margin", 3)),
        ({"num_clicks": [0], "rounds": 2}, ("iterative", 2)),
        ({"num_clicks": [0], "rounds": 0}, ("automatic", 0)),
    ],
)
def test_the_shown_prediction(arguments: dict, expected: tuple[str, int]) -> None:
    """The first seed's, cut to 30 mm round what matters: 3 slices, 15 of margin and one."""
    batch = case("a", [(0, 4)])
    iteration = ScoringIteration(**arguments, seeds=2)
    output = iteration(evaluator([batch], iteration, Slabs()), batch)
    shown = output["shown"]
    assert (shown.policy, shown.clicks) == expected
    first = next(row for row in output["rows"] if (row["policy"], row["clicks"]) == expected)
    assert (shown.case, shown.dice) == ("a", first["dice"])
    assert shown.image.shape == shown.truth.shape == shown.prediction.shape == (19, 16, 16)
    assert shown.truth.sum() == 64
    assert shown.drawn().png.startswith(b"\x89PNG")
    points, labels = shown.prompts.points, shown.prompts.labels
    assert len(points) == len(labels) == (1 if expected[0] == "iterative" else expected[1])
    assert all(shown.truth[tuple(point.astype(int))] for point in points)


def test_the_shown_clicks_move_with_the_cut() -> None:
    batch = case("a", [(20, 24)])
    iteration = ScoringIteration([1], rounds=0, seeds=1)
    shown = iteration(evaluator([batch], iteration, Slabs()), batch)["shown"]
    assert shown.truth.shape == (19, 16, 16)
    assert shown.truth[tuple(shown.prompts.points[0].astype(int))]


def test_a_false_alarm_gets_a_negative_click() -> None:
    class Whole(Slabs):
        def __call__(self, image: torch.Tensor, network: nn.Module, **request: Any) -> torch.Tensor:
            self.calls.append(request)
            return torch.ones_like(image)

    inferer = Whole()
    score(case("a", [(0, 4)]), ScoringIteration([], rounds=2, seeds=1), inferer)
    assert inferer.calls[1]["prompts"][0].labels.tolist() == [1, 0]


def test_clicks_at_once_by_hand() -> None:
    """One random click puts one of two equal slabs right: Dice 2/3; ten put both right (but for chance 2 / 1024)."""
    rows = score(case("a", [(0, 4), (8, 12)]), ScoringIteration([0, 1, 10], rounds=0, seeds=3))
    assert [row["dice"] for row in rows_of(rows, "random", 1)] == pytest.approx([2 / 3] * 3)
    assert [row["dice"] for row in rows_of(rows, "random", 10)] == pytest.approx([1.0] * 3)
    assert [row["seed"] for row in rows_of(rows, "automatic", 0)] == [0, 1, 2]
    assert len(rows) == 9


def test_without_clicks_is_predicted_once_and_evaluated_quietly() -> None:
    inferer = Slabs()
    batch = case("a", [(0, 4)])
    batch["image"].meta["prompts"] = Prompts([[1.0, 5.0, 5.0]], [1], "image", np.eye(4), SIZE)  # must not be looked at
    rows = score(batch, ScoringIteration([0, 3], rounds=0, seeds=5), inferer)
    assert [call["prompts"].points.shape for call in inferer.calls] == [(0, 3)] + [(3, 3)] * 5
    assert len({row["seconds"] for row in rows_of(rows, "automatic", 0)}) == 1
    assert not any(call["training"] or call["gradients"] for call in inferer.calls)


def test_seeds_differ_and_repeat() -> None:
    batch = case("a", [(0, 20)])
    calls = []
    for _ in range(2):
        inferer = Slabs()
        rows = score(batch, ScoringIteration([2], rounds=2, seeds=3), inferer)
        calls.append(([call["prompts"].points.tolist() for call in inferer.calls], untimed(rows)))
    assert calls[0] == calls[1]
    places = calls[0][0]
    assert len({str(clicks) for clicks in places}) == len(places) == 9


@pytest.mark.parametrize(("num_clicks", "called"), [([0, 1], 1), ([1], 0)])
def test_a_case_without_lesion_has_stated_scores(num_clicks: list[int], called: int) -> None:
    """Nothing is predicted either: 1.0 from the first to the last."""
    inferer = Slabs()
    rows = score(case("a", []), ScoringIteration(num_clicks, rounds=2, seeds=2), inferer)
    assert len(inferer.calls) == called
    assert {(row["dice"], row["nsd"], row["lesion_ml"]) for row in rows} == {(1.0, 1.0, 0.0)}
    assert len(rows) == 2 * (len(num_clicks) + 2)


def test_false_alarms_without_lesion_are_corrected() -> None:
    class Everything(Slabs):
        """Lesion everywhere until the first click says no."""

        def __call__(
            self, image: torch.Tensor, network: nn.Module, prompts: Sequence[Prompts], mask: torch.Tensor | None
        ) -> torch.Tensor:
            return torch.full_like(image, -1.0 if 0 in prompts[0].labels else 1.0)

    rows = score(case("a", []), ScoringIteration([0, 1], rounds=3, seeds=1), Everything())
    assert [(row["policy"], row["clicks"], row["dice"]) for row in rows] == [
        ("automatic", 0, 0.0),
        ("random", 1, 0.0),
        ("iterative", 1, 0.0),
        ("iterative", 2, 1.0),
        ("iterative", 3, 1.0),
    ]


def test_networks_without_clicks_are_called_plainly() -> None:
    def inferer(image: torch.Tensor, network: nn.Module) -> torch.Tensor:
        return network(image)

    rows = score(case("a", [(0, 4)]), ScoringIteration([0, 1, 3], rounds=10, seeds=2, clicks=False), inferer)
    assert [(row["policy"], row["clicks"], row["dice"]) for row in rows] == [("automatic", 0, 1.0)] * 2


def test_threshold_is_a_probability() -> None:
    def inferer(image: torch.Tensor, _: nn.Module) -> torch.Tensor:
        return torch.where(image > 0.5, 2.0, 1.0)  # probabilities 0.88 and 0.73

    batch = case("a", [(0, 4)])
    dice = [
        score(batch, ScoringIteration(clicks=False, seeds=1, threshold=threshold), inferer)[0]["dice"]
        for threshold in (0.7, 0.8, 0.9)
    ]
    assert dice == pytest.approx([2 * 64 / (64 + np.prod(SIZE)), 1.0, 0.0], abs=1e-6)


def test_with_the_click_inferer() -> None:
    """The library's own inferer takes the same call: a crop round the clicks, background elsewhere."""

    class Bright(nn.Module):
        def forward(self, image: torch.Tensor, prompts: Any = None) -> torch.Tensor:
            return 20 * (image - 0.5)

    batch = case("a", [(2, 6)])
    iteration = ScoringIteration([1], rounds=2, seeds=1)
    engine = evaluator([batch], iteration, ClickInferer(16))
    engine.network = Bright()
    assert [row["dice"] for row in iteration(engine, batch)["rows"]] == [1.0] * 3


@pytest.mark.parametrize(
    ("name", "file", "expected"),
    [
        ("patient", "/data/x.nii.gz", "patient"),
        ("", "/data/case.1.nii.gz", "case.1"),
        ("", "/data/x.nrrd", "x"),
        ("", "/data/series", "series"),
    ],
)
def test_names_of_cases(name: str, file: str, expected: str) -> None:
    rows = score(case(name, [(0, 4)], file), ScoringIteration([0], rounds=0, seeds=1))
    assert rows[0]["case"] == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(2, 1, *SIZE)}, "use batch_size 1"),
        ({"image": torch.zeros(1, 1, *SIZE[1:])}, r"expected one case \(1, 1, D, H, W\)"),
        ({"label": torch.zeros(1, 1, 4, 4, 4)}, "expected the same grid"),
        ({"case": None}, "a case has no name"),
    ],
)
def test_bad_batches(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score({**case("a", [(0, 4)]), **change}, ScoringIteration([0], rounds=0))


def test_logits_on_another_grid_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"returned \(1, 1, 4, 16, 16\), expected one channel of the lesion's log-odds"
    ):
        score(case("a", [(0, 4)]), ScoringIteration(clicks=False), lambda image, _: image[:, :, :4])


def test_two_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"returned \(1, 2, 24, 16, 16\), expected one channel"):
        score(case("a", [(0, 4)]), ScoringIteration(clicks=False), lambda image, _: torch.cat([-image, image], dim=1))


def test_half_precision_scores_the_same() -> None:
    """Inferers give float16: the mask and the log-odds of the next round are those of float32."""

    class Half(Slabs):
        def __call__(self, image: torch.Tensor, network: nn.Module, **request: Any) -> torch.Tensor:
            return super().__call__(image, network, **request).half()

    batch, iteration = case("a", [(0, 4), (10, 12)]), ScoringIteration([0, 1], rounds=2, seeds=1)
    assert untimed(score(batch, iteration, Half())) == untimed(score(batch, iteration))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_clicks": [-1]}, r"num_clicks is \[-1\]"),
        ({"num_clicks": [1.5]}, r"num_clicks is \[1.5\]"),
        ({"num_clicks": -1}, r"num_clicks is \[-1\]"),
        ({"policy": []}, "expected a simulated user"),
        ({"num_clicks": [], "rounds": 0}, "expected something to score"),
        ({"rounds": -1}, "rounds is -1"),
        ({"seeds": 0}, "seeds is 0"),
        ({"threshold": 1}, "threshold is 1"),
        ({"jitter": 2}, "jitter is 2"),
        ({"policy": "wild"}, "click policy 'wild' is unknown"),
        ({"smallest_lesion_ml": -1}, "smallest_lesion_ml is -1"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoringIteration(**arguments)
