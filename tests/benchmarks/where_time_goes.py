"""Where the time of one click goes: tables to read, and a picture of the library's form below the literal one.

    python -m tests.benchmarks.where_time_goes --variant tiny --crop_size 64 --picture tiny.png

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

from tests.benchmarks.common import in_fresh_process
from tests.benchmarks.profile import KINDS, measure_floor, measure_profile
from tests.benchmarks.sections import processor

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
    return {
        "machine": f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        **size,
        **{form: in_fresh_process(measure_profile, {"form": form, **size}) for form in FORMS},
        "floor": in_fresh_process(measure_floor, size),
    }


def flat(tree: dict[str, Any], depth: int = 0) -> list[tuple[int, str, float]]:
    """Depth, name and seconds of a tree's parts."""
    inner = [row for part in tree["parts"] for row in flat(part, depth + 1)]
    return [(depth, tree["name"], tree["seconds"]), *inner]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables(measured: dict[str, Any]) -> str:
    """Seconds by kind and by part, operations, and the floor."""
    literal, fast, floor = measured["literal"], measured["fast"], measured["floor"]
    wholes = [literal["seconds"], fast["seconds"]]

    def row(name: str, seconds: list[float]) -> list[str]:
        return [
            name,
            *(text for s, whole in zip(seconds, wholes, strict=True) for text in (f"{s:.1f}", f"{s / whole:.0%}")),
        ]

    kinds = [row(kind, [form["kinds"][kind] for form in (literal, fast)]) for kind in KINDS]
    seconds = {form: {name: s for _, name, s in flat(measured[form]["tree"])} for form in FORMS}
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
    names = {"encoder": seconds, "click": {form: {"click": measured[form]["seconds"]} for form in FORMS}}
    floors = []
    for whole, of_forms in names.items():
        least = floor["floor_s"][whole]
        for what, s in (("linear layers", least["linear layers"]), ("all products", sum(least.values()))):
            times = [f"{of_forms[form][whole] / s:.2f}" for form in FORMS]
            floors.append([f"{whole}: {what}", f"{s:.1f}", *times])
    head_line = (
        f"{measured['machine']}; {measured['variant']}, crop {measured['crop_size']}, float32, one run of each form. "
        f"On average literal had {literal['cores']:.1f} cores, fast {fast['cores']:.1f}."
    )
    return "\n\n".join(
        [
            head_line,
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


def draw(measured: dict[str, Any], path: Path) -> None:
    """Both forms on one scale of time, and the floor."""
    scale = max(measured[form]["seconds"] for form in FORMS) * 1.005
    figure, panels = plt.subplots(
        3, 1, figsize=(WIDTH + 0.6, 7.4), sharex=True, height_ratios=(6, 6, 1.2), layout="constrained"
    )
    for axes, form in zip(panels, FORMS, strict=False):
        draw_tree(axes, measured[form]["tree"], scale)
        axes.set_title(f"{TITLES[form]}, {measured[form]['seconds']:.1f} s", fontsize=10, loc="left")
        axes.set_ylim(DEPTH + 2, 0)
    left = 0.0
    floor = measured["floor"]["floor_s"]["click"]
    for kind, seconds in floor.items():
        box(panels[2], left, seconds, (0, 1.2), f"{kind} ({seconds:.1f} s)", COLOURS[kind], scale)
        left += seconds
    rate = measured["floor"]["gflop_per_s"]["best"]
    panels[2].set_title(f"floor: the products alone at {rate:.0f} GFLOP/s, {left:.1f} s", fontsize=10, loc="left")
    panels[2].set_ylim(1.2, 0)
    panels[2].set_xlabel(
        f"seconds ({measured['variant']}, crop {measured['crop_size']}, float32; {measured['machine']})", fontsize=9
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


def options() -> argparse.ArgumentParser:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="vit_b")
    parser.add_argument("--crop_size", type=int, default=128)
    parser.add_argument("--picture", type=Path, help="none: tables alone")
    parser.add_argument("--output", type=Path, help="JSON file for what was measured")
    parser.add_argument("--measured", type=Path, help="such a file: nothing is measured")
    parser.add_argument(
        "--page", type=Path, help="a page that gets the tables between its lines " + BEGIN + " and " + END
    )
    return parser


def main() -> None:
    """Measure, write the tables, draw."""
    given = options().parse_args()
    if given.measured:
        measured = json.loads(given.measured.read_text(encoding="utf-8"))
    else:
        measured = measure_all(given.variant, given.crop_size)
    if given.output:
        given.output.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(tables(measured) + "\n")
    if given.page:
        text = given.page.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        given.page.write_text(f"{before}{BEGIN}\n\n{tables(measured)}\n\n{END}{after}", encoding="utf-8")
    if given.picture:
        draw(measured, given.picture)


if __name__ == "__main__":
    main()
