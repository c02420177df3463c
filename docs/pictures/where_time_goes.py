"""Where the time of one click goes: tables to read, and a picture of the library's form below the literal one.

    .venv/bin/python docs/pictures/where_time_goes.py --variant tiny --crop_size 64 --picture tiny.png

Each form is measured once, and the floor too, in processes of their own. `vit_b` at 128 takes about five minutes and
9 GB. `--output` keeps what was measured, `--measured` draws it again.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from tests.benchmarks.profile import KINDS
from tests.benchmarks.sections import in_fresh_process, processor
from tests.benchmarks.table import Row

mpl.use("Agg")
from matplotlib import pyplot as plt

FORMS = ("literal", "fast")
BEGIN, END = "<!-- profile -->", "<!-- end of profile -->"
TITLES = {"literal": "literal: each step as it is described", "fast": "fast: the library's form"}
# of Okabe and Ito, told apart by colour-blind readers, and greys
COLOURS = dict(
    zip(
        KINDS,
        (
            "#0072B2",
            "#D55E00",
            "#F0E442",
            "#009E73",
            "#CC79A7",
            "#000000",
            "#56B4E9",
            "#7F7F7F",
            "#E69F00",
            "#BFBFBF",
        ),
        strict=True,
    )
)
DARK = {"#0072B2", "#D55E00", "#009E73", "#000000", "#7F7F7F"}
PART_COLOURS = ("#E4E4E4", "#EFEFEF", "#E4E4E4", "#EFEFEF")
DEPTH = 4  # rows of parts above the row of kinds
POINTS = 7.5
WIDTH = 12.0  # inches of the axis of time
ROW = 27  # points of a row's height


def measure_all(variant: str, crop_size: int) -> dict[str, Any]:
    """Both forms and the floor."""
    size = {"variant": variant, "crop_size": crop_size}
    rows = [*(Row(form, "profile", {"form": form, **size}) for form in FORMS), Row("floor", "floor", size)]
    return {
        "machine": f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        **size,
        **{row.title: in_fresh_process(row) for row in rows},
    }


def flat(tree: dict[str, Any], depth: int = 0) -> list[tuple[int, str, float]]:
    """Depth, name and seconds of a tree's parts."""
    inner = [row for part in tree["parts"] for row in flat(part, depth + 1)]
    return [(depth, tree["name"], tree["seconds"]), *inner]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables(found: dict[str, Any]) -> str:
    """Seconds by kind and by part, operations, and the floor."""
    literal, fast, floor = found["literal"], found["fast"], found["floor"]
    wholes = [literal["seconds"], fast["seconds"]]

    def row(name: str, seconds: list[float]) -> list[str]:
        return [
            name,
            *(text for s, whole in zip(seconds, wholes, strict=True) for text in (f"{s:.1f}", f"{s / whole:.0%}")),
        ]

    kinds = [row(kind, [form["kinds"][kind] for form in (literal, fast)]) for kind in KINDS]
    seconds = {form: {name: s for _, name, s in flat(found[form]["tree"])} for form in FORMS}
    parts = [
        row("&nbsp;" * 3 * depth + name, [seconds[form].get(name, 0.0) for form in FORMS])
        for depth, name, _ in flat(fast["tree"])
    ]
    head = ["literal (s)", "share", "fast (s)", "share"]
    counts = floor["flops"]
    products = [
        [part, kind, *(f"{counts[form][part][kind] / 1e9:.1f}" for form in FORMS)]
        for part, kinds in counts["fast"].items()
        for kind in kinds
    ]
    sums = [f"{sum(sum(kinds.values()) for kinds in counts[form].values()) / 1e9:.1f}" for form in FORMS]
    rates = [[library, f"{rate:.0f}"] for library, rate in floor["gflop_per_s"].items()]
    names = {"encoder": seconds, "click": {form: {"click": found[form]["seconds"]} for form in FORMS}}
    floors = []
    for whole, of_forms in names.items():
        least = floor["floor_s"][whole]
        for what, s in (("linear layers", least["linear layers"]), ("all products", sum(least.values()))):
            times = [f"{of_forms[form][whole] / s:.2f}" for form in FORMS]
            floors.append([f"{whole}: {what}", f"{s:.1f}", *times])
    said = (
        f"{found['machine']}; {found['variant']}, crop {found['crop_size']}, float32, one run of each form. "
        f"On average literal had {literal['cores']:.1f} cores, fast {fast['cores']:.1f}."
    )
    return "\n\n".join(
        [
            said,
            table(["kind of operation", *head], [*kinds, row("all", wholes)]),
            table(["part", *head], parts),
            table(["part", "products", "literal (GFLOP)", "fast (GFLOP)"], [*products, ["all", "", *sums]]),
            table(["matrix products of the encoder", "GFLOP/s"], rates),
            table(["floor", "seconds", "literal takes ... times as long", "fast takes ... times as long"], floors),
        ]
    )


def box(axes: Axes, left: float, width: float, rows: tuple[float, float], text: str, colour: str, scale: float) -> None:
    """A labelled rectangle from the upper to the lower row; the text only where it has room."""
    upper, lower = rows
    axes.barh((upper + lower) / 2, width, lower - upper, left, color=colour, edgecolor="white", linewidth=0.6)
    room = width / scale * WIDTH * 72 * 0.9
    ink = "white" if colour in DARK else "black"
    name, seconds = text.rsplit(" (", 1)
    wrapped = textwrap.fill(name, 11, break_long_words=False)
    lines = (text, f"{name}\n({seconds}", f"{wrapped}\n({seconds}", name, wrapped)
    for line, turned in [(line, turned) for turned in (False, True) for line in lines]:
        longest = max(map(len, line.split("\n"))) * POINTS * 0.52
        high = (line.count("\n") + 1) * POINTS * 1.3
        needed, other = (high, longest) if turned else (longest, high)
        if needed < room and other < (lower - upper) * ROW:
            place = {"ha": "center", "va": "center", "rotation": 90 if turned else 0}
            axes.text(left + width / 2, (upper + lower) / 2, line, color=ink, fontsize=POINTS, **place)
            return


def draw_tree(axes: Axes, tree: dict[str, Any], scale: float, left: float = 0.0, depth: int = 0) -> None:
    """A part above its parts and kinds; the kinds reach down to the bottom."""
    box(
        axes,
        left,
        tree["seconds"],
        (depth, depth + 1),
        f"{tree['name']} ({tree['seconds']:.1f} s)",
        PART_COLOURS[depth],
        scale,
    )
    for part in tree["parts"]:
        draw_tree(axes, part, scale, left, depth + 1)
        left += part["seconds"]
    for kind, seconds in tree["kinds"].items():
        box(axes, left, seconds, (depth + 1, DEPTH + 2), f"{kind} ({seconds:.1f} s)", COLOURS[kind], scale)
        left += seconds


def draw(found: dict[str, Any], path: Path) -> None:
    """Both forms on one scale of time, and the floor."""
    scale = max(found[form]["seconds"] for form in FORMS) * 1.005
    figure, panels = plt.subplots(
        3, 1, figsize=(WIDTH + 0.6, 7.4), sharex=True, height_ratios=(6, 6, 1.2), layout="constrained"
    )
    for axes, form in zip(panels, FORMS, strict=False):
        draw_tree(axes, found[form]["tree"], scale)
        axes.set_title(f"{TITLES[form]}, {found[form]['seconds']:.1f} s", fontsize=10, loc="left")
        axes.set_ylim(DEPTH + 2, 0)
    left = 0.0
    floor = found["floor"]["floor_s"]["click"]
    for kind, seconds in floor.items():
        box(panels[2], left, seconds, (0, 1.2), f"{kind} ({seconds:.1f} s)", COLOURS[kind], scale)
        left += seconds
    rate = found["floor"]["gflop_per_s"]["best"]
    panels[2].set_title(f"floor: the products alone at {rate:.0f} GFLOP/s, {left:.1f} s", fontsize=10, loc="left")
    panels[2].set_ylim(1.2, 0)
    panels[2].set_xlabel(
        f"seconds ({found['variant']}, crop {found['crop_size']}, float32; {found['machine']})", fontsize=9
    )
    for axes in panels:
        axes.set_xlim(0, scale)
        axes.set_yticks([])
        axes.spines[["left", "right", "top"]].set_visible(False)
    panels[1].legend(
        handles=[Patch(color=colour, label=kind) for kind, colour in COLOURS.items()],
        loc="center right",
        fontsize=8,
        frameon=False,
        title="kind of operation",
        title_fontsize=8,
    )
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, write the tables, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="vit_b")
    parser.add_argument("--crop_size", type=int, default=128)
    parser.add_argument("--picture", type=Path, help="none: tables alone")
    parser.add_argument("--output", type=Path, help="JSON file for what was measured")
    parser.add_argument("--measured", type=Path, help="such a file: nothing is measured")
    parser.add_argument(
        "--page", type=Path, help="a page that gets the tables between its lines " + BEGIN + " and " + END
    )
    options = parser.parse_args()
    if options.measured:
        found = json.loads(options.measured.read_text(encoding="utf-8"))
    else:
        found = measure_all(options.variant, options.crop_size)
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(tables(found) + "\n")
    if options.page:
        text = options.page.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        options.page.write_text(f"{before}{BEGIN}\n\n{tables(found)}\n\n{END}{after}", encoding="utf-8")
    if options.picture:
        draw(found, options.picture)


if __name__ == "__main__":
    main()
