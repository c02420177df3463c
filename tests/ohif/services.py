"""What a run needs installed, and the programs that it starts and stops."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from adapters.label import server

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / ".ohif"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
# the Debian package of each
PROGRAMS = {
    "Orthanc": "orthanc",
    str(PLUGIN): "orthanc-dicomweb",
    "chromium": "chromium",
    "node": "nodejs",
    "npm": "npm",
}
PLAYWRIGHT = "1.65.1"
PACKAGES = (
    # the last one for pydicom 2, which monailabel 0.8.5 needs
    "highdicom==0.22.0",
)

log = logging.getLogger(__name__)


def _find(program: str) -> str | None:
    """Where a program is; Debian keeps Orthanc where not everybody looks."""
    return shutil.which(program, path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")


def install() -> None:
    """Debian packages as root through apt-get, Python packages into this environment, playwright-core into `.ohif`.

    Raises:
        SystemExit: Debian packages are missing and cannot be installed from here; the message names them.
    """
    missing = [program for program in PROGRAMS if not (_find(program) or Path(program).is_file())]
    if packages := [PROGRAMS[program] for program in missing]:
        command = ["apt-get", "install", "--yes", *packages]
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise SystemExit(f"{', '.join(packages)} missing; install them: sudo {' '.join(command)}")
        log.info("%s", " ".join(command))
        subprocess.run(["apt-get", "update"], check=True)
        subprocess.run(command, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        if "orthanc" in packages:  # the package starts a server of its own
            subprocess.run(["service", "orthanc", "stop"], check=False)
    installed = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    if wanted := [each for each in PACKAGES if installed.get(each.split("==")[0]) != each.split("==")[1]]:
        log.info("pip install %s", " ".join(wanted))
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)
    found = MODULES / "node_modules" / "playwright-core" / "package.json"
    if not found.is_file() or json.loads(found.read_text(encoding="utf-8"))["version"] != PLAYWRIGHT:
        log.info("npm install playwright-core@%s", PLAYWRIGHT)
        MODULES.mkdir(exist_ok=True)
        subprocess.run(
            ["npm", "install", "--silent", "--prefix", MODULES, f"playwright-core@{PLAYWRIGHT}"],
            check=True,
            # Debian's Chromium is used
            env={**os.environ, "PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD": "1"},
        )


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


class Services:
    """Programs that are started on free ports of 127.0.0.1 and all stopped at the end, whatever happens.

    Args:
        folder: Where they keep their files and logs; it is there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Services:
        # so that the stack is unwound by `kill` too
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def archive(self) -> str:
        """An empty Orthanc; the URL of its DICOMweb."""
        port, settings = _free_port(), self.folder / "orthanc.json"
        database = str(self.folder / "orthanc")
        settings.write_text(
            json.dumps(
                {
                    "StorageDirectory": database,
                    "IndexDirectory": database,
                    "Plugins": [str(PLUGIN)],
                    "HttpPort": port,
                    # this version listens on all addresses and refuses other machines
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                    "DicomServerEnabled": False,
                    "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
                }
            ),
            encoding="utf-8",
        )
        url = f"http://127.0.0.1:{port}/dicom-web"
        self._start("orthanc", [str(_find("Orthanc")), str(settings)], url=f"{url}/studies")
        return url

    def label_server(self, archive: str, bundle: Path) -> str:
        """The stock `monaibundle` app of MONAI Label in front of an archive; its URL.

        Args:
            archive: URL of the archive's DICOMweb.
            bundle: Folder of a bundle with weights.
        """
        port = _free_port()
        app = server.arrange(self.folder / "apps", [bundle])
        command = server.command(app, archive, [bundle], host="127.0.0.1", port=port)
        temporary = self.folder / "tmp"
        temporary.mkdir()
        environment = {
            **server.environment("127.0.0.1", port),
            "TMPDIR": str(temporary),
            "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(self.folder / "cache"),
            "MONAI_LABEL_SESSION_PATH": str(self.folder / "sessions"),
        }
        url = f"http://127.0.0.1:{port}/"
        self._start("monailabel", command, url=f"{url}info/", environment=environment)
        return url

    def browser(self) -> Browser:
        """Chromium behind `browser.mjs`."""
        script = Path(__file__).with_name("browser.mjs")
        command = ["node", str(script), str(MODULES), str(_find("chromium")), str(self.folder)]
        return Browser(self._start("browser", command, pipe=True))

    def _start(
        self,
        name: str,
        command: list[str],
        *,
        url: str | None = None,
        pipe: bool = False,
        environment: Mapping[str, str] | None = None,
        timeout: float = 180,
    ) -> subprocess.Popen[str]:
        """Start a program, and wait until `url` answers."""
        written = self._stack.enter_context((self.folder / f"{name}.log").open("w", encoding="utf-8"))
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if pipe else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipe else written,
            stderr=written,
            text=True,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        self._stack.callback(_stop, process)
        end = time.monotonic() + timeout
        while url is not None:
            try:
                with urllib.request.urlopen(url, timeout=10):
                    break
            except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{name} does not answer at {url} ({error}); see {written.name}") from error
                time.sleep(0.5)
        return process


def _stop(process: subprocess.Popen[str]) -> None:
    """End a program and all that it started, first politely."""
    if process.stdin is not None:
        process.stdin.close()  # the browser's hands end with their input
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=20)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


class Browser:
    """OHIF in Chromium; the commands are those of `browser.mjs`.

    Args:
        process: The running `browser.mjs`.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, command: str, **options: Any) -> dict[str, Any]:
        """Do one thing in the browser and wait for the answer.

        Raises:
            RuntimeError: It could not be done; `failed.png` shows the page.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command, **options}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"{command}: the browser has ended, see browser.log"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer
