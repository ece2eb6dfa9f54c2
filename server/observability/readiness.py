"""What `/readyz` and `/startupz` say: started, warmed, draining, and the state of every dependency."""

from enum import StrEnum
from typing import Any

from aiohttp import web

from server.config import Settings
from server.observability.disk_check import DiskCheck
from storage.log.entries import LEVEL
from storage.services.stack import Storage


class Phase(StrEnum):
    STARTING = "starting"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"


BACKLOG_SHARE_DEGRADED = 0.5
"""From this share of the backlog's bound on the service calls itself degraded."""


class Readiness:
    def __init__(self, storage: Storage, machine: DiskCheck, settings: Settings) -> None:
        self._storage = storage
        self._machine = machine
        self._settings = settings
        self.phase = Phase.STARTING
        self.reason = ""

    @property
    def started(self) -> bool:
        return self.phase is not Phase.STARTING

    def report(self) -> tuple[int, dict[str, Any]]:
        """Status code and body. Degraded is 200: reads and, while there is room, writes are served."""
        storage = self._storage
        filled = backlog_share(storage)
        parked = storage.tail.parked
        troubles = [
            *(["database"] if database_error(storage) else []),
            *(["log"] if storage.change_log.last_error else []),
            *(["backlog"] if filled >= BACKLOG_SHARE_DEGRADED else []),
            *(["parked_orders"] if parked else []),
            *(["upgrading"] if storage.tail.blocked or storage.change_log.status().level > LEVEL else []),
            *([self._machine.code] if self._machine.code else []),
            *(["clock"] if abs(storage.clock.difference_s) > storage.bounds.clock_difference_s else []),
        ]
        ready = self.phase is Phase.READY
        status = ("degraded" if troubles else "ready") if ready else self.phase.value
        body = {
            "status": status,
            "troubles": troubles,
            "reason": self.reason,
            "dependencies": self._dependencies(),
            "backlog": {"entries": len(storage.tail), "filled": round(filled, 4)},
            "parked_orders": len(parked),
            "clock_difference_s": round(storage.clock.difference_s, 3),
        }
        return (200 if ready else 503), body

    def _dependencies(self) -> dict[str, Any]:
        storage, status = self._storage, self._storage.change_log.status()
        engine = "postgresql" if self._settings.uses_postgresql else "sqlite"
        log = {
            **_state(storage.change_log.last_error),
            "durability": status.durability,
            "level": LEVEL,
            "level_in_force": status.level,
            "epoch": storage.change_log.epoch,
            "age_s": status.age_s,
        }
        redis = {**_state(storage.change_log.last_error), "server": status.server}
        return {
            "files": _state(self._machine.error),
            "database": {**_state(database_error(storage)), "engine": engine, "flusher": storage.lease.held},
            "log": log,
            "redis": redis if self._settings.uses_redis else {"state": "none"},
        }


def backlog_share(storage: Storage) -> float:
    """How full the backlog is, 1 at its bound."""
    tail, bounds = storage.tail, storage.bounds
    return max(len(tail) / bounds.backlog_entries, tail.byte_count / bounds.backlog_bytes)


def database_error(storage: Storage) -> str | None:
    """Why the database cannot be written to, or does not even answer."""
    return storage.write_behind.last_error or storage.database_health.last_error


def _state(error: str | None) -> dict[str, Any]:
    return {"state": "away" if error else "up", "error": error}


READINESS: web.AppKey[Readiness] = web.AppKey("readiness", Readiness)
