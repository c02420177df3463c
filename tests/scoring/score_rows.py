"""Rows of scores with known values, and folders of scores written from them."""

from __future__ import annotations

from pathlib import Path

from adapters.scoring.score_files import write_scores


def rows_of(values: dict[tuple[str, int], float], cases: str = "ab") -> list[dict]:
    return [
        {
            "case": name,
            "seed": seed,
            "policy": policy,
            "clicks": clicks,
            "dice": dice + 0.02 * seed * (policy != "automatic"),
            "nsd": 0.9,
            "seconds": 1.0,
            "lesion_ml": 1.0,
        }
        for name in cases
        for seed in range(2)
        for (policy, clicks), dice in values.items()
    ]


OURS = {("automatic", 0): 0.5, ("random", 1): 0.6, ("random", 3): 0.7, ("iterative", 1): 0.65, ("iterative", 2): 0.75}
PLAIN = {("automatic", 0): 0.7}


def write_runs(folder: Path) -> dict[str, Path]:
    """The folders of two methods' scores, by name."""
    folders = {name: folder / name for name in ("ours", "SegResNet")}
    for (name, path), values in zip(folders.items(), (OURS, PLAIN), strict=True):
        path.mkdir()
        write_scores(path, rows_of(values), method=name, tolerance=5.0)
    return folders
