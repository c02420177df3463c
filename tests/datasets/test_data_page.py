"""What docs/how-to/data.md shows works as shown, on small releases in the places that it names."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from release_files import pack, write_release

from adapters.__main__ import main
from adapters.datasets import RELEASES, get_release

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "data.md").read_text(encoding="utf-8")
SHELL = "".join(re.findall(r"```shell\n(.*?)```", PAGE, re.DOTALL)).splitlines()
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a user has downloaded, with five cases of each release as its only fold."""
    for name in ("kits21", "lits17", "msd_pancreas", "msd_colon"):
        release = get_release(name)
        cases = release.cases[:: len(release.cases) // 5][:5]
        fold = {"training": cases[:-2], "validation": cases[-2:-1], "test": cases[-1:]}
        monkeypatch.setitem(release.__dict__, "folds", (fold,))
        folder = write_release(tmp_path / "unpacked" / name, name, cases)
        if name == "kits21":
            (folder / "kits21").rename(tmp_path / "kits21")
        elif name == "lits17":
            for batch in (1, 2):
                archive = tmp_path / "downloads" / "lits" / f"Training_Batch{batch}.zip"
                pack(folder, archive, only=f"Training Batch {batch}")
        else:
            pack(folder, tmp_path / "downloads" / f"{release.task}.tar")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands(downloads: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(SHELL) == 5
    for line in SHELL:
        words = shlex.split(line)
        assert words[:3] == ["python", "-m", "adapters"]
        main(words[3:])
    printed = capsys.readouterr().out
    assert printed.count(": 5 cases, fold 0\n") == 4
    found = json.loads((downloads / "data" / "msd_colon" / "fingerprint.json").read_text())
    assert (found["cases"], found["label"], found["intensity"]["voxels"]) == (3, 1, 3 * 24)
    names: dict[str, Any] = {}
    assert len(PYTHON) == 1
    exec(PYTHON[0], names)
    assert len(names["cases"]) == 3
    assert capsys.readouterr().out.startswith("3 data/msd_colon/Task10_Colon/imagesTr/colon_")


def test_the_table_of_data_sets() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|.*\| (CC .*?) \|$", PAGE, re.MULTILINE)
    assert [(name, licence) for name, _, licence in rows] == [(name, each.licence) for name, each in RELEASES.items()]
    for name, what, _ in rows:
        if counted := re.search(r"(\d+) cases", what):
            assert int(counted[1]) == len(get_release(name).cases)
