"""Scans for the tests of the transforms, written in each format."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import itk
import nibabel as nib
import numpy as np

TOWARDS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ORIENTATIONS = [
    "".join(pair[side] for pair, side in zip(axes, sides, strict=True))
    for axes in permutations(("LR", "PA", "IS"))
    for sides in product((0, 1), repeat=3)
]


def rotation(degrees: tuple[float, float, float]) -> np.ndarray:
    """(3, 3) rotation about x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def affine_of(
    orientation: str,
    spacing: tuple[float, float, float] = (0.8, 1.3, 3.0),
    degrees: tuple[float, float, float] = (0.0, 0.0, 0.0),
    origin: tuple[float, float, float] = (-12.0, 40.0, 7.5),
) -> np.ndarray:
    """(4, 4) RAS+ affine of a grid whose axes point towards the three letters, rotated by ``degrees``."""
    affine = np.eye(4)
    directions = np.stack([TOWARDS[letter] for letter in orientation], axis=1)
    affine[:3, :3] = rotation(degrees) @ directions * spacing
    affine[:3, 3] = origin
    return affine


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> str:
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


def _itk_image(array: np.ndarray, affine: np.ndarray) -> itk.Image:
    """An ITK image of an array (i, j, k), with the LPS geometry that a RAS+ affine says."""
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection(np.ascontiguousarray(lps[:3, :3] / spacing))
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def write_itk(path: Path, array: np.ndarray, affine: np.ndarray) -> str:
    itk.imwrite(_itk_image(array, affine), str(path))
    return str(path)


def write_in_two(folder: Path, header: str, array: np.ndarray, affine: np.ndarray) -> str:
    """A header with its voxels beside it, uncompressed. The header is the same for all arrays of a shape and type.

    Args:
        folder: made if it is not there.
        header: "ct.mhd", "ct.nhdr" (both with ct.raw), "ct.hdr" (ct.img), or "ct.img", which gives the path of this
            half.
    """
    folder.mkdir(exist_ok=True)
    if header.endswith((".hdr", ".img")):
        nib.save(nib.Nifti1Pair(array, affine), folder / "ct.img")
    else:
        itk.imwrite(_itk_image(array, affine), str(folder / header), compression=False)
    return str(folder / header)


def write_dicom(folder: Path, array: np.ndarray, affine: np.ndarray, *, series: str = "1.2.3.4.5") -> str:
    """A CT series, one file a slice, with file names that do not follow the order of the slices."""
    folder.mkdir(exist_ok=True)
    for k in range(array.shape[2]):
        slice_affine = affine.copy()
        slice_affine[:3, 3] += affine[:3, 2] * k
        image = _itk_image(array[:, :, k : k + 1], slice_affine)
        tags = {"0008|0060": "CT", "0020|000d": "1.2.3.4", "0020|000e": series, "0020|0013": str(k)}
        for tag, value in (tags | {"0028|1052": "0", "0028|1053": "1"}).items():
            image.GetMetaDataDictionary()[tag] = value
        writer = itk.GDCMImageIO.New()
        writer.SetKeepOriginalUID(True)
        itk.imwrite(image, str(folder / f"{series}_{k * 7 % 31:02d}.dcm"), imageio=writer)
    return str(folder)
