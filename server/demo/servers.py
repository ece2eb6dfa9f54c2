"""The demo's own Valkey and PostgreSQL: they end with it, however it ends, and keep their data.

Valkey comes back by itself a moment after it was killed: the tour does.
"""

import contextlib
import json
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from server.demo.private_servers.servers import PostgresServer, ServerUnavailable, ValkeyServer
from storage.data_directory import DataDirectory

NOTE = "demo-servers.json"
LOOK_S = 0.1
BACK_S = 3.0
"""How long a killed Valkey stays away."""


class DemoServers:
    def __init__(self, directory: Path, *, empty: bool) -> None:
        """`empty`: without what an interrupted first start may have left."""
        self._empty = empty
        self.valkey = ValkeyServer(directory / "valkey", over_socket=True)
        self.postgres = PostgresServer(directory / "postgres", keep=True, over_socket=True)
        self._note = directory / NOTE
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._bring_back, name="demo servers", daemon=True)

    def __enter__(self) -> Self:
        """Raises ServerUnavailable; then none of them runs."""
        with contextlib.ExitStack() as undo:
            undo.enter_context(self.valkey)
            undo.enter_context(self.postgres)
            if self._empty:
                self.valkey.restart_empty()
                self.postgres.restart_empty()
            undo.pop_all()
        self._write_note()
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._watch.join()
        self._note.unlink(missing_ok=True)
        self.valkey.stop()
        self.postgres.stop()

    def _write_note(self) -> None:
        """Which process the tour may kill, and where the doctor finds the servers."""
        written = self._note.with_name(f"{NOTE}.new")
        descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            note = {
                "redis_pid": self.valkey.pid,
                "redis_url": self.valkey.url,
                "database_url": self.postgres.url,
            }
            json.dump(note, file)
        written.rename(self._note)  # readers see a whole file

    def _bring_back(self) -> None:
        while not self._ended.wait(LOOK_S):
            if self.valkey.running or self._ended.wait(BACK_S):
                continue
            with contextlib.suppress(ServerUnavailable):  # then the next round tries again
                self.valkey.start()
                self._write_note()


def kept_in(directory: Path) -> bool:
    """Whether a demo's data is with these servers."""
    return DataDirectory(directory).own_postgres.exists()


def urls_in(directory: Path) -> dict[str, str]:
    """Settings of the running demo's servers; none when it has none, or does not run."""
    try:
        note = json.loads((directory / NOTE).read_text())
    except FileNotFoundError:
        return {}
    return {name: note[name] for name in ("redis_url", "database_url") if name in note}


def redis_pid(directory: Path) -> int | None:
    """Of the running demo's Valkey; None when it has none."""
    try:
        return int(json.loads((directory / NOTE).read_text())["redis_pid"])
    except FileNotFoundError:
        return None
