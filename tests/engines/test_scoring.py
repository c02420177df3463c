"""Scores over clicks, with a network whose answer to each click is known, so that the curve is computed by hand."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from torch import nn

from adapters.engines.report import summarise
from adapters.engines.scoring import ScoreWriter, ScoringIteration
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
        ({"num_clicks": [], "rounds": 0}, "expected something to score"),
        ({"rounds": -1}, "rounds is -1"),
        ({"seeds": 0}, "seeds is 0"),
        ({"threshold": 1}, "threshold is 1"),
        ({"jitter": 2}, "jitter is 2"),
        ({"policy": "wild"}, "click policy 'wild' is unknown"),
        ({"policy": "iterative"}, "give the number of rounds instead"),
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
    assert sorted(path.name for path in folder.iterdir()) == ["curve.png", "scores.csv", "scores.md", "summary.json"]

    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case", "seed", "policy", "clicks", "dice", "nsd", "seconds", "lesion_ml"]
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


def test_a_second_run_starts_anew(tmp_path: Path) -> None:
    engine = evaluator([case("a", [(0, 4)])], ScoringIteration([0], rounds=0, seeds=1), Slabs(), ScoreWriter(tmp_path))
    engine.run()
    engine.run()
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 2
