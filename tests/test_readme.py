"""What the README shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from adapters import cli
from adapters.datasets import write_phantoms

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (case,) = write_phantoms(tmp_path, 1, shape=(40, 40, 32), spacing=(8.0, 8.0, 8.0))
    Path(case["image"]).rename("scan.nii.gz")
    names: dict[str, Any] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL)), names)
    assert names["mask"].shape == (40, 40, 32)
    assert len(names["session"].prompts) == 1
    assert Path("mask.nii.gz").is_file()
    assert names["log_odds"].shape == (1, 1, 48, 48, 48)


def test_the_verbs_are_there() -> None:
    shown = set(re.findall(r"^    python -m adapters (\w+)", README, re.MULTILINE))
    assert shown
    assert shown <= set(cli.VERBS)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+?)\)", (ROOT / page).read_text(encoding="utf-8"))
    for target in targets:
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), target


def test_the_configurations_are_there() -> None:
    bundle = ROOT / re.findall(r"BUNDLE=(\S+)", README)[0]
    for name in set(re.findall(r"\$BUNDLE/(configs/\w+\.json)", README)):
        assert (bundle / name).is_file(), name
