"""Generated torso CTs with tumours of known shape and volume.

Everything is evaluated analytically at the voxels' centres in world coordinates (mm, RAS+), so that the same seed shows
the same patient on every grid. The anatomy is scaled to the field of view: a torso (skin, fat, muscle) with spine,
lungs, heart, liver, kidneys and tumours, which are ellipsoids.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from adapters.files import write_whole

TISSUES = MappingProxyType(
    {
        "air": -1000.0,
        "lung": -850.0,
        "fat": -100.0,
        "tumour": 25.0,
        "kidney": 35.0,
        "heart": 45.0,
        "muscle": 60.0,
        "liver": 75.0,
        "bone": 500.0,
    }
)
"""CT numbers in HU. As in the sarcomas' CTs without contrast, the tumour stands little under the muscle round it."""

# Half axes of the torso as a fraction of the field of view, across (R-L) and from front to back (A-P).
_TORSO = (0.44, 0.34)
# Standard deviation of the scanner's blur and of its noise (HU), and the noise's correlation length, in mm.
_BLUR, _NOISE, _GRAIN = 0.8, 12.0, 0.7


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """A filled ellipsoid.

    Attributes:
        centre: Its centre, world (mm, RAS+).
        semi_axes: Half its diameters along its own axes, mm.
        rotation: (3, 3) matrix whose columns are its own axes, world.
    """

    centre: NDArray[np.float64]
    semi_axes: NDArray[np.float64]
    rotation: NDArray[np.float64]

    @property
    def volume(self) -> float:
        """Its volume in mm³, 4/3·π·a·b·c."""
        return float(4.0 / 3.0 * np.pi * np.prod(self.semi_axes))

    def contains(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which points (..., 3), world (mm, RAS+), lie inside or on the surface: (...)."""
        own = (points - self.centre) @ self.rotation / self.semi_axes
        return np.asarray(np.einsum("...i,...i->...", own, own) <= 1.0)


def phantom_tumours(seed: int, extent: Sequence[float] | NDArray[np.float64], *, tumours: int = 1) -> list[Ellipsoid]:
    """The tumours of a phantom: they do not touch each other and lie whole inside the torso.

    Args:
        seed: The patient.
        extent: Field of view in mm along R-L, P-A and I-S (shape times spacing), centred on the world's origin.
        tumours: How many, 1 to 4: one in each quarter of the torso.

    Raises:
        ValueError: If `tumours` is not 1 to 4.
    """
    if not 1 <= tumours <= 4:
        raise ValueError(f"tumours is {tumours}, expected 1 to 4")
    rng = np.random.default_rng([seed, 0])
    quarters = rng.permutation([(1, 1), (1, -1), (-1, 1), (-1, -1)])[:tumours]
    size = np.asarray(extent, dtype=np.float64)
    ellipsoids = []
    for right, front in quarters:
        longest = 0.11 * min(size) * rng.uniform(0.75, 1.0)
        semi_axes = longest * np.array([1.0, rng.uniform(0.6, 1.0), rng.uniform(0.5, 0.9)])
        place = np.array([0.2 * right, 0.13 * front, rng.uniform(-0.2, 0.2)])
        ellipsoids.append(Ellipsoid(place * size, semi_axes, Rotation.random(random_state=rng).as_matrix()))
    return ellipsoids


def _affine(shape: Sequence[int], spacing: Sequence[float], orientation: str) -> NDArray[np.float64]:
    """Voxel -> world of a grid whose axes point as `orientation` says, centred on the world's origin."""
    directions = [divmod("RLAPSI".find(letter), 2) for letter in orientation]
    if sorted(world for world, _ in directions) != [0, 1, 2]:
        raise ValueError(f"orientation is {orientation!r}, expected one of the 48 such as 'RAS' or 'LPS'")
    affine = np.zeros((4, 4))
    for axis, (world, backwards) in enumerate(directions):
        affine[world, axis] = -spacing[axis] if backwards else spacing[axis]
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    affine[3, 3] = 1
    return affine


def _anatomy(extent: NDArray[np.float64], rng: np.random.Generator) -> list[tuple[str, Ellipsoid]]:
    """Organs in the order in which they are painted; places and half axes are fractions of the field of view."""
    across, depth = _TORSO
    endless = 100.0  # in fields of view: what runs through the whole scan
    plan = [
        ("fat", (0.0, 0.0, 0.0), (across, depth, endless)),
        ("muscle", (0.0, 0.0, 0.0), (0.9 * across, 0.88 * depth, endless)),
        ("lung", (0.19, 0.02, 0.36), (0.15, 0.22, 0.32)),
        ("lung", (-0.19, 0.02, 0.36), (0.15, 0.22, 0.32)),
        ("heart", (-0.05, 0.1, 0.2), (0.11, 0.11, 0.12)),
        ("liver", (0.17, 0.06, -0.1), (0.18, 0.18, 0.13)),
        ("kidney", (0.16, -0.14, -0.33), (0.06, 0.06, 0.1)),
        ("kidney", (-0.16, -0.14, -0.31), (0.06, 0.06, 0.1)),
        ("bone", (0.0, -0.2, 0.0), (0.06, 0.07, endless)),
    ]
    mirrored = extent * (-1, 1, 1)  # +x is right here and left in RAS+
    return [  # patients differ by a few percent
        (tissue, Ellipsoid(np.array(place) * mirrored, np.array(half) * extent * rng.uniform(0.95, 1.05, 3), np.eye(3)))
        for tissue, place, half in plan
    ]


def phantom(
    seed: int,
    shape: Sequence[int] = (160, 160, 64),
    spacing: Sequence[float] = (2.0, 2.0, 4.0),
    *,
    orientation: str = "LPS",
    tumours: int = 1,
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float64]]:
    """A torso CT with tumours; the same arguments give the same arrays.

    Args:
        seed: The patient.
        shape: Voxels along each axis of the array (i, j, k).
        spacing: Millimetres along each axis of the array.
        orientation: Where each axis of the array points, as nibabel's axis codes (the stored sarcoma CTs are "LPS").
        tumours: How many, 1 to 4; `phantom_tumours` gives their shapes.

    Returns:
        The image (i, j, k) in HU, the label (i, j, k) with 1 in the tumours, and the (4, 4) affine from voxels to world
        (mm, RAS+). The world's origin is the middle of the grid.

    Raises:
        ValueError: If the shape, spacing, orientation or number of tumours makes no sense.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape is {tuple(shape)}, expected three positive numbers of voxels")
    if len(spacing) != 3 or not all(0 < step < np.inf for step in spacing):
        raise ValueError(f"spacing is {tuple(spacing)}, expected three positive numbers of millimetres")
    affine = _affine(shape, spacing, orientation)
    extent = np.abs(affine[:3, :3]) @ np.asarray(shape, dtype=np.float64)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    points = grid @ affine[:3, :3].T + affine[:3, 3]

    rng = np.random.default_rng([seed, 1])  # the tumours' own generator is seeded with [seed, 0]
    image = np.full(tuple(shape), TISSUES["air"])
    for tissue, organ in _anatomy(extent, rng):
        image[organ.contains(points)] = TISSUES[tissue]
    label = np.zeros(tuple(shape), dtype=np.uint8)
    for tumour in phantom_tumours(seed, extent, tumours=tumours):
        label[tumour.contains(points)] = 1
    image[label == 1] = TISSUES["tumour"]

    steps = np.asarray(spacing, dtype=np.float64)
    image = ndimage.gaussian_filter(image, _BLUR / steps)
    noise = ndimage.gaussian_filter(rng.standard_normal(image.shape), _GRAIN / steps)
    image += noise * (_NOISE / max(float(noise.std()), 1e-6))
    return image.astype(np.float32), label, affine


def write_phantoms(
    folder: str | os.PathLike[str],
    cases: int = 4,
    *,
    seed: int = 0,
    shape: Sequence[int] = (160, 160, 64),
    spacing: Sequence[float] = (2.0, 2.0, 4.0),
    orientation: str = "LPS",
    tumours: int = 1,
) -> list[dict[str, str]]:
    """Writes phantoms as ``images/`` and ``labels/phantom_NNN.nii.gz``, each file whole or not at all.

    Case n has the seed ``seed + n``, and its name says it; the other options are those of `phantom`. The folder is made
    if it is not there.

    Returns:
        A data list: the paths under "image" and "label" of each case.

    Raises:
        ValueError: If `cases` is not positive, or as `phantom`.
    """
    if cases < 1:
        raise ValueError(f"cases is {cases}, expected a positive number of phantoms")
    listed = []
    for number in tqdm(range(seed, seed + cases), desc="phantoms", unit="case"):
        image, label, affine = phantom(number, shape, spacing, orientation=orientation, tumours=tumours)
        case = {}
        for key, array in (("image", np.rint(image).astype(np.int16)), ("label", label)):
            path = Path(folder) / f"{key}s" / f"phantom_{number:03d}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            scan = nib.Nifti1Image(array, affine)
            scan.header.set_xyzt_units("mm")
            write_whole(path, gzip.compress(scan.to_bytes(), compresslevel=1, mtime=0))  # as nibabel does
            case[key] = str(path)
        listed.append(case)
    return listed
