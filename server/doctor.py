"""`facet doctor`: what could keep the service from working, looked at one by one."""

import importlib.metadata
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from server.config import Settings
from storage.data_directory import DataDirectory
from storage.errors import Incompatible
from storage.sqlite.files import examine_database, examine_log

FREE_BYTES_MIN = 1 << 30
LOCK_FILE = Path(__file__).parent.parent / "requirements.lock"


class Finding(NamedTuple):
    ok: bool
    what: str
    detail: str


def examine(settings: Settings) -> list[Finding]:
    directory = DataDirectory(settings.data_dir)
    findings = [_python(), _packages()]
    holder = directory.holder()
    if holder is None:
        findings.append(_port(settings))
    else:
        findings.append(Finding(True, "server", f"running, process {holder.pid}, {holder.url}"))
    if not directory.path.exists():
        return [
            *findings,
            Finding(True, "data", f"{directory.path} does not exist yet: the first start makes it"),
        ]
    return [*findings, *_data(directory)]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding(sys.version_info >= (3, 11), "python", version)


def _packages() -> Finding:
    locked = dict(
        line.split(";")[0].strip(" \\").split("==")
        for line in LOCK_FILE.read_text().splitlines()
        if "==" in line and not line.startswith(" ")
    )
    wrong = [
        f"{name} {_installed(name)} (locked: {version})"
        for name, version in locked.items()
        if _installed(name) not in (version.strip(), "absent")
    ]
    return Finding(not wrong, "packages", ", ".join(wrong) or f"{len(locked)} locked packages fit")


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _port(settings: Settings) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            return Finding(False, "port", f"{settings.host}:{settings.port} {error.strerror}")
    return Finding(True, "port", f"{settings.host}:{settings.port} is free")


def _data(directory: DataDirectory) -> Iterator[Finding]:
    mode = stat.S_IMODE(directory.path.stat().st_mode)
    private = not mode & (stat.S_IRWXG | stat.S_IRWXO)
    yield Finding(
        private,
        "permissions",
        f"{directory.path} has mode {mode:o}" + ("" if private else ", others can read it"),
    )
    free = shutil.disk_usage(directory.path).free
    yield Finding(free >= FREE_BYTES_MIN, "disk", f"{free / 2**30:.1f} GiB free")
    epochs = {}
    for name, path, examine_file in (
        ("database", directory.database, examine_database),
        ("log", directory.log, examine_log),
    ):
        if not path.exists():
            yield Finding(name == "log", name, f"{path.name} does not exist")
            continue
        try:
            found = examine_file(path)
        except Incompatible as error:
            yield Finding(False, name, error.detail)
            continue
        what = "orders" if name == "database" else "entries kept"
        yield Finding(found.check == "ok", name, f"{path.name}: {found.rows} {what}, check {found.check}")
        epochs[name] = found.epoch
    if len(epochs) == 2:
        agree = epochs["database"] == epochs["log"]
        yield Finding(agree, "epoch", f"database {epochs['database']}, log {epochs['log']}")
