"""A bundle finds its own folder, wherever it lies and wherever the process was started."""

from __future__ import annotations

import json
import re
import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from bundle_runs import BUNDLE, told
from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow

from adapters.bundling import bundle_root
from adapters.bundling.workflow import literal
from adapters.error_text import sentence

INFERENCE = {"config_file": "configs/inference.json", "workflow_type": "infer", "logging_file": False}


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the configurations in some folder; the process is in another one."""
    copy = Path(shutil.copytree(BUNDLE / "configs", tmp_path / "some where" / "copied" / "configs")).parent
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return copy


def initialised(**options: Any) -> ConfigWorkflow:
    made = ConfigWorkflow(**(INFERENCE | options))
    made.initialize()
    return made


@pytest.mark.parametrize("names", [["inference"], ["train"], ["train", "evaluate"]])
@pytest.mark.parametrize("relative", [False, True])
def test_a_workflow(names: list[str], relative: bool, moved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [str(moved / "configs" / f"{name}.json") for name in names]
    if relative:
        monkeypatch.chdir(moved.parent)
        files = [f"{moved.name}/configs/{name}.json" for name in names]
    made = initialised(config_file=files[0] if len(files) == 1 else files)
    monkeypatch.chdir("/")
    assert made.bundle_root == str(moved)
    # asked for past the workflow, it is known from the start
    assert made.parser.get_parsed_content("ckpt_dir") == f"{moved}/models"


def test_from_inside_the_bundle(moved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, file in ((moved, "configs/inference.json"), (moved / "configs", "inference.json")):
        monkeypatch.chdir(folder)
        assert initialised(config_file=file).bundle_root == str(moved)


def test_created_as_monai_bundle_run_and_load_do(moved: Path) -> None:
    made = create_workflow(config_file=str(moved / "configs" / "inference.json"), workflow_type="inference")
    assert made.bundle_root == str(moved)


def test_tracking_that_needs_it_before_the_start(moved: Path) -> None:
    settings = {"handlers_id": {}, "configs": {"save_execute_config": True}}
    ConfigWorkflow(config_file=str(moved / "configs" / "inference.json"), logging_file=False, tracking=settings)
    assert [path.suffix for path in (moved / "eval").iterdir()] == [".json"]


def test_given_on_the_command_line(moved: Path) -> None:
    made = initialised(config_file=str(moved / "configs" / "inference.json"), bundle_root="/given")
    assert made.parser.get_parsed_content("ckpt_dir") == "/given/models"


def test_configurations_that_lie_in_no_folder_configs(moved: Path) -> None:
    """As MONAI: the file's own folder."""
    path = Path(shutil.copy(moved / "configs" / "inference.json", moved / "mine.json"))
    assert initialised(config_file=str(path)).bundle_root == str(moved)


def test_as_monai_label_reads_it(moved: Path) -> None:
    """Single files, by a parser alone, which is given the folder."""
    parser = ConfigParser()
    parser.read_config(str(moved / "configs" / "inference.json"))
    parser.config.update({"bundle_root": str(moved)})
    assert parser.get_parsed_content("checkpoint") == f"{moved}/models/model.pt"
    assert parser.get_parsed_content("preprocessing").transforms


def test_a_parser_alone_cannot_know(moved: Path, tmp_path: Path) -> None:
    parsers = []
    for folder in (moved, Path(shutil.copytree(moved, tmp_path / "other"))):
        parser = ConfigParser()
        parser.read_config(str(folder / "configs" / "inference.json"))
        parsers.append(parser)
    states = [
        {key: value for key, value in vars(parser).items() if not key.startswith(("locator", "ref_resolver"))}
        for parser in parsers
    ]
    assert states[0] == states[1]
    assert str(tmp_path) not in repr([vars(vars(p)[part]) for p in parsers for part in ("locator", "ref_resolver")])
    with pytest.raises(RuntimeError) as caught:
        parsers[0].get_parsed_content("ckpt_dir")
    sentence = "bundle_root is not known here, because a ConfigParser does not keep the path of the file that it read: "
    assert sentence + "set it before anything is parsed, parser['bundle_root'] = '/path/to" in told(caught.value)


def test_monai_does_not_hand_the_path_on_and_when_it_does_replace_bundle_root_by_its_own(moved: Path) -> None:
    """What `bundle_root` rests on, and what would make it needless: a workflow that defines the id, or its parser."""
    made = ConfigWorkflow(config_file=str(moved / "configs" / "inference.json"), logging_file=False)
    assert Path(made.config_root_path) == moved / "configs"  # the attribute that is read
    plain = moved / "configs" / "plain.json"
    plain.write_text(json.dumps({"initialize": [], "seen": "$__local_refs"}))
    made = ConfigWorkflow(config_file=str(plain), logging_file=False)
    made.initialize()
    assert "bundle_root" not in made.parser
    handed_on = {**vars(made.parser), **made.parser.get_parsed_content("seen")}
    handed_on = {key: value for key, value in handed_on.items() if key not in {"locator"}}
    assert str(moved) not in repr([handed_on, vars(made.parser.ref_resolver)])


def test_outside_a_configuration() -> None:
    with pytest.raises(ValueError, match="bundle_root is not known here"):
        bundle_root()


# --- options


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["inference"], {"treshold": 0.9}, "'treshold' is no id of inference.json. Did you mean 'threshold'?"),
        (["inference"], {"val_interval": 3}, "'val_interval' is no id of inference.json"),  # of another file here
        (["train"], {"max_epoch": 3}, "'max_epoch' is no id of train.json. Did you mean 'max_epochs'?"),
        (["train"], {"train#bach_size": 3}, "'train#bach_size' is no id of train.json"),
        (["train", "evaluate"], {"num_click": 1}, "of train.json, evaluate.json. Did you mean 'num_clicks'?"),
    ],
)
def test_an_option_that_no_id_has(names: list[str], options: dict[str, Any], message: str, moved: Path) -> None:
    files = [str(moved / "configs" / f"{name}.json") for name in names]
    with pytest.raises(RuntimeError) as caught:
        create_workflow(config_file=files if len(files) > 1 else files[0], workflow_type=None, **options)
    assert message in told(caught.value)


def test_an_option_that_no_id_has_given_to_a_workflow(moved: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        initialised(config_file=str(moved / "configs" / "inference.json"), treshold=0.9)
    assert "'treshold' is no id of this bundle. Did you mean 'threshold'?" in told(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.9, "bundle_root": "/given"},
        {"network_def#mask_decoder#dropout": 0.1},
        {"network_def#mask_decoder#another": 0.1},  # the component says whether it has such an argument
        {"tracking": "mlflow", "experiment_name": "mine", "save_execute_config": False},
    ],
)
def test_options_that_are_meant(options: dict[str, Any], moved: Path) -> None:
    create_workflow(config_file=str(moved / "configs" / "inference.json"), workflow_type=None, **options)


VALUES = [
    ({"output_dir": "~/masks"}, "output_dir of the configuration is '~/masks', and MONAI would make a folder"),
    ({"output_dir": "study#3"}, "output_dir of the configuration is 'study#3', and MONAI turns every '#'"),
    ({"output_dir": "/data/a#3"}, "output_dir of the configuration is '/data/a#3'"),
    ({"preprocessing#transforms#1#label_names": "tumor #1"}, "preprocessing#transforms#1#label_names of the"),
    ({"output_dir": 202401}, "output_dir of the configuration is 202401, expected a path: on a command line begin"),
    ({"checkpoint": True}, "checkpoint of the configuration is True, expected a path"),
    ({"requests": ("a", "b")}, "requests of the configuration is .'a', 'b'., expected a path"),
]


@pytest.mark.parametrize(("options", "message"), VALUES)
def test_values_that_monai_changes(options: dict[str, Any], message: str, moved: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        initialised(config_file=str(moved / "configs" / "inference.json"), **options)
    assert re.match(message, sentence(caught.value))


@pytest.mark.parametrize("options", [{"output_dir": "a@b $c %d"}, {"checkpoint": "$@ckpt_dir + '/a.pt'"}])
def test_values_that_stay(options: dict[str, Any], moved: Path) -> None:
    made = initialised(config_file=str(moved / "configs" / "inference.json"), **options)
    (name, given), *_ = options.items()
    assert made.parser.get_parsed_content(name) in (given, f"{moved}/models/a.pt")


@pytest.mark.parametrize("text", ["study#3", "a 'quoted' \\ @b %c $d", "@device", "$1", "%run", "::@##x", "ü\n"])
def test_text_as_an_expression(text: str) -> None:
    parser = ConfigParser({"a": literal(text), "b": "$@a + '!'", "device": "cpu"})
    assert parser.get_parsed_content("b") == f"{text}!"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output_dir", "study#3"], "--output_dir is 'study#3', which monai.bundle reads as 'study'"),
        (["--output_dir=(x)"], "--output_dir is '(x)', which monai.bundle reads as 'x'"),
        (["--max_epochs", "1#2"], "--max_epochs is '1#2', which monai.bundle reads as 1"),
    ],
)
def test_words_that_fire_changes(words: list[str], message: str, moved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("__main__.__spec__", ModuleSpec("monai.bundle.__main__", None))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    fine = ["--requests", "/a#b.json", "--network_def#image_encoder#variant", "'tiny'", "--device", "$@x#y"]
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", *fine])
    initialised(config_file=str(moved / "configs" / "inference.json"))
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", *fine, *words])
    with pytest.raises(RuntimeError) as caught:
        initialised(config_file=str(moved / "configs" / "inference.json"))
    assert sentence(caught.value).startswith(message)
