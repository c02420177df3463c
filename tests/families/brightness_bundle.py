"""A bundle of the family of twenty lines: the sarcomas' with another network, and a scan that it segments exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np

from adapters.checkpoints import save_model
from adapters.networks import build_network

FOLDER = Path(__file__).parent
SARCOMA = FOLDER.parents[1] / "bundles" / "soft_tissue_sarcoma_ct_samadapter_deepgrow"
CLICK = (9, 12, 7)
TOLERANCE = 0.2  # of the bundle's intensities: 40 HU


def write_bundle(folder: Path) -> Path:
    """The bundle with its weights, in a folder of its own; the name tells MONAI Label that it takes clicks."""
    bundle = folder / "brightness_deepgrow"
    shutil.copytree(SARCOMA, bundle, ignore=shutil.ignore_patterns("models", "eval"))
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network_def"] = {"_target_": "brightness.BrightnessNetwork", "tolerance": TOLERANCE}
    file.write_text(json.dumps(config, indent=4))
    (bundle / "models").mkdir(parents=True)
    save_model(build_network("brightness", TOLERANCE), bundle / "models" / "model.pt")
    return bundle


def write_scan(path: Path) -> np.ndarray:
    """A ball of 100 HU in 0 HU with another beside it, stored obliquely to the tensor's axes; returns its mask."""
    i, j, k = np.indices((24, 26, 22))
    ball = (i - 9) ** 2 + (j - 12) ** 2 + (k - 7) ** 2 <= 30
    other = (i - 18) ** 2 + (j - 20) ** 2 + (k - 17) ** 2 <= 9
    affine = np.array([[0, 0, -4.0, 40], [4.0, 0, 0, -50], [0, -4.0, 0, 60], [0, 0, 0, 1]])
    scan = 100.0 * (ball | other) + 5 * np.random.default_rng(0).normal(size=ball.shape)
    nib.save(nib.Nifti1Image(scan.astype(np.int16), affine), path)
    return ball
