"""The pages of docs/reference that follow from the code: ``python tests/docs/reference_pages.py`` writes them anew."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adapters
from adapters import cli

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
TARGET = re.compile(r"adapters(?:\.\w+)+")

ABOUT_VERBS = """\
`python -m adapters VERB --option value`; the command `monai-sam-adapters` is the same.
`VERB --help` lists a verb's options. A mistake gives one sentence and
exit code 2; `--debug` shows where it arose. An option with True or
False is also written `--download` or `--nodownload`.

Training, evaluation and inference are run by `python -m monai.bundle`, and their options are the
[ids of the configurations](configurations.md)."""


def options_of(function: Any) -> dict[str, str]:
    """What a docstring says of each argument."""
    text = (inspect.getdoc(function) or "").split("\nArgs:\n")[1]
    text = re.split(r"\n\n\w+:\n", text)[0]
    entries = re.split(r"\n(?= {4}\w)", f"\n{text}")[1:]
    return {name.strip(): " ".join(said.split()) for name, said in (entry.split(":", 1) for entry in entries)}


def shown(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "to be given"
    return "" if default in ("", None) else f"`{default}`"


def verbs_page() -> str:
    parts = ["# Verbs of the command line", ABOUT_VERBS]
    for name, function in cli.VERBS.items():
        said = (inspect.getdoc(function) or "").split("\nArgs:\n")[0].strip()
        parameters = inspect.signature(function).parameters
        rows = [
            f"| `--{option}` | {shown(parameters[option].default)} | {text} |"
            for option, text in options_of(function).items()
        ]
        parts += [f"## {name}", said, "\n".join(["| option | default | what |", "|---|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def packages() -> list[str]:
    found = [each.name for each in pkgutil.iter_modules(adapters.__path__) if each.ispkg]
    return sorted(name for name in found if hasattr(importlib.import_module(f"adapters.{name}"), "__all__"))


def targets() -> set[str]:
    """What the bundles' configurations name, with its module."""

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key == "_target_" and TARGET.fullmatch(inner):
                    yield inner
                yield from walk(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)

    files = (ROOT / "bundles").glob("*/configs/*.json")
    return {name for file in files for name in walk(json.loads(file.read_text()))}


def public_names(package: str) -> list[str]:
    """The package's public names; then what configurations name in its modules and the package does not export."""
    exported = [f"adapters.{package}.{name}" for name in importlib.import_module(f"adapters.{package}").__all__]
    return exported + sorted(
        name for name in targets() if name.startswith(f"adapters.{package}.") and name not in exported
    )


def python_page(package: str) -> str:
    module = importlib.import_module(f"adapters.{package}")
    parts = [f"# adapters.{package}", (inspect.getdoc(module) or "").strip()]
    parts += [f"::: {name}" for name in public_names(package)]
    return "\n\n".join(parts) + "\n"


def pages() -> dict[Path, str]:
    """All of them, by path."""
    written = {REFERENCE / "python" / f"{package}.md": python_page(package) for package in packages()}
    return {REFERENCE / "verbs.md": verbs_page()} | written


def main() -> None:
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
