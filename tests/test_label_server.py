"""Starting MONAI Label's server, as far as it goes without MONAI Label; the rest is `make test-label`."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
from pathlib import Path

import pytest

from adapters.__main__ import main
from adapters.label import APP, answer_errors, arrange, command, find_bundles, is_training, show_options
from adapters.label.server import environment


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    """One with weights, one without, and a folder that is no bundle."""
    for name in ("lung", "liver"):
        (tmp_path / "bundles" / name / "configs").mkdir(parents=True)
        (tmp_path / "bundles" / name / "configs" / "inference.json").write_text("{}")
    (tmp_path / "bundles" / "lung" / "models").mkdir()
    (tmp_path / "bundles" / "lung" / "models" / "model.pt").write_bytes(b"weights")
    (tmp_path / "bundles" / "other").mkdir()
    return tmp_path / "bundles"


def test_bundles_without_weights_are_named(bundles: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert find_bundles(bundles) == [bundles / "lung"]
    (said,) = caplog.messages
    assert said.startswith("liver is left out: it has no weights (models/model.pt) yet")
    assert said.endswith("python -m adapters init liver")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["heart"], "'heart' is no bundle of .*, expected one of liver, lung"),
        (["liver"], "no bundle of .* has weights"),
    ],
)
def test_bundles_that_cannot_be_served(bundles: Path, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_bundles(bundles, names)
    with pytest.raises(FileNotFoundError, match="there is no folder of bundles"):
        find_bundles(bundles / "none")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of git LFS, not the file itself"),
        (b"<!DOCTYPE html>\n", "is a web page that was saved in place of the file"),
        (b"PK\x03\x04", "(4 bytes) cannot be read: it is truncated"),
    ],
)
def test_weights_that_are_none_are_named(
    content: bytes, said: str, bundles: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (bundles / "liver" / "models").mkdir()
    (bundles / "liver" / "models" / "model.pt").write_bytes(content)
    assert find_bundles(bundles) == [bundles / "lung"]
    assert caplog.messages[0].startswith(f"liver is left out: its models/model.pt {said}")


def test_links_are_those_of_the_last_start(bundles: Path, tmp_path: Path) -> None:
    app = tmp_path / "label_app" / APP
    (app / "model").mkdir(parents=True)
    (app / "main.py").write_text("")
    (app / "model" / "before").symlink_to(bundles)
    assert arrange(tmp_path / "label_app", [bundles / "lung"]) == app
    assert [path.name for path in (app / "model").iterdir()] == ["lung"]
    assert (app / "model" / "lung").resolve() == bundles / "lung"
    (app / "model" / "liver").mkdir()
    with pytest.raises(ValueError, match="is no link to a bundle and was left as it is"):
        arrange(tmp_path / "label_app", [bundles / "liver"])


def test_the_stock_servers_command_line(bundles: Path) -> None:
    words = command(Path("/app"), "/ct", [bundles / "lung"], host="127.0.0.1", port=8001, scoring="lung")
    text = " ".join(words[1:])
    assert text == (
        "-m adapters.label.start start_server --app /app --studies /ct --host 127.0.0.1 --port 8001 --conf models lung "
        "--conf zoo_source ngc --conf sam2 false --conf epistemic_model lung"
    )


@pytest.mark.skipif(importlib.util.find_spec("monailabel") is not None, reason="MONAI Label is here")
def test_without_monai_label_it_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["label_server", "--studies", str(tmp_path)])
    assert ended.value.code == 2
    assert "MONAI Label is not in this environment: `make label-server STUDIES=DIR`" in capsys.readouterr().err


def test_outside_of_a_server_no_errors_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "monailabel.app", raising=False)
    loaded = set(sys.modules)
    answer_errors()
    assert set(sys.modules) == loaded


def test_the_server_finds_its_programs_and_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/somewhere")
    monkeypatch.setenv("MONAI_LABEL_AUTO_UPDATE_SCORING", "true")  # the user's word comes first
    variables = environment()
    assert variables["PATH"] == f"{Path(sys.executable).parent}{os.pathsep}/somewhere"
    assert Path(variables["PYTHONPATH"].split(os.pathsep)[0]) == Path(__file__).resolve().parents[1]
    assert variables["MONAI_LABEL_AUTO_UPDATE_SCORING"] == "true"


def test_which_pages_may_use_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MONAI_LABEL_CORS_ORIGINS", raising=False)
    own = json.loads(environment("127.0.0.1", 8001)["MONAI_LABEL_CORS_ORIGINS"])
    assert own == ["http://127.0.0.1:8001", "http://localhost:8001"]
    assert json.loads(environment("10.0.0.5", 80)["MONAI_LABEL_CORS_ORIGINS"]) == ["http://10.0.0.5:80"]
    monkeypatch.setenv("MONAI_LABEL_CORS_ORIGINS", '["http://viewer.example"]')
    assert environment()["MONAI_LABEL_CORS_ORIGINS"] == '["http://viewer.example"]'


def test_outside_of_a_server_no_options_are_shown() -> None:
    show_options({"threshold": 0.5})
    assert not is_training()
