"""The command line of the measurements; ``--help`` lists the options."""

from __future__ import annotations

import argparse
import logging
import sys

from tests.benchmarks.plans import DEVICES, SECTIONS
from tests.benchmarks.sections import benchmark


def options() -> argparse.ArgumentParser:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks", description="Measures time and memory beside the literal form of the network."
    )
    parser.add_argument("--variant", help="tiny, vit_b, vit_l or vit_h; left out, vit_b where that is not too slow")
    parser.add_argument("--crop_size", type=int, help="voxels; left out, 128, or less where that is too slow")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each row, which take turns; medians count")
    parser.add_argument(
        "--what",
        type=lambda names: names.split(","),
        help=f"tables, comma-separated: {', '.join(SECTIONS)}; left out, network, or with --quick all of the device",
    )
    parser.add_argument(
        "--literal",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether to run the literal form, which takes 9 GB for vit_b at 128",
    )
    parser.add_argument("--quick", action="store_true", help="one run of each row, fewer rows, small crops and scans")
    parser.add_argument("--device", default="cpu", help=f"cpu, or cuda for {', '.join(DEVICES['cuda'])}")
    parser.add_argument("--output", help="JSON file to write with every run")
    return parser


def main() -> None:
    """Run what the command line asks for: 2 and one sentence on a user's mistake, 1 if a measurement fails."""
    parser = options()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        sys.stdout.write(benchmark(**vars(parser.parse_args())) + "\n")
    except (ValueError, FileNotFoundError) as err:
        parser.error(str(err))
    except ChildProcessError as err:
        parser.exit(1, f"{err}\n")


if __name__ == "__main__":
    main()
