"""`python -m benchmarks [NAME] [--json]`: one benchmark, or all of them one after the other."""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from server.demo.private_servers.servers import ServerUnavailable

NAMES = (
    "http",
    "pollers",
    "walk",
    "search",
    "pricing",
    "orders",
    "reads",
    "stall",
    "uploads",
    "attack",
    "writes",
    "coherence",
)


def show(result: dict[str, Any]) -> None:
    print(f"{result['name']}: {result['rounds']} rounds, medians")
    for group in ("ratios", "figures", "machine"):
        for name, value in result.get(group, {}).items():
            print(f"  {name:<48}{value:>16}")


WITH_FOLDER = ("verdicts", "first_answer")
MAY_HAVE_FOLDER = ("http",)


def run_over(name: str, folder: Path, *, as_json: bool) -> int:
    module = importlib.import_module(f"benchmarks.{name}")
    try:
        result = module.run(folder)
    except FileNotFoundError as error:
        print(f"facet bench {name}: {error}", file=sys.stderr)
        return 2
    if as_json:
        print(json.dumps(result))
    elif name == "verdicts":
        print(module.table(result))
    else:
        show(result)
    return 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="facet bench", description="Measured claims, as ratios.")
    parser.add_argument(
        "name",
        nargs="?",
        choices=(*NAMES, *WITH_FOLDER),
        help="one of them; when left out, all that take no folder",
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, help="of models, for verdicts; another checkout, for the other ones"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, a line per benchmark")
    options = parser.parse_args(arguments)
    wants = options.name in WITH_FOLDER, options.name in (*WITH_FOLDER, *MAY_HAVE_FOLDER)
    if not wants[0] <= (options.folder is not None) <= wants[1]:
        wanting, may = " and ".join(WITH_FOLDER), " and ".join(MAY_HAVE_FOLDER)
        parser.error(f"{wanting} take a folder, {may} may, and nothing else does")
    if options.folder is not None:
        return run_over(options.name, options.folder, as_json=options.json)
    for name in [options.name] if options.name else NAMES:
        try:
            result = importlib.import_module(f"benchmarks.{name}").run()
        except ServerUnavailable as error:
            print(f"facet bench {name}: {error}", file=sys.stderr)
            return 1
        if options.json:
            print(json.dumps(result), flush=True)
        else:
            show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
