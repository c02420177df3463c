"""Data sets that keep cases: nothing old is taken for new, and what cannot be right is refused."""

from __future__ import annotations

import importlib
import logging
import os
import runpy
import subprocess
import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, Lambdad, MapTransform, RandScaleIntensityd
from scan_files import affine_of, write_in_two

from adapters.transforms import LoadScand, cached_dataset
from adapters.transforms.caching import _transform_hash

ROOT = Path(__file__).resolve().parents[2]


class Read(MapTransform):
    """Reads a file of numbers, and counts how often."""

    count: ClassVar[list[str]] = []

    def __init__(self, keys: str, factor: float = 1.0) -> None:
        super().__init__(keys)
        self.factor = factor

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        self.count.append(str(data["image"]))
        values = [float(word) for word in Path(data["image"]).read_text().split()]
        return {**data, "image": torch.tensor([values]) * self.factor}


class CountFiles(MapTransform):
    """Counts the files of a folder."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, "image": torch.tensor([float(len(list(Path(data["image"]).iterdir())))])}


@pytest.fixture
def case(tmp_path: Path) -> dict[str, Any]:
    Read.count.clear()
    path = tmp_path / "scans" / "scan.txt"
    path.parent.mkdir()
    path.write_text("1 2 3")
    return {"image": str(path), "number": 7}


def numbers(case: dict[str, Any], folder: Path, factor: float = 1.0) -> list[float]:
    transform = Compose([Read("image", factor), RandScaleIntensityd("image", factors=(1.0, 1.0), prob=1.0)])
    item = cached_dataset([case], transform, "disk", folder)[0]
    assert item["number"] == 7
    return (item["image"][0] / 2).tolist()  # after the random transform, which adds as much again


def test_a_case_is_made_once(case: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    for _ in range(3):
        assert numbers(case, folder) == [1, 2, 3]
    assert len(Read.count) == 1
    assert [path.suffix for path in folder.iterdir()] == [".pt"]  # and nothing unfinished beside it


def test_a_changed_file_is_read_again(case: dict[str, Any], tmp_path: Path) -> None:
    folder, path = tmp_path / "cache", Path(case["image"])
    assert numbers(case, folder) == [1, 2, 3]
    before = path.stat().st_mtime_ns
    path.write_text("1 2 4")  # of the same size
    os.utime(path, ns=(before + 1, before + 1))
    assert numbers(case, folder) == [1, 2, 4]
    path.write_text("1 2 3 4")
    os.utime(path, ns=(before + 1, before + 1))  # changed at the same time
    assert numbers(case, folder) == [1, 2, 3, 4]


def test_a_changed_file_of_a_folder_is_read_again(tmp_path: Path) -> None:
    series = tmp_path / "series"
    series.mkdir()
    for count in (1, 2):
        (series / f"{count}.dcm").touch()
        kept = cached_dataset([{"image": str(series)}], Compose([CountFiles("image")]), "disk", tmp_path / "cache")
        assert kept[0]["image"].item() == count


@pytest.mark.parametrize("header", ["ct.mhd", "ct.nhdr", "ct.hdr"])
def test_voxels_replaced_beside_their_header(tmp_path: Path, header: str) -> None:
    arrays = [np.random.default_rng(seed).integers(0, 100, (4, 5, 6)).astype(np.int16) for seed in range(2)]
    affine = affine_of("LPS")
    voxels = tmp_path / "scan" / ("ct.img" if header == "ct.hdr" else "ct.raw")
    write_in_two(tmp_path / "other", header, arrays[1], affine)
    path = write_in_two(tmp_path / "scan", header, arrays[0], affine)
    kept = cached_dataset([{"image": path}], Compose([LoadScand("image")]), "disk", tmp_path / "cache")
    for array in arrays:
        values = [kept[0]["image"] for _ in range(2)][1]
        np.testing.assert_array_equal(np.sort(np.ravel(values)), np.sort(array.ravel()))
        before = voxels.stat().st_mtime_ns
        voxels.write_bytes((tmp_path / "other" / voxels.name).read_bytes())
        os.utime(voxels, ns=(before + 1, before + 1))


def test_a_file_of_an_unknown_format_goes_with_its_folder(case: dict[str, Any], tmp_path: Path) -> None:
    """It may be the header of another. A file that has all in it does not."""
    numbers(case, tmp_path / "cache")
    (tmp_path / "scans" / "scan.dat").touch()
    numbers(case, tmp_path / "cache")
    assert len(Read.count) == 2
    case["image"] = str(Path(case["image"]).rename(tmp_path / "scans" / "scan.nii"))
    numbers(case, tmp_path / "cache")
    (tmp_path / "scans" / "more.dat").touch()
    numbers(case, tmp_path / "cache")
    assert len(Read.count) == 3


def test_words_are_no_paths(case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the empty one the current folder, whose files change."""
    monkeypatch.chdir(tmp_path)
    case |= {"empty": "", "tilde": "~no such user", "long": "word " * 100}
    assert numbers(case, tmp_path / "cache") == [1, 2, 3]
    (tmp_path / "log.txt").touch()
    assert numbers(case, tmp_path / "cache") == [1, 2, 3]
    assert len(Read.count) == 1


def test_a_changed_option_makes_it_anew(case: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert numbers(case, folder) == [1, 2, 3]
    assert numbers(case, folder, factor=2.0) == [2, 4, 6]
    assert numbers(case, folder) == [1, 2, 3]
    assert len(Read.count) == 2


USERS = """
from monai.transforms import MapTransform

def double(x):
    return twice(x) * 1

def twice(x):
    return x * 2

class Add(MapTransform):
    def __call__(self, data):
        return dict(data, image=data["image"] + 1)
"""
EDITS = [("", "", [3, 5, 7]), ("x * 2", "x * 3", [4, 7, 10]), ("+ 1", "+ 2", [4, 6, 8])]


def test_edited_code_makes_it_anew(case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's own, called as before; also what it calls in its module."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "module_of_a_user.py"
    module.write_text(USERS)
    users = importlib.import_module(module.stem)
    try:
        for _ in range(2):
            for old, new, expected in EDITS:
                module.write_text(USERS.replace(old, new) if old else USERS)
                users = importlib.reload(users)
                transforms = Compose([Read("image"), Lambdad("image", users.double), users.Add("image")])
                image = cached_dataset([case], transforms, "disk", tmp_path / "cache")[0]["image"]
                assert image.tolist() == [expected]
    finally:
        del sys.modules[module.stem]
    assert len(Read.count) == len(EDITS)


def test_an_edited_script_makes_it_anew(case: dict[str, Any], tmp_path: Path) -> None:
    """Of a script that runs, the lines of the function and of the class themselves."""
    script = tmp_path / "script.py"
    code = (
        USERS.replace("twice(x) * 1", "x * 2")
        + """
from monai.transforms import Compose, Lambdad
from adapters.transforms import cached_dataset
transforms = Compose([Read("image"), Lambdad("image", double), Add("image")])
kept = cached_dataset([case], transforms, "disk", folder)[0]["image"].tolist()
"""
    )
    variables = {"Read": Read, "case": case, "folder": tmp_path / "cache"}
    for old, new, expected, count in [
        ("", "", [3, 5, 7], 1),
        ("x * 2\n\ndef", "x * 3\n\ndef", [4, 7, 10], 2),
        ("+ 1", "+ 2", [4, 6, 8], 3),
        ("kept =", "another_name = kept =", [3, 5, 7], 3),
    ]:
        script.write_text(code.replace(old, new) if old else code)
        assert runpy.run_path(str(script), variables, "__main__")["kept"] == [expected]
        assert len(Read.count) == count


def test_code_without_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", prompt)
    exec(USERS, vars(prompt))
    with pytest.raises(ValueError, match=r"the source of __main__.double is not to be had.*: expected no lambda"):
        cached_dataset([], Compose([Lambdad("image", vars(prompt)["double"])]), "disk", tmp_path)


def test_another_version_makes_it_anew(case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers(case, tmp_path / "cache")
    monkeypatch.setattr("adapters.__version__", "99.0")
    numbers(case, tmp_path / "cache")
    assert len(Read.count) == 2


def test_a_broken_file_is_made_anew(case: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "cache"
    numbers(case, folder)
    (kept,) = folder.iterdir()
    whole = kept.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"something else"):
        kept.write_bytes(broken)
        with caplog.at_level(logging.WARNING):
            assert numbers(case, folder) == [1, 2, 3]
        assert f"{kept} cannot be read" in caplog.text
        caplog.clear()
        assert kept.stat().st_size == len(whole)


@pytest.mark.parametrize(("cache", "reads"), [("memory", 1), ("none", 3)])
def test_memory_and_none(case: dict[str, Any], cache: Any, reads: int) -> None:
    dataset = cached_dataset([case], Compose([Read("image")]), cache)
    assert [dataset[0]["image"].tolist() for _ in range(3)] == [[[1, 2, 3]]] * 3
    assert len(Read.count) == reads


@pytest.mark.parametrize(
    ("cache", "folder", "transform", "message"),
    [
        ("disc", None, Read("image"), r"cache='disc': expected one of memory, disk, none"),
        ("disk", None, Read("image"), r"cache='disk' with cache_dir=None: expected the folder"),
        ("disk", "kept", Lambdad("image", lambda x: x), "expected no lambda before the first random transform"),
    ],
)
def test_refused(
    case: dict[str, Any], tmp_path: Path, cache: Any, folder: str | None, transform: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cached_dataset([case], Compose([transform]), cache, folder and tmp_path / folder)


def test_a_case_that_is_no_path_is_refused(tmp_path: Path) -> None:
    dataset = cached_dataset([{"image": torch.zeros(1, 2)}], Compose([Read("image")]), "disk", tmp_path)
    with pytest.raises(ValueError, match=r"cannot be written down .*Tensor.*expected paths, numbers and words"):
        dataset[0]


def names_of_transforms(bundles: Sequence[str]) -> list[str]:
    """What the names of the files of these bundles' trainings end with."""
    digests = []
    for bundle in bundles:
        parser = ConfigParser()
        parser.read_config(f"{bundle}/configs/train.json")
        parser.update({"bundle_root": bundle})
        own = "loading_transforms" in parser
        parts = ("loading_transforms", "resampling_transforms") if own else ("preprocessing_transforms",)
        digests.append(_transform_hash([each for part in parts for each in parser.get_parsed_content(part)]).decode())
    return digests


def test_what_the_bundles_keep_has_the_same_name_in_another_process() -> None:
    """Or a later training would not find it: sets of words have another order in each process."""
    names = ("soft_tissue_sarcoma_ct", "kidney_tumor_ct")
    bundles = [str(ROOT / "bundles" / f"{name}_samadapter_deepgrow") for name in names]
    code = "import sys; from test_caching import names_of_transforms; print(*names_of_transforms(sys.argv[1:]))"
    other = subprocess.run(
        [sys.executable, "-c", code, *bundles],
        env={**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"},
        capture_output=True,
        text=True,
        check=True,
    )
    own = names_of_transforms(bundles)
    assert other.stdout.split() == own
    assert own[0] != own[1]
