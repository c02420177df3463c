"""A bundle from the template and a task's values: text in, files out, nothing is computed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["TASKS", "differing_files", "load_task", "render", "write_bundle"]

_HERE = Path(__file__).resolve().parent
_TEMPLATE = _HERE / "template"

TASKS: tuple[str, ...] = ("kidney_tumor", "pancreas_tumor", "liver_tumor", "colon_cancer")
"""The tasks of the published experiments; each has a file of values in ``tasks/``."""

REMOVED = "{{-}}"
_SLOT = re.compile(r"\{\{(\w+)\}\}")
_VARIANTS = {  # written as changes to another configuration
    "configs/train_auto.json": "configs/train.json",
    "configs/inference_auto.json": "configs/inference.json",
}
SECTIONS = ("training", "validation", "test")
_PUBLISHED = {
    "card": "published",
    "family": "samadapter3d",
    "modality": "CT",
    "crop_size": 128,
    "spacing": 1.0,
    "shift": 20,
}


def load_task(name: str) -> dict[str, Any]:
    """The values of a task: those of its file, and what its release says.

    Args:
        name: one of `TASKS`.

    Raises:
        ValueError: there is no such task.
    """
    if name not in TASKS:
        raise ValueError(f"task {name!r} is unknown, expected one of {', '.join(TASKS)}")
    from adapters.datasets.releases import get_release

    values = _read(_HERE / "tasks" / f"{name}.json")
    release = get_release(values["release"])
    published = release.constants
    if published is None:
        raise ValueError(f"nothing was published on {values['release']}, the release of task {name!r}")
    return {
        **_PUBLISHED,
        "folder": "bundles",
        "dataset_dir": f"/workspace/data/{values['dataset']}",
        "label": release.lesion,
        "other_values": [value for value in release.labels if value not in (0, release.lesion)],
        "clip_low": published.low,
        "clip_high": published.high,
        "mean": published.mean,
        "std": published.std,
        "tolerance": published.tolerance,
        "stored_axes": release.stored_axes,
        "datalists": [
            {section: [_entry(values, case) for case in cases] for section, cases in fold.items()}
            for fold in release.folds
        ],
        **values,
    }


def render(values: Mapping[str, Any]) -> dict[str, str]:
    """All files of a bundle.

    Args:
        values: what `load_task` gives, or the same keys of a task of one's own. ``datalists`` holds, for each fold, the
            entries of a data list by section; ``card`` is "published" or "own", which parts the model card has;
            ``family`` is a folder of ``template/families``.

    Returns:
        Texts by path inside the bundle.

    Raises:
        ValueError: there is no such family, or the template asks for a value that is missing.
    """
    families = sorted(path.name for path in (_TEMPLATE / "families").iterdir())
    if values["family"] not in families:
        raise ValueError(f"family is {values['family']!r}, expected one of {', '.join(families)}")
    filled = {**values, **_derived(values)}
    sources = _sources(values["family"])
    files = {}
    for name, path in sources.items():
        if path.suffix == ".json":
            config = _fill(_read(path), filled, path.name)
            if base := _VARIANTS.get(name):
                config = _changed(_fill(_read(sources[base]), filled, base), config)
            files[name] = _json(config)
        else:
            files[name] = str(_fill(path.read_text(encoding="utf-8"), filled, path.name))
    for number, sections in enumerate(values["datalists"]):
        files[f"datalists/fold_{number}.json"] = _datalist(sections)
    return files


def write_bundle(values: Mapping[str, Any], folder: str | Path) -> Path:
    """Write all files of a bundle.

    Args:
        values: as `render`.
        folder: the folder of bundles; the bundle's own is made in it, with the name ``values["bundle"]``.

    Returns:
        The bundle's folder.

    Raises:
        ValueError: as `render`.
    """
    bundle = Path(folder) / values["bundle"]
    for name, text in render(values).items():
        path = bundle / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return bundle


def differing_files(values: Mapping[str, Any], folder: str | Path) -> list[str]:
    """Files of a bundle that are not what the template gives: changed, missing, or none of its own.

    Args:
        values: as `render`.
        folder: the folder of bundles.

    Returns:
        Their paths inside the bundle. Weights and results (``models/``, ``eval/``) are not looked at.
    """
    bundle = Path(folder) / values["bundle"]
    expected = render(values)
    present = {
        path.relative_to(bundle).as_posix()
        for path in bundle.rglob("*")
        if path.is_file() and path.relative_to(bundle).parts[0] not in {"models", "eval"}
    }
    changed = {
        name for name in present & expected.keys() if (bundle / name).read_text(encoding="utf-8") != expected[name]
    }
    return sorted(changed | (present ^ expected.keys()))


def _sources(family: str) -> dict[str, Path]:
    """The template's files of a bundle by their path in it; a family's take the place of the common ones."""
    folders = (_TEMPLATE / "common", _TEMPLATE / "families" / family / "bundle")
    return {
        path.relative_to(folder).as_posix(): path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _derived(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the template uses beside the values themselves."""
    low, high = ((values[key] - values["mean"]) / values["std"] for key in ("clip_low", "clip_high"))
    counts = {section: len(values["datalists"][0][section]) for section in SECTIONS}
    augmentation = _read(_TEMPLATE / "augmentation.json")[values["augmentation"]]
    last_fold = len(values["datalists"]) - 1
    family = _TEMPLATE / "families" / values["family"]
    modality = _read(_TEMPLATE / "modalities.json")[values["modality"]]
    in_hu = modality["format"] == "hounsfield"
    window = f"({values['clip_low']}, {values['clip_high']})"
    derived = {
        **_read(family / "family.json"),
        **modality,
        "units": {"require_hu": True} if in_hu else {},
        "hu_check": {"hounsfield": f"${window} if @require_hu else None"} if in_hu else {},
        "augmentation": augmentation["transforms"],
        "augmentation_text": augmentation["text"],
        "automatic_crop_size": 2 * values["crop_size"],
        "spacing_text": f"{values['spacing']:g}",
        "normalised_low": round(low, 4),
        "normalised_high": round(high, 4),
        "cases": sum(counts.values()),
        **{f"{section}_cases": count for section, count in counts.items()},
        "other_folds": f"1 to {last_fold}" if last_fold else "none",
        "published_table": _published(values["task"], "methods", "reproduction"),
        "published_automatic_table": _published(values["task"], "automatic"),
        "reference_list": "\n".join(f"- {reference}" for reference in values["references"]),
    }
    # parts of the model card that only a family, only published tasks, or only others have
    for path in (*family.glob("*.md"), *(_TEMPLATE / "cards" / values["card"]).glob("*.md")):
        text = path.read_text(encoding="utf-8")
        derived[path.stem] = str(_fill(text, {**values, **derived}, path.name)).strip()
    return derived


def _published(task: str | None, *groups: str) -> str:
    """A table of published figures, empty for a task without."""
    from adapters.scoring.page import Table, markdown_table
    from adapters.scoring.published_figures import published_figures

    figures = [figure for figure in (published_figures(task) if task else ()) if figure.group in groups]
    rows = [[each.method, str(each.prompts), f"{each.dice:.2f}", f"{each.nsd:.2f}"] for each in figures]
    return markdown_table(Table(["method", "clicks", "Dice", "NSD"], rows))


def _entry(values: Mapping[str, Any], case: str) -> dict[str, str]:
    """A case where its release has it; the paths know ``{case}`` and ``{number}``, what follows its last dash."""
    names = {"case": case, "number": case.rsplit("-", 1)[-1]}
    return {"case": case, "image": values["image"].format(**names), "label": values["label_file"].format(**names)}


def _datalist(sections: Mapping[str, list[Any]]) -> str:
    """A data list, a line for each case."""
    parts = []
    for section in SECTIONS:
        cases = ",\n".join(f"        {json.dumps(entry)}" for entry in sections[section])
        parts.append(f'    "{section}": [\n{cases}\n    ]')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _fill(node: Any, values: Mapping[str, Any], source: str) -> Any:
    """Put values into their slots: a string that is a slot becomes the value, ``{{*name}}`` the items of it."""
    if isinstance(node, dict):
        filled: dict[str, Any] = {}
        for key, value in node.items():
            if key.startswith("{{*"):
                filled |= _value(key[3:-2], values, source)
            else:
                filled[_fill(key, values, source)] = _fill(value, values, source)
        return filled
    if isinstance(node, list):
        return [item for value in node for item in _items(value, values, source)]
    if not isinstance(node, str):
        return node
    whole = _SLOT.fullmatch(node)
    if whole:
        return _value(whole[1], values, source)
    return _SLOT.sub(lambda match: str(_value(match[1], values, source)), node)


def _items(node: Any, values: Mapping[str, Any], source: str) -> Iterator[Any]:
    if isinstance(node, str) and node.startswith("{{*"):
        yield from _value(node[3:-2], values, source)
    else:
        yield _fill(node, values, source)


def _value(name: str, values: Mapping[str, Any], source: str) -> Any:
    if name not in values:
        raise ValueError(f"the template's {source} needs a value {name!r}, the task gives {', '.join(sorted(values))}")
    return values[name]


def _changed(config: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with other values under some ids; ``{{-}}`` takes an id away."""
    for name, value in changes.items():
        *way, last = [name] if name in config else name.split("#")
        place: Any = config
        for step in way:
            place = place[int(step)] if isinstance(place, list) else place[step]
        key = int(last) if isinstance(place, list) else last
        if value == REMOVED:
            del place[key]
        else:
            place[key] = value
    return config


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _json(config: Any) -> str:
    return json.dumps(config, indent=4) + "\n"
