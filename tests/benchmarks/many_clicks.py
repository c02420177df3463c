"""Dice of a bundle where clicks repeat, crowd, or are many: as the network answers alone, and by the rules for clicks.

    python -m tests.benchmarks.many_clicks DATASET_DIR [BUNDLE]

Scores the section ``test`` of the bundle's own data list.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from monai.transforms import Orientationd

from adapters.inferers import ClickInferer
from adapters.prompts import ClickPolicy, Prompts
from adapters.sessions import read_bundle
from adapters.sessions.bundle import bundle_network, parsed
from adapters.transforms import LoadScand, load_datalist

ALONE = {"click_distance": None, "honour_clicks": False}
SEEDS = (0, 1)
NUMBERS = (1, 3, 5, 10)
Answer = Callable[[Prompts], np.ndarray]


def dice(mask: np.ndarray, lesion: np.ndarray) -> float:
    """Of two masks (D, H, W)."""
    return float(2 * (mask & lesion).sum() / max(mask.sum() + lesion.sum(), 1))


def lattice(lesion: np.ndarray, spacing: np.ndarray, apart: float, number: int = 10) -> np.ndarray:
    """(N, 3) voxels of the lesion on a lattice round its middle, `apart` mm from each other, the innermost first."""
    middle = ClickPolicy("centre")(lesion, np.random.default_rng(0), 1).points[0]
    steps = np.array(sorted(product(range(-3, 4), repeat=3), key=lambda step: sum(n * n for n in step)))
    places = np.rint(middle + steps * apart / spacing).astype(int)
    places = places[np.all((places >= 0) & (places < lesion.shape), axis=1)]
    return places[lesion[tuple(places.T)]][:number]


def scores(image: np.ndarray, lesion: np.ndarray, spacing: np.ndarray, answer: Answer) -> Iterator[tuple[str, float]]:
    """The name of each trial, and its Dice.

    Args:
        image: (D, H, W) as the network sees it.
        lesion: (D, H, W) bool.
        spacing: (3,) mm.
        answer: the mask from prompts in voxels of the image.
    """

    def of(points: Any, labels: Any) -> np.ndarray:
        return answer(Prompts(points, labels, shape=lesion.shape))

    middle = ClickPolicy("centre")(lesion, np.random.default_rng(0), 1).points
    for number in (1, 2, 10, 20):
        yield f"the same click {number} times", dice(of(np.repeat(middle, number, 0), [1] * number), lesion)
    for apart in (4, 8, 12):
        points = lattice(lesion, spacing, apart)
        yield f"ten clicks {apart} mm apart", dice(of(points, [1] * len(points)), lesion)
    rng = np.random.default_rng(0)
    inside, outside = np.argwhere(lesion), np.argwhere(~lesion & (image > image.min()))
    points = np.concatenate([each[rng.choice(len(each), 150, replace=False)] for each in (inside, outside)])
    mask = of(points, [1] * 150 + [0] * 150)
    yield "150 on the lesion, 150 off it", dice(mask, lesion)
    yield "of these clicks, honoured", float((mask[tuple(points.T)] == lesion[tuple(points.T)]).mean())
    for seed, number in product(SEEDS, NUMBERS):
        prompts = ClickPolicy("random")(lesion, np.random.default_rng([seed, number]), number)
        yield f"{number} at random", dice(answer(prompts), lesion)
    for seed in SEEDS:
        user, rng = ClickPolicy("iterative", {"jitter": 0.5, "spacing": tuple(spacing)}), np.random.default_rng(seed)
        prompts, last = Prompts(shape=lesion.shape), None
        for number in range(1, max(NUMBERS) + 1):
            click = user(lesion, rng, prediction=last)
            prompts = prompts.with_clicks(click.points, click.labels)
            last = answer(prompts)
            if number in NUMBERS:
                yield f"{number} in the largest error", dice(last, lesion)


def main(dataset_dir: str, bundle: str = "soft_tissue_sarcoma_ct_samadapter_deepgrow") -> None:
    """Print the table."""
    parsers = {name: read_bundle(bundle, options) for name, options in (("alone", ALONE), ("by the rules", {}))}
    parser = parsers["alone"]
    network, read = bundle_network(parser), parsed(parser, "preprocessing").transforms[0]
    orient = Orientationd("label", axcodes="SPL", labels=(("L", "R"), ("P", "A"), ("I", "S")))
    found: dict[str, dict[str, list[float]]] = {}
    for case in load_datalist(f"{parser['bundle_root']}/configs/datalist.json", "test", dataset_dir):
        scan = read({"image": case["image"]})["image"]
        lesion = np.asarray(orient(LoadScand("label")({"label": case["label"]}))["label"][0]) > 0
        spacing = np.linalg.norm(np.asarray(scan.affine)[:3, :3], axis=0)
        for name, each in parsers.items():
            inferer = parsed(each, "inferer")

            def answer(prompts: Prompts, inferer: ClickInferer = inferer, scan: Any = scan) -> np.ndarray:
                ClickInferer.forget(network)
                with torch.no_grad():
                    return np.asarray(inferer(scan[None], network, prompts)[0, 0]) > 0

            for trial, value in scores(np.asarray(scan[0]), lesion, spacing, answer):
                found.setdefault(trial, {}).setdefault(name, []).append(value)
    sys.stdout.write(f"| clicks | {' | '.join(parsers)} |\n|---|{'---|' * len(parsers)}\n")
    for trial, values in found.items():
        sys.stdout.write(f"| {trial} | {' | '.join(f'{np.mean(values[name]):.3f}' for name in parsers)} |\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
