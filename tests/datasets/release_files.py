"""Small releases for the tests: the folders, names, dataset.json and headers of the real ones, a few voxels a case.

Every case is the same patient in world coordinates. Its scan has 12 x 10 x 8 voxels (right-left, posterior-anterior,
inferior-superior) of 0.8 x 0.9 x 2.5 mm, its lesion 4 x 3 x 2 voxels, so 24 voxels and 43.2 mm³.
"""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

SIZE = (12, 10, 8)  # right to left, posterior to anterior, inferior to superior
SPACING = (0.8, 0.9, 2.5)
LESION = (slice(5, 9), slice(2, 5), slice(4, 6))
LESION_ML = 24 * 0.8 * 0.9 * 2.5 / 1000
# KiTS21 is stored with depth first and no origin, the Decathlon with width first
AXES = {"kits21": "IPL", "lits17": "LPS", "soft_tissue_sarcoma": "LPS", "soft_tissue_sarcoma_mr": "LPS"}
LESION_VALUE = {"msd_colon": 1, "soft_tissue_sarcoma": 1, "soft_tissue_sarcoma_mr": 1}
ORGAN = {"msd_pancreas": "pancreas", "msd_liver": "liver", "msd_colon": "colon"}
TASK = {"msd_pancreas": "Task07_Pancreas", "msd_liver": "Task03_Liver", "msd_colon": "Task10_Colon"}
COMPRESSED = {".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}
LABELS = {
    "msd_pancreas": {"0": "background", "1": "pancreas", "2": "cancer"},
    "msd_liver": {"0": "background", "1": "liver", "2": "cancer"},
    "msd_colon": {"0": "background", "1": "colon cancer primaries"},
}


def patient(case: str, value: int) -> tuple[np.ndarray, np.ndarray]:
    """Image and label along right-left, posterior-anterior, inferior-superior; an organ of 1 round a lesion of 2."""
    rng = np.random.default_rng(list(case.encode()))
    image = rng.integers(-100, 200, SIZE).astype(np.int16)
    label = np.zeros(SIZE, dtype=np.uint8)
    if value > 1:
        label[3:10, 1:7, 2:7] = 1
    label[LESION] = value
    return image, label


def save(path: Path, array: np.ndarray, axes: str, *, spacing: Sequence[float] = SPACING) -> None:
    """Writes an array along right-left, ... as NIfTI whose stored axes point to the three letters."""
    image = nib.Nifti1Image(array, np.diag([*spacing, 1.0]))
    ornt = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes))
    stored = image.as_reoriented(ornt)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(stored.dataobj), stored.affine), path)


def paths(name: str, case: str) -> tuple[str, str]:
    """Where the image and the label of a case lie in its release."""
    if name == "kits21":
        return f"kits21/data/{case}/imaging.nii.gz", f"kits21/data/{case}/aggregated_MAJ_seg.nii.gz"
    if name == "lits17":
        number = int(case.removeprefix("volume-"))
        folder = f"media/nas/01_Datasets/CT/LITS/Training Batch {1 if number < 28 else 2}"
        return f"{folder}/volume-{number}.nii", f"{folder}/segmentation-{number}.nii"
    if name in TASK:
        return f"{TASK[name]}/imagesTr/{case}.nii.gz", f"{TASK[name]}/labelsTr/{case}.nii.gz"
    folder = f"soft_tissue_sarcoma/{'ct' if name == 'soft_tissue_sarcoma' else 'mr_t1'}"
    return f"{folder}/images/{case}.nii.gz", f"{folder}/labels/{case}.nii.gz"


def write_release(folder: Path, name: str, cases: Sequence[str]) -> Path:
    """An unpacked release with some of its cases, and what else it holds."""
    axes = AXES.get(name, "LAS")
    for case in cases:
        image, label = patient(case, LESION_VALUE.get(name, 2))
        places = [folder / path for path in paths(name, case)]
        save(places[0], image.astype(np.float32) if name == "kits21" else image, axes)
        save(places[1], label, axes)
        if name == "kits21":
            save(places[0].parent / "aggregated_AND_seg.nii.gz", np.zeros_like(label), axes)
            save(places[0].parent / "segmentations" / "tumor_instance-1_annotation-1.nii.gz", label, axes)
    if name in TASK:
        base = folder / TASK[name]
        (base / "imagesTs").mkdir()
        (base / "imagesTs" / f"{ORGAN[name]}_999.nii.gz").touch()
        for kind in ("imagesTr", "labelsTr"):
            (base / kind / f"._{cases[0]}.nii.gz").write_bytes(b"\0\5\x16\7")  # macOS, as in the real archives
        description = {
            "name": ORGAN[name].upper(),
            "licence": "CC-BY-SA 4.0",
            "tensorImageSize": "3D",
            "modality": {"0": "CT"},
            "labels": LABELS[name],
            "numTraining": len(cases),
            "numTest": 1,
            "training": [
                {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in cases
            ],
            "test": [f"./imagesTs/{ORGAN[name]}_999.nii.gz"],
        }
        (base / "dataset.json").write_text(json.dumps(description))
    return folder


def pack(folder: Path, archive: Path, *, only: str = "") -> Path:
    """Packs what is in a folder (or those paths that hold a text) as its name says: zip, tar, tar.gz, ..."""
    members = sorted(path for path in folder.rglob("*") if path.is_file() and only in path.as_posix())
    archive.parent.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for path in members:
                zipped.write(path, path.relative_to(folder))
    else:
        with tarfile.open(archive, COMPRESSED.get(archive.suffix, "w")) as tar:
            for path in members:
                tar.add(path, path.relative_to(folder))
    return archive
