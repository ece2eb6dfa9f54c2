"""Backup and restore: one file with the database, the models and a manifest."""

import asyncio
import errno
import json
import os
import shutil
import tarfile
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from server.config import ConfigError, Settings
from storage.clock import to_text
from storage.data_directory import DataDirectory, make_private
from storage.errors import Conflict, Incompatible, Unavailable
from storage.services.stack import Storage
from storage.sqlite.files import begin_epoch, examine_database, position_of
from storage.sqlite.migrate import migrate_sqlite

FORMAT = 1
MANIFEST = "manifest.json"
DATABASE = "facet.db"


async def back_up(storage: Storage, directory: DataDirectory, target: Path) -> dict[str, Any]:
    """Write a backup that holds every change acknowledged before the call. The service keeps running.

    Raises OutcomeUnknown when the database does not catch up in time, Unavailable when other processes may
    have acknowledged what this one has not heard of, OSError when the file cannot be written; then there is
    no half backup.
    """
    if not await storage.change_log.reach_head():
        raise Unavailable("Redis is away: a backup now might lack acknowledged changes.")
    await storage.write_behind.wait_for(storage.tail.head, storage.bounds.drain_deadline_s)
    with tempfile.TemporaryDirectory(dir=directory.path) as scratch:
        copy = Path(scratch) / DATABASE
        await storage.database.backup(copy)
        return await asyncio.to_thread(_pack, copy, directory, target, storage.clock.now())


def _pack(copy: Path, directory: DataDirectory, target: Path, now: datetime) -> dict[str, Any]:
    manifest = {
        "format": FORMAT,
        "at": to_text(now),
        "position": str(position_of(copy)),
        "orders": examine_database(copy).rows,
    }
    # A name that cannot be a link placed by another user, readable by its owner only.
    descriptor, name = tempfile.mkstemp(".partial", f"{target.name}.", target.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w") as archive:
            described = copy.with_name(MANIFEST)
            described.write_text(json.dumps(manifest))
            archive.add(described, MANIFEST)
            archive.add(copy, DATABASE)
            archive.add(directory.models, "models")
            if directory.link_key.exists():
                archive.add(directory.link_key, directory.link_key.name)
        _sync(partial)
        _name(partial, target)
        _sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)
    return manifest


def _name(partial: Path, target: Path) -> None:
    """Raises FileExistsError: a backup overwrites nothing."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        partial.rename(target)


def restore(source: Path, directory: DataDirectory, settings: Settings) -> dict[str, Any]:
    """Into an empty data directory that the caller holds, or an empty PostgreSQL. The restored database
    begins a new epoch: no position or cached answer of the old life, and nothing that Redis still holds of
    it, can be taken for one of the new.

    Raises ConfigError when the file is no backup or there is data already; then nothing is changed.
    """
    if settings.uses_postgresql:
        asyncio.run(prepare_postgresql(settings.database_url))
    elif directory.database.exists():
        raise ConfigError(f"{directory.path} holds data already: restore into an empty directory")
    with tempfile.TemporaryDirectory(dir=directory.path) as scratch:
        unpacked = Path(scratch)
        manifest = _unpack(source, unpacked)
        make_private(unpacked)  # a backup of an earlier release may say otherwise
        migrate_sqlite(unpacked / DATABASE)
        begin_epoch(unpacked / DATABASE)
        if (unpacked / "models").exists():
            shutil.copytree(unpacked / "models", directory.models, dirs_exist_ok=True)
        if (unpacked / directory.link_key.name).exists():
            shutil.move(unpacked / directory.link_key.name, directory.link_key)
        # The database comes last: with it the restoration has happened.
        if settings.uses_postgresql:
            from storage.postgresql.transfer import copy_into_postgresql

            asyncio.run(copy_into_postgresql(unpacked / DATABASE, settings.database_url))
        else:
            directory.log.unlink(missing_ok=True)
            _sync(unpacked / DATABASE)
            (unpacked / DATABASE).rename(directory.database)
    return manifest


async def prepare_postgresql(url: str) -> None:
    """This release's schema, and nothing in it. Raises ConfigError, DatabaseUnavailable, Incompatible."""
    from storage.postgresql.migrate import migrate_postgresql
    from storage.postgresql.transfer import require_empty

    await migrate_postgresql(url)
    try:
        await require_empty(url)
    except Conflict as error:
        raise ConfigError(f"{error.detail} Use an empty one.") from None


def _unpack(source: Path, target: Path) -> dict[str, Any]:
    try:
        with tarfile.open(source) as archive:
            archive.extractall(target, filter="data")
        manifest: dict[str, Any] = json.loads((target / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise ConfigError(
                f"{source} is a backup of format {manifest['format']}, this release reads {FORMAT}"
            )
        check = examine_database(target / DATABASE).check
    except (OSError, tarfile.TarError, KeyError, ValueError, Incompatible) as error:
        raise ConfigError(f"{source} is not a backup of Facet: {error}") from None
    if check != "ok":
        raise ConfigError(f"{source} is damaged: {check}")
    return manifest


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
