"""Several methods in one table: all of them scored on the same cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from adapters.files import write_whole

from .figures import box_figure, curve_figure, png
from .page import Table, markdown_table
from .score_files import load_summary
from .summaries import AUTOMATIC, ITERATIVE, SCORES, by_policy, order
from .tables import Summary, points

COMPARED: Sequence[tuple[str, int]] = (
    (AUTOMATIC, 0),
    *(("random", n) for n in (1, 3, 10)),
    *((ITERATIVE, n) for n in (1, 3, 5, 10)),
)
"""Policies and numbers of clicks that `compare` puts side by side, besides others that were placed at once."""


def compare(runs: str | Mapping[str, str | Path], output: str | Path) -> Path:
    """Put the scores of several methods into one table and one plot, as a model card wants them.

    ``compare.md`` has a row of Dice and one of NSD for each method, a dash where it was not scored. Its columns are
    `COMPARED` and whatever else was placed at once. ``compare.png`` is Dice over clicks, ``compare_boxes.png`` the Dice
    of the cases.

    Args:
        runs: the folder of each method's scores (`ScoreWriter`) by name, or
            ``"ours=eval/ours,SegResNet=eval/segresnet"``.
        output: the folder to write into; it is made if it is not there.

    Returns:
        The table's path.

    Raises:
        ValueError: a run without name or folder, a name given twice, or runs that differ in their cases or in the NSD's
            tolerance.
        FileNotFoundError: a folder without a summary.
    """
    summaries = {name: load_summary(Path(folder)) for name, folder in _given(runs).items()}
    check_alike(summaries)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "compare.png", png(curve_figure(summaries)))
    write_whole(output / "compare_boxes.png", png(box_figure(summaries)))
    cases, tolerance = (next(iter(summaries.values()))[key] for key in ("cases", "tolerance_mm"))
    about = (
        f"Mean ± spread between seeds, in points, on {len(cases)} cases, by number of clicks; NSD at {tolerance:g} mm."
    )
    write_whole(output / "compare.md", f"{about}\n\n{markdown_table(comparison(summaries))}\n")
    return output / "compare.md"


def _given(runs: str | Mapping[str, str | Path]) -> dict[str, Path]:
    pairs = runs.items() if isinstance(runs, Mapping) else [run.partition("=")[::2] for run in runs.split(",")]
    folders = [(name.strip(), str(folder).strip()) for name, folder in pairs]
    if not folders or not all(name and folder for name, folder in folders):
        raise ValueError(f"runs is {runs!r}, expected NAME=FOLDER, several with commas between them")
    name, times = Counter(name for name, _ in folders).most_common(1)[0]
    if times > 1:
        raise ValueError(f"runs name {name!r} twice, expected a name of its own for every folder")
    return {name: Path(folder) for name, folder in folders}


def check_alike(summaries: Mapping[str, Summary]) -> None:
    """Raises a ValueError for methods that were scored on different cases or at another tolerance; names them."""
    first, *others = summaries
    for name in others:
        for key in ("cases", "tolerance_mm"):
            if summaries[name][key] != summaries[first][key]:
                raise ValueError(
                    f"{name} has {key} {summaries[name][key]} but {first} {summaries[first][key]}: "
                    "only scores of the same cases at the same tolerance can be compared"
                )


def comparison(summaries: Mapping[str, Summary]) -> Table:
    """Two rows for each method, Dice and NSD, as `compare` describes them."""
    methods = {name: by_policy(summary["scores"]) for name, summary in summaries.items()}
    at_once = {column for entries in methods.values() for column in entries if column[0] not in {AUTOMATIC, ITERATIVE}}
    columns = sorted({*COMPARED, *at_once}, key=lambda column: order(*column))
    rows = [
        [name, title, *(points(entries[column][score]) if column in entries else "-" for column in columns)]
        for name, entries in methods.items()
        for score, title in SCORES.items()
    ]
    names = [str(n) if policy == AUTOMATIC else f"{n} {policy}" for policy, n in columns]
    return Table(["method", "score", *names], rows)
