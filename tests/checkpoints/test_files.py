"""Broken, foreign and dangerous files are refused in one sentence; files are written whole or not at all."""

from __future__ import annotations

import functools
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from adapters.checkpoints import convert, initialise, load_adapter, load_model, load_published, load_sam
from adapters.checkpoints.files import kind_of, read_checkpoint, replacing
from adapters.networks import build_sam_adapter3d

READERS: dict[str, Callable[[Path], Any]] = {
    "load_sam": load_sam,
    "load_published": load_published,
    "load_model": load_model,
    "convert": lambda path: convert(path, path.with_name("output.pt")),
    "initialise": lambda path: initialise(build_sam_adapter3d("tiny", crop_size=16), pretrained=path),
}


class _Code:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(open, str(self.path), "w"), ()


def _whole(path: Path) -> bytes:
    torch.save({f"image_encoder.{i}": torch.randn(100) for i in range(10)}, path)
    return path.read_bytes()


def _missing(path: Path) -> None:
    path.unlink(missing_ok=True)


def _folder(path: Path) -> None:
    path.mkdir()


def _empty(path: Path) -> None:
    path.touch()


def _text(path: Path) -> None:
    path.write_text("<html>404 not found</html>")


def _pointer(path: Path) -> None:
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 375042383\n")


def _half(path: Path) -> None:
    content = _whole(path)
    path.write_bytes(content[: len(content) // 2])


def _start(path: Path) -> None:
    path.write_bytes(_whole(path)[:10])


def _old_format_half(path: Path) -> None:
    torch.save({"a": torch.randn(1000)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _code(path: Path) -> None:
    torch.save({"image_encoder.pos_embed": torch.zeros(1), "x": _Code(path.with_name("ran"))}, path)


def _module(path: Path) -> None:
    torch.save(nn.Linear(2, 2), path)


def _foreign(path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1), "conv1.bias": torch.zeros(1)}, path)


def _number(path: Path) -> None:
    torch.save(3, path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (_missing, FileNotFoundError, r"the checkpoint .*file\.pth does not exist"),
        (_folder, ValueError, r"the checkpoint .*file\.pth is not a file"),
        (_empty, ValueError, r"file\.pth \(0 bytes\) cannot be read: it is truncated, damaged or no PyTorch file"),
        (_text, ValueError, r"file\.pth is a web page that was saved in place of the file: download it again"),
        (
            _pointer,
            ValueError,
            r"file\.pth is a pointer of git LFS, not the file itself: fetch that with `git lfs pull`",
        ),
        (_half, ValueError, r"file\.pth \(\d+ bytes\) cannot be read: it is truncated"),
        (_start, ValueError, r"file\.pth \(10 bytes\) cannot be read: it is truncated"),
        (_old_format_half, ValueError, r"file\.pth \(\d+ bytes\) cannot be read: it is truncated"),
        (_code, ValueError, r"file\.pth holds Python objects besides tensors, which could run code"),
        (_module, ValueError, r"file\.pth holds Python objects besides tensors, which could run code"),
        (_foreign, ValueError, r"file\.pth has the entries conv1\.weight, conv1\.bias: expected SAM's checkpoint"),
        (_number, ValueError, r"file\.pth holds a int: expected SAM's checkpoint"),
    ],
)
def test_bad_files(
    tmp_path: Path, reader: str, make: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    path = tmp_path / "file.pth"
    make(path)
    with pytest.raises(error, match=message) as raised:
        READERS[reader](path)
    assert "\n" not in str(raised.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ([] if make is _missing else ["file.pth"])  # no code ran


@pytest.mark.parametrize(
    "tensor", [torch.zeros(1).expand(10**9, 10**9), torch.empty(5, device="meta"), torch.ones(3, 3).to_sparse()]
)
def test_tensors_without_all_their_numbers(tensor: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"a": [{"b": tensor}]}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"file\.pth holds a tensor of shape .* and \d bytes: expected dense tensors"):
        read_checkpoint(tmp_path / "file.pth")


def test_a_file_that_was_compressed(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "plain.pth")
    with ZipFile(tmp_path / "plain.pth") as plain, ZipFile(tmp_path / "file.pth", "w", ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(ValueError, match=r"file\.pth holds compressed parts, which PyTorch does not write"):
        read_checkpoint(tmp_path / "file.pth")


@pytest.mark.parametrize("write", [torch.save, save_file], ids=["PyTorch", "safetensors"])
def test_a_full_disk(write: Callable[..., Any], tmp_path: Path) -> None:
    """A limit on the size of files stands for it."""
    path = tmp_path / "model.pt"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        said = r"model\.pt' cannot be written \(.*\) and stays as it was: make room"
        with pytest.raises(OSError, match=said), replacing(path, overwrite=True) as temporary:
            write({"a": torch.zeros(2**20)}, temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("entries", "kind"),
    [
        (["encoder_dict", "feature_dict", "decoder_dict", "epoch"], "published"),
        (["image_encoder.pos_embed", "prompt_encoder.x"], "sam"),
        (["image_encoder.pos_embed", "image_encoder.depth_embed"], "ours"),
    ],
)
def test_kinds(entries: list[str], kind: str) -> None:
    assert kind_of(dict.fromkeys(entries)) == kind


def test_nothing_can_be_told_from_an_empty_dictionary() -> None:
    with pytest.raises(ValueError, match="the checkpoint is empty: expected"):
        kind_of({})


def test_plain_tensors_come_back(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3.0), "n": 2}, tmp_path / "a.pt")
    read = read_checkpoint(str(tmp_path / "a.pt"))
    assert read["a"].tolist() == [0.0, 1.0, 2.0]
    assert read["n"] == 2


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_text("old")

    def write() -> None:
        with replacing(path, overwrite=True) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "taken.pt",
            ValueError,
            r"taken\.pt exists already: choose another name, or overwrite it \(overwrite=True, --overwrite\)",
        ),
        ("folder", ValueError, "the output .*folder is a folder"),
        ("nowhere/model.pt", FileNotFoundError, "the folder .*nowhere does not exist"),
    ],
)
def test_outputs_that_are_refused(tmp_path: Path, name: str, error: type[Exception], message: str) -> None:
    (tmp_path / "taken.pt").write_text("old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(error, match=message), replacing(tmp_path / name, overwrite=False):
        pytest.fail("must not be entered")
    assert (tmp_path / "taken.pt").read_text() == "old"


def test_broken_adapters(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    with pytest.raises(FileNotFoundError, match=r"the adapter .*adapter\.safetensors does not exist"):
        load_adapter(path, path)
    path.write_bytes(b"12345")
    with pytest.raises(ValueError, match=re.escape(f"the adapter {path} cannot be read")):
        load_adapter(path, path)
    with pytest.raises(ValueError, match="is not a file"):
        load_adapter(tmp_path, path)
