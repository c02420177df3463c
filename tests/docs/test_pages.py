"""What the pages show works as shown, on small data in the places that they name."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from four_runs import make_release
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from pages import LANGUAGES, PAGES, ROOT, Shell, blocks, do, read
from release_files import pack, write_release

from adapters.__main__ import main
from adapters.checkpoints import export_network, load_model
from adapters.datasets import RELEASES, get_release
from adapters.datasets.phantom import write_phantoms
from adapters.networks import Backbone, Sizes, build_sam_adapter3d

# monai.bundle says it of every configuration
pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file")
SMALL: dict[str, Any] = {"variant": "tiny", "crop_size": 16, "spacing": 8.0, "device": "cpu", "num_workers": 0}
ONE_EPOCH = {"max_epochs": 1, "trainable": "all"}
ONE_CLICK = {"num_clicks": [1], "click_rounds": 1, "seeds": 1}
Scene = Callable[[Path, pytest.MonkeyPatch], Shell]


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def mask_of(path: str, image: str) -> np.ndarray:
    """A written mask, which lies on its image's grid."""
    mask, stored = nib.load(path), nib.load(image)
    assert mask.shape == stored.shape
    np.testing.assert_allclose(mask.affine, stored.affine, atol=1e-3)
    return np.asarray(mask.dataobj)


# --- what a user has before the page begins


def nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell()


def downloads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """What a user has downloaded, with five cases of each release as its only fold."""
    for name in ("kits21", "lits17", "msd_pancreas", "msd_colon"):
        release = get_release(name)
        cases = release.cases[:: len(release.cases) // 5][:5]
        fold = {"training": cases[:-2], "validation": cases[-2:-1], "test": cases[-1:]}
        monkeypatch.setitem(release.__dict__, "folds", (fold,))
        unpacked = write_release(folder / "unpacked" / name, name, cases)
        if name == "kits21":
            (unpacked / "kits21").rename(folder / "kits21")
        elif name == "lits17":
            for batch in (1, 2):
                archive = folder / "downloads" / "lits" / f"Training_Batch{batch}.zip"
                pack(unpacked, archive, only=f"Training Batch {batch}")
        else:
            pack(unpacked, folder / "downloads" / f"{release.task}.tar")
    return Shell()


def own_scans(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """The data list of the page, with its five cases."""
    (folder / "bundles").rename(folder / "shipped")
    write_phantoms(folder / "scans", 5, seed=1, shape=(20, 20, 20), spacing=(10.0, 10.0, 10.0))
    for part in ("images", "labels"):
        for number in range(1, 6):
            path = folder / "scans" / part / f"phantom_00{number}.nii.gz"
            path.rename(path.with_name(f"p0{number}.nii.gz"))
    (listed,) = blocks("how-to/new_bundle.md", "json")
    (folder / "scans" / "my.json").write_text(listed.text)
    return Shell()


def prepared_colon(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    make_release("colon_cancer", folder / "data" / "msd_colon", training=1)
    return Shell(small=SMALL | ONE_EPOCH | ONE_CLICK)


def colon_in_larger_crops(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Automatic mode has tokens of twice the size."""
    shell = prepared_colon(folder, monkeypatch)
    shell.small = {**shell.small, "crop_size": 32}
    return shell


def sarcomas(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """One test case for the shipped weights."""
    write_phantoms(folder / "ct", 1, shape=(40, 40, 32), spacing=(8.0, 8.0, 8.0))
    (folder / "list.json").write_text(json.dumps({"test": ["phantom_000"]}))
    return Shell(given={"DATA": "ct"}, small=ONE_CLICK | {"device": "cpu", "datalist": "list.json"})


def one_scan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    write_phantoms(folder, 1, shape=(40, 40, 32), spacing=(8.0, 8.0, 8.0))
    (folder / "images" / "phantom_000.nii.gz").rename(folder / "scan.nii.gz")
    return Shell(small={"device": "cpu"})


def exported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A small network in the place of what takes minutes to export."""
    backbone = Backbone("small", embed_dim=24, depth=4, num_heads=2, global_blocks=(), table_size=32, sam_window=4)
    small = Sizes(backbone, window_size=4, out_channels=16, prompt_mlp_dim=192, head_channels=8)
    export_network(build_sam_adapter3d(small, 16).eval(), folder / "exported", "onnx")
    return Shell()


SCENES: dict[str, Scene] = {
    "how-to/automatic.md": colon_in_larger_crops,
    "how-to/data.md": downloads,
    "how-to/export.md": exported,
    "how-to/infer.md": one_scan,
    "how-to/new_bundle.md": own_scans,
    "how-to/notebook.md": one_scan,
    "how-to/score.md": sarcomas,
    "how-to/train.md": prepared_colon,
}

# --- what stands when it has ended


def data(names: dict[str, Any], printed: str) -> None:
    assert printed.count(": 5 cases, fold 0\n") == 4
    found = json.loads(Path("data/msd_colon/fingerprint.json").read_text())
    assert (found["cases"], found["label"], found["intensity"]["voxels"]) == (3, 1, 3 * 24)
    assert len(names["cases"]) == 3
    assert "3 data/msd_colon/Task10_Colon/imagesTr/colon_" in printed


def new_bundle(names: dict[str, Any], printed: str) -> None:
    assert "| cases | 3 | 1 | 1 |" in printed
    assert Path("bundles/lung_tumor_ct_samadapter_deepgrow/configs/train.json").is_file()


def train(names: dict[str, Any], printed: str) -> None:
    state = torch.load("runs/colon/models/last.ckpt", weights_only=True)
    assert (state["finished"], state["epoch"]) == (True, 1)
    build_sam_adapter3d("tiny", 16).load_state_dict(torch.load("runs/colon/models/model.pt", weights_only=True))


def score(names: dict[str, Any], printed: str) -> None:
    found = rows("eval/ours/scores.csv")
    assert {row["case"] for row in found} == {"phantom_000"}
    assert {(row["policy"], row["clicks"]) for row in found} == {("random", "1"), ("iterative", "1")}
    assert Path("eval/ours/report.html").is_file()
    assert (names["scores"]["dice"], names["distance"]) == (pytest.approx(0.9), 3.0)
    assert (names["area"], names["needed"]) == (pytest.approx(0.6875), 3)


def infer(names: dict[str, Any], printed: str) -> None:
    mask_of("predictions/scan_mask.nii.gz", "scan.nii.gz")
    assert names["stored"]["shape"] == (40, 40, 32)
    assert [mask.shape for mask in names["masks"]] == [(32, 40, 40)] * 2


def export(names: dict[str, Any], printed: str) -> None:
    files = {"encoder.onnx", "decoder.onnx", "model.ts", "model.safetensors"}
    assert {path.name for path in Path("exported").iterdir()} == files
    assert names["mask"].shape == (16, 16, 16)
    weights = load_model("bundles/soft_tissue_sarcoma_ct_samadapter_deepgrow/models/model.pt")
    assert torch.allclose(names["automatic"], weights(names["image"]), atol=1e-3)


def automatic(names: dict[str, Any], printed: str) -> None:
    (found,) = rows("eval/colon_auto/scores.csv")
    assert (found["policy"], found["clicks"]) == ("automatic", "0")
    stated = re.search(r"\d+ MB \+ \d+ MB", printed)
    assert stated
    assert f"`{stated[0]}`" in read("how-to/automatic.md")
    (path,) = Path("predictions").iterdir()
    mask_of(str(path), str(names["image"]))


def pancreas(names: dict[str, Any], printed: str) -> None:
    found = rows("eval/pancreas/scores.csv")
    assert {(row["policy"], row["clicks"]) for row in found} == {
        ("random", "1"),
        ("iterative", "1"),
        ("iterative", "2"),
    }
    assert Path("eval/pancreas/curve.png").stat().st_size > 10_000
    mask_of(str(names["mask"]), str(names["image"]))
    assert names["truth"][tuple(names["click"])] == 1
    assert Path("figure.png").stat().st_size > 10_000


def zoo(names: dict[str, Any], printed: str) -> None:
    assert "with models/model.pt; sha1 " in printed
    assert {path.name for path in Path("dist").iterdir()} == {"model_info.json", f"{names['name']}_v0.1.0.zip"}
    weights = torch.load(f"fetched/{names['name']}/models/model.pt", weights_only=True)
    loaded = names["network"].state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


AFTER: dict[str, Callable[[dict[str, Any], str], None]] = {
    "how-to/automatic.md": automatic,
    "how-to/data.md": data,
    "how-to/export.md": export,
    "how-to/infer.md": infer,
    "how-to/new_bundle.md": new_bundle,
    "how-to/score.md": score,
    "how-to/train.md": train,
    "how-to/zoo.md": zoo,
    "tutorials/pancreas.md": pancreas,
}


@pytest.mark.parametrize("page", PAGES)
def test_what_it_shows(
    page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = do(page, SCENES.get(page, nothing)(folder, monkeypatch))
    if page in AFTER:
        AFTER[page](names, capsys.readouterr().out)
    assert (page in AFTER) == bool(blocks(page, "shell")), "a page that runs commands says here what comes of them"


# --- what no command shows

TRAIN = "bundles/colon_cancer_ct_samadapter_deepgrow/configs/train.json"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("python -m adapters prepared --dataset kits21", "prepared"),
        ("python -m adapters phantom --output here --case 3", "--case"),
        (f"python -m monai.bundle run evaluating --config_file {TRAIN}", "has no id evaluating"),
        (f"python -m monai.bundle run training --config_file {TRAIN} --max_epoch 3", "max_epoch"),
        (f"torchrun --nproc_per_node=2 -m monai.bundle run training --config_file {TRAIN} --epochs 3", "epochs"),
        (f"python -m monai.bundle run training --config_file {TRAIN} --networks#a 3", "networks"),
        ("python -m monai.bundle run training --config_file bundles/none/configs/train.json", "none"),
        ("python -m monai.bundle run training --config_file $NOWHERE/train.json", "NOWHERE"),
        ("python -m monai.bundle downloads --bundle_path here", "downloads"),
    ],
)
def test_mistakes_on_a_page_are_found(command: str, told: str, folder: Path) -> None:
    with pytest.raises((AssertionError, KeyError, ValueError, FileNotFoundError), match=re.escape(told)):
        Shell(run=False).type(command)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_commands_of_the_repository_s_pages(page: str, folder: Path) -> None:
    """Their indented lines: verbs, options, files and ids."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    Shell(run=False).type("\n".join(re.findall(r"^ {4}(\S.*| {4}.*)$", text, re.MULTILINE)))


@pytest.mark.parametrize("page", PAGES)
def test_blocks_say_what_they_are(page: str) -> None:
    assert {block.language for block in blocks(page)} <= LANGUAGES
    outside = re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r"\n\n {4}\S", outside), "an indented block has no language, so it is not tested"


def test_the_table_of_data_sets() -> None:
    found = re.findall(r"^\| `(\w+)` \| (.*?) \|.*\| (CC .*?) \|$", read("how-to/data.md"), re.MULTILINE)
    assert [(name, licence) for name, _, licence in found] == [(name, each.licence) for name, each in RELEASES.items()]
    for name, what, _ in found:
        if counted := re.search(r"(\d+) cases", what):
            assert int(counted[1]) == len(get_release(name).cases)


def test_the_options_of_new_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    main(["new_bundle", "--help"])
    said = capsys.readouterr().out
    table = read("how-to/new_bundle.md").split("Options:")[1].split("## What is chosen")[0]
    for option in re.findall(r"`--(\w+)", table):
        assert f"--{option}" in said, option


def test_the_options_of_scoring() -> None:
    """Each id in a table or a block of options is one of the scoring configuration."""
    config = ConfigParser()
    bundle = next((ROOT / "bundles").glob("pancreas*"))
    config.read_config([bundle / "configs" / f"{name}.json" for name in ("train", "evaluate")])
    page = read("how-to/score.md").split("## What is written")[0]
    options = set(re.findall(r"--(\w+)[ #]", page)) - {"config_file", "bundle_root"}
    assert {"num_clicks", "click_policy", "network_def"} <= options <= config.config.keys()


def test_the_worked_example_of_frames_checks_itself() -> None:
    (example,) = blocks("explanation/frames.md", "python")
    assert example.text.count("assert") == 5


def test_the_orientation_in_a_configuration() -> None:
    (entry,) = blocks("explanation/frames.md", "json")
    orient = ConfigParser({"orient": json.loads(entry.text)}).get_parsed_content("orient")
    image = orient({"image": MetaTensor(torch.zeros(1, 2, 3, 4), affine=torch.eye(4))})["image"]
    assert nib.aff2axcodes(np.asarray(image.affine)) == ("S", "P", "L")
    assert image.shape == (1, 4, 3, 2)
