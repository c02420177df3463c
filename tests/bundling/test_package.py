"""A bundle as a zip: the same bytes each time, and fetched, loaded and run from somewhere else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import BUNDLE, TESTS
from monai.bundle import ConfigWorkflow, download, load

from adapters.__main__ import main
from adapters.bundling.get import copy_bundle
from adapters.bundling.package import bundle_files, package
from adapters.datasets.phantom import write_phantoms

NAME = BUNDLE.name
SHARED = TESTS.parents[1] / "shared"
KEY = f"{NAME}_v0.1.0"
LARGE = "large_files:\n  - {path: models/model.pt, url: 'http://127.0.0.1/a', hash_val: a, hash_type: sha1}\n"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy with all that must not be handed on."""
    copy = Path(shutil.copytree(BUNDLE, tmp_path / "mine" / NAME))
    for name in (
        ".DS_Store",
        "configs/.train.json.swp",
        "configs/monailabel_train.json",
        "scripts/__pycache__/a.pyc",
        "eval/scores.csv",
        "models/last.ckpt",
        "models/last_auto.ckpt",
        "models/last.previous.ckpt",
        "models/sam_vit_l_0b3195.pth",
        "models/.model.pt.1.tmp",
        "mlruns/0/meta.yaml",
    ):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("a")
    return copy


def made(output: Path) -> tuple[Path, dict[str, Any]]:
    return output / f"{KEY}.zip", json.loads((output / "model_info.json").read_text())


def test_what_is_in_it(bundle: Path, tmp_path: Path) -> None:
    said = package(bundle, tmp_path / "dist", source="http://127.0.0.1/zoo/")
    path, info = made(tmp_path / "dist")
    digest = hashlib.sha1(path.read_bytes()).hexdigest()
    assert info == {KEY: {"checksum": digest, "source": f"http://127.0.0.1/zoo/{KEY}.zip"}}
    assert said == (
        f"wrote {path}: 19 files, {path.stat().st_size / 1e6:.1f} MB, with models/model.pt; sha1 {digest} in "
        "model_info.json"
    )
    with ZipFile(path) as archive:
        entries = archive.infolist()
        assert [entry.filename for entry in entries] == sorted(f"{NAME}/{name}" for name in bundle_files(BUNDLE))
        assert {entry.date_time for entry in entries} == {(2022, 5, 30, 0, 0, 0)}
        assert {entry.external_attr >> 16 for entry in entries} == {stat.S_IFREG | 0o644}
        for entry in entries:
            assert archive.read(entry) == (BUNDLE.parent / entry.filename).read_bytes()
    assert sorted(file.name for file in path.parent.iterdir()) == ["model_info.json", path.name]


def test_the_same_input_gives_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    """Whatever the files' times, modes and order in the folder, and where they lie."""
    package(bundle, tmp_path / "first")
    other = tmp_path / "other" / NAME
    for name in reversed(bundle_files(bundle)):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes((bundle / name).read_bytes())
        os.utime(other / name, (0, 1_000_000_000))
        (other / name).chmod(0o700)
    package(other, tmp_path / "second")
    package(other, tmp_path / "second")  # and again, in the same place
    (first, info), (second, other_info) = made(tmp_path / "first"), made(tmp_path / "second")
    assert first.read_bytes() == second.read_bytes()
    assert info == other_info


def test_large_files_are_fetched_by_the_user(bundle: Path, tmp_path: Path) -> None:
    (bundle / "large_files.yml").write_text(LARGE)
    assert "without weights" in package(bundle, tmp_path)
    with ZipFile(made(tmp_path)[0]) as archive:
        names = archive.namelist()
    assert f"{NAME}/models/model.pt" not in names
    assert f"{NAME}/large_files.yml" in names


def test_a_version_is_made_once(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "model_info.json").write_text(json.dumps({"other_v1": {"checksum": "a", "source": "b"}}))
    package(bundle, tmp_path)
    path, info = made(tmp_path)
    assert info.keys() == {"other_v1", KEY}
    before = path.read_bytes()
    (bundle / "LICENSE").write_text("mine")
    with pytest.raises(ValueError, match=rf"{KEY} with another checksum, so the bundle has changed: raise its version"):
        package(bundle, tmp_path)
    assert path.read_bytes() == before
    assert made(tmp_path)[1] == info
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    metadata |= {"version": "0.1.1", "changelog": {**metadata["changelog"], "0.1.1": "licence"}}
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata))
    package(bundle, tmp_path)
    assert made(tmp_path)[1].keys() == {"other_v1", KEY, f"{NAME}_v0.1.1"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("configs/metadata.json", "{", "metadata.json' is not JSON"),
        (
            "configs/metadata.json",
            '{"version": "1.0"}',
            "gives no version and changelog .'1.0', None.: add a version",
        ),
        (
            "configs/metadata.json",
            '{"version": "1.0", "changelog": {}}',
            r"version '1\.0' of .* is not in its changelog",
        ),
        ("configs/metadata.json", '{"version": {}, "changelog": {}}', "gives no version and changelog .{}, {}."),
        (
            "configs/metadata.json",
            '{"version": "/../../x", "changelog": {"/../../x": ""}}',
            "gives no version and changelog .'/../../x'",
        ),
        ("configs/metadata.json", "[" * 100_000, "has more than 64 lists and objects"),
        ("../model_info.json", "[]", "is no list of bundles as the zoo keeps it"),
        (
            "../model_info.json",
            '{"a": 3}',
            "is no list of bundles as the zoo keeps it, an object of objects: move it away",
        ),
        (
            "models/model.pt",
            "version https://git-lfs.github.com/spec/v1",
            "models/model.pt of .* is a pointer of git LFS",
        ),
        ("models/model.pt", "<!DOCTYPE html>", "models/model.pt of .* is a web page"),
        ("large_files.yml", "large_files: 3", "large_files of large_files.yml is 3: give a list of entries"),
    ],
)
def test_mistakes(name: str, content: str, message: str, bundle: Path) -> None:
    (bundle / name).write_text(content)
    before = sorted(bundle.parent.iterdir())
    with pytest.raises(ValueError, match=message):
        package(bundle, bundle.parent)
    assert sorted(bundle.parent.iterdir()) == before


@pytest.mark.parametrize("name", ["docs/notes.txt", "scripts", "models/best.pt", "eval", "models/last.ckpt"])
def test_a_link_out_of_the_bundle(name: str, bundle: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.mkdir()
    (outside / "file").write_text("of nobody's business")
    if (bundle / name).is_dir():
        shutil.rmtree(bundle / name)
    (bundle / name).unlink(missing_ok=True)
    (bundle / name).symlink_to(outside if "." not in name else outside / "file")
    if name in ("eval", "models/last.ckpt"):  # left out anyway
        assert package(bundle, tmp_path / "dist").startswith("wrote ")
        return
    for use in (package, copy_bundle):
        with pytest.raises(ValueError, match=rf"{name} of {NAME} is a link to '{outside}.*', which a copy would not"):
            use(bundle, tmp_path / "dist")
    assert not (tmp_path / "dist" / NAME).exists()


def test_a_link_inside_the_bundle(bundle: Path, tmp_path: Path) -> None:
    (bundle / "docs" / "same.md").symlink_to("README.md")
    package(bundle, tmp_path / "dist")
    with ZipFile(made(tmp_path / "dist")[0]) as archive:
        assert archive.read(f"{NAME}/docs/same.md") == (BUNDLE / "docs" / "README.md").read_bytes()


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=f"there is no bundle 'lung': .* '{BUNDLE.parent}', which holds colon_ca"
    ):
        package("lung", tmp_path / "dist", bundles=BUNDLE.parent)
    assert not list(tmp_path.iterdir())


# --- from a server, in another folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "dist")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def scan_of(shared_data: Path, folder: Path) -> tuple[Path, Path, float]:
    """A CT of the test patients, its mask and the Dice to reach; a phantom, unlike all patients, without those data."""
    case = json.loads((BUNDLE / "configs" / "datalist.json").read_text())["test"][0]
    if shared_data.is_dir():
        return shared_data / case["image"], shared_data / case["label"], 0.7
    (phantom,) = write_phantoms(folder, 1, shape=(60, 60, 40), spacing=(6.0, 6.0, 6.0))
    return Path(phantom["image"]), Path(phantom["label"]), 0.05


def monai_bundle(*words: str, cwd: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *words],
        cwd=cwd,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_fetched_loaded_and_run_from_another_folder(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["package", NAME, "--bundles", str(BUNDLE.parent), "--output", str(tmp_path / "dist"), "--source", server])
    assert f"{KEY}.zip" in capsys.readouterr().out
    archive, info = made(tmp_path / "dist")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    download(name=NAME, url=archive.as_uri(), bundle_dir=tmp_path / "from a file", progress=False)
    place = tmp_path / "from a server"
    words = ("--name", NAME, "--url", info[KEY]["source"], "--bundle_dir", str(place))
    monai_bundle("download", *words, cwd=elsewhere)
    for fetched in (tmp_path / "from a file" / NAME, place / NAME):
        assert bundle_files(fetched) == bundle_files(BUNDLE)
        assert hashlib.sha1(fetched.with_suffix(".zip").read_bytes()).hexdigest() == info[KEY]["checksum"]

    weights = torch.load(BUNDLE / "models" / "model.pt", weights_only=True)
    for kind in ("train", "inference"):
        network = load(NAME, bundle_dir=place, workflow_type=kind, device="cpu")
        state = network.state_dict()
        assert state.keys() == weights.keys()
        assert all(torch.equal(state[name], weights[name]) for name in weights)
    for name, kind in (("train", "train"), ("inference", "infer")):
        made_of = ConfigWorkflow(str(fetched / "configs" / f"{name}.json"), workflow_type=kind, logging_file=False)
        made_of.initialize()
        assert made_of.bundle_root == str(fetched)

    image, label, reached = scan_of(SHARED / "data" / "soft_tissue_sarcoma" / "ct", tmp_path / "phantom")
    truth = np.asarray(nib.load(label).dataobj) > 0
    inside = np.argwhere(truth)
    click = inside[np.argmin(np.linalg.norm(inside - inside.mean(axis=0), axis=1))]
    request = {"image": str(image), "points": [click.tolist()], "point_labels": [1]}
    (elsewhere / "clicks.json").write_text(json.dumps([request]))
    config = str(fetched / "configs" / "inference.json")
    monai_bundle("run", "--config_file", config, "--requests", "clicks.json", "--device", "cpu", cwd=elsewhere)
    (path,) = (fetched / "eval").iterdir()
    mask, stored = nib.load(path), nib.load(image)
    assert mask.shape == stored.shape
    np.testing.assert_allclose(mask.affine, stored.affine, atol=1e-3)
    found = np.asarray(mask.dataobj) > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > reached
    assert [path.name for path in elsewhere.iterdir()] == ["clicks.json"]
