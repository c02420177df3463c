"""The library from its wheel, in a folder with nothing in it: no clone, no network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = ("monai_sam_adapters.py", "setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
SARCOMA = "soft_tissue_sarcoma_ct_samadapter_deepgrow"
KIDNEY = "kidney_tumor_ct_samadapter_deepgrow"
SMALL_INIT = """
import json, sys
from adapters.__main__ import main
config = "bundles/{name}/configs/inference.json"
values = json.load(open(config))
json.dump({{**values, "variant": "tiny", "crop_size": 16}}, open(config, "w"))
main(["init", "kidney_tumor_ct", "--random"])
"""
SESSION = """
import adapters
session = adapters.ClickSession("soft_tissue_sarcoma_ct", device="cpu")
session.set_image("scans/images/phantom_000.nii.gz")
print(session.add_click((80, 80, 32)).shape)
"""
SERVED = """
from adapters.bundling.folders import is_installed
from adapters.label import arrange, find_bundles
bundles = find_bundles()
app = arrange("label_app", bundles)
print(*(path.name for path in (app / "model").iterdir()), is_installed(app / "model" / bundles[0].name))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a checkout in which a bundle was trained."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("adapters", "bundles"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "eval"))
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    for name in ("models/model.pt", "models/last.ckpt", "eval/scores.csv"):
        path = source / "bundles" / KIDNEY / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True)
    (path,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", path], check=True)
    return path


class Elsewhere:
    """Another folder, and a Python that has the wheel."""

    def __init__(self, site: Path, folder: Path) -> None:
        self.site, self.folder = site, folder
        self.bundles = site / "adapters" / "bundles"
        self.before = self.contents()

    def contents(self) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in self.bundles.rglob("*") if path.is_file()}

    def python(self, *words: str, code: int = 0) -> str:
        """What a command prints; its last line of errors where it ends with another exit code than 0."""
        variables = {**os.environ, "PYTHONPATH": str(self.site), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *words], cwd=self.folder, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stderr.strip().splitlines()[-1] if code else done.stdout

    def verb(self, *words: str, code: int = 0) -> str:
        return self.python("-m", "adapters", *words, code=code)


@pytest.fixture
def elsewhere(wheel: Path, tmp_path: Path) -> Elsewhere:
    return Elsewhere(wheel.parent / "site", tmp_path)


def test_what_the_wheel_holds(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = {name.removeprefix("adapters/") for name in archive.namelist()}
    tracked = {path.relative_to(ROOT).as_posix() for path in (ROOT / "bundles").glob("*/*") if path.is_file()}
    for part in ("configs", "datalists", "docs"):
        tracked |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "bundles").glob(f"*/{part}/*")}
    tracked.add(f"bundles/{SARCOMA}/models/model.pt")
    assert {name for name in names if name.startswith("bundles/")} == tracked
    template = ROOT / "adapters" / "bundling" / "template"
    assert {path.relative_to(ROOT / "adapters").as_posix() for path in template.rglob("*") if path.is_file()} <= names
    assert not [name for name in names if name.startswith(("tests", "docs"))]


def test_a_bundle_is_copied_before_it_is_changed(elsewhere: Elsewhere) -> None:
    assert elsewhere.verb("get", "kidney_tumor_ct").startswith(f"wrote bundles/{KIDNEY}: docs/README.md in it says")
    copy = elsewhere.folder / "bundles" / KIDNEY
    assert json.loads((copy / "configs" / "metadata.json").read_text())["name"].startswith("Kidney")
    refused = elsewhere.verb("get", "kidney_tumor_ct", code=2)
    assert refused.startswith(f"error: 'bundles/{KIDNEY}' exists already and was left as it is")
    refused = elsewhere.verb("init", "liver_tumor_ct", "--random", code=2)
    assert "is part of the installed library, which stays as it is: copy it (`python -m adapters get liver" in refused
    assert elsewhere.contents() == elsewhere.before


@pytest.mark.slow
def test_what_a_user_does_with_the_shipped_bundles(elsewhere: Elsewhere) -> None:
    elsewhere.verb("phantom", "--output", "scans", "--cases", "3")
    assert elsewhere.python("-c", SESSION) == "(160, 160, 64)\n"
    assert "with models/model.pt" in elsewhere.verb("package", "soft_tissue_sarcoma_ct")
    printed = elsewhere.verb("check_bundle", "--all")
    assert printed.count("_samadapter_deepgrow\n") == 5
    assert printed.endswith("no problems\n")
    refused = elsewhere.verb("export", "soft_tissue_sarcoma_ct", "--format", "safetensors", code=2)
    assert refused.endswith("and go on with the copy, or name --output")
    elsewhere.verb("export", "soft_tissue_sarcoma_ct", "--format", "safetensors", "--output", "exported")
    assert (elsewhere.folder / "exported" / "model.safetensors").is_file()
    cases = [f"phantom_{number:03d}" for number in range(3)]
    listed = {"training": cases[:1], "validation": cases[1:2], "test": cases[2:]}
    (elsewhere.folder / "scans" / "my.json").write_text(json.dumps(listed))
    elsewhere.verb("new_bundle", "--name", "lung_tumor_ct", "--datalist", "scans/my.json", "--label", "1")
    assert (elsewhere.folder / "bundles" / "lung_tumor_ct_samadapter_deepgrow" / "LICENSE").is_file()
    elsewhere.verb("get", "kidney_tumor_ct")
    elsewhere.python("-c", SMALL_INIT.format(name=KIDNEY))
    assert (elsewhere.folder / "bundles" / KIDNEY / "models" / "model.pt").is_file()
    assert elsewhere.contents() == elsewhere.before


@pytest.mark.slow
def test_the_demo(elsewhere: Elsewhere) -> None:
    assert elsewhere.verb("demo", "--epochs", "1").endswith("report.html\n")
    assert (elsewhere.folder / "demo" / "report.html").stat().st_size > 100_000
    assert elsewhere.contents() == elsewhere.before


def test_the_label_server_links_nothing_of_the_installed_library(elsewhere: Elsewhere) -> None:
    """A training in MONAI Label writes into the bundles that are served."""
    app = elsewhere.folder / "label_app" / "monaibundle"
    app.mkdir(parents=True)
    (app / "main.py").write_text("")
    assert elsewhere.python("-c", SERVED) == f"{SARCOMA} False\n"
    (app / "model" / SARCOMA / "models" / "model.pt").write_text("trained on")
    assert elsewhere.python("-c", SERVED) == f"{SARCOMA} False\n"
    assert (app / "model" / SARCOMA / "models" / "model.pt").read_text() == "trained on"
    assert elsewhere.contents() == elsewhere.before
