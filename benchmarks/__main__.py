"""`python -m benchmarks [NAME] [--json]`: one benchmark, or all of them one after the other."""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from server.demo.private_servers.servers import ServerUnavailable

NAMES = ("pricing", "orders", "reads", "stall", "uploads", "attack", "writes", "coherence")


def show(result: dict[str, Any]) -> None:
    print(f"{result['name']}: {result['rounds']} rounds, medians")
    for group in ("ratios", "figures", "machine"):
        for name, value in result.get(group, {}).items():
            print(f"  {name:<48}{value:>16}")


def judge(folder: Path, *, as_json: bool) -> int:
    from benchmarks import verdicts

    try:
        result = verdicts.run(folder)
    except FileNotFoundError as error:
        print(f"facet bench verdicts: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result) if as_json else verdicts.table(result))
    return 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="facet bench", description="Measured claims, as ratios.")
    parser.add_argument(
        "name", nargs="?", choices=(*NAMES, "verdicts"), help="one of them; all but verdicts when left out"
    )
    parser.add_argument("folder", nargs="?", type=Path, help="of models, for verdicts alone")
    parser.add_argument("--json", action="store_true", help="print JSON, a line per benchmark")
    options = parser.parse_args(arguments)
    if (options.name == "verdicts") != (options.folder is not None):
        parser.error("verdicts takes a folder, and nothing else does")
    if options.folder is not None:
        return judge(options.folder, as_json=options.json)
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
