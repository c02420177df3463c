"""A click in a running MONAI Label server, asked for as 3D Slicer does, drawn in three planes.

    make label-server STUDIES=DIR
    .venv-label/bin/python docs/pictures/label_click.py --model NAME --scan DIR/scan.nii.gz --on 80,90,40 --off 20,30,40

The clicks are given one after the other, and what each took is printed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import nibabel as nib
import numpy as np
from monailabel.client import MONAILabelClient

mpl.use("Agg")
from matplotlib import pyplot as plt

PLANES = (("axial", 2), ("coronal", 1), ("sagittal", 0))


def voxel(text: str) -> list[int]:
    """Three indices with commas between."""
    i, j, k = (int(part) for part in text.split(","))
    return [i, j, k]


def ask(
    client: MONAILabelClient, model: str, image: str, on: list, off: list, options: dict[str, str]
) -> tuple[np.ndarray, float]:
    """The mask for some clicks, and the seconds that it took; the request is that of 3D Slicer's module."""
    shown = client.info()["models"][model]["config"]
    params = {"label": "tumor", "foreground": on, "background": off}
    params |= {key: value[0] if isinstance(value, list) else value for key, value in shown.items()}
    params |= options
    start = time.perf_counter()
    file, _ = client.infer(model, image, params | {"result_extension": ".nii.gz", "result_dtype": "uint8"})
    seconds = time.perf_counter() - start
    stored: Any = nib.load(file)
    return np.asarray(stored.dataobj) > 0, seconds


def draw(scan: nib.Nifti1Image, masks: list[np.ndarray], clicks: list[tuple[list[int], bool]], path: Path) -> None:
    """A row for each mask: three planes through the first click."""
    turn = nib.orientations.io_orientation(scan.affine)
    values = np.asarray(nib.as_closest_canonical(scan).dataobj)
    spacing = np.abs(np.asarray(nib.as_closest_canonical(scan).affine)[:3, :3]).max(axis=0)
    way = np.linalg.inv(nib.as_closest_canonical(scan).affine) @ scan.affine
    points = [(np.rint(nib.affines.apply_affine(way, click)).astype(int), positive) for click, positive in clicks]
    figure, axes = plt.subplots(len(masks), 3, figsize=(9, 3.1 * len(masks)), squeeze=False, layout="constrained")
    for row, mask in enumerate(masks):
        turned = nib.orientations.apply_orientation(mask, turn)
        for axis, (name, normal) in zip(axes[row], PLANES, strict=True):
            across, up = (n for n in range(3) if n != normal)
            here = int(points[0][0][normal])
            axis.imshow(
                values.take(here, axis=normal).T,
                cmap="gray",
                vmin=-160,
                vmax=240,
                origin="lower",
                aspect=spacing[up] / spacing[across],
            )
            axis.contour(turned.take(here, axis=normal).T, levels=[0.5], colors="#ffb000", linewidths=1.2)
            for point, positive in points[: row + 1]:
                if abs(int(point[normal]) - here) <= 1:
                    style = {"marker": "o", "color": "#3ddc84"} if positive else {"marker": "x", "color": "#ff5050"}
                    axis.plot(point[across], point[up], markersize=6, linestyle="none", **style)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(name, fontsize=10)
        axes[row][0].set_ylabel(f"{row + 1} click{'s' if row else ''}", fontsize=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Click, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--model", required=True)
    parser.add_argument("--scan", required=True, type=Path, help="a NIfTI file among the server's studies")
    parser.add_argument("--on", type=voxel, action="append", default=[], help="i,j,k of a click on the lesion")
    parser.add_argument("--off", type=voxel, action="append", default=[], help="i,j,k of a click off it")
    parser.add_argument("--option", action="append", default=[], help="name=value, as in the client's table of options")
    parser.add_argument("--output", type=Path, help="the picture; none: times alone")
    options = parser.parse_args()
    scan: Any = nib.load(options.scan)
    chosen = dict(option.split("=", 1) for option in options.option)
    clicks = [*((click, True) for click in options.on), *((click, False) for click in options.off)]
    with tempfile.TemporaryDirectory() as folder:
        client = MONAILabelClient(options.server, tmpdir=folder)
        masks = []
        for count in range(1, len(clicks) + 1):
            on, off = ([c for c, positive in clicks[:count] if positive is wanted] for wanted in (True, False))
            mask, seconds = ask(client, options.model, options.scan.name.split(".")[0], on, off, chosen)
            sys.stdout.write(f"click {count}: {seconds:.2f} s, {int(mask.sum())} voxels\n")
            masks.append(mask)
    if options.output:
        draw(scan, masks, clicks, options.output)


if __name__ == "__main__":
    main()
