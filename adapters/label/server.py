"""The stock server: MONAI Label's own app ``monaibundle``, unchanged, with links to the bundles in its model folder."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from adapters.bundling.folders import bundle_folder, is_installed
from adapters.bundling.get import copy_bundle
from adapters.files import no_weights

__all__ = ["APP", "arrange", "command", "environment", "find_bundles", "serve"]

logger = logging.getLogger(__name__)

APP = "monaibundle"
"""The app of MONAI Label that serves MONAI bundles."""

_MONAI_LABEL = (sys.executable, "-m", "adapters.label.start")
_LOOPBACK = ("127.0.0.1", "localhost")
_OFF_THE_NETWORK = ("zoo_source", "ngc"), ("sam2", "false")  # else it asks the Model Zoo, and loads another network


def find_bundles(folder: str | os.PathLike | None = None, names: Sequence[str] = ()) -> list[Path]:
    """The bundles of a folder that a server can serve; those without weights are named in the log and left out.

    Args:
        folder: holds a folder for each bundle; None or empty: as `adapters.bundling.folders.bundle_folder`.
        names: which; empty: all.

    Returns:
        Folders with ``configs/inference.json`` and ``models/model.pt``.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a name is none of a bundle there, or no bundle is left.
    """
    root = bundle_folder(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder of bundles {str(root)!r}: name it with --bundles")
    known = {path.parents[1].name: path.parents[1] for path in sorted(root.glob("*/configs/inference.json"))}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{unknown[0]!r} is no bundle of {str(root)!r}, expected one of {', '.join(known) or 'none'}")
    bundles = []
    for bundle in (known[name] for name in (names or known)):
        weights = bundle / "models" / "model.pt"
        if weights.is_file() and (reason := no_weights(weights)):
            logger.warning("%s is left out: its models/model.pt %s", bundle.name, reason)
        elif weights.is_file():
            bundles.append(bundle.resolve())
        else:
            logger.warning(
                "%(name)s is left out: it has no weights (models/model.pt) yet; train it, convert the authors' "
                "weights, or start from SAM's: python -m adapters init %(name)s",
                {"name": bundle.name},
            )
    if not bundles:
        raise ValueError(f"no bundle of {str(root)!r} has weights (models/model.pt): there is nothing to serve")
    return bundles


def arrange(app_folder: str | os.PathLike, bundles: Sequence[Path]) -> Path:
    """Put MONAI Label's app into a folder, where it is not there yet, and link the bundles into it.

    A training through the server writes into the linked bundle, as any training of a bundle does. A bundle of the
    installed library is copied instead, once; the copy stays with what is trained in it.

    Args:
        app_folder: the folder that holds the app's; made if it is not there.
        bundles: what `find_bundles` gives.

    Returns:
        The app's folder.

    Raises:
        ValueError: MONAI Label could not copy its app, or something that is no link has a bundle's name there.
    """
    app = Path(app_folder).expanduser().resolve() / APP
    if not (app / "main.py").is_file():
        words = [*_MONAI_LABEL, "apps", "--download", "--name", APP, "--output", str(app.parent)]
        done = subprocess.run(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode or not (app / "main.py").is_file():
            raise ValueError(f"MONAI Label has not copied its app to {str(app)!r}: {done.stdout.strip()[-500:]}")
    models = app / "model"
    models.mkdir(exist_ok=True)
    for old in models.iterdir():
        if old.is_symlink():
            old.unlink()
    for bundle in bundles:
        link = models / bundle.name
        if is_installed(bundle):
            if not link.exists():
                copy_bundle(bundle, models)
            continue
        if link.exists():
            raise ValueError(f"{str(link)!r} is no link to a bundle and was left as it is: move it away")
        link.symlink_to(bundle, target_is_directory=True)
    return app


def command(app: Path, studies: str, bundles: Sequence[Path], *, host: str, port: int, scoring: str = "") -> list[str]:
    """The command line that starts the stock server, off the network.

    Args:
        app: the app's folder, with the bundles in it.
        studies: folder of scans, or the address of a DICOMweb server.
        bundles: what to serve.
        host: address to listen on.
        port: port to listen on.
        scoring: name of the bundle whose uncertainty scores unlabelled scans; empty: no scoring.
    """
    conf = [("models", ",".join(bundle.name for bundle in bundles)), *_OFF_THE_NETWORK]
    if scoring:
        conf.append(("epistemic_model", scoring))
    words = [*_MONAI_LABEL, "start_server", "--app", str(app), "--studies", studies, "--host", host]
    return [*words, "--port", str(port), *(word for pair in conf for word in ("--conf", *pair))]


def environment(host: str = "127.0.0.1", port: int = 8000) -> dict[str, str]:
    """The environment variables of the server: this process' own, and what the server needs beyond them.

    Args:
        host: address that the server listens on.
        port: its port.
    """

    def before(name: str, folder: Path) -> str:
        return os.pathsep.join(filter(None, [str(folder), os.environ.get(name, "")]))

    return {
        # scores are made when they are asked for, and not two at a time
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
        # else any page in the user's browser may ask it anything; its own pages, OHIF's, need no permission
        "MONAI_LABEL_CORS_ORIGINS": json.dumps(
            [f"http://{name}:{port}" for name in (_LOOPBACK if host in _LOOPBACK else (host,))]
        ),
        **os.environ,
        # itkimage2segimage, which writes DICOM SEG, lies beside the interpreter
        "PATH": before("PATH", Path(sys.executable).parent),
        # the library is found in the server and in its trainings wherever this one was started
        "PYTHONPATH": before("PYTHONPATH", Path(__file__).resolve().parents[2]),
    }


def serve(
    studies: str,
    bundles: str | os.PathLike | None = None,
    names: str = "",
    app: str | os.PathLike = "label_app",
    host: str = "127.0.0.1",
    port: int = 8000,
    scoring: str = "",
) -> str:
    """Starts MONAI Label's server with the bundles that have weights, for 3D Slicer and OHIF; see the how-to.

    Args:
        studies: Folder of scans, or the address of a DICOMweb server.
        bundles: Folder of bundles; left out, bundles/ here, or the library's own where there is none.
        names: Which of them, with commas between; all that have weights when left out.
        app: The folder that MONAI Label's own app, its logs and links to the bundles are put into.
        host: Address to listen on. There is no password, and whoever reaches the server can run code on this computer:
            give another one than 127.0.0.1 only where you trust all who can.
        port: Port to listen on.
        scoring: The bundle that scores scans by its uncertainty, for active learning.

    Returns:
        What to print when it has ended.

    Raises:
        FileNotFoundError: the folder of studies or of bundles is not there.
        ValueError: MONAI Label is not installed; nothing to serve; the server has failed.
    """
    if importlib.util.find_spec("monailabel") is None:
        raise ValueError(
            "MONAI Label is not in this environment: `make label-server STUDIES=DIR` makes one that has it, or "
            "pip install 'monai-sam-adapters[label]' (in its source folder -e '.[label]') into one of your own"
        )
    if not studies.startswith(("http://", "https://")):
        if not Path(studies).expanduser().is_dir():
            raise FileNotFoundError(f"there is no folder of studies {studies!r}: name the folder with the scans")
        studies = str(Path(studies).expanduser().resolve())
    served = find_bundles(bundles, [name.strip() for name in names.split(",") if name.strip()])
    listed = ", ".join(bundle.name for bundle in served)
    if scoring and scoring not in listed.split(", "):
        raise ValueError(f"scoring is {scoring!r}, expected one of {listed}")
    words = command(arrange(app, served), studies, served, host=host, port=port, scoring=scoring)
    if host not in _LOOPBACK:
        logger.warning("whoever reaches %s:%d can run code on this computer: there is no password", host, port)
    logger.info("starting http://%s:%d/ with %s", host, port, listed)
    code = subprocess.run(words, env=environment(host, port), check=False).returncode
    if code:
        raise ValueError(f"the server has ended with exit code {code}: its messages above say why")
    return "the server has ended"
