"""The command line. Bad input is one line on standard error and exit code 2.

What is imported here needs nothing installed: help is given before there is anything.
"""

import argparse
import asyncio
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from server import VERSION
from server.commands.export import add_export, export
from server.commands.price import arguments as price_arguments
from server.commands.shared import Command, add_data, through_control
from server.commands.token import add_token, token

if TYPE_CHECKING:
    from server.config import Settings

DEMO_DIR = "./demo-data"

WORKER = "worker"

OWNER_ONLY = 0o077
"""What is taken from the mode of every file that a command makes, whatever the shell's own mask."""

PIPE_BROKEN = 128 + signal.SIGPIPE
"""The exit code of a program whose output is no longer read."""


def main(arguments: list[str]) -> int:
    """The exit code."""
    try:
        code = _run(arguments)
    except SystemExit as end:  # argparse, when it has said what it had to say
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    lost = _let_go_of(sys.stdout)
    _let_go_of(sys.stderr)  # nobody can be told that
    return code or lost


def _let_go_of(output: TextIO) -> int:
    """Write what is left; the exit code. Nobody may read it any more, its terminal may have closed,
    the disk may be full: the interpreter must not fail on that at its end."""
    try:
        output.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
        if isinstance(error, BrokenPipeError):
            return PIPE_BROKEN
        return _complain(f"{output.name}: {error.strerror}")
    return 0


def _run(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("test", "bench"):
        return _passed_on(arguments)
    parsed = parser().parse_args(arguments)
    from server.config import SETTINGS, ConfigError, load
    from storage.errors import StorageError

    os.umask(OWNER_ONLY)
    try:
        flags = {setting.field: getattr(parsed, setting.field, None) for setting in SETTINGS}
        if parsed.command == "demo":
            flags["data_dir"] = flags["data_dir"] or DEMO_DIR
        settings = load(**flags)
        run: Command = parsed.run
        return run(settings, parsed)
    except (ConfigError, StorageError) as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return PIPE_BROKEN
    except OSError as error:
        return _complain(f"{error.filename or parsed.command}: {error.strerror or error}")


def _complain(message: str) -> int:
    print("facet:", " ".join(message.split()), file=sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
    """Without the usage, which is several lines, in front of what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    top = _Parser(prog="facet", description="Order statuses and prices of a made-to-order jewelry maker.")
    top.add_argument("--version", action="version", version=f"facet {VERSION}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, meaning, run, add in _COMMANDS:
        command = commands.add_parser(name, help=meaning, description=meaning)
        command.set_defaults(run=run)
        add(command)
    worker = commands.add_parser(WORKER)  # without a help text it is not listed: it is for the parent
    worker.set_defaults(run=_worker)
    _add_worker(worker)
    commands.add_parser(
        "test", help="install what the tests need and run everything (--quick: under a minute)"
    )
    commands.add_parser("bench", help="the benchmarks, printing ratios ([NAME] [--json])")
    return top


def _passed_on(arguments: list[str]) -> int:
    """Tests and benchmarks have command lines of their own."""
    module = {"test": "tests", "bench": "benchmarks"}[arguments[0]]
    sys.argv = [module, *arguments[1:]]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    return 0


def _serving(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", help="address to listen on (127.0.0.1)")
    command.add_argument("--port", help="port to listen on (8080); 0 takes a free one")
    add_data(command)


def _serve(settings: "Settings", parsed: argparse.Namespace) -> int:
    from server.observability.logs import configure
    from server.process import serve, workers

    configure(settings)
    return workers.run(settings) if settings.workers > 1 else serve.run(settings)


def _worker(settings: "Settings", parsed: argparse.Namespace) -> int:
    from server.observability.logs import configure
    from server.process import workers

    configure(settings)
    return workers.run_worker(settings, parsed.listener, parsed.link)


def _add_worker(command: argparse.ArgumentParser) -> None:
    _serving(command)
    command.add_argument("--listener", type=int, required=True, help="descriptor of the socket to listen on")
    command.add_argument("--link", type=int, required=True, help="descriptor of the link to the parent")


def _reload(settings: "Settings", parsed: argparse.Namespace) -> int:
    from server.process.workers import reload

    print(f"restarting one by one the workers of process {reload(settings)}: its log tells how it goes")
    return 0


def _demo(settings: "Settings", parsed: argparse.Namespace) -> int:
    from server.demo import demo

    return demo.run(settings, embedded=parsed.embedded)


def _add_demo(command: argparse.ArgumentParser) -> None:
    command.add_argument("--embedded", action="store_true", help="one process, without Redis and PostgreSQL")
    _serving(command)


def _tour(settings: "Settings", parsed: argparse.Namespace) -> int:
    from server.demo import tour

    return asyncio.run(tour.run(parsed.url, Path(parsed.data_dir or DEMO_DIR)))


def _add_tour(command: argparse.ArgumentParser) -> None:
    command.add_argument("--url", help="the running demo's address (found through its data directory)")
    command.add_argument("--data-dir", help=f"the running demo's data directory ({DEMO_DIR})")


def _price(settings: "Settings", parsed: argparse.Namespace) -> int:
    from server.commands.price import run as price_files

    return price_files.run(parsed)


def _migrate(settings: "Settings", parsed: argparse.Namespace) -> int:
    from server.open_servers import refuse_open_servers
    from server.process.serve import prepared_directory
    from storage.postgresql.migrate import migrate_postgresql
    from storage.sqlite.migrate import migrate_sqlite

    if settings.uses_postgresql:
        refuse_open_servers(settings)
        before, after = asyncio.run(migrate_postgresql(settings.database_url))
    else:
        with prepared_directory(settings) as directory:
            before, after = migrate_sqlite(directory.database)
    print(f"schema {after}" if before == after else f"schema {before or 'none'} -> {after}")
    return 0


def _warm(settings: "Settings", parsed: argparse.Namespace) -> int:
    async def act(control: Any) -> None:
        warmed = await control.send("POST", "/v1/cache/warm")
        print(", ".join(f"{count} {name}" for name, count in warmed.items()))

    return through_control(settings, act, running_only=True)


def _doctor(settings: "Settings", parsed: argparse.Namespace) -> int:
    from server.commands.doctor import examine

    findings = examine(settings)
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what:12}  {finding.detail}")
    return 0 if all(finding.ok for finding in findings) else 1


def _add_file(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path)
    add_data(command)


def _backup(settings: "Settings", parsed: argparse.Namespace) -> int:
    from server.config import ConfigError

    target = parsed.file.absolute()
    if os.path.lexists(target):
        raise ConfigError(f"{parsed.file} exists: a backup overwrites nothing")

    async def act(control: Any) -> None:
        manifest = await control.send("POST", "/v1/backups", {"path": str(target)})
        print(f"{parsed.file}: {manifest['orders']} orders at position {manifest['position']}")

    return through_control(settings, act)


def _restore(settings: "Settings", parsed: argparse.Namespace) -> int:
    from server.backups import restore
    from server.config import ConfigError
    from server.process.serve import prepared_directory

    if not parsed.file.is_file():
        raise ConfigError(f"{parsed.file} is not a file")
    with prepared_directory(settings) as directory:
        manifest = restore(parsed.file, directory, settings)
    target = "PostgreSQL" if settings.uses_postgresql else settings.data_dir
    print(f"{target}: {manifest['orders']} orders, as of {manifest['at']}")
    return 0


def _add_move(command: argparse.ArgumentParser) -> None:
    command.add_argument("--to", required=True, help="postgresql://... of an empty database")
    command.add_argument("--redis", default="", help="the Redis that will keep the log, looked at first")
    add_data(command)


def _move(settings: "Settings", parsed: argparse.Namespace) -> int:
    from server.commands import move as moving
    from server.observability.logs import configure

    configure(settings)
    moving.move(settings, parsed.to, parsed.redis)
    return 0


_COMMANDS: tuple[tuple[str, str, Command, Callable[[argparse.ArgumentParser], None]], ...] = (
    ("demo", "a believable workshop, alive in a minute", _demo, _add_demo),
    ("serve", "migrate, replay, warm, serve", _serve, _serving),
    ("reload", "replace the workers of the running server one by one (FACET_WORKERS)", _reload, add_data),
    ("tour", "every promise of the system, shown on the running demo", _tour, _add_tour),
    ("price", "price model files without a server", _price, price_arguments.add_arguments),
    ("token", "issue, list and revoke access tokens", token, add_token),
    ("migrate", "bring the database to this release's schema", _migrate, add_data),
    ("warm", "make the running server load again what it is asked for first", _warm, add_data),
    ("doctor", "look for what could keep the service from working", _doctor, add_data),
    ("backup", "write a backup while the service runs", _backup, _add_file),
    ("restore", "restore a backup into an empty data directory or PostgreSQL", _restore, _add_file),
    ("move", "take the data of a stopped server to PostgreSQL", _move, _add_move),
    ("export", "all orders as lines of JSON, or CSV", export, add_export),
)
