"""The four tasks' bundles at their true size (`vit_b`): the authors' checkpoint converted, evaluated, trained a step.

The checkpoint has the authors' layout and numbers from a formula. Crops are 64 voxels a side: the smallest with several
windows of attention, so that shifting them matters. All else is as the bundles have it.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import TESTS, run_as_typed
from four_runs import bundle_of, make_release
from monai.data import MetaTensor
from parity_state import state_from_manifest

from adapters.bundling import TASKS
from adapters.checkpoints import load_published
from adapters.inferers import ClickInferer
from adapters.prompts.users import random_clicks
from adapters.scoring.iteration import _generator

pytestmark = pytest.mark.slow

CROP = 64
OPTIONS: dict[str, Any] = {"crop_size": CROP, "device": "cpu", "num_workers": 0}
RATE = 4e-4  # the first step of AdamW moves a number by this, whatever its gradient


@dataclass(frozen=True)
class Published:
    """What the paper and its implementation say of a task; the scores are Dice and NSD of one click and of nnU-Net."""

    task: str
    label: int
    clip: tuple[float, float]
    mean: float
    std: float
    scores: tuple[str, str]


PUBLISHED = {
    "kidney_tumor": Published("kidney", 2, (-54, 247), 59.53867, 55.457336, ("73.78 | 83.86", "73.07 | 77.47")),
    "pancreas_tumor": Published("pancreas", 2, (-39, 204), 68.45214, 63.422806, ("54.09 | 76.27", "41.65 | 62.54")),
    "liver_tumor": Published("liver", 2, (-48, 163), 60.057533, 40.198017, ("54.78 | 69.55", "60.10 | 75.41")),
    "colon_cancer": Published("colon", 1, (-57, 175), 65.175035, 32.651197, ("48.35 | 63.65", "43.91 | 52.52")),
}
FROZEN = ("pos_embed", ".plane.", ".attn.qkv.", ".attn.proj.", "rel_pos_h", "rel_pos_w", "rel_pos_gain", ".mlp.lin")
"""Of the encoder: what is SAM's, but for the norms."""
UNUSED = ".cross_attn_token_to_image."
"""An attention that the published network counts as tuned and never calls."""
LEVEL = "k_proj.bias"
"""Without effect, as softmax takes no notice of what all keys share; rounding may move it."""
ADDED = ("label_embed", ".correction.")
"""What the published network lacks; it has no gradient in the published training."""
TUNED = 25_462_400 - (128 - CROP) // 4 * 768
"""Tuned numbers of the published network, whose table along depth has an entry for every 4 of 128 voxels."""


@dataclass(frozen=True)
class Weights:
    """The authors' file, what it holds, and the file that it was converted into."""

    file: Path
    converted: Path
    checkpoint: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Run:
    """A copy of a task's bundle with the converted weights in its place, and a small release."""

    task: str
    bundle: Path
    data: dict[str, Any]

    def go(self, run_id: str, names: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        done = run_as_typed(self.bundle, run_id, names, {**OPTIONS, **self.data, **options})
        assert done.returncode == 0, done.stderr[-3000:]
        return done


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weights]:
    folder = tmp_path_factory.mktemp("weights")
    checkpoint = state_from_manifest(TESTS / "data" / "parity" / "vit_b.json")
    encoder, decoder = checkpoint["encoder_dict"], checkpoint["decoder_dict"]
    encoder["depth_embed"] = encoder["depth_embed"][:, : CROP // 4].clone()  # as a training with this crop leaves it
    decoder["cls.3.weight"] -= decoder["cls.3.weight"].mean(dim=(1, 2, 3, 4), keepdim=True)  # half of a crop is lesion
    made = Weights(folder / "best.pth.tar", folder / "model.pt", checkpoint)
    torch.save({"epoch": 201, "best_val_loss": np.float64(0.25), **checkpoint}, made.file)
    words = [sys.executable, "-m", "adapters", "convert", str(made.file), str(made.converted)]
    done = subprocess.run(words, text=True, capture_output=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    yield made
    shutil.rmtree(folder)


@pytest.fixture(scope="module", params=TASKS)
def run(request: pytest.FixtureRequest, weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp(request.param)
    source = bundle_of(request.param)
    bundle = Path(shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("models", "eval")))
    (bundle / "models").mkdir()
    os.link(weights.converted, bundle / "models" / "model.pt")
    yield Run(request.param, bundle, make_release(request.param, folder / "release", training=1))
    shutil.rmtree(folder)  # gigabytes


def as_stored(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The array with axes to superior, posterior and left, and its affine."""
    image: Any = nib.load(path)
    wanted = nib.orientations.axcodes2ornt("SPL")
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.orientations.io_orientation(image.affine), wanted))
    return np.asarray(turned.dataobj), turned.affine


def direct_dice(case: dict[str, str], folder: Path, published: Published, checkpoint: dict[str, Any]) -> float:
    """Dice of the authors' checkpoint on the evaluation's click, without the bundle, its files and its transforms."""
    scan, affine = as_stored(folder / case["image"])
    truth = as_stored(folder / case["label"])[0] == published.label
    normalised = (scan.astype(np.float32).clip(*published.clip) - published.mean) / published.std
    prompts = random_clicks(truth, _generator(case["case"], 0, "random", 1), 1)
    inferer = ClickInferer(CROP, spacing=1.0, max_crops=1, grow=False, pad_value=0.0)
    with torch.no_grad():
        image = MetaTensor(torch.from_numpy(normalised)[None, None].float(), affine=torch.from_numpy(affine))
        found = np.asarray(inferer(image, load_published(checkpoint), prompts)[0, 0] > 0)
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def test_evaluation_of_the_converted_checkpoint(run: Run, weights: Weights) -> None:
    run.go("evaluating", ["train", "evaluate"], num_clicks=[1], click_rounds=0, seeds=1)
    with (run.bundle / "eval" / "scores.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    (case,) = json.loads(Path(run.data["datalist"]).read_text())["test"]
    assert (row["case"], row["policy"], row["clicks"], row["seed"]) == (case["case"], "random", "1", "0")
    published = PUBLISHED[run.task]
    expected = direct_dice(case, Path(run.data["dataset_dir"]), published, weights.checkpoint)
    assert 0.01 < expected < 0.99  # numbers from a formula find something, and not the lesion
    assert float(row["dice"]) == pytest.approx(expected, abs=1e-5)  # one voxel more or less makes 5e-4

    summary = json.loads((run.bundle / "eval" / "summary.json").read_text())
    assert (summary["task"], summary["tolerance_mm"]) == (published.task, 5.0)
    page = (run.bundle / "eval" / "scores.md").read_text()
    assert f"Beside the published figures: {published.task}" in page
    one_click, without = published.scores
    assert f"| 3DSAM-adapter | 1 click a volume | {one_click} | 25.46 M |" in page
    assert f"| nnU-Net | none | {without} | 30.76 M |" in page
    assert f"**1 click a volume (random)** | **{100 * expected:.2f} ± 0.00**" in page


def test_one_training_step_from_the_converted_checkpoint(run: Run, weights: Weights) -> None:
    start = str(run.bundle / "models" / "model.pt")
    run.go("training", ["train"], max_epochs=1, pretrained=start, ckpt_dir=str(run.bundle / "trained"))
    before = torch.load(start, weights_only=True, mmap=True)
    after = torch.load(run.bundle / "trained" / "model.pt", weights_only=True, mmap=True)
    last = torch.load(run.bundle / "trained" / "last.ckpt", weights_only=True, mmap=True)
    assert (last["finished"], last["epoch"]) == (True, 1)
    assert list(after) == list(before)

    still = [n for n in before if any(part in n for part in ADDED)]
    still += [n for n in before if n.startswith("image_encoder.") and any(part in n for part in FROZEN)]
    tuned = [n for n in before if n not in still]
    assert sum(before[n].numel() for n in tuned) == TUNED
    changed = [n for n in before if not torch.equal(after[n], before[n])]
    assert [n for n in changed if n in still or UNUSED in n] == []
    assert [n for n in tuned if n not in changed and UNUSED not in n and not n.endswith(LEVEL)] == []
    furthest = max(float((after[n] - before[n]).abs().max()) for n in changed)
    assert furthest == pytest.approx(RATE, rel=1e-2)

    # each part's gradient was clipped to norm 1, as the optimiser's first moments, a tenth of it, tell
    moments = {tuned[i]: entry["exp_avg"] for i, entry in last["parts"]["optimizer"]["state"].items()}
    assert [n for n in tuned if UNUSED not in n] == list(moments)
    assert all(moments[n].shape == before[n].shape for n in moments)
    for part in ("image_encoder", "prompt_head", "mask_decoder"):
        squares = [(10 * moments[n].double()).square().sum() for n in moments if n.startswith(part)]
        assert 0 < float(torch.stack(squares).sum().sqrt()) <= 1 + 1e-4
