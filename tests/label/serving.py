"""The real server in processes of its own, and what clients send to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import requests
from monai.transforms import LoadImage
from monailabel.client import MONAILabelClient

from adapters.checkpoints import save_model
from adapters.label import APP
from adapters.networks import build_sam_adapter3d

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = ROOT / "bundles"
NAMES = sorted(path.name for path in BUNDLES.iterdir())
SARCOMA = "soft_tissue_sarcoma_ct_samadapter_deepgrow"
TINY = {"variant": "tiny", "crop_size": 16, "spacing": 8.0}
SLOW = {"variant": "vit_b", "crop_size": 32, "spacing": 12.0}
"""SAM's own encoder, on crops as small as it can take: long to encode beside all else that a request costs."""
HEAVY = "kidney_tumor_ct_samadapter_deepgrow"
PATIENCE = 240  # seconds for the server to start: it imports much


@dataclass
class Answer:
    """A mask with its grid, and what the server said beside it."""

    mask: np.ndarray
    affine: np.ndarray
    params: dict[str, Any]
    file: Path
    seconds: float


@dataclass
class Server:
    """A running server; its bundles are copies."""

    url: str
    process: subprocess.Popen[bytes]
    bundles: Path
    studies: Path
    folder: Path

    @property
    def client(self) -> MONAILabelClient:
        (self.folder / "answers").mkdir(exist_ok=True)
        return MONAILabelClient(self.url, tmpdir=str(self.folder / "answers"))

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

    def bundle(self, name: str = SARCOMA) -> Path:
        return self.bundles / name

    def infer(self, model: str, image: str, params: Mapping[str, Any], **options: Any) -> Answer:
        """As 3D Slicer asks: the options that the server shows for the model, and the request's own."""
        start = time.perf_counter()
        file, said = self.client.infer(
            model, image, {"result_extension": ".nrrd", "result_dtype": "uint8", **params}, **options
        )
        seconds = time.perf_counter() - start
        return Answer(*read(file), said, Path(file), seconds)

    def post(self, model: str, image: str, params: Any, **options: Any) -> requests.Response:
        """A bare request; `params` may be anything."""
        text = params if isinstance(params, str) else json.dumps(params)
        return requests.post(
            f"{self.url}/infer/{model}", {"params": text}, params={"image": image, **options}, timeout=300
        )

    def wait_for_task(self, kind: str, seconds: float = 400) -> dict[str, Any]:
        """The status of the last training or scoring once it has ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = requests.get(f"{self.url}/{kind}/", timeout=60).json()
            if status.get("status") not in {"SUBMITTED", "RUNNING"}:
                return status
            time.sleep(0.5)
        raise TimeoutError(f"{kind} has not ended: {status}")

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End the server and every process that it has started, such as a training."""
        if self.process.poll() is not None:
            return
        os.killpg(self.process.pid, how)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(60)


def read(file: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """A mask and its affine, NIfTI or NRRD, as stored."""
    if str(file).endswith((".nii", ".nii.gz")):
        stored: Any = nib.load(file)
        return np.asarray(stored.dataobj), stored.affine
    image = LoadImage(image_only=True)(file)
    return image.numpy(), image.affine.numpy()


def start(folder: Path, bundles: Path, studies: Path, **options: Any) -> Server:
    """Start the server as `make label-server` does and wait until it answers."""
    words = [sys.executable, "-m", "adapters", "label_server", "--bundles", str(bundles), "--app", str(folder / "app")]
    words += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return run(words, folder, bundles, studies)


def start_stock(folder: Path, bundles: Path, studies: Path) -> Server:
    """Start the stock app as MONAI Label's own pages say, with the bundles copied into it."""
    monailabel = [sys.executable, "-m", "monailabel.main"]
    subprocess.run([*monailabel, "apps", "--download", "--name", APP, "--output", str(folder)], check=True)
    shutil.copytree(bundles, folder / APP / "model")
    models = ",".join(path.name for path in bundles.iterdir())
    words = [*monailabel, "start_server", "--app", str(folder / APP), "--conf", "models", models]
    return run([*words, "--conf", "zoo_source", "ngc", "--conf", "sam2", "false"], folder, bundles, studies)


def run(words: list[str], folder: Path, bundles: Path, studies: Path) -> Server:
    """Start a server of studies at a free port and wait until it answers."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    words = [*words, "--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "MONAI_LABEL_SESSION_PATH": str(folder / "sessions"), "HF_HUB_OFFLINE": "1"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    server = Server(f"http://127.0.0.1:{port}", process, bundles, studies, folder)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if requests.get(f"{server.url}/info/", timeout=60).ok:
                return server
        except requests.ConnectionError:
            assert process.poll() is None, server.log[-5000:]
            time.sleep(0.25)
    server.stop(signal.SIGKILL)
    raise TimeoutError(f"the server has not started: {server.log[-5000:]}")


def copy_bundles(folder: Path, *names: str) -> Path:
    """Copies of bundles, with the weights that are shipped."""
    folder.mkdir(parents=True)
    for name in names:
        ignored = shutil.ignore_patterns("eval", "last*")
        shutil.copytree(BUNDLES / name, folder / name, ignore=ignored)
    return folder


def shrink(bundle: Path, **values: Any) -> None:
    """Other values of top-level ids of a copied bundle, in inference and training."""
    for name in ("inference", "train"):
        path = bundle / "configs" / f"{name}.json"
        config = json.loads(path.read_text())
        config.update({key: value for key, value in values.items() if key in config})
        path.write_text(json.dumps(config, indent=4))


def with_weights(bundles: Path, **options: object) -> None:
    """Random weights for the bundles of a folder that have none, of small networks."""
    for bundle in sorted(bundles.iterdir()):
        if bundle.name != SARCOMA:
            values = {**TINY, **options} if bundle.name != HEAVY else {**SLOW, **options}
            shrink(bundle, **values)
            network = build_sam_adapter3d(str(values["variant"]), int(str(values["crop_size"])))
            (bundle / "models").mkdir()
            save_model(network, bundle / "models" / "model.pt")
