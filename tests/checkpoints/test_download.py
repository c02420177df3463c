"""Fetching SAM's files: whole and checked, or nothing in their place and one sentence that helps."""

from __future__ import annotations

import fcntl
import hashlib
import io
import re
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from segment_anything import sam_model_registry

from adapters import fetching
from adapters.__main__ import main
from adapters.checkpoints import WEIGHTS, WeightFile, download_weights, load_sam

CONTENT = bytes(range(256)) * 40  # 10240 bytes
FILE = "sam_small_000000.pth"
OTHER = CONTENT[::-1]
PAGE = Path(__file__).parents[2] / "docs/how-to/weights.md"


@dataclass
class Server:
    """What the local server does, and what it was asked."""

    content: bytes = CONTENT
    etag: str = '"one"'
    ranges: bool = True
    status: dict[int, int] = field(default_factory=dict)  # by number of the request: an error instead of the file
    stop_after: dict[int, int] = field(default_factory=dict)  # by number of the request: bytes before it hangs up
    length: bool = True
    kind: str = "binary/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)  # instead of its own
    asked: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        number = len(self.asked)
        asked = dict(handler.headers.items())
        self.asked.append({name: asked[name] for name in ("Range", "If-Range") if name in asked})
        self.paths.append(handler.path)
        if number in self.status:
            handler.send_error(self.status[number])
            return
        start = 0
        if "Range" in asked and self.ranges and asked.get("If-Range", self.etag) == self.etag:
            start = int(asked["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.content):
                handler.send_error(416)
                return
        own = {"Content-Type": self.kind, "Content-Length": str(len(self.content) - start)}
        if self.etag:
            own["ETag"] = self.etag
        if start:
            own["Content-Range"] = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        if not self.length:
            del own["Content-Length"]
        handler.send_response(206 if start else 200)
        for name, value in {**own, **self.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(self.content[start:][: self.stop_after.get(number)])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on this machine that has a small file in the place of SAM's."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *args: Any) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetching, "_WAIT_S", 0.0)
    small = WeightFile(FILE, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(WEIGHTS, "sam_vit_b", small)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_address[1]}/files"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield state
        http.shutdown()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_fetches_checks_and_leaves_nothing_else(server: Server, tmp_path: Path) -> None:
    path = download_weights("sam_vit_b", tmp_path / "new" / "folder", url=server.url + "/")
    assert path == tmp_path / "new" / "folder" / FILE
    assert files(path.parent) == {FILE: CONTENT}
    assert server.asked == [{}]
    assert server.paths == [f"/files/{FILE}"]


def test_what_is_there_and_right_is_not_fetched(server: Server, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(CONTENT)
    assert download_weights("sam_vit_b", tmp_path, url=server.url) == tmp_path / FILE
    assert server.asked == []


@pytest.mark.parametrize(
    ("content", "message"),
    [(CONTENT[:-1], "but has 10239 bytes, expected 10240: remove it"), (OTHER, "but has the sha256 .* expected .*")],
)
def test_what_is_there_and_wrong_is_left_to_the_user(
    server: Server, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{FILE} is there already, {message}"):
        download_weights("sam_vit_b", tmp_path, url=server.url)
    assert files(tmp_path) == {FILE: content}
    assert server.asked == []


def test_goes_on_after_breaks(server: Server, tmp_path: Path) -> None:
    server.stop_after = {0: 4000, 1: 3000, 2: 0}
    path = download_weights("sam_vit_b", tmp_path, url=server.url)
    assert files(tmp_path) == {path.name: CONTENT}
    rest = {"If-Range": '"one"'}
    assert server.asked == [
        {},
        {"Range": "bytes=4000-", **rest},
        {"Range": "bytes=7000-", **rest},
        {"Range": "bytes=7000-", **rest},
    ]


def test_goes_on_in_the_next_call(server: Server, tmp_path: Path) -> None:
    server.stop_after = {0: 4000, **dict.fromkeys(range(1, 9), 0)}
    with pytest.raises(OSError, match=r"broke off after 4000 of 10240 bytes \(the connection was closed\): run it ag"):
        download_weights("sam_vit_b", tmp_path, url=server.url)
    assert files(tmp_path) == {f"{FILE}.part": CONTENT[:4000], f"{FILE}.part.etag": b'"one"'}
    assert len(server.asked) == 4  # and three more tries
    server.asked.clear()
    server.stop_after = {}
    download_weights("sam_vit_b", tmp_path, url=server.url)
    assert server.asked == [{"Range": "bytes=4000-", "If-Range": '"one"'}]
    assert files(tmp_path) == {FILE: CONTENT}


def test_each_byte_that_comes_gives_new_tries(server: Server, tmp_path: Path) -> None:
    server.stop_after = dict.fromkeys(range(9), 1000)
    download_weights("sam_vit_b", tmp_path, url=server.url)
    assert len(server.asked) == 10
    assert files(tmp_path) == {FILE: CONTENT}


@pytest.mark.parametrize("etag", ["", 'W/"weak"', "unquoted"])
def test_without_a_strong_etag_there_is_no_if_range(server: Server, tmp_path: Path, etag: str) -> None:
    server.etag, server.stop_after = etag, {0: 4000}
    download_weights("sam_vit_b", tmp_path, url=server.url)
    assert server.asked == [{}, {"Range": "bytes=4000-"}]
    assert files(tmp_path) == {FILE: CONTENT}


def test_a_server_without_ranges_sends_it_all_again(server: Server, tmp_path: Path) -> None:
    server.ranges, server.stop_after = False, {0: 4000, 1: 2000}
    download_weights("sam_vit_b", tmp_path, url=server.url)
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=4000-", "bytes=2000-"]
    assert files(tmp_path) == {FILE: CONTENT}


def test_a_server_without_ranges_that_always_breaks_is_given_up(server: Server, tmp_path: Path) -> None:
    server.ranges, server.stop_after = False, dict.fromkeys(range(20), 4000)
    with pytest.raises(OSError, match="broke off after 4000 of 10240 bytes"):
        download_weights("sam_vit_b", tmp_path, url=server.url)
    assert len(server.asked) == 4


def test_a_file_that_has_changed_on_the_server_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(OTHER[:4000])
    (tmp_path / f"{FILE}.part.etag").write_text('"zero"')
    download_weights("sam_vit_b", tmp_path, url=server.url)
    assert server.asked == [{"Range": "bytes=4000-", "If-Range": '"zero"'}]
    assert files(tmp_path) == {FILE: CONTENT}


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 3000-10239/10240"},
        {"Content-Range": "nonsense"},
        {"ETag": '"two"'},  # although If-Range asked for "one"
    ],
)
def test_a_wrong_part_is_not_appended(server: Server, tmp_path: Path, headers: dict[str, str]) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:4000])
    (tmp_path / f"{FILE}.part.etag").write_text('"one"')
    server.headers = headers
    download_weights("sam_vit_b", tmp_path, url=server.url)
    assert [asked.get("Range") for asked in server.asked] == ["bytes=4000-", None]
    assert files(tmp_path) == {FILE: CONTENT}


def test_a_part_that_has_it_all_needs_no_server(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT)
    download_weights("sam_vit_b", tmp_path, url=server.url)
    assert server.asked == []
    assert files(tmp_path) == {FILE: CONTENT}


def test_a_part_that_is_too_long_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT + b"x")
    download_weights("sam_vit_b", tmp_path, url=server.url)
    assert server.asked == [{}]
    assert files(tmp_path) == {FILE: CONTENT}


def test_a_range_that_the_server_refuses_starts_over(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:4000])
    server.status = {0: 416}
    download_weights("sam_vit_b", tmp_path, url=server.url)
    assert [asked.get("Range") for asked in server.asked] == ["bytes=4000-", None]
    assert files(tmp_path) == {FILE: CONTENT}


@pytest.mark.parametrize("length", [True, False])
def test_other_content_is_removed(server: Server, tmp_path: Path, *, length: bool) -> None:
    server.content, server.length = OTHER, length
    expected = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(ValueError, match=rf"what came from http.* has the sha256 .* expected {expected}, and was rem"):
        download_weights("sam_vit_b", tmp_path, url=server.url)
    assert files(tmp_path) == {}


def test_a_spoilt_part_is_removed_and_the_next_call_is_right(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(OTHER[:4000])
    with pytest.raises(ValueError, match="and was removed: run it again"):
        download_weights("sam_vit_b", tmp_path, url=server.url)
    download_weights("sam_vit_b", tmp_path, url=server.url)
    assert files(tmp_path) == {FILE: CONTENT}


def test_no_more_is_taken_than_is_wanted(server: Server, tmp_path: Path) -> None:
    server.content, server.length = CONTENT * 100, False
    download_weights("sam_vit_b", tmp_path, url=server.url)
    assert files(tmp_path) == {FILE: CONTENT}


@pytest.mark.parametrize(
    ("have", "content", "kind", "message"),
    [
        (0, CONTENT[:-1], "binary/octet-stream", "has 10239 bytes, expected 10240: the address has another file"),
        (4000, CONTENT + b"x", "binary/octet-stream", "has 10241 bytes, expected 10240: the address has another file"),
        (
            4000,
            b"<html>log in</html>" * 1000,
            "text/html; charset=utf-8",
            f"answered with a web page instead of {FILE}",
        ),
    ],
)
def test_what_cannot_be_the_file_is_not_taken(
    server: Server, tmp_path: Path, have: int, content: bytes, kind: str, message: str
) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:have])
    server.content, server.kind = content, kind
    with pytest.raises(ValueError, match=message):
        download_weights("sam_vit_b", tmp_path, url=server.url)
    assert files(tmp_path) == ({f"{FILE}.part": CONTENT[:have]} if have else {})


@pytest.mark.parametrize(("status", "reason"), [(404, "404 Not Found"), (403, "403 Forbidden")])
def test_a_server_that_refuses(server: Server, tmp_path: Path, status: int, reason: str) -> None:
    server.status = dict.fromkeys(range(9), status)
    with pytest.raises(
        OSError, match=rf"{FILE} cannot be fetched \({reason}\): fetch that file \(0 MB\) where .* put it at"
    ):
        download_weights("sam_vit_b", tmp_path, url=server.url)
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.status = {0: 503, 1: 503}
    download_weights("sam_vit_b", tmp_path, url=server.url)
    assert len(server.asked) == 3
    assert files(tmp_path) == {FILE: CONTENT}
    server.status = dict.fromkeys(range(20), 503)
    with pytest.raises(OSError, match=r"broke off after 0 of 10240 bytes \(503 Service Unavailable\)"):
        download_weights("sam_vit_b", tmp_path / "again", url=server.url)


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.usefixtures("server")
def test_no_network_gives_one_sentence_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    with pytest.raises(SystemExit) as stop:
        main(["download", "sam_vit_b", "--output", str(tmp_path), "--url", url])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"error: {url}/{FILE} cannot be reached (Connection refused): fetch that file (0 MB) where there is a network "
        f"and put it at {tmp_path / FILE}, or name another address that has it (--url)\n"
    )


@pytest.mark.usefixtures("server")
def test_a_name_that_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*args: Any, **kwargs: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(
        OSError, match=rf"^https://dl\.fbaipublicfiles\.com/segment_anything/{FILE} cannot be reached \("
    ):
        download_weights("sam_vit_b", tmp_path)


def test_a_silent_server(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(OSError, match=r"cannot be reached \(timed out\)"):
            download_weights("sam_vit_b", tmp_path, url=url)
    assert server.asked == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vit_b"}, "weights 'vit_b' are unknown, expected one of sam_vit_b, sam_vit_l, sam_vit_h"),
        ({"url": "ftp://here/files"}, "url is 'ftp://here/files', expected the http or https address of a folder"),
        ({"url": "mirror/files"}, "url is 'mirror/files', expected the http or https address"),
        ({"url": "http:///files"}, "url is 'http:///files', expected the http or https address"),
        ({"output": __file__}, r"output is '.*test_download\.py', which is a file: expected a folder for sam_vit_b_01"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        download_weights(**{"name": "sam_vit_b", "output": str(tmp_path / "new"), **arguments})
    assert files(tmp_path) == {}


def test_a_small_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{FILE}.part").write_bytes(CONTENT[:4000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=6239))
    with pytest.raises(OSError, match=rf"has 0 MB free, but {FILE} needs 0 MB: make room, or choose another folder"):
        download_weights("sam_vit_b", tmp_path, url=server.url)
    assert server.asked == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=6240))
    download_weights("sam_vit_b", tmp_path, url=server.url)
    assert files(tmp_path) == {FILE: CONTENT}


def test_a_disk_that_fills_up() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with (
        full.open("ab", buffering=0) as file,
        pytest.raises(OSError, match=r"/dev/full cannot be written \(No space left on device\): make room there"),
    ):
        fetching._write(file, CONTENT)


def test_two_at_once(server: Server, tmp_path: Path) -> None:
    with (tmp_path / f"{FILE}.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OSError, match=rf"another process is writing .*{FILE}\.part: wait until it is done"):
            download_weights("sam_vit_b", tmp_path, url=server.url)
    download_weights("sam_vit_b", tmp_path, url=server.url)
    assert files(tmp_path) == {FILE: CONTENT}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("progress", "shown"), [(True, True), (False, False)])
def test_a_terminal_shows_progress(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, progress: bool, shown: bool
) -> None:
    monkeypatch.setattr(fetching, "_WAIT_S", 0.2)  # so that the bar has a reason to be drawn
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    server.stop_after = {0: 5120}
    download_weights("sam_vit_b", tmp_path, url=server.url, progress=progress)
    assert (f"{FILE}: 100%" in terminal.getvalue()) == shown
    assert ("10.2k/10.2k" in terminal.getvalue()) == shown


def test_the_verb(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["download", "sam_vit_b", "--output", str(tmp_path), "--url", server.url])
    assert capsys.readouterr().out == f"{tmp_path / FILE}: 0 MB, sha256 checked, licence Apache-2.0\n"
    assert files(tmp_path) == {FILE: CONTENT}


@pytest.mark.parametrize("name", ["sam_vit_b", "sam_vit_l", "sam_vit_h"])
def test_the_known_sizes_are_those_of_the_networks(name: str) -> None:
    with torch.device("meta"):
        sam = sam_model_registry[name.removeprefix("sam_")]()
    tensors = 4 * sum(tensor.numel() for tensor in sam.state_dict().values())
    assert 0 < WEIGHTS[name].size - tensors < 200_000  # names and headers of a few hundred tensors
    assert re.fullmatch(rf"{name}_[0-9a-f]{{6}}\.pth", WEIGHTS[name].file)
    assert re.fullmatch(r"[0-9a-f]{64}", WEIGHTS[name].sha256)


@pytest.mark.parametrize(
    ("file", "verb"),
    [
        ("sam_vit_b_01ec64.pth", "`python -m adapters download sam_vit_b --output {folder}`"),
        ("sam_vit_h_4b8939.pth", "`python -m adapters download sam_vit_h --output {folder}`"),
        ("mine.pth", r"`python -m adapters download sam_vit_b\|sam_vit_l\|sam_vit_h`"),
    ],
)
def test_a_missing_sam_file_names_the_verb(tmp_path: Path, file: str, verb: str) -> None:
    with pytest.raises(
        FileNotFoundError, match=f"{file} does not exist: check the path, or fetch SAM's with "
    ) as raised:
        load_sam(tmp_path / file)
    assert re.search(verb.format(folder=re.escape(str(tmp_path))), str(raised.value))


def test_the_page_has_the_same_files() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, weights in WEIGHTS.items():
        row = f"| `{name}` | `{weights.file}` | {weights.size:,} | `{weights.sha256}` |"
        assert row in page
        assert weights.url in page
