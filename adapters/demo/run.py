"""The demo's steps. Everything that a user would type is run as typed, through ``python -m monai.bundle``."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import Orientationd
from tqdm import tqdm

from adapters.bundling.folders import shipped_bundles
from adapters.demo.report import curve, slices
from adapters.demo.samples import Case, samples
from adapters.files import case_name, write_whole
from adapters.metrics import volume_scores
from adapters.prompts import centre_click
from adapters.scoring.page import Picture, Section, Table, as_html
from adapters.scoring.score_files import load_summary
from adapters.transforms import LoadScand

BUNDLE = shipped_bundles() / "soft_tissue_sarcoma_ct_samadapter_deepgrow"
NUM_CLICKS, CLICK_ROUNDS, SEEDS = "[0,1,3]", 3, 2
_NOT_FOR_DIAGNOSIS = (
    "Not for diagnosis. The shipped weights were trained on soft-tissue sarcomas, and on nothing that is shown here: "
    "this page shows that everything runs, and how far they carry."
)
_LOSS = re.compile(r"Epoch: (\d+)/\d+, Iter: (\d+)/(\d+) -- train_loss: (\S+)")


@dataclass(frozen=True)
class Command:
    """A command line that was run (its first word is the interpreter), what it printed, and how long it took."""

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
    with tqdm(total=4, unit="step", bar_format="{desc} {n_fmt}/{total_fmt} [{elapsed}]") as progress:
        progress.set_description_str("demo: the scans")
        cases, origin = samples(folder / "data")
        steps: dict[str, Callable[[], Section]] = {
            "one click on each scan": lambda: _click(bundle, cases, folder),
            "training": lambda: _train(bundle, weights, cases, folder, epochs),
            "evaluation": lambda: _evaluate(bundle, cases, folder),
        }
        sections = []
        for name, step in steps.items():
            progress.update()
            progress.set_description_str(f"demo: {name}")
            sections.append(step())
        progress.update()
    seconds = time.perf_counter() - start
    sections.append(Section("Time", [f"All of it took {seconds:.0f} s on {os.cpu_count()} CPU cores."]))
    report = folder / "report.html"
    write_whole(report, as_html("monai-sam-adapters: the demo", "", sections, warnings=[_NOT_FOR_DIAGNOSIS, origin]))
    return report


def _monai_bundle(run_id: str, bundle: Path, config: str, log: Path, **overrides: Any) -> Command:
    """Runs ``python -m monai.bundle run``; what it prints goes into the log too."""
    words = [sys.executable, "-m", "monai.bundle", "run", *filter(None, [run_id])]
    options = {"config_file": config, "bundle_root": bundle, "logging_file": bundle / "configs" / "logging.conf"}
    for key, value in (options | overrides).items():
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


def _click(bundle: Path, cases: Sequence[Case], folder: Path) -> Section:
    """One click in the middle of each tumour, through the bundle's inference."""
    load = LoadScand(("image", "label", "mask"), allow_missing_keys=True)
    # the axes go from foot to head, front to back and right to left
    turn = Orientationd(("image", "label", "mask"), axcodes="SPL", labels=(("L", "R"), ("P", "A"), ("I", "S")))
    clicks = []
    for case in cases:
        label = load({"label": case.label})["label"]
        click = centre_click(_lesion(label), spacing=label.pixdim.tolist())
        clicks.append(replace(click, affine=np.asarray(label.affine)))
    requests = [
        {"image": str(case.image.resolve()), "points": click.points.tolist(), "point_labels": click.labels.tolist()}
        for case, click in zip(cases, clicks, strict=True)
    ]
    _write_json(folder / "clicks.json", requests)
    predictions = folder / "predictions"
    command = _monai_bundle(
        "",
        bundle,
        str(bundle / "configs" / "inference.json"),
        folder / "inference.log",
        requests=folder / "clicks.json",
        output_dir=predictions,
    )
    rows, pictures = [], []
    for case, click in zip(cases, clicks, strict=True):
        (written,) = predictions.rglob(f"{case_name(case.image)}*.nii.gz")
        scans: dict[Any, Any] = dict(turn(load({"image": case.image, "label": case.label, "mask": written})))
        image, spacing = scans["image"], scans["image"].pixdim.tolist()
        if scans["mask"].shape != image.shape or not np.allclose(scans["mask"].affine, image.affine, atol=1e-3):
            raise RuntimeError(f"the mask of {case.name} is not on the image's own grid; this is a mistake of ours")
        voxel = click.to_voxel(np.asarray(image.affine), shape=tuple(image.shape[1:]), frame="image").points[0]
        truth, mask = _lesion(scans["label"]), _lesion(scans["mask"])
        dice = volume_scores(mask, truth, spacing)["dice"]
        volumes = [f"{lesion.sum() * np.prod(spacing) / 1000:.1f} ml" for lesion in (truth, mask)]
        stored = ", ".join(f"{c:g}" for c in click.points[0])
        rows.append([case.name, stored, *volumes, f"{dice:.2f}"])
        picture = slices(image[0].numpy(), truth, mask, voxel, spacing)
        pictures.append(Picture(picture, f"{case.name}: Dice {dice:.2f}; slices through the click."))
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


def _lesion(scan: MetaTensor) -> np.ndarray:
    return scan[0].numpy() > 0.5


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _train(bundle: Path, weights: Path, cases: Sequence[Case], folder: Path, epochs: int) -> Section:
    """A short run on the first case, which starts from the shipped weights."""
    data = folder / "data"
    entries = [{key: str(getattr(case, key).relative_to(data)) for key in ("image", "label")} for case in cases]
    sections = {"training": entries[:1], "validation": entries[:1], "test": entries[1:]}
    _write_json(folder / "datalist.json", sections)
    training = folder / "training"
    command = _monai_bundle(
        "training",
        bundle,
        str(bundle / "configs" / "train.json"),
        folder / "training.log",
        dataset_dir=data,
        datalist=folder / "datalist.json",
        output_dir=training,
        ckpt_dir=training / "models",
        pretrained=weights,
        resume=False,
        max_epochs=epochs,
        val_interval=epochs,
        batch_size=1,
        learning_rate=1e-4,
    )
    steps, losses = _losses(command.output)
    about = (
        f"{epochs} steps on {cases[0].name} alone, from the shipped weights, in {command.seconds:.0f} s with the "
        "program's start: it shows that training runs on your data, not that one patient is enough to learn from."
    )
    picture = curve(steps, losses, xlabel="step", ylabel="loss (Dice + cross-entropy)")
    return Section(
        "A short training run", [about], pictures=[Picture(picture, "Training loss.")], command=command.typed
    )


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
        for entry in load_summary(scores)["scores"]:
            rows.setdefault((entry["policy"], entry["clicks"]), []).append(f"{entry['dice']['mean']:.2f}")
    about = (
        f"{cases[1].name}, which the training run did not see, with simulated clicks; "
        f"mean Dice over {SEEDS} seeds. One patient: no claim about others."
    )
    table = Table(
        ["clicks", "placed", "Dice, shipped weights", "Dice after the short run"],
        [[str(clicks), policy, *means] for (policy, clicks), means in rows.items()],
    )
    return Section("Evaluation", [about], [table], command=command.typed)
