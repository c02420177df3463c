"""Small releases of the four data sets, in their own layout and order of axes, and the options that fit them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from bundle_runs import TESTS

from adapters.bundling import load_task
from adapters.datasets.phantom import phantom

BUNDLES = TESTS.parent / "bundles"
ORIENTATIONS = {"depth, height, width": "IPL", "width, height, depth": "RAS"}
"""What a release's order of axes means for a file."""
SHAPE = (28, 26, 24)  # along R-L, A-P, I-S
SIZE = 8.0  # mm of a voxel

SMALL: dict[str, Any] = {"variant": "tiny", "spacing": SIZE, "device": "cpu", "num_workers": 0}
CROPS = {"train": 16, "train_auto": 32, "inference": 16, "inference_auto": 32}
"""The smallest crops with several windows of attention: 4 voxels a token, and 8 in automatic mode."""
SCORING: dict[str, Any] = {"num_clicks": [1], "click_rounds": 1, "seeds": 1}


@cache
def values_of(task: str) -> dict[str, Any]:
    return load_task(task)


def bundle_of(task: str) -> Path:
    return BUNDLES / values_of(task)["bundle"]


def config_of(task: str, name: str) -> dict[str, Any]:
    return json.loads((bundle_of(task) / "configs" / f"{name}.json").read_text())


def make_release(task: str, folder: Path, *, training: int = 2, validation: int = 1, test: int = 1) -> dict[str, Any]:
    """The first cases of fold 0 as phantoms, where the release has its files; the overrides that name them."""
    values = values_of(task)
    orientation = ORIENTATIONS[values["stored_axes"]]
    sizes = {"RL": SHAPE[0], "AP": SHAPE[1], "IS": SHAPE[2]}
    shape = [next(n for pair, n in sizes.items() if letter in pair) for letter in orientation]
    listed = json.loads((bundle_of(task) / "datalists" / "fold_0.json").read_text())
    counts = {"training": training, "validation": validation, "test": test}
    listed = {section: listed[section][:n] for section, n in counts.items()}
    cases = [case for section in listed.values() for case in section]
    for number, case in enumerate(cases):
        image, label, affine = phantom(number, shape, (SIZE,) * 3, orientation=orientation)
        organ = label * values["label"] + (label == 0) * (values["label"] % 2 + 1) * (image > 60)
        for key, array in (("image", np.rint(image).astype(np.int16)), ("label", organ.astype(np.uint8))):
            path = folder / case[key]
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), path)
    (folder / "datalist.json").write_text(json.dumps(listed))
    return {"dataset_dir": str(folder), "datalist": str(folder / "datalist.json")}


def lesion_voxel(task: str, path: str | Path) -> list[int]:
    """A voxel of the lesion's middle, in the stored array."""
    stored: Any = nib.load(path)
    inside = np.argwhere(np.asarray(stored.dataobj) == values_of(task)["label"])
    return [int(i) for i in inside[len(inside) // 2]]
