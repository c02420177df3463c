"""Data sets that keep cases: nothing old is taken for new, and what cannot be right is refused."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, Lambdad, MapTransform, RandScaleIntensityd

from adapters.transforms import cached_dataset
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
    path = tmp_path / "scan.txt"
    path.write_text("1 2 3")
    return {"image": str(path), "number": 7}


def numbers(case: dict[str, Any], folder: Path, factor: float = 1.0) -> list[float]:
    transform = Compose([Read("image", factor), RandScaleIntensityd("image", factors=(1.0, 1.0), prob=1.0)])
    found = cached_dataset([case], transform, "disk", folder)[0]
    assert found["number"] == 7
    return (found["image"][0] / 2).tolist()  # after the random transform, which adds as much again


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
    found = []
    for bundle in bundles:
        parser = ConfigParser()
        parser.read_config(f"{bundle}/configs/train.json")
        parser.update({"bundle_root": bundle})
        own = "loading_transforms" in parser
        parts = ("loading_transforms", "resampling_transforms") if own else ("preprocessing_transforms",)
        found.append(_transform_hash([each for part in parts for each in parser.get_parsed_content(part)]).decode())
    return found


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
    here = names_of_transforms(bundles)
    assert other.stdout.split() == here
    assert here[0] != here[1]
