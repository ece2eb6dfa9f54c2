"""`facet doctor`: what could keep the service from working, looked at one by one."""

import asyncio
import importlib.metadata
import platform
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from server.config import ConfigError, Settings
from server.demo.servers import urls_in
from server.engines import bounds_of, redis_endpoint
from server.open_servers import refuse_open_servers
from storage.data_directory import DataDirectory
from storage.database.migrate import known_schemas
from storage.errors import Incompatible, StorageError
from storage.log.entries import Position
from storage.postgresql.examine import examine_postgresql
from storage.redis.connection import CommandRefused, opened
from storage.redis.server_check import examine as examine_redis
from storage.redis.server_check import read_meta
from storage.sqlite.files import examine_database, examine_log

FREE_BYTES_MIN = 1 << 30
LOCK_FILE = Path(__file__).parents[2] / "requirements.lock"


class Finding(NamedTuple):
    ok: bool
    what: str
    detail: str


def examine(settings: Settings) -> list[Finding]:
    directory = DataDirectory(settings.data_dir)
    if (holder := directory.holder()) is not None:
        settings = _as_the_demo_has_it(settings)
    findings = [_python(), _packages(), _public_url(settings)]
    if holder is None:
        findings.append(_port(settings))
    else:
        findings.append(Finding(True, "server", f"running, process {holder.pid}, {holder.url}"))
    if not directory.path.exists():
        findings.append(
            Finding(True, "data", f"{directory.path} does not exist yet: the first start makes it")
        )
        return [*findings, *asyncio.run(_servers(settings))]
    return [*findings, *_data(directory, settings), *asyncio.run(_servers(settings))]


def _as_the_demo_has_it(settings: Settings) -> Settings:
    """With the servers of its own, when a demo runs on this data directory."""
    if settings.uses_redis or settings.uses_postgresql:
        return settings
    return msgspec.structs.replace(settings, **urls_in(settings.data_dir))


def _public_url(settings: Settings) -> Finding:
    if settings.public_url:
        return Finding(True, "links", f"name {settings.public_url}")
    return Finding(True, "links", "name the address of the request: FACET_PUBLIC_URL is not set")


def _python() -> Finding:
    return Finding(sys.version_info >= (3, 11), "python", platform.python_version())


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


def _data(directory: DataDirectory, settings: Settings) -> Iterator[Finding]:
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
    for name, path, examine_file, elsewhere in (
        ("database", directory.database, examine_database, settings.uses_postgresql),
        ("log", directory.log, examine_log, settings.uses_redis),
    ):
        if elsewhere:
            continue
        if directory.own_postgres.exists():
            yield Finding(True, name, "in the demo's own servers, which run while it does")
            continue
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


async def _servers(settings: Settings) -> list[Finding]:
    """Redis and PostgreSQL, as far as they are used, and whether they fit each other."""
    findings: list[Finding] = []
    stands = head = None
    try:
        refuse_open_servers(settings)
    except ConfigError as error:
        findings.append(Finding(False, "access", str(error)))
    if settings.uses_postgresql:
        stands = await _postgresql(settings, findings)
    if settings.uses_redis:
        head = await _redis(settings, findings)
    if stands is not None and head is not None:
        findings.append(_agreement(stands, head))
    return findings


async def _postgresql(settings: Settings, findings: list[Finding]) -> Position | None:
    try:
        found = await examine_postgresql(settings.database_url)
    except StorageError as error:
        findings.append(Finding(False, "postgresql", error.detail))
        return None
    shown = ", ".join(f"{name} {value}" for name, value in found.settings.items())
    findings.append(Finding(not found.unsafe, "postgresql", shown))
    newest, *older = known_schemas()
    what = f"{found.schema or 'none yet'}, {found.orders} orders"
    if found.schema in older:
        what += f"; the next start brings it to {newest}"
    elif found.schema not in (None, newest):
        what += f"; newer than this release knows ({newest})"
    findings.append(Finding(found.schema in (None, newest, *older), "schema", what))
    return found.position if found.schema else None


async def _redis(settings: Settings, findings: list[Finding]) -> Position | None:
    bounds = bounds_of(settings)
    try:
        link = await opened(redis_endpoint(settings, bounds), bounds.shared_deadline_s)
        try:
            server, meta = await examine_redis(link), await read_meta(link, settings.redis_prefix)
        finally:
            await link.close()
    except (StorageError, ConfigError, CommandRefused) as error:
        findings.append(Finding(False, "redis", str(error)))
        return None
    what = f"{server.name}, {server.policy}: {server.durability}"
    findings.append(Finding(server.unfit is None, "redis", server.unfit or what))
    return meta.head


def _agreement(stands: Position, head: Position) -> Finding:
    """The database follows the log: in the same life, and never ahead of it."""
    if head.epoch == 0:
        return Finding(True, "log", f"none in Redis yet; PostgreSQL has read to {stands}")
    if head.epoch != stands.epoch or stands.n > head.n:
        return Finding(False, "log", f"at {head}, PostgreSQL at {stands}: the next start rebuilds it")
    return Finding(True, "log", f"at {head}; PostgreSQL lacks {head.n - stands.n} entries")
