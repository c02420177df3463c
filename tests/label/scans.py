"""Scans to click on: real sarcomas where they are there, else phantoms; each lesion stored in several ways."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.ndimage import distance_transform_edt
from scipy.spatial.transform import Rotation

from adapters.datasets.phantom import phantom

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data" / "soft_tissue_sarcoma" / "ct"
CASES = ("STS_004", "STS_022", "STS_028")  # of the test section
SMALL = tuple(f"small_{seed}" for seed in range(3))
STORED = ("LPS", "RAS", "permuted", "rotated")


@dataclass(frozen=True)
class Case:
    """A stored scan and its lesion, both as arrays (i, j, k) of the file."""

    image: Path
    lesion: np.ndarray
    affine: np.ndarray
    click: list[int]

    @property
    def name(self) -> str:
        return self.image.name.split(".")[0]

    def clicks(self, count: int, seed: int = 0) -> list[list[int]]:
        """Voxels of the lesion."""
        inside = np.argwhere(self.lesion)
        return np.random.default_rng(seed).choice(inside, count, replace=False).tolist()


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one.astype(bool) & other.astype(bool)).sum() / max(1, (one > 0).sum() + (other > 0).sum()))


def innermost(lesion: np.ndarray, spacing: np.ndarray) -> list[int]:
    depth = distance_transform_edt(lesion, sampling=spacing)
    return [int(i) for i in np.unravel_index(int(depth.argmax()), depth.shape)]


def as_stored(image: nib.Nifti1Image, how: str) -> nib.Nifti1Image:
    """The same voxels in another order of axes, or, rotated, in a patient who lies askew."""
    if how == "rotated":
        turn = np.eye(4)
        turn[:3, :3] = Rotation.from_euler("xyz", (7, -5, 14), degrees=True).as_matrix()
        return nib.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine)
    codes = "SLA" if how == "permuted" else how
    return image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(codes)))


def sources() -> dict[str, tuple[nib.Nifti1Image, nib.Nifti1Image]]:
    """A scan and its label by name."""
    if REAL.is_dir():
        found: dict[str, Any] = {
            name: tuple(nib.load(REAL / part / f"{name}.nii.gz") for part in ("images", "labels")) for name in CASES
        }
        return found
    made = {}
    for seed in range(3):
        image, label, affine = phantom(seed, (80, 80, 50), (4.0, 4.0, 5.0), orientation="LPS")
        made[f"phantom_{seed}"] = tuple(nib.Nifti1Image(array.astype(np.int16), affine) for array in (image, label))
    return made


def make_cases(folder: Path) -> dict[str, Case]:
    """Write every scan stored in every way; by the file's name up to the dot."""
    cases = {}
    for name, (image, label) in sources().items():
        for how in STORED:
            stored, lesion = as_stored(image, how), np.asarray(as_stored(label, how).dataobj) > 0
            path = folder / f"{name}_{how}.nii.gz"
            nib.save(nib.Nifti1Image(np.asarray(stored.dataobj).astype(np.int16), stored.affine), path)
            spacing = np.linalg.norm(stored.affine[:3, :3], axis=0)
            case = Case(path, lesion, stored.affine, innermost(lesion, spacing))
            cases[case.name] = case
    return cases


def write_small(folder: Path) -> None:
    """Scans of few voxels."""
    for seed, name in enumerate(SMALL):
        image, _, affine = phantom(seed, (26, 28, 28), (8.0, 8.0, 8.0))
        nib.save(nib.Nifti1Image(image.astype(np.int16), affine), folder / f"{name}.nii.gz")
