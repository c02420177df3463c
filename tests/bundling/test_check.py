"""Each check finds what it is there for: a sound bundle is broken in one way, and that alone is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_runs import BUNDLE

import adapters
from adapters import cli
from adapters.__main__ import main
from adapters.bundling import check
from adapters.bundling.check import CHECKS, Finding, check_bundle
from adapters.bundling.new import new_bundle
from adapters.bundling.package import bundle_files
from adapters.datasets.phantom import write_phantoms

NAME = BUNDLE.name
FLAT = {"type": "object", "required": ["schema"], "properties": {"task": {"type": "string"}}}
"""A schema for the tests that are not about the zoo's."""


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schema") / "schema.json"
    path.write_text(json.dumps(FLAT))
    return path


def copied(folder: Path) -> Path:
    """The sarcoma bundle as it is handed on."""
    for name in bundle_files(BUNDLE):
        (folder / NAME / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(BUNDLE / name, folder / NAME / name)
    return folder / NAME


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a network of one convolution, so that a check takes no time."""
    bundle = copied(tmp_path_factory.mktemp("sound"))
    network = {"_target_": "torch.nn.Conv3d", "_requires_": "@library"}
    network |= {"in_channels": 1, "out_channels": 2, "kernel_size": 1}
    parts = {"starting_network": "@network_def", "single_network": "$@starting_network.to(@device)"}
    edit(bundle, "inference", lambda config: config.update(network_def=network))
    edit(bundle, "train", lambda config: config.update(network_def=network, **parts))
    torch.save(torch.nn.Conv3d(1, 2, 1).state_dict(), bundle / "models" / "model.pt")
    return bundle


@pytest.fixture
def bundle(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / NAME))


def edit(bundle: Path, stem: str, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "configs" / f"{stem}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=4))


def put(stem: str, place: str, value: Any) -> Callable[[Path], None]:
    """A change of one value of a configuration; None takes it out."""

    def change(content: dict[str, Any]) -> None:
        *way, last = place.split("#")
        part: Any = content
        for step in way:
            part = part[int(step)] if isinstance(part, list) else part[step]
        if value is None:
            del part[last]
        else:
            part[int(last) if isinstance(part, list) else last] = value

    return lambda bundle: edit(bundle, stem, change)


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda bundle: (bundle / name).write_text(text) and None


def changed(stem: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda bundle: edit(bundle, stem, change)


def replaced(stem: str, *pairs: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        path = bundle / "configs" / f"{stem}.json"
        text = path.read_text()
        for old, new in zip(pairs[::2], pairs[1::2], strict=True):
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)

    return change


def add(text: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        with (bundle / "docs" / "README.md").open("a") as file:
            file.write(f"\n\n    {text}\n")

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda bundle: (bundle / name).unlink()


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def save(bundle: Path) -> None:
        path = bundle / "models" / "model.pt"
        state = torch.load(path, weights_only=True)
        torch.save(change(state), path)

    return save


def renamed(name: str) -> Callable[[Path], Path]:
    def change(bundle: Path) -> Path:
        page = bundle / "docs" / "README.md"
        page.write_text(page.read_text().replace(bundle.name, name))
        return bundle.rename(bundle.with_name(name))

    return change


def large(bundle: Path) -> None:
    with (bundle / "models" / "model.ts").open("wb") as file:
        file.truncate(26 * 2**20)


LISTED = "large_files:\n  - path: {path}\n    url: http://127.0.0.1/a\n    hash_val: '{hash}'\n    hash_type: {kind}\n"


def listed(path: str = "models/a.pt", digest: str = "0" * 64, kind: str = "sha256") -> Callable[[Path], None]:
    return write("large_files.yml", LISTED.format(path=path, hash=digest, kind=kind))


NEXT = f"{adapters.__version__.rpartition('.')[0]}.9"
"""Another version of the library that is compatible with this one."""

OWN = json.loads((Path(check.__file__).parent / "tasks" / "own.json").read_text())["licence_text"]
PRED = "network_data_format#outputs#pred"
UNFIT = "models/model.pt does not fit network_def of configs/inference.json"
RUN = f"python -m monai.bundle run --config_file bundles/{NAME}/configs"

BROKEN: list[tuple[str, Callable[[Path], Any], str, str]] = [
    ("no logging", remove("configs/logging.conf"), "files", "configs/logging.conf is not there: add it"),
    (
        "no JSON",
        write("configs/datalist.json", "{"),
        "files",
        "configs/datalist.json cannot be read: the file '",
    ),
    (
        "a key twice",
        write("configs/evaluate.json", '{"run": 1, "run": 2}'),
        "files",
        "configs/evaluate.json cannot be read: Duplicate key: `run`; correct it",
    ),
    ("a list", write("configs/evaluate.json", "[]"), "files", "configs/evaluate.json cannot be read: it holds list"),
    ("a dash", renamed("sarcoma-deepgrow"), "name", "the folder is called 'sarcoma-deepgrow': use letters, digits"),
    (
        "looks like a version",
        renamed("soft_vessel_deepgrow"),
        "name",
        "the folder is called 'soft_vessel_deepgrow', and the zoo takes what follows '_v' for the version: choose",
    ),
    ("no clicks", renamed("sarcoma_ct"), "name", "the folder is called 'sarcoma_ct', which MONAI Label does not take"),
    ("no name", put("metadata", "name", " "), "name", "configs/metadata.json has no name: add the one to show"),
    (
        "schema",
        put("metadata", "task", 3),
        "metadata",
        "configs/metadata.json does not fit the schema, task: 3 is not of type 'string'; correct it",
    ),
    ("no schema", put("metadata", "schema", None), "metadata", "configs/metadata.json names no schema: add the addr"),
    (
        "changelog",
        put("metadata", "version", "0.0.9"),
        "version",
        "version '0.0.9' of configs/metadata.json is not in its changelog: say there what changed",
    ),
    (
        "older",
        put("metadata", "changelog", {"0.1.0": "first", "0.10.0": "next", "0.9.0": "before"}),
        "version",
        "version '0.1.0' of configs/metadata.json is older than '0.10.0' in its changelog: raise it",
    ),
    ("no version", put("metadata", "changelog", {"0.1.0": "", "new": ""}), "version", "a version of the changelog in"),
    (
        "MONAI",
        put("metadata", "monai_version", "newest"),
        "version",
        "monai_version of configs/metadata.json is 'newest': use a version such as 1.6.1",
    ),
    (
        "package",
        put("metadata", "required_packages_version#nibable", "5.4.2"),
        "packages",
        "required_packages_version of configs/metadata.json names 'nibable', which is not installed: pip install nib",
    ),
    (
        "other library",
        replaced("inference", f"require('{adapters.__version__}')", f"require('{NEXT}')"),
        "packages",
        f"configs/inference.json requires monai-sam-adapters {NEXT}, and required_packages_version of configs",
    ),
    ("licence", write("LICENSE", "\n"), "licence", "LICENSE is not there or empty: add the licence of the bundle's"),
    (
        "no data licence",
        write("docs/data_license.txt", ""),
        "data licence",
        "docs/data_license.txt is not there or empty",
    ),
    ("unknown data", write("docs/data_license.txt", OWN), "data licence", "docs/data_license.txt is as new_bundle wr"),
    ("large", large, "large files", "models/model.ts has 27 MB, and the zoo takes no more than 25: offer it somewhere"),
    (
        "no hash",
        write("large_files.yml", "large_files:\n  - path: models/a.pt\n    url: http://127.0.0.1/a\n"),
        "large files",
        "large_files.yml: models/a.pt has no hash_val, hash_type: add it",
    ),
    ("outside", listed("../a.pt"), "large files", "large_files.yml: ../a.pt lies outside the bundle: give a path"),
    ("hash type", listed(kind="crc32"), "large files", "large_files.yml: hash_type of models/a.pt is 'crc32': use md5"),
    ("hash", listed("models/model.pt"), "large files", "large_files.yml: models/model.pt has another sha256: fetch it"),
    (
        "no list",
        write("large_files.yml", "large_files: 3\n"),
        "large files",
        "large_files of large_files.yml is 3: give",
    ),
    ("no YAML", write("large_files.yml", "large_files: [\n"), "large files", "large_files.yml cannot be read (Parser"),
    (
        "relative",
        put("inference", "bundle_root", "."),
        "bundle_root",
        "bundle_root of configs/inference.json is '.', which depends on the folder that a process starts in: write '$",
    ),
    (
        "reference",
        changed("evaluate", lambda config: config["validate#update"].update(seeds="@seed_count")),
        "ids",
        "configs/train.json and configs/evaluate.json: validate#update#seeds refers to @seed_count, which is not there",
    ),
    (
        "expression",
        put("inference", "checkpoint", "$@ckpt_folder + '/model.pt'"),
        "ids",
        "configs/inference.json: checkpoint refers to @ckpt_folder, which is not there: define it, or correct it",
    ),
    (
        "changed part",
        write("configs/inference_fast.json", '{"evaluators#amp": true}'),
        "ids",
        "configs/inference.json and configs/inference_fast.json: an id that is changed or repeated is not there",
    ),
    (
        "macro",
        put("inference", "inference", "%runs"),
        "ids",
        "configs/inference.json: an id that is changed or repeated is not there (KeyError: 'query key: runs'): define",
    ),
    (
        "target",
        replaced("evaluate", "adapters.scoring.ScoreWriter", "adapters.scoring.ScoreWriters"),
        "targets",
        "configs/evaluate.json names adapters.scoring.ScoreWriters, which cannot be imported: correct the name",
    ),
    (
        "function",
        put("train", "validate#dataset#data", "$adapters.transforms.load_lists(@datalist)"),
        "targets",
        "configs/train.json names adapters.transforms.load_lists, which cannot be imported: correct the name",
    ),
    (
        "channel names",
        put("inference", "preprocessing#transforms#1#label_names", "lesion"),
        "labels",
        "label_names in configs/inference.json is ['lesion'], and channel_def in configs/metadata.json has [",
    ),
    (
        "channels",
        put("metadata", f"{PRED}#channel_def", {"0": "background", "2": "tumor"}),
        "labels",
        "channel_def of the output pred in configs/metadata.json has the channels [0, 2], and num_channels is 2: name",
    ),
    ("no channels", put("metadata", f"{PRED}#channel_def", None), "labels", "configs/metadata.json has no channel_def"),
    (
        "list",
        put("datalist", "labels", {"0": "background", "1": "lesion"}),
        "labels",
        "labels of configs/datalist.json calls 1 ['lesion'], and channel_def in configs/metadata.json has",
    ),
    (
        "property",
        put("train", "train#trainer#max_epochs", None),
        "properties",
        "configs/train.json lacks the ids train#trainer#max_epochs, which MONAI requires: define them",
    ),
    (
        "optional property",
        replaced("inference", '"postprocessing": {', '"afterwards": {', '"@postprocessing"', '"@afterwards"'),
        "properties",
        "configs/inference.json refers to postprocessing by ids that MONAI does not know: name them",
    ),
    (
        "argument",
        put("train", "train#trainer#epochs", 3),
        "properties",
        "configs/train.json cannot be set up: TypeError: SupervisedTrainer.__init__() got an unexpected",
    ),
    (
        "output",
        put("metadata", f"{PRED}#dtype", "float64"),
        "network",
        "network_def of configs/inference.json, called with one image tensor: ValueError: dtype of output data `to",
    ),
    (
        "no image",
        put("metadata", "network_data_format#inputs#image", None),
        "network",
        "network_data_format of configs/metadata.json has no inputs#image: describe it",
    ),
    (
        "exception",
        put("metadata", "torchscript_exception", "it has a loop"),
        "torchscript",
        "TorchScript takes network_def of configs/inference.json, and configs/metadata.json has a torchscript",
    ),
    (
        "lacking tensors",
        weights(lambda state: {"weight": state["weight"]}),
        "weights",
        f'{UNFIT} (Missing key(s) in state_dict: "bias".); make',
    ),
    (
        "more tensors",
        weights(lambda state: {**state, "head.bias": torch.zeros(1)}),
        "weights",
        f'{UNFIT} (Unexpected key(s) in state_dict: "head.bias".); make',
    ),
    (
        "another shape",
        weights(lambda state: {**state, "bias": torch.zeros(3)}),
        "weights",
        f"{UNFIT} (size mismatch for bias: copying a param with shape torch.Size([3]) from checkpoint, the shape in",
    ),
    ("nested", weights(lambda state: {"model": state}), "weights", "models/model.pt is no plain state dict: write the"),
    ("no weights", write("models/model.pt", "a"), "weights", "models/model.pt cannot be read ("),
    ("quote", add("python -m adapters compare 'a"), "README", "No closing quotation; correct it"),
    ("verb", add("python -m adapters evaluate --runs a"), "README", "there is no verb 'evaluate', only convert, "),
    ("option of a verb", add("monai-sam-adapters phantom --case 3"), "README", "phantom has no option --case; correct"),
    ("command", add("python -m monai.bundle downloads --name a"), "README", "monai.bundle has no command 'downloads'"),
    ("option", add("python -m monai.bundle download --names a"), "README", "download has no option --names; correct"),
    ("no file", add("python -m monai.bundle run training"), "README", "run needs --config_file; correct it"),
    ("file", add(f"{RUN}/infer.json"), "README", "the bundle has no file configs/infer.json; correct it"),
    ("variable", add("python -m monai.bundle run --config_file $BUNDEL/a.json"), "README", "$BUNDEL is not set above"),
    (
        "run id",
        add(f"OMP_NUM_THREADS=1 {RUN}/inference.json".replace("run ", "run predict ")),
        "README",
        "configs/inference.json has no id predict; correct it",
    ),
    (
        "id",
        add(f"{RUN}/inference.json --treshold 0.5"),
        "README",
        "configs/inference.json has no id treshold; correct",
    ),
    (
        "part",
        add(f"{RUN}/inference.json \\\n        --net#a=3"),
        "README",
        "configs/inference.json has no id net#a; cor",
    ),
    ("order", add(f"{RUN}/evaluate.json"), "README", "the files of --config_file do not go together ("),
    (
        "link",
        add("[a](../../../README.md)"),
        "README",
        "docs/README.md links to ../../../README.md, which is not in the",
    ),
]


def problems(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.state == "problem"]


def test_a_sound_bundle(shared: Path, tmp_path: Path) -> None:
    schema = shared / "schema" / "meta_schema_20240725.json"
    if not schema.is_file():
        pytest.skip("the schema of the Model Zoo is not there")
    bundle = copied(tmp_path)
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    findings = check_bundle(bundle, schema=schema, verbs=cli.VERBS, device="cpu")
    assert [(finding.check, finding.state) for finding in findings] == [(name, "OK") for name in CHECKS]
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    edit(bundle, "metadata", lambda metadata: metadata.pop("copyright"))
    (found,) = problems(check_bundle(bundle, schema=schema, verbs=cli.VERBS))
    assert str(found) == (
        "problem  metadata: configs/metadata.json does not fit the schema, the whole: 'copyright' is a required "
        "property; correct it"
    )


def test_torchscript(bundle: Path, schema: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that TorchScript does not take needs a reason; on the device meta that is not found out."""

    def refuse(_: torch.nn.Module) -> None:
        raise ValueError("Unknown type annotation: 'Tensor' at")

    monkeypatch.setattr(torch.jit, "script", refuse)
    (found,) = problems(check_bundle(bundle, schema=schema, device="cpu"))
    assert str(found) == (
        "problem  torchscript: TorchScript does not take network_def of configs/inference.json (ValueError: Unknown "
        "type annotation: 'Tensor' at): change the network, or give the reason as torchscript_exception in "
        "configs/metadata.json"
    )
    edit(bundle, "metadata", lambda metadata: metadata.update(torchscript_exception="it has a loop"))
    assert problems(check_bundle(bundle, schema=schema, device="cpu")) == []
    (skipped,) = (f for f in check_bundle(bundle, schema=schema) if f.check == "torchscript")
    assert str(skipped).startswith("skipped  torchscript: the network is run to be recorded, and has no numbers")


def test_each_check_has_a_broken_bundle() -> None:
    assert {check for _, _, check, _ in BROKEN} == CHECKS.keys()


@pytest.mark.parametrize(("change", "name", "said"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_what_is_broken_is_found_and_nothing_else(
    change: Callable[[Path], Any], name: str, said: str, bundle: Path, schema: Path
) -> None:
    broken = change(bundle) or bundle
    (found,) = problems(check_bundle(broken, schema=schema, verbs=cli.VERBS, device="cpu"))
    assert found.check == name
    assert said in found.message
    assert found.message.startswith("docs/README.md") if name == "README" else found.message.startswith(said)
    assert any(mark in found.message for mark in (":", ";")), "it says what to do"


@pytest.mark.parametrize("missing", ["configs/metadata.json", "configs/inference.json"])
def test_a_file_that_others_are_checked_against(missing: str, bundle: Path, schema: Path) -> None:
    """It is missing once; what cannot be checked without it is skipped and says so."""
    (bundle / missing).unlink()
    (bundle / "docs" / "README.md").write_text("no commands")
    findings = check_bundle(bundle, schema=schema, device="cpu")
    assert [str(finding) for finding in problems(findings)] == [f"problem  files: {missing} is not there: add it"]
    skipped = {finding.check: finding.message for finding in findings if finding.state == "skipped"}
    assert {"network", "torchscript"} <= skipped.keys()
    assert set(skipped.values()) == {f"{missing} is not there"}


def test_metadata_of_another_form(bundle: Path, schema: Path) -> None:
    """Nothing breaks, and the file is named."""
    edit(bundle, "metadata", lambda metadata: metadata.update(network_data_format=[], required_packages_version=[]))
    found = {finding.check: finding.message for finding in problems(check_bundle(bundle, schema=schema))}
    assert found.keys() == {"packages", "labels", "network"}
    assert "a file has another form than expected (AttributeError: " in found["network"]


def test_a_bundle_without_weights(bundle: Path, schema: Path) -> None:
    (bundle / "models" / "model.pt").unlink()
    findings = check_bundle(bundle, schema=schema, verbs=cli.VERBS, device="cpu")
    assert not problems(findings)
    assert [finding.message.partition(":")[0] for finding in findings if finding.state == "skipped"] == [
        "models/model.pt is not there"
    ]


def test_a_library_that_does_not_fit(bundle: Path, schema: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_for = adapters.__version__
    monkeypatch.setattr(adapters, "__version__", "99.0.0")
    findings = check_bundle(bundle, schema=schema, verbs=cli.VERBS, device="cpu")
    (found,) = problems(findings)
    assert str(found).startswith(
        f"problem  packages: this bundle was made for monai-sam-adapters {made_for} and does not work"
    )
    skipped = {finding.check: finding.message for finding in findings if finding.state == "skipped"}
    assert skipped == dict.fromkeys(
        ("properties", "network", "torchscript", "weights"),
        "the installed monai-sam-adapters does not fit, see packages",
    )


def test_the_schema_is_fetched_once(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    offered = tmp_path / "schema.json"
    edit(bundle, "metadata", lambda metadata: metadata.update(schema=offered.as_uri()))

    def state() -> tuple[str, str]:
        with check._quiet():
            found = [*check._findings("metadata", CHECKS["metadata"][1], check._Bundle(bundle))]
        return (found[0].state, found[0].message) if found else ("OK", "")

    assert state()[0] == "skipped"
    assert f"{offered.as_uri()} cannot be fetched (URLError" in state()[1]
    offered.write_text("no schema")
    assert "cannot be fetched (JSONDecodeError" in state()[1]
    offered.write_text(json.dumps(FLAT))
    assert state()[0] == "OK"
    offered.unlink()
    assert state()[0] == "OK"
    offered.write_text(json.dumps(FLAT | {"required": ["license"]}))
    assert state()[0] == "OK"
    assert len(list((tmp_path / "cache").rglob("*_schema.json"))) == 1


@pytest.mark.parametrize(
    ("text", "said"), [("[", "is no schema (JSONDecodeError"), ('{"type": 3}', "the schema is none (")]
)
def test_no_schema(text: str, said: str, bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    found = next(finding for finding in check_bundle(bundle, schema=path) if finding.check == "metadata")
    assert found.state == "skipped"
    assert said in found.message


# --- as typed


def typed(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, int]:
    """What is printed, and the exit code."""
    try:
        main(["check_bundle", *words])
    except SystemExit as stop:
        return capsys.readouterr().out, int(str(stop.code))
    return capsys.readouterr().out, 0


def test_exit_codes(bundle: Path, schema: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--schema", str(schema), "--bundles", str(bundle.parent)]
    said, code = typed(NAME, *options, capsys=capsys)
    lines = said.splitlines()
    assert (lines[0], lines[1].split()[0], lines[-1], len(lines), code) == (
        NAME,
        "OK",
        "no problems",
        len(CHECKS) + 2,
        0,
    )
    assert typed(str(bundle), *options[:2], capsys=capsys) == (said, 0)

    renamed("other_deepgrow")(Path(shutil.copytree(bundle, tmp_path / "other" / NAME))).rename(
        tmp_path / "other_deepgrow"
    )
    (bundle / "LICENSE").unlink()
    said, code = typed("--all", *options, capsys=capsys)
    assert [line for line in said.splitlines() if not line.startswith("  ")] == ["other_deepgrow", NAME, "1 problem"]
    assert "  problem  licence: LICENSE is not there or empty" in said
    assert code == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "check_bundle needs the name of a bundle, or --all"),
        ([NAME, "--all"], "check_bundle needs the name of a bundle, or --all"),
        (
            ["lung"],
            "there is no bundle 'lung': expected a folder with configs/ in it, or the name of one in 'bundles', wh",
        ),
        (["--all", "--bundles", "configs"], "there is no bundle in 'configs': name the folder of bundles"),
        (
            [NAME, "--device", "gpu"],
            "device is 'gpu', expected meta, cpu or one that torch has (RuntimeError: Expected one",
        ),
        (
            [NAME, "--schema", "mine.json"],
            "there is no schema 'mine.json': leave it out to fetch the one that the metadata name",
        ),
    ],
)
def test_mistakes(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bundles" / NAME / "configs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["check_bundle", *words])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_new_bundle(schema: Path, tmp_path: Path) -> None:
    """It lacks what only its maker knows."""
    write_phantoms(tmp_path / "scans", 3, shape=(20, 20, 20), spacing=(10.0, 10.0, 10.0))
    cases = [f"phantom_{number:03d}" for number in range(3)]
    listed = {"training": cases[:1], "validation": cases[1:2], "test": cases[2:]}
    (tmp_path / "scans" / "my.json").write_text(json.dumps(listed))
    new_bundle("lung_tumor_ct", tmp_path / "scans" / "my.json", 1, tmp_path / "made")
    made = tmp_path / "made" / "lung_tumor_ct_samadapter_deepgrow"
    (found,) = problems(check_bundle(made, schema=schema, verbs=cli.VERBS))
    assert str(found).startswith("problem  data licence: docs/data_license.txt is as new_bundle wrote it")


@pytest.mark.slow
def test_all_shipped_bundles(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = shared / "schema" / "meta_schema_20240725.json"
    if not schema.is_file():
        pytest.skip("the schema of the Model Zoo is not there")
    said, code = typed("--all", "--bundles", str(BUNDLE.parent), "--schema", str(schema), capsys=capsys)
    assert code == 0, said
    # the weights of the four, and TorchScript of all, which needs numbers
    assert said.count("models/model.pt is not there") == 4
    assert said.count("skipped") == 9
