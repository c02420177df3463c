"""Scores over clicks, with a network whose answer to each click is known, so that the curve is computed by hand."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from torch import nn

from adapters.engines import scoring
from adapters.scoring.scoring import ScoreWriter, ScoringIteration
from adapters.scoring.summaries import summarise
from adapters.inferers import ClickInferer

SIZE = (24, 16, 16)
VOXELS_ML = 0.002  # of 2 x 1 x 1 mm


class Brush(nn.Module):
    """Its embedding is the image; the image is the lesion, brighter than 0.5."""

    def forward(self, image: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.cat([0.5 - image, image - 0.5], dim=1)


class Slabs:
    """An inferer that answers a click with the truth in the slab of four slices in which the click lies.

    Elsewhere the mask of the round before stands; without one there is none. So each click that falls on a slab with
    errors puts all of them right, and by hand: the Dice is that of the slabs clicked so far.
    """

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, image: torch.Tensor, network: nn.Module, **prompts: Any) -> torch.Tensor:
        self.calls.append({**prompts, "training": network.training, "gradients": torch.is_grad_enabled()})
        truth = network(image.as_tensor())[:, 1:] * 20
        lesion = prompts.get("mask", torch.full_like(truth, -10.0)).clone()
        for point in prompts["clicks"][0]:
            start = int(point[0]) // 4 * 4
            lesion[:, :, start : start + 4] = truth[:, :, start : start + 4]
        return torch.cat([torch.zeros_like(lesion), lesion], dim=1)


def case(name: str, boxes: Sequence[tuple[int, int]], file: str | None = None) -> dict[str, Any]:
    """A batch of one case whose lesion fills 4 x 4 voxels in the given ranges of slices."""
    lesion = torch.zeros(1, 1, *SIZE)
    for start, stop in boxes:
        lesion[:, :, start:stop, 4:8, 4:8] = 1
    affine = torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0]))[[2, 1, 0, 3]]  # spacing (2, 1, 1), axes permuted
    image = MetaTensor(lesion.clone(), affine=affine[None], meta={"filename_or_obj": [file]} if file else None)
    return {"image": image, "label": lesion} | ({"case": [name]} if name else {})


def evaluator(
    batches: Sequence[dict], iteration: ScoringIteration, inferer: Any, *handlers: Any
) -> SupervisedEvaluator:
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=batches,
        network=Brush(),
        inferer=inferer,
        iteration_update=iteration,
        val_handlers=list(handlers),
    )


def score(batch: dict, iteration: ScoringIteration, inferer: Any = None) -> list[dict[str, Any]]:
    return iteration(evaluator([batch], iteration, inferer or Slabs()), batch)["rows"]


def rows_of(rows: list[dict[str, Any]], policy: str, clicks: int) -> list[dict[str, Any]]:
    return [row for row in rows if (row["policy"], row["clicks"]) == (policy, clicks)]


def untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


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
    assert [call["clicks"].shape for call in inferer.calls] == [(1, n, 3) for n in (1, 2, 3)], "then nothing is wrong"
    assert "mask" not in inferer.calls[0]
    mask = inferer.calls[1]["mask"]
    assert mask.shape == (1, 1, *SIZE)
    assert mask[0, 0, 2, 5, 5] == 10
    assert mask[0, 0, 10, 5, 5] == -10
    assert torch.equal(inferer.calls[2]["clicks"][:, :2], inferer.calls[1]["clicks"])
    assert inferer.calls[0]["clicks"].dtype == torch.float32
    assert inferer.calls[0]["labels"].tolist() == [[1]]


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
    points, labels = shown.placed
    assert len(points) == len(labels) == (1 if expected[0] == "iterative" else expected[1])
    assert all(shown.truth[tuple(point.astype(int))] for point in points)


def test_the_shown_clicks_move_with_the_cut() -> None:
    batch = case("a", [(20, 24)])
    iteration = ScoringIteration([1], rounds=0, seeds=1)
    shown = iteration(evaluator([batch], iteration, Slabs()), batch)["shown"]
    assert shown.truth.shape == (19, 16, 16)
    assert shown.truth[tuple(shown.placed[0][0].astype(int))]


def test_a_false_alarm_gets_a_negative_click() -> None:
    class Whole(Slabs):
        def __call__(self, image: torch.Tensor, network: nn.Module, **prompts: Any) -> torch.Tensor:
            self.calls.append(prompts)
            return torch.cat([torch.zeros_like(image), torch.ones_like(image)], dim=1)

    inferer = Whole()
    score(case("a", [(0, 4)]), ScoringIteration([], rounds=2, seeds=1), inferer)
    assert inferer.calls[1]["labels"].tolist() == [[1, 0]]


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
    batch["image"].meta["clicks"] = np.array([[1.0, 5.0, 5.0]])  # must not be looked at
    rows = score(batch, ScoringIteration([0, 3], rounds=0, seeds=5), inferer)
    assert [call["clicks"].shape for call in inferer.calls] == [(1, 0, 3)] + [(1, 3, 3)] * 5
    assert len({row["seconds"] for row in rows_of(rows, "automatic", 0)}) == 1
    assert not any(call["training"] or call["gradients"] for call in inferer.calls)


def test_seeds_differ_and_repeat() -> None:
    batch = case("a", [(0, 20)])
    calls = []
    for _ in range(2):
        inferer = Slabs()
        rows = score(batch, ScoringIteration([2], rounds=2, seeds=3), inferer)
        calls.append(([call["clicks"].tolist() for call in inferer.calls], untimed(rows)))
    assert calls[0] == calls[1]
    places = calls[0][0]
    assert len({str(clicks) for clicks in places}) == len(places) == 9


def test_scores_do_not_depend_on_the_order_of_cases(tmp_path: Path) -> None:
    cases = [case("a", [(0, 12)]), case("b", [(4, 20)]), case("c", [(1, 3), (8, 14)])]
    found = []
    for number, batches in enumerate((cases, cases[::-1])):
        folder = tmp_path / str(number)
        evaluator(batches, ScoringIteration([0, 1], rounds=3, seeds=2), Slabs(), ScoreWriter(folder)).run()
        with (folder / "scores.csv").open() as file:
            rows = untimed(list(csv.DictReader(file)))
        found.append(sorted(rows, key=lambda row: tuple(row.values())))
    assert found[0] == found[1]
    assert len(found[0]) == 3 * 2 * 5


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

        def __call__(self, image: torch.Tensor, network: nn.Module, **prompts: Any) -> torch.Tensor:
            value = -1.0 if (prompts["labels"] == 0).any() else 1.0
            return torch.cat([torch.zeros_like(image), torch.full_like(image, value)], dim=1)

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
        lesion = torch.where(image > 0.5, 2.0, 1.0)  # probabilities 0.88 and 0.73
        return torch.cat([torch.zeros_like(lesion), lesion], dim=1)

    batch = case("a", [(0, 4)])
    dice = [
        score(batch, ScoringIteration(clicks=False, seeds=1, threshold=threshold), inferer)[0]["dice"]
        for threshold in (0.7, 0.8, 0.9)
    ]
    assert dice == pytest.approx([2 * 64 / (64 + np.prod(SIZE)), 1.0, 0.0], abs=1e-6)


def test_with_the_click_inferer() -> None:
    """The library's own inferer takes the same call: a crop round the clicks, background elsewhere."""

    class Bright(nn.Module):
        def forward(self, image: torch.Tensor, clicks: Any, labels: Any, mask: Any) -> torch.Tensor:
            return torch.cat([0.5 - image, image - 0.5], dim=1) * 20

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
    with pytest.raises(ValueError, match=r"returned \(1, 1, 24, 16, 16\), expected logits of background and lesion"):
        score(case("a", [(0, 4)]), ScoringIteration(clicks=False), lambda image, _: image)


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


def test_summary_by_hand() -> None:
    dice = {("a", 0): 0.5, ("b", 0): 0.7, ("a", 1): 0.7, ("b", 1): 0.9}
    rows = [
        {"case": name, "seed": seed, "policy": "random", "clicks": 1, "dice": value, "nsd": 1.0, "seconds": 2.0}
        for (name, seed), value in dice.items()
    ]
    (entry,) = summarise(rows)
    assert entry["dice"]["mean"] == pytest.approx(0.7)
    assert entry["dice"]["spread"] == pytest.approx(np.sqrt(0.02))  # of 0.6 and 0.8
    assert entry["dice"]["cases"] == pytest.approx({"a": 0.6, "b": 0.8})
    assert entry["nsd"]["spread"] == 0
    assert (entry["rows"], entry["seconds"]) == (4, 2.0)


def test_written_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "new" / "scores"
    batches = [case("a", [(0, 4), (10, 12), (21, 22)]), case("b", [(4, 8)])]
    writer = ScoreWriter(folder, method="slabs (tiny)")
    with caplog.at_level(logging.INFO, logger="adapters"):
        evaluator(batches, ScoringIteration([0, 1], rounds=2, seeds=2), Slabs(), writer).run()
    assert "b (2 of 2): Dice 0.0 (automatic 0), 100.0 (random 1)" in caplog.text
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.png",
        "boxes.png",
        "cases.csv",
        "curve.png",
        "scores.csv",
        "scores.md",
        "summary.json",
        "worst.png",
    ]

    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case", "seed", "policy", "clicks", "dice", "nsd", "seconds", "lesion_ml", "hd95"]
    assert len(rows) == 2 * 2 * 4

    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["method"], summary["tolerance_mm"]) == ("slabs (tiny)", 5.0)
    assert (summary["cases"], summary["seeds"]) == (["a", "b"], 2)
    assert [(entry["policy"], entry["clicks"]) for entry in summary["scores"]] == [
        ("automatic", 0),
        ("random", 1),
        ("iterative", 1),
        ("iterative", 2),
    ]
    last = summary["scores"][-1]["dice"]
    assert last["mean"] == pytest.approx((12 / 13 + 1) / 2)
    assert last["cases"] == pytest.approx({"a": 12 / 13, "b": 1.0})

    assert summary["device"] == "cpu"
    assert summary["peak_memory_mib"] > 1
    assert summary["interaction"]["dice_area"]["cases"] == pytest.approx({"a": (8 / 11 + 12 / 13) / 2, "b": 1.0})
    assert summary["interaction"]["clicks_needed"]["cases"] == {"a": 2.0, "b": 1.0}
    assert [(group["name"], group["cases"]) for group in summary["strata"]] == [("below 1 ml", ["a", "b"])]
    shown = [(picture["rank"], picture["case"], picture["clicks"]) for picture in summary["pictures"]]
    assert shown == [("best", "b", 1), ("worst", "a", 1)]

    with (folder / "cases.csv").open() as file:
        cases = list(csv.DictReader(file))
    assert [(row["case"], row["seed"], row["lesions"], row["clicks_needed"]) for row in cases] == [
        ("a", "0", "1", "2"),
        ("a", "1", "1", "2"),
        ("b", "0", "1", "1"),
        ("b", "1", "1", "1"),
    ]
    assert float(cases[0]["dice_area"]) == pytest.approx((8 / 11 + 12 / 13) / 2, abs=1e-5)

    table = (folder / "scores.md").read_text()
    assert "# slabs (tiny)" in table
    assert "| 2 | iterative | 96.2 ± 0.0 |" in table
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_cases_of_the_same_name_are_refused(tmp_path: Path) -> None:
    batches = [case("", [(0, 4)], "/one/ct.nii.gz"), case("", [(0, 8)], "/two/ct.nii.gz")]
    engine = evaluator(batches, ScoringIteration([0], rounds=0), Slabs(), ScoreWriter(tmp_path))
    with pytest.raises(ValueError, match="two cases are named 'ct'"):
        engine.run()
    assert not list(tmp_path.iterdir())


def test_the_first_of_several_processes_writes_the_cases_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes with two cases each, one of them in both. (The other process' come first in what is gathered.)"""
    cases = {name: case(name, [(0, stop)]) for name, stop in (("c", 4), ("a", 8), ("b", 12))}
    parts: list[Any] = []

    def gather(found: list[Any], own: Any) -> None:
        parts.append(own)
        found[:] = parts * (2 // len(parts))

    pretended = {"is_available": lambda: True, "is_initialized": lambda: True, "get_world_size": lambda: 2}
    monkeypatch.setattr(scoring, "dist", processes := SimpleNamespace(**pretended, all_gather_object=gather))
    iteration = ScoringIteration([0], rounds=1, seeds=1)
    for rank, names in ((1, "ac"), (0, "cb")):
        processes.get_rank = lambda rank=rank: rank
        writer = ScoreWriter(tmp_path)
        engine = evaluator([cases[name] for name in names], iteration, Slabs())
        writer.attach(engine)
        engine.run()
        assert (tmp_path / "scores.csv").exists() is (rank == 0)
    with (tmp_path / "scores.csv").open() as file:
        found = [(row["case"], row["policy"]) for row in csv.DictReader(file)]
    assert found == [(name, policy) for name in "acb" for policy in ("automatic", "iterative")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"task": "lung"}, "task is 'lung', expected one"), ({"strata_ml": [10, 1]}, r"strata end at \[10.0, 1.0\] ml")],
)
def test_a_writer_that_could_not_write_is_refused_at_once(arguments: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ScoreWriter(tmp_path, **arguments)


def test_pictures_can_be_left_out(tmp_path: Path) -> None:
    for pictures in (True, False):
        writer = ScoreWriter(tmp_path, pictures=pictures)
        evaluator([case("a", [(0, 4)])], ScoringIteration([1], rounds=0, seeds=1), Slabs(), writer).run()
        assert (tmp_path / "best.png").exists() is pictures, "nor does that of an earlier run stay"
    assert json.loads((tmp_path / "summary.json").read_text())["pictures"] == []


def test_single_lesions_are_written(tmp_path: Path) -> None:
    iteration = ScoringIteration([], rounds=2, seeds=1, smallest_lesion_ml=0)
    evaluator([case("a", [(0, 4), (10, 12)])], iteration, Slabs(), ScoreWriter(tmp_path)).run()
    with (tmp_path / "lesions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["clicks"], row["lesion"], row["clicked"], row["dice"]) for row in rows] == [
        ("1", "1", "1", "1"),
        ("1", "2", "0", "0"),
        ("2", "1", "1", "1"),
        ("2", "2", "1", "1"),
    ]
    summary = json.loads((tmp_path / "summary.json").read_text())["lesions"]
    assert (summary["cases"], summary["lesions"]) == (1, 2)
    assert "## Lesion by lesion" in (tmp_path / "scores.md").read_text()


def test_a_second_run_starts_anew(tmp_path: Path) -> None:
    engine = evaluator([case("a", [(0, 4)])], ScoringIteration([0], rounds=0, seeds=1), Slabs(), ScoreWriter(tmp_path))
    engine.run()
    engine.run()
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 2
