"""What `/readyz` and `/startupz` say: started, warmed, draining, and the state of every dependency."""

from enum import StrEnum
from typing import Any

from storage.stack import Storage


class Phase(StrEnum):
    STARTING = "starting"
    WARMING = "warming"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


BACKLOG_SHARE_DEGRADED = 0.5
"""From this share of the backlog's bound on the service calls itself degraded."""


class Readiness:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.phase = Phase.STARTING
        self.reason = ""

    @property
    def started(self) -> bool:
        return self.phase is not Phase.STARTING

    def fail(self, reason: str) -> None:
        self.phase, self.reason = Phase.FAILED, reason

    def report(self) -> tuple[int, dict[str, Any]]:
        """Status code and body. Degraded is 200: reads and, while there is room, writes are served."""
        storage, bounds = self._storage, self._storage.bounds
        error, log_error = storage.write_behind.last_error, storage.shared.last_error
        filled = max(
            len(storage.tail) / bounds.backlog_entries, storage.tail.byte_count / bounds.backlog_bytes
        )
        parked = storage.tail.parked
        troubles = [
            *(["database"] if error else []),
            *(["log"] if log_error else []),
            *(["backlog"] if filled >= BACKLOG_SHARE_DEGRADED else []),
            *(["parked_orders"] if parked else []),
        ]
        ready = self.phase is Phase.READY
        status = ("degraded" if troubles else "ready") if ready else self.phase.value
        body = {
            "status": status,
            "troubles": troubles,
            "reason": self.reason,
            "dependencies": {
                "database": {"state": "away" if error else "up", "engine": "sqlite", "error": error},
                "log": {
                    "state": "away" if log_error else "up",
                    "durability": "survives SIGKILL and power loss (WAL, synchronous=FULL)",
                    "error": log_error,
                },
                "redis": {"state": "none"},
            },
            "backlog": {"entries": len(storage.tail), "filled": round(filled, 4)},
            "parked_orders": len(parked),
        }
        return (200 if ready else 503), body
