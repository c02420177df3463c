"""What the verbs tell a user to do can be typed."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import monai.bundle
import pytest

import adapters
from adapters import cli

LIBRARY = Path(adapters.__file__).parent
COMMANDS = [*cli.VERBS.values(), *(each for each in vars(monai.bundle).values() if inspect.isfunction(each))]
OPTIONS = {name for command in COMMANDS for name in inspect.signature(command).parameters} | {"debug"}


def messages(path: Path) -> Iterator[str]:
    """The texts of what a module raises and of what it yields as a problem; their values are left out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Raise, ast.Yield)):
            parts = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
            yield "".join(part for part in parts if isinstance(part, str))


@pytest.mark.parametrize("package", ["bundling", "datasets", "demo", "label", "scoring", "sessions"])
def test_options_are_named_as_they_are_typed(package: str) -> None:
    texts = [text for path in (LIBRARY / package).rglob("*.py") for text in messages(path)]
    assert any(texts)
    for text in texts:
        assert not re.search(r"\b\w+=(True|False|None)\b", text), f"only Python knows this option: {text}"
        for option in re.findall(r"--(\w+)", text):
            assert {option, option.removeprefix("no")} & OPTIONS, f"there is no --{option}: {text}"


def test_what_it_looks_for_is_found(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    lines = ["def f(a):", "    raise ValueError(f'{a} exists: pass overwrite=' f'True')", "    yield f'say --{a}x'"]
    path.write_text("\n".join(lines))
    assert sorted(messages(path)) == [" exists: pass overwrite=True", "say --x"]
