"""What tests do with a server of several processes, and what they ask of it."""

import asyncio
import os
import signal
import time
from collections.abc import Callable

from tests.support.engines import query
from tests.support.processes import POLL_S, Service
from tests.support.visitors import Tally

DEADLINE_S = 120.0


async def until(reached: Callable[[], bool], what: Callable[[], object] = lambda: "") -> None:
    """Polls, with a deadline, while the clients go on."""
    deadline_s = time.monotonic() + DEADLINE_S
    never = asyncio.Event()
    while not reached():
        assert time.monotonic() < deadline_s, what()
        try:
            await asyncio.wait_for(never.wait(), POLL_S)
        except TimeoutError:
            pass


async def answered(tally: Tally, more: int) -> None:
    enough = tally.requests + more
    await until(lambda: tally.requests >= enough, lambda: tally)


def lost(database_url: str, tally: Tally) -> set[tuple[str, int]]:
    """Acknowledged changes that the history lacks."""
    rows = query(database_url, "SELECT order_id, version FROM order_history")
    return tally.acknowledged - {(row["order_id"], row["version"]) for row in rows}


def workers(service: Service) -> set[int]:
    return {holder.pid for holder in service.serving()}


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def reloaded(service: Service) -> None:
    """A rolling restart from its begin to its end: two other processes serve."""
    before = workers(service)
    service.signal(signal.SIGHUP)
    await until(
        lambda: (
            len(workers(service)) == 2 and not workers(service) & before and not any(map(is_running, before))
        ),
        service.log_text,
    )
