"""From a release as it was downloaded to a checked data list with the published folds."""

from __future__ import annotations

import gzip
import json
import logging
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial as bound
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from adapters.datasets.archives import contents, is_archive, target, unpack
from adapters.datasets.fingerprint import Case, measure, measure_all, summary, table, values_of
from adapters.datasets.releases import RELEASES, Release, get_release
from adapters.fetching import WebFile, fetch
from adapters.files import alone, as_csv, read_json, write_whole
from adapters.transforms.labels import has_lost_header, in_words

logger = logging.getLogger(__name__)

DATALIST = "datalist.json"
_MOST_NAMES = 10
_OTHER_NAMES = {"Liver": "lits"}  # what dataset.json may call a task beside its organ
_KINDS = ("image", "label")
_AXES = {"I": "depth", "S": "depth", "A": "height", "P": "height", "L": "width", "R": "width"}
Files = Mapping[str, Path]  # where a case's "image" and "label" lie, as far as they are there


def prepare(
    dataset: str,
    output: str | os.PathLike,
    source: str | os.PathLike | None = None,
    *,
    fold: int = 0,
    download: bool = False,
    partial: bool = False,
    image_header: bool = False,
    workers: int = 2,
) -> str:
    """Checks a release and writes the data lists of its published folds.

    ``datalist.json`` holds the fold that was asked for, ``datalist_fold0.json`` and so on all of them, in the sections
    "training", "validation" and "test". Their paths start from `output`, which is a configuration's ``dataset_dir``.
    ``cases.csv`` holds what was found in each case. Images and labels stay as they are; with ``image_header``, copies
    of labels are written into the folder of that name.

    Args:
        dataset: name of the release, one of `RELEASES`.
        output: folder for what is written, and for what is unpacked; made if it is not there.
        source: the archive, the folder it was unpacked into, or a folder of archives.
        fold: which published fold; the published tables use 0.
        download: fetch the archive (tasks of the Medical Segmentation Decathlon only) instead of naming a source.
        partial: go on without the cases of the folds that are missing, and say which. For a trial with a few cases:
            figures from fewer cases cannot be compared with the published ones.
        image_header: where a label's header is lost (an identity in the place of the affine) and its voxels fit, list a
            copy of it with the header of its image. Right if it was drawn on that image, voxel for voxel.
        workers: how many cases to read at a time; each holds a scan and its label in memory.

    Returns:
        The report to print: a table of what was found in each section.

    Raises:
        FileNotFoundError: there is no such source; a case of the folds has no image or no label: names it.
        ValueError: no such release or fold, the files of another one, a truncated archive, a case that is there twice.
            A label with other values, an image and a label on different grids, an image with NaN: names it. No case at
            all holds the lesion.
        OSError: the disk is full; the download failed.
    """
    release = get_release(dataset)
    release.fold(fold)
    folder = Path(output).expanduser()
    if download == bool(source):
        raise ValueError(f"give either the source of {dataset} (--source) or --download, not both or neither")
    given = _download(release, folder) if download else Path(str(source)).expanduser()
    case_files, places = _look(release, given, folder)
    _check_description(release, case_files)
    folds, missing = _complete(release, case_files, places, partial=partial)

    used = sorted({case for sections in folds for section in sections.values() for case in section})
    if image_header:
        case_files = {**case_files, **{case: _with_image_header(case, case_files[case], folder) for case in used}}
    check = bound(measure, lesion=release.lesion, allowed=release.labels.keys())
    tasks = [bound(check, case, case_files[case]["image"], case_files[case]["label"]) for case in used]
    cases = dict(zip(used, measure_all(tasks, workers=workers, title=dataset), strict=True))
    if not any(case.lesions for case in cases.values()):
        raise ValueError(
            f"no label of the {len(cases)} cases holds {release.lesion} ({release.labels[release.lesion]}), only "
            f"{in_words(values_of([*cases.values()]))}; expected the labels of {release.title} as distributed"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # a file's path starts from the list's folder if it lies below it, or else from the root
    base = folder.absolute()
    entries: dict[str, dict[str, str]] = {}
    for case in used:
        files = {kind: case_files[case][kind].absolute() for kind in _KINDS}
        paths = {kind: file.relative_to(base) if file.is_relative_to(base) else file for kind, file in files.items()}
        entries[case] = {"case": case} | {kind: path.as_posix() for kind, path in paths.items()}
    names = {number: f"datalist_fold{number}.json" for number in range(len(folds))} if len(folds) > 1 else {}
    sections = folds[fold]
    rows = [
        _case_row(cases[case], section, entries[case]["image"]) for section in sections for case in sections[section]
    ]
    with alone(folder / ".prepare.lock", f"writes data lists into {folder}", wait=True):  # all of them are of one run
        for number, name in [*names.items(), (fold, DATALIST)]:
            write_whole(folder / name, _datalist(release, number, folds[number], entries))
        write_whole(folder / "cases.csv", as_csv(rows))
    report = _report(release, sections, cases, case_files.keys() - set(release.cases), missing)
    return "\n".join([f"{release.title}: {len(cases)} cases, fold {fold}", "", *report, f"wrote {folder / DATALIST}"])


def _download(release: Release, folder: Path) -> Path:
    """Fetches a task of the Medical Segmentation Decathlon; MONAI knows where it is, and its MD5."""
    from monai.apps import DecathlonDataset

    if release.task not in DecathlonDataset.resource:
        offered = ", ".join(name for name, other in RELEASES.items() if other.task)
        raise ValueError(
            f"{release.name} cannot be downloaded from here (only {offered} can); get it from {release.reference} and "
            "give the file or folder as --source"
        )
    archive = folder / f"{release.task}.tar"
    if (place := target(archive, folder)).is_dir():  # unpacked by an earlier run
        return place
    folder.mkdir(parents=True, exist_ok=True)
    web = WebFile(DecathlonDataset.resource[release.task], DecathlonDataset.md5[release.task], "md5")
    fetch(web, archive, or_else="give it as --source")
    return archive


def _look(release: Release, source: Path, output: Path) -> tuple[Mapping[str, Files], list[Path]]:
    """The release's cases in an archive or folder, and the folders that they were looked for in."""
    if not source.exists():
        raise FileNotFoundError(f"there is no file or folder {str(source)!r}; check --source")
    if source.is_file() and not is_archive(source):
        raise ValueError(f"{str(source)!r} is no archive (zip, tar) and no folder; give the one or the other")
    places = [source]
    paths = _files(places)
    case_files = _cases(release, paths)
    packed = [source] if source.is_file() else [p for p in paths if p.parent == source.absolute() and is_archive(p)]
    if packed and not case_files:
        places = _unpack(release, source, packed, output)
        paths = _files(places)
        case_files = _cases(release, paths)
    if not case_files:
        raise ValueError(_nothing(release, source, paths))
    return case_files, places


def _unpack(release: Release, source: Path, archives: Sequence[Path], output: Path) -> list[Path]:
    """Unpacks those archives that hold cases of the release; looked into before, so that no other one takes room."""
    places, others = [], []
    for archive in archives:
        own = target(archive, output)  # counts too: the archive may hold what should be in a folder of its name
        held = [] if own.exists() else [own / name for name in contents(archive)]
        if held and not any(release.find(path.as_posix()) for path in held):
            logger.info("%s holds nothing of %s and stays packed", archive.name, release.name)
            others += held
        else:
            places.append(unpack(archive, output))
    if not places:
        raise ValueError(_nothing(release, source, others))
    return places


def _files(places: Sequence[Path]) -> list[Path]:
    """All files below some folders, without hidden ones, in order."""
    paths = []
    for place in places:
        for folder, folders, names in os.walk(place.absolute()):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths += [Path(folder) / name for name in sorted(names) if not name.startswith(".")]
    return paths


def _cases(release: Release, paths: Sequence[Path]) -> Mapping[str, Files]:
    """The files of each case; refuses a case that is there twice."""
    kinds: dict[str, dict[str, Path]] = {}
    for path in paths:
        if match := release.find(path.as_posix()):
            kind, case = match
            first = kinds.setdefault(case, {}).setdefault(kind, path)
            if first != path:
                raise ValueError(
                    f"the {kind} of {case} is there twice, {str(first)!r} and {str(path)!r}; move one away"
                )
    return kinds


def _nothing(release: Release, source: Path, paths: Sequence[Path]) -> str:
    """What to say where there is no case of the release."""
    expected = f"expected {release.title}: {release.layout}"
    for other in RELEASES.values():
        example = next((path for path in paths if other.find(path.as_posix())), None)
        if example is not None:
            return f"{str(source)!r} holds {other.title} ({example.name}), {expected}"
    description = next((path for path in paths if path.name == "dataset.json"), None)
    if description is not None and description.is_file():
        return f"{str(source)!r} holds {_description(description).get('name')!r} (its dataset.json says), {expected}"
    examples = ", ".join(path.name for path in paths[:3])
    return f"{str(source)!r} holds {len(paths)} files{f' such as {examples}' if paths else ''}, {expected}"


def _description(file: Path) -> dict[str, Any]:
    # names of hospitals in it are not always UTF-8
    content = read_json(file, "description of the release", errors="replace")
    if not isinstance(content, dict):
        raise ValueError(f"{str(file)!r} holds {type(content).__name__}, expected an object; fetch the release again")
    return content


def _check_description(release: Release, case_files: Mapping[str, Files]) -> None:
    """The Decathlon's dataset.json, if there is one: of this task, with its labels, no case listed twice."""
    image = next((files["image"] for files in case_files.values() if "image" in files), None)
    if not release.task or image is None or not (file := image.parent.parent / "dataset.json").is_file():
        return
    content = _description(file)
    organ = release.task.split("_")[1]
    name = str(content.get("name", "")).lower()
    if organ.lower() not in name and _OTHER_NAMES.get(organ, organ.lower()) not in name:
        raise ValueError(f"{str(file)!r} is of {content.get('name')!r}, expected {organ!r}, {release.task}")
    for key, kind in (("labels", dict), ("training", list)):
        if not isinstance(content.get(key, kind()), kind):
            raise ValueError(
                f"{str(file)!r} has {key} {type(content[key]).__name__}, expected {kind.__name__}; fetch it again"
            )
    labels = {str(value) for value in content.get("labels", {})}
    if labels != {str(value) for value in release.labels}:
        raise ValueError(
            f"{str(file)!r} has the labels {', '.join(sorted(labels))}, "
            f"expected {', '.join(map(str, release.labels))} of {release.task}"
        )
    entries = [entry.get("image") if isinstance(entry, dict) else entry for entry in content.get("training", [])]
    if wrong := [number for number, entry in enumerate(entries) if not isinstance(entry, str)]:
        raise ValueError(
            f"entry {wrong[0]} of training in {str(file)!r} names no image, expected its path; fetch the release again"
        )
    listed = Counter(Path(str(entry)).name for entry in entries)
    if twice := [name for name, times in listed.items() if times > 1]:
        raise ValueError(f"{str(file)!r} lists {_names(twice)} twice; expected each case once")


def _with_image_header(case: str, files: Files, folder: Path) -> Files:
    """A case's files; a label whose header is lost is replaced by a copy of it, in a folder, with its image's."""
    try:
        image, label = (nib.Nifti1Image.from_filename(str(files[kind])) for kind in _KINDS)
    except (nib.filebasedimages.ImageFileError, OSError):  # said with its reason when the case is measured
        return files
    if image.shape != label.shape or not has_lost_header(label.affine, image.affine):
        return files
    copy = nib.Nifti1Image(np.asanyarray(label.dataobj), image.affine, image.header, dtype=label.get_data_dtype())
    copy.header.set_slope_inter(1, 0)
    path = folder / "image_header" / f"{case}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, gzip.compress(copy.to_bytes(), mtime=0))
    logger.warning("%s: its label's header is lost; %s has its voxels and the image's header", case, path)
    return {**files, "label": path}


def _complete(
    release: Release, case_files: Mapping[str, Files], places: Sequence[Path], *, partial: bool
) -> tuple[list[dict[str, list[str]]], list[str]]:
    """The folds with the cases that are there, and the cases that are not."""
    whole = {case for case, files in case_files.items() if len(files) == len(_KINDS)}
    missing = [case for case in release.cases if case not in whole]
    if len(missing) == len(release.cases) or (missing and not partial):
        lacking = {"nothing of": [case for case in missing if case not in case_files]}
        for kind in _KINDS:
            lacking[f"no {kind} of"] = [c for c in missing if c in case_files and kind not in case_files[c]]
        parts = [f"{what} {_names(cases)}" for what, cases in lacking.items() if cases]
        raise FileNotFoundError(
            f"{len(missing)} of the {len(release.cases)} cases of {release.title} are missing in "
            f"{', '.join(map(str, places))}: {'; '.join(parts)}; expected {release.layout}"
            + (f"; {release.note}" if release.note else "")
        )
    folds = [
        {section: [case for case in cases if case in whole] for section, cases in fold.items()}
        for fold in release.folds
    ]
    return folds, missing


def _names(cases: Sequence[str]) -> str:
    more = f" and {len(cases) - _MOST_NAMES} more" if len(cases) > _MOST_NAMES else ""
    return ", ".join(cases[:_MOST_NAMES]) + more


def _datalist(
    release: Release, fold: int, sections: Mapping[str, Sequence[str]], entries: Mapping[str, Mapping[str, str]]
) -> str:
    content = {
        "name": release.name,
        "description": f"{release.title}, {'published ' if release.constants else ''}fold {fold}",
        "reference": release.reference,
        "licence": release.licence,
        "tensorImageSize": "3D",
        "modality": {"0": release.modality},
        "labels": {str(value): meaning for value, meaning in release.labels.items()},
        "lesion": release.lesion,
        "fold": fold,
        **{f"num{section.capitalize()}": len(cases) for section, cases in sections.items()},
        **{section: [entries[case] for case in cases] for section, cases in sections.items()},
    }
    return json.dumps(content, indent=4) + "\n"


def _case_row(case: Case, section: str, image: str) -> dict[str, Any]:
    """What cases.csv holds of a case."""
    return {
        "case": case.name,
        "section": section,
        "axes": case.axes,
        "shape": "x".join(map(str, case.shape)),
        "spacing_mm_dhw": "x".join(f"{edge:.4g}" for edge in case.spacing),
        "lesions": len(case.lesions),
        "lesion_ml": f"{case.volume:.3f}",
        "image": image,
    }


def _report(
    release: Release,
    sections: Mapping[str, Sequence[str]],
    cases: Mapping[str, Case],
    others: Collection[str],
    missing: Sequence[str],
) -> list[str]:
    """A table of what the cases of each section are like, and what is remarkable about them."""
    columns = {section: summary([cases[name] for name in names]) for section, names in sections.items() if names}
    stored = {name: ", ".join(_AXES[axis] for axis in case.axes) for name, case in cases.items()}
    lines = [table(columns), ""]
    if empty := [name for column in columns.values() for name in column["without_lesion"]]:
        lines.append(f"without a voxel of value {release.lesion} ({release.labels[release.lesion]}): {_names(empty)}")
    if turned := [name for name in cases if stored[name] != release.stored_axes]:
        lines.append(
            f"axes not stored as distributed ({release.stored_axes}), which changes nothing here: {_names(turned)}"
        )
    if unknown := [name for name, case in cases.items() if np.allclose(case.spacing, 1, rtol=0, atol=1e-6)]:
        lines.append(
            f"spacing of exactly 1 x 1 x 1 mm, which no scanner gives, so mm and ml may be wrong: {_names(unknown)}"
            + (f"; {release.spacing_note}" if release.spacing_note else "")
        )
    if others := sorted(others):
        lines.append(f"in no published fold, left out: {_names(others)}")
    if missing:
        lines.append(
            f"missing, left out: {len(missing)} of {len(release.cases)} cases ({_names(missing)}); "
            "figures from these folds cannot be compared with the published ones"
        )
    return lines
