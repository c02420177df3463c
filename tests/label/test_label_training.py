"""Training and scoring through the server, on studies that a user has labelled; a server that is killed meanwhile."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
import torch
from scans import innermost
from serving import SARCOMA, Server, copy_bundles, start, with_weights
from test_label_clicks import in_process

from adapters.checkpoints import load_model
from adapters.datasets.phantom import write_phantoms

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
PANCREAS = "pancreas_tumor_ct_samadapter_deepgrow"
LABELLED = 3


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles, and five studies of which clients will label three."""
    folder = tmp_path_factory.mktemp("training")
    write_phantoms(folder / "phantoms", 5, shape=(36, 34, 30), spacing=(8.0, 8.0, 8.0))
    shutil.copytree(folder / "phantoms" / "images", folder / "studies")
    with_weights(copy_bundles(folder / "bundles", PANCREAS, SARCOMA))
    return folder


@pytest.fixture(scope="module")
def server(scene: Path) -> Iterator[Server]:
    running = start(scene / "first", scene / "bundles", scene / "studies", scoring=PANCREAS)
    for number in range(LABELLED):
        name = f"phantom_00{number}"
        label = scene / "phantoms" / "labels" / f"{name}.nii.gz"
        # as 3D Slicer submits: the lesion has the value 1, whatever it had in the data set of the bundle
        running.client.save_label(name, str(label), params={"label_info": [{"name": "tumor", "idx": 1}]})
    yield running
    running.stop()


def trainer(server: Server, model: str, **params: Any) -> dict[str, Any]:
    """What 3D Slicer sends: the options that the server shows, the first of each list."""
    shown = server.client.info()["trainers"][model]["config"]
    return {**{k: v[0] if isinstance(v, list) else v for k, v in shown.items()}, **params}


def train(server: Server, model: str, **params: Any) -> dict[str, Any]:
    server.client.train_start(model, trainer(server, model, **params))
    return server.wait_for_task("train")


def weights(server: Server, model: str) -> dict[str, torch.Tensor]:
    return torch.load(server.bundle(model) / "models" / "model.pt", weights_only=True)


def lesion_click(scene: Path, name: str) -> list[int]:
    label: Any = nib.load(scene / "phantoms" / "labels" / f"{name}.nii.gz")
    return innermost(np.asarray(label.dataobj) > 0, np.full(3, 8.0))


@pytest.mark.parametrize(
    ("model", "params"), [(PANCREAS, {"max_epochs": 2, "val_split": 0.0}), (SARCOMA, {"max_epochs": 2})]
)
def test_training_with_the_users_studies(server: Server, scene: Path, model: str, params: dict[str, Any]) -> None:
    """The next click is answered with the new weights. Without a study to validate on the last ones are taken."""
    image, click = scene / "studies" / "phantom_003.nii.gz", lesion_click(scene, "phantom_003")
    request = {"foreground": [click], "threshold": 0.4}
    before, old = weights(server, model), server.infer(model, "phantom_003", request)
    again = server.infer(model, "phantom_003", request)
    np.testing.assert_array_equal(again.mask, old.mask)
    status = train(server, model, **params)
    assert status["status"] == "DONE", "\n".join(status["details"])
    after = weights(server, model)
    assert before.keys() == after.keys()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed >= {"image_encoder", "mask_decoder"}
    new = server.infer(model, "phantom_003", request)
    expected = in_process(server.bundle(model), image, **request)
    np.testing.assert_array_equal(new.mask > 0, expected > 0)
    assert not np.array_equal(new.mask, old.mask)
    # nothing but weights is offered as weights, and the best come first
    choices = server.client.info()["trainers"][model]["config"]["model_filename"]
    assert choices == ["model.pt"]


def test_a_second_training_starts_from_the_weights_of_the_first(server: Server) -> None:
    """With a learning rate this small they stay what they were."""
    path = server.bundle(PANCREAS) / "configs" / "train.json"
    whole = path.read_text()
    config = json.loads(whole)
    path.write_text(json.dumps(config | {"learning_rate": 1e-12}))
    before = weights(server, PANCREAS)
    status = train(server, PANCREAS, max_epochs=1)
    path.write_text(whole)
    assert status["status"] == "DONE", "\n".join(status["details"])
    for name, tensor in weights(server, PANCREAS).items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-9, msg=name)


def test_scoring_and_the_next_sample(server: Server) -> None:
    """Scans without a label get a score; the next sample is one of them."""
    unlabelled = {"phantom_003", "phantom_004"}
    started = requests.post(
        f"{server.url}/scoring/{PANCREAS}", json={"simulation_size": 2, "max_workers": 1}, timeout=60
    )
    assert started.ok, started.text
    status = server.wait_for_task("scoring")
    assert status["status"] == "DONE", "\n".join(status["details"])
    end = time.monotonic() + 30
    while time.monotonic() < end:  # the datastore notices the file that the scoring has written
        objects = server.client.datastore()["objects"]
        scores = {n: o["image"]["info"].get("epistemic_entropy") for n, o in objects.items()}
        if all(scores[name] is not None for name in unlabelled):
            break
        time.sleep(0.5)
    assert {name for name, score in scores.items() if score is not None} == unlabelled
    assert all(np.isfinite(scores[name]) and scores[name] >= 0 for name in unlabelled)
    for strategy in ("first", "random"):
        assert server.client.next_sample(strategy, {})["id"] in unlabelled


def test_a_server_that_is_killed_in_training_leaves_a_usable_bundle(scene: Path, server: Server) -> None:
    """And a new one goes on with it."""
    before = server.infer(SARCOMA, "phantom_004", {"foreground": [lesion_click(scene, "phantom_004")]})
    models = server.bundle() / "models"
    for old in models.glob("last*"):
        old.unlink()
    server.client.train_start(SARCOMA, trainer(server, SARCOMA, max_epochs=500, val_split=0.0))
    end = time.monotonic() + 240
    while not (models / "last.previous.ckpt").exists():
        assert time.monotonic() < end, server.log[-3000:]
        time.sleep(0.05)
    server.stop(signal.SIGKILL)
    load_model(models / "model.pt")
    assert sorted(path.name for path in models.glob("*.pt")) == ["model.pt"]
    running = start(scene / "second", scene / "bundles", scene / "studies")
    try:
        request = {"foreground": [lesion_click(scene, "phantom_004")]}
        answer = running.infer(SARCOMA, "phantom_004", request)
        expected = in_process(running.bundle(), scene / "studies" / "phantom_004.nii.gz", **request)
        np.testing.assert_array_equal(answer.mask > 0, expected > 0)
        assert answer.mask.shape == before.mask.shape
        status = train(running, SARCOMA, max_epochs=1)  # shorter than the unfinished run, so it starts anew
        assert status["status"] == "DONE", "\n".join(status["details"])
        load_model(models / "model.pt")
    finally:
        running.stop()
