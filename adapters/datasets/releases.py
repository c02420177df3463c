"""The public data sets as they are distributed: where a case lies, what its labels mean, which folds were published.

One description per release, and nothing that reads an image: `adapters.datasets.prepare` does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from types import MappingProxyType
from typing import Any

SECTIONS = MappingProxyType({"train": "training", "val": "validation", "test": "test"})
"""What the published folds call their parts, and what a data list calls them."""

_NIFTI = r"\.nii(?:\.gz)?$"


@dataclass(frozen=True)
class Constants:
    """The intensities and the tolerance that the published results of 3DSAM-adapter were made with.

    Attributes:
        low: lower end of the window that a scan is clipped to, HU.
        high: its upper end, HU.
        mean: subtracted after clipping, HU.
        std: what is divided by then, HU.
        tolerance: of the normalised surface Dice, mm.
    """

    low: float
    high: float
    mean: float
    std: float
    tolerance: float = 5.0


@dataclass(frozen=True, eq=False)
class Release:
    """A public data set as its authors distribute it.

    Attributes:
        name: what the command line calls it.
        title: what a person calls it.
        image: regular expression of the path of a case's image, with "/" between folders; its group is the identifier.
        label: the same of the case's label.
        layout: those paths in words, for messages.
        labels: what each value of a label means.
        lesion: the value of the lesion.
        splits: the file of `adapters/datasets/splits` that holds the folds.
        licence: of the data.
        reference: where the data come from.
        identifier: the case's name, made from what the regular expressions found.
        renamed: start of an identifier in the file of folds, and what takes its place here.
        task: the task of the Medical Segmentation Decathlon, for those that belong to it.
        modality: what the scans are.
        stored_axes: what the axes of the stored arrays are, as distributed.
        constants: what was published, where something was.
        note: what a user should know when cases are missing.
        spacing_note: what a user should know when scans have no true spacing.
    """

    name: str
    title: str
    image: str
    label: str
    layout: str
    labels: Mapping[int, str]
    lesion: int
    splits: str
    licence: str
    reference: str
    identifier: str = "{}"
    renamed: tuple[str, str] = ("", "")
    task: str = ""
    modality: str = "CT"
    stored_axes: str = "width, height, depth"
    constants: Constants | None = None
    note: str = field(default="", repr=False)
    spacing_note: str = field(default="", repr=False)

    @cached_property
    def folds(self) -> tuple[dict[str, list[str]], ...]:
        """Each published fold: the identifiers of the cases in its training, validation and test section."""
        file = resources.files("adapters.datasets") / "splits" / f"{self.splits}.json"
        published = json.loads(file.read_text(encoding="utf-8"))["folds"]
        old, new = self.renamed
        return tuple(
            {ours: [new + case.removeprefix(old) for case in fold[theirs]] for theirs, ours in SECTIONS.items()}
            for fold in published
        )

    def fold(self, number: int) -> dict[str, list[str]]:
        """One published fold; the published tables use 0. Raises a ValueError if there is no such fold."""
        if not 0 <= number < len(self.folds):
            known = f"the folds 0 to {len(self.folds) - 1}" if len(self.folds) > 1 else "one fold, 0"
            raise ValueError(f"there is no fold {number} of {self.name}, which has {known}")
        return self.folds[number]

    @property
    def cases(self) -> list[str]:
        """The identifiers of all cases of the folds, in order."""
        return sorted({case for fold in self.folds for section in fold.values() for case in section}, key=_natural)

    def find(self, path: str) -> tuple[str, str] | None:
        """("image" or "label", the case's identifier) for a path with "/" between folders; None if it is neither."""
        for kind, pattern in (("image", self.image), ("label", self.label)):
            if match := re.search(pattern, path):
                return kind, self.identifier.format(match[1])
        return None


def _natural(case: str) -> tuple[str, int, str]:
    """Sorts volume-9 before volume-10."""
    name = case.rstrip("0123456789")
    return name, int(case.removeprefix(name) or 0), case


def _paired(images: str, labels: str, case: str, /, **about: Any) -> Release:
    """A release with a folder of images and one of labels; the case's name, which begins as told, is on both files."""
    names = rf"({case}\d+){_NIFTI}"
    return Release(image=rf"/{images}/{names}", label=rf"/{labels}/{names}", **about)


def _decathlon(task: str, title: str, **about: Any) -> Release:
    """A task of the Medical Segmentation Decathlon."""
    case = f"{task.split('_')[1].lower()}_"
    return _paired(
        "imagesTr",
        "labelsTr",
        case,
        title=f"Medical Segmentation Decathlon, {title}",
        layout=f"{task}/imagesTr/{case}*.nii.gz and {task}/labelsTr/{case}*.nii.gz",
        licence="CC BY-SA 4.0",
        reference="http://medicaldecathlon.com",
        task=task,
        **about,
    )


def _sarcoma(name: str, title: str, folder: str, modality: str) -> Release:
    return _paired(
        f"{folder}/images",
        f"{folder}/labels",
        "STS_",
        name=name,
        title=title,
        layout=f"{folder}/images/STS_*.nii.gz and {folder}/labels/STS_*.nii.gz",
        labels={0: "background", 1: "tumour"},
        lesion=1,
        splits="soft_tissue_sarcoma",
        licence="CC BY 3.0",
        reference="https://doi.org/10.7937/K9/TCIA.2015.7GO2GSKS",
        modality=modality,
    )


_LIVER = Constants(-48, 163, 60.057533, 40.198017)
_LIVER_LABELS = {0: "background", 1: "liver", 2: "tumour"}

_ALL = (
    Release(
        name="kits21",
        title="KiTS21 (kidney tumours)",
        image=rf"/(case_\d{{5}})/imaging{_NIFTI}",
        label=rf"/(case_\d{{5}})/aggregated_MAJ_seg{_NIFTI}",
        layout="case_*/imaging.nii.gz and case_*/aggregated_MAJ_seg.nii.gz",
        labels={0: "background", 1: "kidney", 2: "tumour", 3: "cyst"},
        lesion=2,
        splits="kits21",
        licence="CC BY-NC-SA 4.0",
        reference="https://github.com/neheller/kits21",
        stored_axes="depth, height, width",
        constants=Constants(-54, 247, 59.53867, 55.457336),
        note="the images are fetched by the release's own get_imaging; KiTS19 and KiTS23 name their labels otherwise",
    ),
    _decathlon(
        "Task07_Pancreas",
        "Task07 (pancreas tumours)",
        name="msd_pancreas",
        labels={0: "background", 1: "pancreas", 2: "tumour"},
        lesion=2,
        splits="msd_pancreas",
        constants=Constants(-39, 204, 68.45214, 63.422806),
    ),
    Release(
        name="lits17",
        title="LiTS 2017 (liver tumours)",
        image=rf"/volume-(\d+){_NIFTI}",
        label=rf"/segmentation-(\d+){_NIFTI}",
        layout="volume-*.nii and segmentation-*.nii",
        labels=_LIVER_LABELS,
        lesion=2,
        splits="lits17",
        licence="CC BY-NC-ND 4.0",
        reference="https://competitions.codalab.org/competitions/17094",
        identifier="volume-{}",
        constants=_LIVER,
        note="the training set comes in two archives: give the folder that holds both, or both unpacked",
        spacing_note="reported of volume-28 to volume-48; msd_liver holds the same scans with corrected spacings",
    ),
    _decathlon(
        "Task03_Liver",
        "Task03 (liver tumours)",
        name="msd_liver",
        labels=_LIVER_LABELS,
        lesion=2,
        splits="lits17",
        constants=_LIVER,
        renamed=("volume-", "liver_"),
    ),
    _decathlon(
        "Task10_Colon",
        "Task10 (colon cancer)",
        name="msd_colon",
        labels={0: "background", 1: "tumour"},
        lesion=1,
        splits="msd_colon",
        constants=Constants(-57, 175, 65.175035, 32.651197),
    ),
    _sarcoma("soft_tissue_sarcoma", "Soft-tissue sarcomas, CT", "ct", "CT"),
    _sarcoma("soft_tissue_sarcoma_mr", "Soft-tissue sarcomas, T1 MR", "mr_t1", "MR"),
)

RELEASES: Mapping[str, Release] = MappingProxyType({release.name: release for release in _ALL})
"""The releases by name."""


def get_release(name: str) -> Release:
    """The release of a name; raises a ValueError if there is none."""
    if name not in RELEASES:
        raise ValueError(f"there is no data set {name!r}, expected one of {', '.join(RELEASES)}")
    return RELEASES[name]
