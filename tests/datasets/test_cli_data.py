"""The verbs prepare and fingerprint as a user types them."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
from release_files import patient, write_release

from adapters.__main__ import main
from adapters.cli import VERBS
from adapters.datasets import get_release

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    fold = get_release("msd_pancreas").fold(0)
    cases = [fold[section][0] for section in ("training", "validation", "test")]
    return write_release(tmp_path / "release", "msd_pancreas", cases)


def test_from_a_release_to_its_constants(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    main(["prepare", "--dataset", "msd_pancreas", "--source", str(source), "--output", str(out), "--partial"])
    printed = capsys.readouterr().out
    assert printed.startswith("Medical Segmentation Decathlon, Task07 (pancreas tumours): 3 cases, fold 0\n")
    assert "| cases | 1 | 1 | 1 |" in printed
    assert printed.endswith(f"wrote {out / 'datalist.json'}\n")

    main(["fingerprint", "--datalist", str(out / "datalist.json"), "--output", str(out / "fingerprint.json")])
    assert "lesions, label 2, 24 voxels: percentiles 0.5 and 99.5 are" in capsys.readouterr().out
    written = json.loads((out / "fingerprint.json").read_text())
    case = get_release("msd_pancreas").fold(0)["training"][0]
    image, label = patient(case, 2)
    assert written["intensity"]["mean"] == pytest.approx(image[label == 2].mean())
    assert written["intensity"]["high"] == pytest.approx(np.percentile(image[label == 2], 99.5))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["prepare", "--dataset", "msd_pancreas"], "needs the option --output"),
        (["prepare", "--dataset", "kits", "--output", "x"], "there is no data set 'kits', expected one of kits21"),
        (["prepare", "--dataset", "kits21", "--output", "x", "--fold", "9"], "there is no fold 9 of kits21"),
        (
            ["prepare", "--dataset", "kits21", "--output", "x"],
            "give either the source of kits21 (--source) or --download",
        ),
        (["prepare", "--dataset", "kits21", "--output", "x", "--source", "nowhere"], "no file or folder 'nowhere'"),
        (["fingerprint", "--datalist", "nowhere.json"], "there is no data list 'nowhere.json'"),
    ],
)
def test_mistakes(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    assert sentence in message


@pytest.mark.parametrize("name", ["prepare", "fingerprint"])
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"NAME\n    python -m adapters {name} - ")


MODULES = {
    "prepare": ("datasets/prepare", "datasets/archives", "datasets/releases"),
    "fingerprint": ("datasets/fingerprint",),
    "phantom": ("datasets/phantom",),
    "download": ("checkpoints/download",),
    "label_server": ("label/server",),
}


@pytest.mark.parametrize("verb", MODULES)
def test_messages_name_options_that_exist(verb: str) -> None:
    """In words that the command line knows, and not as Python's arguments."""
    options = set(inspect.signature(VERBS[verb]).parameters)
    messages = [text for module in MODULES[verb] for text in _texts(ROOT / "adapters" / f"{module}.py")]
    assert messages
    for text in messages:
        assert set(re.findall(r"--(\w+)", text)) <= options, text
        assert not re.search(r"\w=(True|False|None)\b|\(\w+_\w+\)", text), text


def _texts(path: Path) -> list[str]:
    """The words in a module but for its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return [node.value for node in constants if isinstance(node.value, str) and " " in node.value]
