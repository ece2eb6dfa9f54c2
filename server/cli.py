"""The command line. Bad input is one line on standard error and exit code 2."""

import argparse
import sys

from server.config import SETTINGS, ConfigError, Settings, load


def main(arguments: list[str]) -> int:
    parsed = parser().parse_args(arguments)
    try:
        settings = load(**{s.field: getattr(parsed, s.field, None) for s in SETTINGS})
        return run(settings, parsed)
    except ConfigError as error:
        print(f"facet: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="facet")
    sub = p.add_subparsers(dest="command", required=True)
    s = sub.add_parser("serve")
    for n in ("host", "port", "data-dir"):
        s.add_argument(f"--{n}")
    return p


def run(settings: Settings, parsed: argparse.Namespace) -> int:
    from server import serve
    from server.logs import configure

    configure(settings)
    return serve.run(settings)
