"""What docs/how-to/new_bundle.md shows works as shown."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from adapters.__main__ import main
from adapters.datasets.phantom import write_phantoms

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "new_bundle.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    (found,) = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    return found


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data list of the page, with its five cases."""
    folder = tmp_path / "scans"
    write_phantoms(folder, 5, seed=1, shape=(20, 20, 20), spacing=(10.0, 10.0, 10.0))
    for part in ("images", "labels"):
        for number in range(1, 6):
            (folder / part / f"phantom_00{number}.nii.gz").rename(folder / part / f"p0{number}.nii.gz")
    (folder / "my.json").write_text(block("json"))
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_commands(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = block("shell").splitlines()
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "adapters"]
    main(words[3:])
    assert "| cases | 3 | 1 | 1 |" in capsys.readouterr().out

    assignment, *commands = block("bash").splitlines()
    bundle = assignment.removeprefix("BUNDLE=")
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command.replace("$BUNDLE", bundle))
        run_id = words[4]
        options = dict(zip(words[5::2], words[6::2], strict=True))
        files = re.findall(r"[\w/]+\.json", options.pop("--config_file"))
        configs = [json.loads(Path(file).read_text()) for file in files]
        assert configs[-1][run_id] == "%run"
        assert {key.removeprefix("--") for key in options} <= configs[0].keys()


def test_the_options_are_those_of_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    main(["new_bundle", "--help"])
    said = capsys.readouterr().out
    rows = PAGE.split("Options:")[1].split("## What is chosen")[0]
    for option in re.findall(r"`--(\w+)", rows):
        assert f"--{option}" in said, option
