"""The page on frames: its example runs, and its orientation is what MONAI makes of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

PAGE = (Path(__file__).parents[2] / "docs/explanation/frames.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def test_the_worked_example() -> None:
    (example,) = blocks("python")
    assert example.count("assert") == 5
    exec(compile(example, "frames.md", "exec"), {})


def test_the_orientation_in_a_configuration() -> None:
    (entry,) = blocks("json")
    orient = ConfigParser({"orient": json.loads(entry)}).get_parsed_content("orient")
    image = orient({"image": MetaTensor(torch.zeros(1, 2, 3, 4), affine=torch.eye(4))})["image"]
    assert nib.aff2axcodes(np.asarray(image.affine)) == ("S", "P", "L")
    assert image.shape == (1, 4, 3, 2)
