"""A bundle for data of one's own: their fingerprint, what follows from it, and the template of the published tasks."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.bundling.folders import BUNDLES, ENDING
from adapters.bundling.template import SECTIONS, write_bundle
from adapters.files import read_json, writing

__all__ = ["bundle_name", "choose", "new_bundle"]

MODALITIES = {"ct": "CT", "mr": "MR", "mri": "MR"}

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_LABEL_NAME = re.compile(r"\w[\w .,()+/-]*")  # in configurations, where other marks may be evaluated
_OTHER_TYPES = ("deepedit", "detection")  # words that make MONAI Label take a bundle for something else
_CROPS = (64, 96, 128)  # 128 as published; a smaller one where the scans are no larger
_MARGIN = 1.25  # how much of a crop's side a long lesion may take: 1 / 1.25
_COARSE = 3.0  # slices this many times thicker than voxels in the plane: augmentation in the plane only
_SHIFT_HU = 20  # as published, where the windows are 211 to 301 HU wide
_SHIFT_SHARE = 0.08  # of the window, where there are no HU
_MOST_NAMES = 5
_OWN = Path(__file__).resolve().parent / "tasks" / "own.json"  # values that no data decide


def new_bundle(
    name: str,
    datalist: str | os.PathLike,
    label: int,
    output: str | os.PathLike = BUNDLES,
    dataset_dir: str | os.PathLike | None = None,
    modality: str = "",
    crop_size: int | None = None,
    spacing: float | None = None,
    *,
    label_name: str = "tumor",
    workers: int = 2,
) -> str:
    """Writes a bundle for your own tumour, with values chosen from the fingerprint of your data.

    It is the bundle of the published tasks with other values. Intensities follow from the lesions of the training
    cases, as in the published ones; all cases are read and checked first.

    Args:
        name: Of the task, such as lung_tumor_ct; the folder is called NAME_samadapter_deepgrow.
        datalist: JSON with the sections training, validation and test.
        label: The value of the lesion in the labels.
        output: The folder of bundles; it is made if it is not there.
        dataset_dir: The folder that the list's paths start from; the list's own where it is not given.
        modality: CT (in HU) or MR (no unit, scaled first); what the data list or the name says where it is not given.
        crop_size: Side of the crops in voxels; chosen from the data where it is not given.
        spacing: Millimetres of a crop's voxels; chosen from the data where it is not given.
        label_name: What requests and viewers call the lesion.
        workers: How many cases to read at a time.

    Returns:
        What to print: what was measured and chosen, and the commands.

    Raises:
        FileNotFoundError: the list or one of its files is missing.
        ValueError: the folder exists, or a name, number or modality cannot be. A section is missing, or a case is in
            two. A case for training or validation has no lesion, or `fingerprint` refuses a scan.
    """
    from adapters.datasets.fingerprint import fingerprint

    folder = Path(output).expanduser()
    bundle = folder / bundle_name(name)
    if os.path.lexists(bundle):
        raise ValueError(
            f"{str(bundle)!r} exists already and was left as it is: choose another name or output, or remove it"
        )
    if label < 1:
        raise ValueError(f"label is {label}, expected the value of the lesion in the labels, 1 or more")
    if crop_size is not None and (crop_size < 8 or crop_size % 4):
        raise ValueError(f"crop_size is {crop_size}, expected a multiple of 4 that is at least 8, such as 96")
    if spacing is not None and not 0 < spacing < math.inf:
        raise ValueError(f"spacing is {spacing}, expected a positive number of mm")
    if not _LABEL_NAME.fullmatch(label_name) or label_name == "background":
        raise ValueError(
            f"label_name is {label_name!r}, expected what the lesion is called, such as 'tumor': letters, digits, and "
            "spaces and . , ( ) + / - _ after them"
        )
    path = Path(datalist).expanduser()
    base = path.parent if dataset_dir is None else Path(dataset_dir).expanduser()
    if "#" in base.resolve().as_posix():
        raise ValueError(
            f"the folder {str(base.resolve())!r} has a '#', which MONAI's configurations replace: rename it"
        )
    listed = _read_list(path, base)
    kind = _modality(modality, listed.get("modality"), name)
    measured = {
        section: fingerprint(path, base, section=section, label=label, scaled=kind == "MR", workers=workers)
        for section in SECTIONS
    }
    for section in ("training", "validation"):
        if without := measured[section]["without_lesion"]:
            raise ValueError(
                f"of section {section!r} of {str(path)!r} {len(without)} cases have no voxel of value {label} "
                f"({', '.join(without[:_MOST_NAMES])}): take them out, or put them into the section 'test'"
            )
    side, edge = choose(measured["training"], crop_size=crop_size, spacing=spacing)
    words = [word for word in name.replace(ENDING, "").split("_") if word not in MODALITIES]
    values = {
        **json.loads(_OWN.read_text(encoding="utf-8")),
        "bundle": bundle.name,
        "folder": folder.as_posix(),
        "title": f"{' '.join(words).capitalize() or name} in {kind}",
        "dataset_dir": base.resolve().as_posix(),
        "label": label,
        "other_values": [],
        "label_name": label_name,
        "modality": kind,
        "crop_size": side,
        "spacing": edge,
        "datalists": [{section: listed[section] for section in SECTIONS}],
        "data_source": f"{len(listed['training'])} training cases of the data list {path.name}",
        **_from_fingerprint(measured["training"], kind),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with writing(bundle), tempfile.TemporaryDirectory(dir=folder, prefix=".new_") as beside:
        written = write_bundle(values, beside)
        (written / "docs" / "fingerprint.json").write_text(json.dumps(measured, indent=4) + "\n", encoding="utf-8")
        written.rename(bundle)
    return _report(values, measured, bundle)


def bundle_name(name: str) -> str:
    """The folder's name for a task.

    Args:
        name: lower-case letters, digits and underscores, such as ``lung_tumor_ct``.

    Raises:
        ValueError: any other name, or one that MONAI Label takes for a bundle of another type.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"name is {name!r}, expected lower-case letters and digits with single underscores between them, a letter "
            "first, such as lung_tumor_ct"
        )
    for word in _OTHER_TYPES:
        if word in name:
            raise ValueError(f"name is {name!r}, expected one without {word!r}, which is another type in MONAI Label")
    return name if "deepgrow" in name else name + ENDING


def choose(
    measured: Mapping[str, Any], *, crop_size: int | None = None, spacing: float | None = None
) -> tuple[int, float]:
    """Crop and spacing for a fingerprint; a rule of this library's, which gives 128 voxels of 1 mm on ordinary CTs.

    The spacing is the finest edge of the median voxel, rounded up to a quarter of a millimetre. The crop is 128 voxels
    as published, or 64 or 96 where a scan is no longer than that. The lesions' 95th percentile of length has to be at
    most 1 / 1.25 of the crop: the spacing grows until it is, or until a scan fits into the crop.

    Args:
        measured: what `fingerprint` gave for the training cases.
        crop_size: takes the place of the chosen one.
        spacing: takes the place of the chosen one.

    Returns:
        Voxels of a crop's side, and mm of a voxel's.
    """
    median = measured["spacing"]["median"]
    scan = max(size * edge for size, edge in zip(measured["size"]["median"], median, strict=True))
    edge = spacing or _rounded_up(min(median))
    side = crop_size or next((side for side in _CROPS if side * edge >= scan), _CROPS[-1])
    needed = min(scan, _MARGIN * max(measured["lesion_extent"]["percentile_95"]))
    if spacing is None and needed > side * edge:
        edge = _rounded_up(needed / side)
    return side, edge


def _rounded_up(length: float) -> float:
    """To a quarter of a millimetre; to one digit where that would be too coarse."""
    step = 0.25 if length > 0.25 else 10.0 ** math.floor(math.log10(length))
    return round(math.ceil(length / step - 1e-6) * step, 6)


def _read_list(path: Path, base: Path) -> dict[str, Any]:
    """The data list, checked: all sections, all files, no case twice."""
    from adapters.transforms.datalist import entry_name, load_datalist

    entries = {"training": load_datalist(path, "training", base)}
    listed = read_json(path, "data list")
    for section in SECTIONS[1:]:
        if section not in listed:
            raise ValueError(
                f"{str(path)!r} has no section {section!r}, expected {', '.join(SECTIONS)}: share the cases out among "
                "them, all of one patient in one"
            )
        entries[section] = load_datalist(path, section, base)
    places: dict[Path, str] = {}
    for section, cases in entries.items():
        for image in (Path(case["image"]).resolve() for case in cases):
            if image in places:
                raise ValueError(
                    f"{str(path)!r} has the image {str(image)!r} twice, in {places[image]!r} and {section!r}: keep one"
                )
            places[image] = section
        names = Counter(entry_name(case) for case in cases)
        if twice := [name for name, times in names.items() if times > 1]:
            raise ValueError(
                f"section {section!r} of {str(path)!r} has several cases named {twice[0]!r}: give each of them a "
                "'case' of its own beside 'image' and 'label'"
            )
    return listed


def _modality(given: str, listed: Any, name: str) -> str:
    if given:
        if given.lower() not in MODALITIES:
            raise ValueError(f"modality is {given!r}, expected CT or MR")
        return MODALITIES[given.lower()]
    words = list(listed.values()) if isinstance(listed, Mapping) else [listed]
    for word in (*map(str, words), *name.split("_")):
        if word.lower() in MODALITIES:
            return MODALITIES[word.lower()]
    raise ValueError(
        "neither the data list nor the name says what the scans are: add --modality CT (intensities in HU) or "
        "--modality MR (each scan scaled to its own percentiles)"
    )


def _from_fingerprint(measured: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """The template's values that the training cases decide, but for crop and spacing."""
    voxels = measured["intensity"]
    low, high = (round(voxels[key], None if modality == "CT" else 4) for key in ("low", "high"))
    if not low < high or not voxels["std"] > 0:
        raise ValueError(
            f"the voxels of all lesions lie between {low:g} and {high:g}, which is no contrast: check the scans and "
            "which value of the labels is the lesion"
        )
    depth, *plane = measured["spacing"]["median"]
    return {
        "clip_low": low,
        "clip_high": high,
        "mean": float(f"{voxels['mean']:.6g}"),
        "std": float(f"{voxels['std']:.6g}"),
        "shift": _SHIFT_HU if modality == "CT" else round(_SHIFT_SHARE * (high - low), 4),
        "augmentation": "in plane" if depth >= _COARSE * max(plane) else "3D",
        "median_spacing": _times(measured["spacing"]["median"], ".3g"),
        "lesion_extent": _times(measured["lesion_extent"]["percentile_95"], ".0f"),
        "measured_after": "" if modality == "CT" else ", after each scan was scaled to its own percentiles",
    }


def _times(numbers: Sequence[float], form: str) -> str:
    return " x ".join(format(number, form) for number in numbers)


def _report(values: dict[str, Any], measured: dict[str, Any], bundle: Path) -> str:
    from adapters.datasets.fingerprint import table

    train, evaluate, infer = (bundle / "configs" / f"{name}.json" for name in ("train", "evaluate", "inference"))
    chosen = (
        f"{values['modality']}, clipped to {values['clip_low']:g} .. {values['clip_high']:g}, mean {values['mean']:g}, "
        f"standard deviation {values['std']:g}; crops of {values['crop_size']} voxels of {values['spacing']:g} mm; "
        f"augmentation {values['augmentation']}"
    )
    start = f"python -m monai.bundle run {{}} --bundle_root {bundle} --config_file"
    commands = [
        f"python -m monai.bundle download_large_files --bundle_path {bundle}",
        f"{start.format('training')} {train}",
        f"{start.format('evaluating')} \"['{train}','{evaluate}']\"",
        f"{start.format('inference')} {infer} --requests clicks.json",
    ]
    return "\n".join([table(measured), "", chosen, f"wrote {bundle}; its docs/README.md says more", "", *commands])
