"""Archives: unpacked whole or not at all, and nothing outside their folder."""

from __future__ import annotations

import errno
import fcntl
import gzip
import io
import shutil
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from release_files import pack

from adapters.datasets import archives
from adapters.datasets.archives import contents, is_archive, target, unpack


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    for name in ("Task10_Colon/dataset.json", "Task10_Colon/imagesTr/colon_001.nii.gz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * 3000)
    for name in ("Task10_Colon/imagesTr/._colon_001.nii.gz", "__MACOSX/x", "Task10_Colon/.DS_Store"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["Task10_Colon.tar", "Task10_Colon.tar.gz", "Task10_Colon.zip"])
def test_an_archive_of_one_folder_of_its_name(name: str, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert unpack(pack(tree, tmp_path / name), out) == out / "Task10_Colon"
    assert listing(out) == ["Task10_Colon/dataset.json", "Task10_Colon/imagesTr/colon_001.nii.gz"]
    assert (out / "Task10_Colon/dataset.json").read_bytes() == b"Task10_Colon/dataset.json" * 3000


def test_an_archive_of_another_name_gets_a_folder_of_its_own(tree: Path, tmp_path: Path) -> None:
    target = unpack(pack(tree, tmp_path / "Training_Batch1.zip"), tmp_path / "out")
    assert target == tmp_path / "out" / "Training_Batch1"
    assert listing(target) == ["Task10_Colon/dataset.json", "Task10_Colon/imagesTr/colon_001.nii.gz"]


def test_what_is_unpacked_is_taken_as_it_is(tree: Path, tmp_path: Path) -> None:
    archive = pack(tree, tmp_path / "Task10_Colon.tar")
    target = unpack(archive, tmp_path / "out")
    (target / "dataset.json").write_text("mine")
    assert unpack(archive, tmp_path / "out") == target
    assert (target / "dataset.json").read_text() == "mine"


def test_what_a_killed_run_left_is_removed(tree: Path, tmp_path: Path) -> None:
    left = tmp_path / "out" / ".Task10_Colon.partial"
    left.mkdir(parents=True)
    (left / "half").touch()
    target = unpack(pack(tree, tmp_path / "Task10_Colon.tar"), tmp_path / "out")
    assert not left.exists()
    assert "half" not in listing(target)


def with_member(archive: Path, name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "") -> Path:
    """An archive with a good member and one of this name."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr("good", "good")
            zipped.writestr(name, "bad")
        return archive
    with tarfile.open(archive, "w") as tar:
        for entry in (tarfile.TarInfo("good"), tarfile.TarInfo(name)):
            if entry.name == name:
                entry.type, entry.linkname = kind, link
            entry.size = 3 if entry.isfile() else 0
            tar.addfile(entry, io.BytesIO(b"bad"))
    return archive


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("name", ["../escaped", "/escaped", "a/../../escaped"])
def test_a_path_that_leaves_the_folder(suffix: str, name: str, tmp_path: Path) -> None:
    archive = with_member(tmp_path / f"bad{suffix}", name)
    with pytest.raises(ValueError, match=f"'{name}' in the archive is refused, nothing was unpacked"):
        unpack(archive, tmp_path / "out")
    assert listing(tmp_path) == [archive.name]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tarfile.SYMTYPE, "'odd' in the archive is refused, nothing was unpacked: Symbolic link"),
        (tarfile.LNKTYPE, "'odd' in the archive is refused, nothing was unpacked: Hard link"),
        (tarfile.FIFOTYPE, "'odd' in the archive is neither a file nor a folder"),
    ],
)
def test_links_and_devices(kind: bytes, message: str, tmp_path: Path) -> None:
    archive = with_member(tmp_path / "bad.tar", "odd", kind=kind, link="/etc/passwd")
    with pytest.raises(ValueError, match=message):
        unpack(archive, tmp_path / "out")
    assert listing(tmp_path) == ["bad.tar"]


def test_a_doubled_member(tmp_path: Path) -> None:
    archive = with_member(tmp_path / "bad.tar", "./good")
    with pytest.raises(ValueError, match=r"'./good' is in the archive twice"):
        unpack(archive, tmp_path / "out")
    assert listing(tmp_path) == ["bad.tar"]


@pytest.mark.parametrize("name", [f"Task10_Colon{end}" for end in (".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip")])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6])
def test_a_truncated_archive_leaves_nothing(name: str, kept: float, tree: Path, tmp_path: Path) -> None:
    archive = pack(tree, tmp_path / name)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=f"{name}' .* is truncated or damaged, nothing was unpacked; fetch it again"):
        unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("more", [0, 100])
def test_a_tar_cut_between_two_members_is_truncated(more: int, tree: Path, tmp_path: Path) -> None:
    """The reader of tar files takes such a one for whole."""
    archive = pack(tree, tmp_path / "Task10_Colon.tar")
    with tarfile.open(archive) as tar:
        second = [member for member in tar if "._" not in member.name and ".DS" not in member.name][1].offset
    whole = archive.read_bytes()
    archive.write_bytes(whole[: second + more])
    with pytest.raises(ValueError, match="is truncated or damaged, nothing was unpacked; fetch it again: there is no"):
        unpack(archive, tmp_path / "out")
    with pytest.raises(ValueError, match="is truncated or damaged"):
        contents(archive)
    assert list((tmp_path / "out").iterdir()) == []
    archive.write_bytes(whole)  # fetched again
    assert len(listing(unpack(archive, tmp_path / "out"))) == 2


@pytest.mark.parametrize("name", ["Task10_Colon.tar", "Task10_Colon.tgz", "Task10_Colon.zip"])
def test_what_is_no_archive_but_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("<html>404</html>")
    with pytest.raises(ValueError, match=rf"{name}' \(16 bytes\) is truncated or damaged"):
        unpack(tmp_path / name, tmp_path / "out")


@pytest.mark.parametrize("name", ["Task10_Colon.tar", "Task10_Colon.tar.xz", "Task10_Colon.zip"])
def test_contents(name: str, tree: Path, tmp_path: Path) -> None:
    archive = pack(tree, tmp_path / name)
    assert contents(archive) == ["Task10_Colon/dataset.json", "Task10_Colon/imagesTr/colon_001.nii.gz"]
    assert target(archive, tmp_path) == tmp_path / "Task10_Colon"


def test_a_damaged_member_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    archive = pack(tree, tmp_path / "Task10_Colon.zip")
    content = bytearray(archive.read_bytes())
    content[2000] ^= 255
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="truncated or damaged, nothing was unpacked; fetch it again: Bad CRC"):
        unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_disk_that_is_too_small(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tree, tmp_path / "Task10_Colon.tar")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"the disk is too small, nothing of Task10_Colon.tar is left .* 1000 are free"):
        unpack(archive, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_disk_that_fills_up(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tree, tmp_path / "Task10_Colon.tar")
    members = []

    class Full(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise OSError(errno.ENOSPC, "No space left on device")

    content = tarfile.TarFile.extractfile

    def second_fails(opened: tarfile.TarFile, member: tarfile.TarInfo) -> object:
        members.append(member.name)
        return content(opened, member) if len(members) == 1 else Full()

    monkeypatch.setattr(tarfile.TarFile, "extractfile", second_fails)
    with pytest.raises(OSError, match=r"the disk is too small, nothing of Task10_Colon.tar is left unpacked") as caught:
        unpack(archive, tmp_path / "out")
    assert caught.value.errno == errno.ENOSPC
    assert len(members) == 2
    assert list((tmp_path / "out").iterdir()) == []


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no archive .*none.tar"):
        unpack(tmp_path / "none.tar", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "archive", "kept"),
    [
        ("Task10_Colon.tar", True, "Task10_Colon"),
        ("a.b.TAR.GZ", True, "a.b"),
        ("Training_Batch1.zip", True, "Training_Batch1"),
        ("volume-1.nii.gz", False, "volume-1.nii.gz"),
        ("._Task10_Colon.tar", False, "._Task10_Colon"),
    ],
)
def test_names(name: str, archive: bool, kept: str) -> None:
    assert (is_archive(Path(name)), target(Path(name), Path("out"))) == (archive, Path("out") / kept)


def header(kind: bytes, size: int, name: str = "././@Header") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % tarfile.BLOCKSIZE)


def pax(text: str) -> bytes:
    return header(tarfile.XHDTYPE, len(text)) + padded(text.encode())


BIG = 2**30
ODD_HEADERS = {
    "pax of 1 GB": (header(tarfile.XHDTYPE, BIG), "a header has 1073741824 bytes, expected at most 1048576"),
    "pax for all": (header(tarfile.XGLTYPE, BIG), "a header has 1073741824 bytes"),
    "name of 1 GB": (header(tarfile.GNUTYPE_LONGNAME, BIG), "a header has 1073741824 bytes"),
    "link of 1 GB": (header(tarfile.GNUTYPE_LONGLINK, BIG), "a header has 1073741824 bytes"),
    "sparse": (header(tarfile.GNUTYPE_SPARSE, 0, "a"), "it holds a sparse file"),
    "sparse in pax": (
        pax("22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n") + header(tarfile.REGTYPE, 0, "a"),
        "it holds a sparse file",
    ),
    "headers of headers": (pax("6 a=b\n") * 2000, "truncated or damaged"),
    "members": (header(tarfile.REGTYPE, 0, "a") * 101, "it has more than 100 members"),
    "a number of 5000 digits": (
        pax("1" * 5000 + " a=b\n") + header(tarfile.REGTYPE, 0, "a"),
        "a header cannot be read",
    ),
}


@pytest.mark.parametrize(("blocks", "said"), ODD_HEADERS.values(), ids=ODD_HEADERS)
def test_headers_that_would_fill_the_memory(
    blocks: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_MOST_MEMBERS", 100)
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(gzip.compress(blocks + bytes(1024), 1))
    for read in (contents, lambda path: unpack(path, tmp_path / "out")):
        with pytest.raises(ValueError, match=rf"a\.tar\.gz' .*{said}"):
            read(archive)


def test_one_process_unpacks(tree: Path, tmp_path: Path) -> None:
    archive = pack(tree, tmp_path / "Task10_Colon.tar")
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".Task10_Colon.partial.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OSError, match=r"another process unpacks Task10_Colon.tar into .*out: wait until it"):
            unpack(archive, tmp_path / "out")
        assert not (tmp_path / "out" / "Task10_Colon").exists()
    unpack(archive, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["Task10_Colon"]
