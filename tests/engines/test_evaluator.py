"""One case of a list that fails does not stop the others, and none is lost sight of."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, Lambdad, SaveImaged

from adapters.engines import CaseEvaluator
from adapters.files import read_csv

NAMES = ["a", "b", "c", "d", "e"]


def evaluator(
    folder: Path, names: list[str], fails: dict[str, str], num_workers: int = 0, **options: Any
) -> tuple[CaseEvaluator, list[int]]:
    """Cases with the numbers 0, 1, ... for images, and which are written; `fails` says where which case does."""
    written: list[int] = []

    def at(step: str, number: int) -> None:
        if fails.get(names[number]) == step:
            raise ValueError(f"no {step}\nof {names[number]}")
        if fails.get(names[number]) == f"{step}, unforeseen":
            raise IndexError(f"{step} of {names[number]}")

    def load(number: int) -> torch.Tensor:
        at("loading", number)
        return torch.full((1, 2), float(number))

    def network(image: torch.Tensor) -> torch.Tensor:
        at("prediction", int(image.max()))
        return image

    def write(prediction: torch.Tensor) -> torch.Tensor:
        at("writing", int(prediction.max()))
        written.append(int(prediction.max()))
        return prediction

    entries = [{"image": number, "case": name} for number, name in enumerate(names)]
    loader = DataLoader(Dataset(entries, Lambdad("image", load)), batch_size=1, num_workers=num_workers)
    made = CaseEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=torch.nn.Identity(),
        inferer=lambda image, _: network(image),
        postprocessing=Lambdad("pred", write),
        output_dir=folder / "out",
        **options,
    )
    return made, written


def checking(refused: str) -> Callable[[Any], None]:
    def check(entry: dict[str, Any]) -> None:
        if entry["case"] == refused:
            raise ValueError("no good header")

    return check


def rows(folder: Path) -> dict[str, str]:
    return {row["case"]: row["reason"] for row in read_csv(folder / "out" / "failures.csv", ("case", "reason"))}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_others_are_done(tmp_path: Path, num_workers: int) -> None:
    fails = {"b": "loading", "c": "prediction, unforeseen", "e": "writing"}
    made, written = evaluator(tmp_path, NAMES, fails, num_workers)
    with pytest.raises(ValueError, match=r"3 of 5 cases failed.*b: no loading of b; c: IndexError: pred"):
        made.run()
    assert written == [0, 3]
    assert rows(tmp_path) == {"b": "no loading of b", "c": "IndexError: prediction of c", "e": "no writing of e"}


def test_what_the_first_look_finds_is_said_before_anything_is_predicted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predicted_when_said: list[int] = []
    made, written = evaluator(tmp_path, NAMES, {"d": "loading"}, check=checking("d"))
    handler = logging.Handler()
    handler.emit = lambda record: predicted_when_said.append(len(written))  # type: ignore[method-assign]
    logging.getLogger("adapters.engines.evaluator").addHandler(handler)
    with caplog.at_level(logging.ERROR), pytest.raises(ValueError, match=r"1 of 5 cases failed.*d: no loading of d"):
        made.run()
    logging.getLogger("adapters.engines.evaluator").removeHandler(handler)
    assert predicted_when_said == [0]
    assert "d failed: no good header" in caplog.text


def test_all_fail(tmp_path: Path) -> None:
    made, written = evaluator(tmp_path, NAMES, dict.fromkeys(NAMES, "loading"))
    with pytest.raises(ValueError, match=r"5 of 5 cases failed.*; and 2 more$"):
        made.run()
    assert written == []
    assert list(rows(tmp_path)) == NAMES


def test_a_list_of_one_raises_what_it_raised(tmp_path: Path) -> None:
    made, _ = evaluator(tmp_path, ["a"], {"a": "prediction, unforeseen"})
    with pytest.raises(IndexError, match="prediction of a"):
        made.run()
    assert not (tmp_path / "out").exists()


def test_failures_of_a_run_before_go(tmp_path: Path) -> None:
    fails = {"b": "loading"}
    made, written = evaluator(tmp_path, NAMES, fails)
    with pytest.raises(ValueError, match="1 of 5 cases failed"):
        made.run()
    fails.clear()
    made.run()
    assert written == [0, 2, 3, 4, 0, 1, 2, 3, 4]
    assert not (tmp_path / "out" / "failures.csv").exists()


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    made, _ = evaluator(tmp_path, NAMES, {})

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    made.inferer = interrupted
    with pytest.raises(KeyboardInterrupt):
        made.run()


@pytest.mark.parametrize("way", ["itself", "hard link", "link"])
def test_no_mask_replaces_another_scan_of_the_list(tmp_path: Path, way: str) -> None:
    """Nothing is predicted, and the scan stays as it was."""
    out = tmp_path / "out"
    out.mkdir()
    for name in ("a.nii.gz", "b.nii.gz"):
        (tmp_path / name).write_bytes(name.encode())
    target = out / "a_mask.nii.gz"
    second = target if way == "itself" else tmp_path / "b.nii.gz"
    if way == "itself":
        target.write_bytes(b"b.nii.gz")
    elif way == "link":
        target.symlink_to(second)
    else:
        target.hardlink_to(second)
    read: list[str] = []
    entries = [{"image": str(tmp_path / "a.nii.gz")}, {"image": str(second)}]
    made = CaseEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(entries, Lambdad("image", read.append)), batch_size=1),
        network=torch.nn.Identity(),
        postprocessing=Compose([SaveImaged("pred", output_dir=out, output_postfix="mask", separate_folder=False)]),
        output_dir=out,
    )
    with pytest.raises(
        ValueError, match=rf"mask of 'a.nii.gz' would replace '.*a_mask.nii.gz', the scan '{second.name}'"
    ):
        made.run()
    assert not read
    assert second.read_bytes() == b"b.nii.gz"
