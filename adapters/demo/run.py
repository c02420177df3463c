"""The demo's steps. Everything that a user would type is run as typed, through ``python -m monai.bundle``."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import Orientation
from tqdm import tqdm

from adapters.bundling.folders import shipped_bundles
from adapters.demo.report import curve, slices
from adapters.demo.samples import Case, samples
from adapters.files import case_name, write_whole
from adapters.metrics import volume_scores
from adapters.prompts import centre_click
from adapters.scoring.page import Picture, Section, Table, as_html
from adapters.transforms import LoadScand

BUNDLE = shipped_bundles() / "soft_tissue_sarcoma_ct_samadapter_deepgrow"
NUM_CLICKS, CLICK_ROUNDS, SEEDS = "[0,1,3]", 3, 2
_LOSS = re.compile(r"Epoch: (\d+)/\d+, Iter: (\d+)/(\d+) -- train_loss: (\S+)")


@dataclass(frozen=True)
class Command:
    """A command line that was run.

    Attributes:
        words: Its words, the first one the interpreter.
        output: What it printed.
        seconds: How long it took.
    """

    words: Sequence[str]
    output: str
    seconds: float

    @property
    def typed(self) -> str:
        """As a user types it."""
        # a list of files has single quotes inside, which read better in double ones
        return " ".join(["python", *(f'"{word}"' if "'" in word else shlex.quote(word) for word in self.words[1:])])


def main(output: str | os.PathLike[str] = "demo", *, epochs: int = 20, bundle: str | os.PathLike[str] = BUNDLE) -> Path:
    """Runs the whole demo.

    Args:
        output: The folder to write into; it is made if it is not there. What an earlier demo left is overwritten.
        epochs: Length of the training run; an epoch is one step.
        bundle: The bundle to run, with its weights in models/model.pt.

    Returns:
        The report, ``report.html`` in the folder.

    Raises:
        ValueError: If `epochs` is not positive.
        FileNotFoundError: If the bundle or its weights are not there.
        RuntimeError: If one of the commands fails; the message has the end of what it printed.
    """
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}, expected a positive number")
    bundle, folder = _short(Path(bundle)), _short(Path(output))
    weights = bundle / "models" / "model.pt"
    if not weights.is_file():
        raise FileNotFoundError(
            f"{weights} is not there: the demo needs a bundle with weights, such as the one that comes with the library"
        )
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with tqdm(total=5, desc="demo", unit="step", bar_format="{desc} {n_fmt}/{total_fmt} [{elapsed}]") as progress:

        def begin(what: str) -> None:
            progress.set_description_str(f"demo: {what}")

        begin("the scans")
        cases, origin = samples(folder / "data")
        progress.update()
        begin("one click on each scan")
        clicked = _click(bundle, cases, folder)
        progress.update()
        begin("training")
        trained = _train(bundle, weights, cases, folder, epochs)
        progress.update()
        begin("evaluation")
        evaluated = _evaluate(bundle, cases, folder)
        progress.update()
        begin("report")
        notes = [
            (
                "Not for diagnosis. The shipped weights were trained on soft-tissue sarcomas, "
                "and on nothing that is shown here: this page shows that everything runs, and how far they carry."
            ),
            origin,
        ]
        seconds = time.perf_counter() - start
        closing = Section("Time", [f"All of it took {seconds:.0f} s on {os.cpu_count()} CPU cores."])
        text = as_html("monai-sam-adapters: the demo", "", [clicked, trained, evaluated, closing], warnings=notes)
        report = folder / "report.html"
        write_whole(report, text)
        progress.update()
    return report


def _monai_bundle(run_id: str, bundle: Path, config: str, log: Path, **overrides: Any) -> Command:
    """Runs ``python -m monai.bundle run``; what it prints goes into the log too."""
    words = [sys.executable, "-m", "monai.bundle", "run", *([run_id] if run_id else [])]
    words += ["--config_file", config, "--bundle_root", str(bundle)]
    words += ["--logging_file", str(bundle / "configs" / "logging.conf")]
    for key, value in overrides.items():
        words += [f"--{key}", str(value)]
    start = time.perf_counter()
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    command = Command(words, done.stdout, time.perf_counter() - start)
    log.write_text(f"$ {command.typed}\n{done.stdout}", encoding="utf-8")
    if done.returncode != 0:
        end = "\n".join(done.stdout.splitlines()[-15:])
        raise RuntimeError(f"`{command.typed}` failed with exit code {done.returncode}; {log} has it all:\n{end}")
    return command


def _short(path: Path) -> Path:
    """Relative where it lies under the current folder, so that the commands in the report are easy to read."""
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _load(path: Path) -> MetaTensor:
    return LoadScand("scan")({"scan": path})["scan"]


def _upright(scan: MetaTensor) -> MetaTensor:
    """Turned so that the axes go from foot to head, front to back and right to left."""
    turned = Orientation(axcodes="SPL", labels=(("L", "R"), ("P", "A"), ("I", "S")))(scan)
    if not isinstance(turned, MetaTensor):
        raise TypeError(f"Orientation gave {type(turned).__name__}, expected a MetaTensor; monai.data tracks no meta")
    return turned


def _spacing(scan: MetaTensor) -> tuple[float, float, float]:
    i, j, k = np.linalg.norm(np.asarray(scan.affine)[:3, :3], axis=0)
    return float(i), float(j), float(k)


def _mask(scan: MetaTensor) -> np.ndarray:
    return scan[0].numpy() > 0.5


def _click(bundle: Path, cases: Sequence[Case], folder: Path) -> Section:
    """One click in the middle of each tumour, through the bundle's inference."""
    requests, clicks = [], []
    for case in cases:
        label = _load(case.label)
        click = replace(centre_click(_mask(label), spacing=_spacing(label)), affine=np.asarray(label.affine))
        clicks.append(click)
        requests.append(
            {
                "image": str(case.image.resolve()),
                "points": click.points.tolist(),
                "point_labels": click.labels.tolist(),
            }
        )
    listed = folder / "clicks.json"
    listed.write_text(json.dumps(requests, indent=2) + "\n", encoding="utf-8")
    predictions = folder / "predictions"
    command = _monai_bundle(
        "",
        bundle,
        str(bundle / "configs" / "inference.json"),
        folder / "inference.log",
        requests=listed,
        output_dir=predictions,
    )
    rows, pictures = [], []
    for case, click in zip(cases, clicks, strict=True):
        image, label = _upright(_load(case.image)), _upright(_load(case.label))
        prediction = _upright(_load(_written(predictions, case)))
        if prediction.shape != image.shape or not np.allclose(prediction.affine, image.affine, atol=1e-3):
            raise RuntimeError(f"the mask of {case.name} is not on the image's own grid; this is a mistake of ours")
        place = click.to_voxel(np.asarray(image.affine), shape=tuple(image.shape[1:]), frame="image").points[0]
        truth, mask, spacing = _mask(label), _mask(prediction), _spacing(image)
        overlap = volume_scores(mask, truth, spacing)["dice"]
        volumes = [f"{lesion.sum() * np.prod(spacing) / 1000:.1f} ml" for lesion in (truth, mask)]
        stored = ", ".join(f"{c:g}" for c in click.points[0])
        rows.append([case.name, stored, *volumes, f"{overlap:.2f}"])
        pictures.append(
            Picture(
                slices(image[0].numpy(), truth, mask, place, spacing),
                f"{case.name}: Dice {overlap:.2f}; slices through the click.",
            )
        )
    table = Table(["case", "click (i, j, k)", "tumour", "predicted", "Dice"], rows)
    about = [
        (
            "The click is the voxel of the tumour that is farthest from its border, as a person aims at the middle. "
            "The shipped weights see the scan and this one click. The sarcomas that they learnt from measure 17 to "
            "818 ml: a much smaller tumour is only a few of the network's coarse voxels across, and may well be missed."
        ),
        f"{len(cases)} scans took {command.seconds:.0f} s, the program's start included.",
    ]
    return Section("One click", about, [table], pictures, command=command.typed)


def _written(predictions: Path, case: Case) -> Path:
    """The mask that inference wrote for a case."""
    name = case_name(case.image)
    masks = sorted(predictions.rglob(f"{name}*.nii.gz"))
    if len(masks) != 1:
        raise RuntimeError(f"found {len(masks)} masks of {name} under {predictions}, expected one")
    return masks[0]


def _train(bundle: Path, weights: Path, cases: Sequence[Case], folder: Path, epochs: int) -> Section:
    """A short run on the first case, which starts from the shipped weights."""
    data = folder / "data"
    entries = [
        {key: str(path.relative_to(data)) for key, path in (("image", case.image), ("label", case.label))}
        for case in cases
    ]
    listed = folder / "datalist.json"
    sections = {"training": entries[:1], "validation": entries[:1], "test": entries[1:]}
    listed.write_text(json.dumps(sections, indent=2) + "\n", encoding="utf-8")
    training = folder / "training"
    command = _monai_bundle(
        "training",
        bundle,
        str(bundle / "configs" / "train.json"),
        folder / "training.log",
        dataset_dir=data,
        datalist=listed,
        output_dir=training,
        ckpt_dir=training / "models",
        pretrained=weights,
        max_epochs=epochs,
        val_interval=epochs,
        batch_size=1,
        learning_rate=1e-4,
    )
    steps, losses = _losses(command.output)
    about = [
        (
            f"{epochs} steps on {cases[0].name} alone, from the shipped weights, in {command.seconds:.0f} s with the "
            "program's start: it shows that training runs on your data, not that one patient is enough to learn from."
        ),
    ]
    picture = curve(steps, losses, xlabel="step", ylabel="loss (Dice + cross-entropy)")
    return Section("A short training run", about, pictures=[Picture(picture, "Training loss.")], command=command.typed)


def _losses(printed: str) -> tuple[list[float], list[float]]:
    """Steps and training losses that a run printed."""
    lines = [(int(e), int(i), int(n), float(loss)) for e, i, n, loss in _LOSS.findall(printed)]
    return [(epoch - 1) * length + step for epoch, step, length, _ in lines], [loss for *_, loss in lines]


def _evaluate(bundle: Path, cases: Sequence[Case], folder: Path) -> Section:
    """The case that was not trained on, with the shipped weights and with the trained ones."""
    configs = ",".join(f"'{bundle / 'configs' / name}.json'" for name in ("train", "evaluate"))
    rows: dict[tuple[str, int], list[str]] = {}
    runs = {"shipped": bundle / "models", "trained": folder / "training" / "models"}
    for name, models in runs.items():
        scores = folder / f"evaluation_{name}"
        command = _monai_bundle(
            "evaluating",
            bundle,
            f"[{configs}]",
            folder / f"evaluation_{name}.log",
            dataset_dir=folder / "data",
            datalist=folder / "datalist.json",
            output_dir=scores,
            ckpt_dir=models,
            num_clicks=NUM_CLICKS,
            click_rounds=CLICK_ROUNDS,
            seeds=SEEDS,
        )
        for policy, clicks, mean in _means(scores / "summary.json"):
            rows.setdefault((policy, clicks), []).append(f"{mean:.2f}")
    about = [
        (
            f"{cases[1].name}, which the training run did not see, with simulated clicks; "
            f"mean Dice over {SEEDS} seeds. One patient: no claim about others."
        ),
    ]
    table = Table(
        ["clicks", "placed", "Dice, shipped weights", "Dice after the short run"],
        [[str(clicks), policy, *means] for (policy, clicks), means in rows.items()],
    )
    return Section("Evaluation", about, [table], command=command.typed)


def _means(summary: Path) -> Iterable[tuple[str, int, float]]:
    for entry in json.loads(summary.read_text(encoding="utf-8"))["scores"]:
        yield entry["policy"], entry["clicks"], entry["dice"]["mean"]
