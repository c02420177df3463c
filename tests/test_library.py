"""A bundle on an installed library of another version, and without the library."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import monai.bundle
import pytest
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.utils import OptionalImportError

import adapters
import adapters.bundling
import monai_sam_adapters

ROOT = Path(__file__).resolve().parents[1]
WHOLE = sorted(path for path in (ROOT / "bundles").glob("*/configs/*.json") if '"library"' in path.read_text())


@pytest.fixture(autouse=True)
def anew() -> None:
    monai_sam_adapters._warn.cache_clear()


@pytest.mark.parametrize(
    ("installed", "wanted", "warned"),
    [
        ("0.1.0", "0.1.0", False),
        ("0.1.4", "0.1.0", True),
        ("0.1.0", "0.1.4", True),
        ("0.1.0.dev3", "0.1.0", True),
        ("1.0.0", "1.2.0", True),
        ("2.0", "2.0.0", False),
    ],
)
def test_versions_that_fit(
    installed: str, wanted: str, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(adapters, "__version__", installed)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # a server reads the configuration for every request
            assert monai_sam_adapters.require(wanted) is adapters.bundling
    expected = f"this bundle was made for monai-sam-adapters {wanted} and runs with the installed {installed}, "
    assert [record.getMessage() for record in caplog.records] == [expected + "which should do the same"] * warned


@pytest.mark.parametrize(
    ("installed", "wanted", "series"),
    [("0.2.0", "0.1.3", "0.1"), ("0.1.0", "0.2.0", "0.2"), ("1.0.0", "0.9.0", "0.9"), ("1.4.0", "2.0.0", "2")],
)
def test_versions_that_do_not(installed: str, wanted: str, series: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "__version__", installed)
    with pytest.raises(ImportError) as caught:
        monai_sam_adapters.require(wanted)
    assert str(caught.value) == (
        f"this bundle was made for monai-sam-adapters {wanted} and does not work with the installed {installed}: "
        f"install a version {series}.* of the library, or take a bundle that was made for {installed}."
    )


def test_no_version() -> None:
    with pytest.raises(ValueError, match=r"version is 'new', expected one such as '\d"):
        monai_sam_adapters.require("new")


# --- the library is not there


@pytest.fixture
def hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in {"adapters", "monai_sam_adapters"}]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.chdir(tmp_path)


def parse(config: Path, name: str) -> None:
    """As MONAI Label does."""
    parser = ConfigParser()
    parser.read_config(config)
    parser.config.update({"bundle_root": "/somewhere"})
    parser.get_parsed_content(name)


def sentence(config: Path) -> str:
    return json.loads(config.read_text())["library"].split("descriptor='")[1].split("')")[0]


def test_all_configurations_say_the_same() -> None:
    (said,) = {sentence(path) for path in WHOLE}
    version = adapters.__version__
    assert said == (
        f"this bundle needs the library monai-sam-adapters, version {version} or a later "
        f"{version.rpartition('.')[0]}: pip install monai-sam-adapters, or pip install . in its source folder"
    )
    assert {path.stem for path in WHOLE} >= {"train", "train_auto", "inference", "inference_auto"}


@pytest.mark.usefixtures("hidden")
@pytest.mark.filterwarnings("ignore:parsing config_file")
@pytest.mark.parametrize(
    "start",
    [
        lambda config: monai.bundle.run(config_file=str(config), logging_file=False),
        lambda config: monai.bundle.run(config_file=str(config), logging_file=False, bundle_root="/somewhere"),
        lambda config: parse(config, "network_def"),
        lambda config: parse(config, "network"),
    ],
    ids=["run", "run with bundle_root", "MONAI Label's reading", "network"],
)
def test_a_bundle_without_the_library_says_what_to_install(start: Callable[[Path], None]) -> None:
    config = WHOLE[0].with_name("inference.json")
    with pytest.raises(RuntimeError) as caught:
        start(config)
    assert type(caught.value.__cause__) is OptionalImportError
    assert str(caught.value.__cause__).startswith(f"{sentence(config)} (import of monai_sam_adapters")
    assert not list(Path.cwd().iterdir())


def test_a_bundle_on_other_versions(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    config = str(WHOLE[0].with_name("inference.json"))
    monkeypatch.setattr(adapters, "__version__", "0.3.0")
    with pytest.raises(RuntimeError) as caught:
        ConfigWorkflow(config, workflow_type="infer", logging_file=False).initialize()
    assert type(caught.value.__cause__) is ImportError
    assert "does not work with the installed 0.3.0: install a version 0.2.* of the library" in str(
        caught.value.__cause__
    )

    monkeypatch.setattr(adapters, "__version__", "0.2.7")
    with caplog.at_level(logging.WARNING, logger="monai_sam_adapters"):
        ConfigWorkflow(config, workflow_type="infer", logging_file=False).initialize()
    said = [record.getMessage() for record in caplog.records if record.name == "monai_sam_adapters"]
    assert len(said) == 1
    assert "runs with the installed 0.2.7" in said[0]
