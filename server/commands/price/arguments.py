"""The arguments of `./facet price`: apart from the command, so that other commands need not load what reads
models."""

import argparse
from pathlib import Path


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text}: from 0 to 86400 seconds")
    return seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="STL, OBJ, PLY, OFF, GLB or 3MF; a directory of such files; a pattern; - is standard input",
    )
    parser.add_argument("--material", required=True, help="alloy, e.g. gold-585-yellow")
    parser.add_argument(
        "--units", default="", help="unit of lengths: mm, cm, m, in (default: the file's own, else mm)"
    )
    parser.add_argument("--finish", help="default: the price list's own")
    parser.add_argument("--plating", help="default: the price list's own")
    parser.add_argument("--stones", default="", metavar="CODE:N,...", help="stones to be set in each piece")
    parser.add_argument(
        "--leave-out", default="", metavar="N,...", help="bodies of each file that are no metal, by number"
    )
    parser.add_argument(
        "--quantity", type=int, default=1, metavar="N", help="pieces of each file (default 1)"
    )
    parser.add_argument("--rush", action="store_true", help="with the surcharge for rush orders")
    parser.add_argument("--price-list", type=Path, metavar="FILE", help="JSON, instead of the delivered one")
    parser.add_argument("--metal-fix", type=Path, metavar="FILE", help="JSON, instead of the delivered one")
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long a pipe may bring nothing (default 10)",
    )
    parser.add_argument(
        "--facts", action="store_true", help="the FILEs hold facts, JSON as in `model` of --json, not meshes"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="also ask another program, trimesh, about each mesh: where it differs there is no amount",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON document, one file a line")
    form.add_argument("--csv", action="store_true", help="print CSV, one row per file")
    parser.add_argument("--explain", action="store_true", help="show how each line of a price comes about")
