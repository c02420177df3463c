"""SAM's official checkpoint files: where they are, how large, and how to get one."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from adapters.fetching import WebFile, fetch

__all__ = ["SAM_URL", "WEIGHTS", "WeightFile", "download_verb", "download_weights"]

SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything"


@dataclass(frozen=True)
class WeightFile:
    """A file of weights that can be fetched.

    Attributes:
        file: its name, under which it is kept too.
        size: bytes.
        sha256: of the whole file, hexadecimal.
        licence: of the weights, as an SPDX identifier.
        url: the folder that it is published in.
    """

    file: str
    size: int
    sha256: str
    licence: str = "Apache-2.0"
    url: str = SAM_URL


# SAM's file names end with the first digits of the MD5, not of the sha256, which Meta does not publish: these sha256
# are those that independent projects record, micro-sam (`micro_sam/util.py`) among them.
WEIGHTS: dict[str, WeightFile] = {
    "sam_vit_b": WeightFile(
        "sam_vit_b_01ec64.pth", 375_042_383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    ),
    "sam_vit_l": WeightFile(
        "sam_vit_l_0b3195.pth", 1_249_524_607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
    ),
    "sam_vit_h": WeightFile(
        "sam_vit_h_4b8939.pth", 2_564_550_879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    ),
}


def download_verb(path: str | Path) -> str:
    """The command that fetches a SAM file which is missing.

    Args:
        path: where the file was looked for; its name tells which of SAM's it is, if it has the official name.
    """
    path = Path(path)
    for name, weights in WEIGHTS.items():
        if weights.file == path.name:
            return f"python -m adapters download {name} --output {shlex.quote(str(path.parent))}"
    return f"python -m adapters download {'|'.join(WEIGHTS)}"


def download_weights(name: str, output: str | Path = ".", *, url: str = "", progress: bool = True) -> Path:
    """Fetch one of SAM's checkpoint files, unless it is there already, and check it (`adapters.fetching.fetch`).

    Args:
        name: "sam_vit_b", "sam_vit_l" or "sam_vit_h".
        output: the folder that the file goes to; it is made if it is not there.
        url: the http or https address of a folder that has the file, such as a mirror. Empty: the official one.
        progress: whether a terminal shows a progress bar.

    Returns:
        The file's path.

    Raises:
        ValueError: an unknown name, another kind of address, an output that is a file. Content of another size or
            sha256, from the server or in a file that was there before.
        OSError: the server cannot be reached or has no such file, the transfer breaks again and again, another process
            fetches into the same folder, or the disk is too small.
    """
    if name not in WEIGHTS:
        raise ValueError(f"weights {name!r} are unknown, expected one of {', '.join(WEIGHTS)}")
    weights = WEIGHTS[name]
    source = f"{(url or weights.url).rstrip('/')}/{weights.file}"
    if urlsplit(source).scheme not in {"http", "https"} or not urlsplit(source).netloc:
        raise ValueError(f"url is {url!r}, expected the http or https address of a folder that has {weights.file}")
    folder = Path(output).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output is {str(output)!r}, which is a file: expected a folder for {weights.file}")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / weights.file
    web = WebFile(source, weights.sha256, size=weights.size)
    fetch(web, target, or_else="name another address that has it (--url)", progress=progress)
    return target
