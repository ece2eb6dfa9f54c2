"""One process's storage over Redis and PostgreSQL, told what to do by lines of JSON on standard input.

`python -m benchmarks.storage_process REDIS_URL PREFIX DATABASE_URL CORE`. It answers each line with one. It
notes when each entry of the log was in its local tier: called by the log's follower once the tiers
have taken the entry in, on the monotonic clock, which the processes of a machine share.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import uvloop

from benchmarks.engines import opened_storage
from benchmarks.load import pin
from benchmarks.orders import THERE_AND_BACK
from benchmarks.writes_layers import changing, drain, new_orders, work_for
from storage.log.tail import AppliedEntry
from storage.orders.encoded import EncodedOrder
from storage.orders.workflow import Status
from storage.services.stack import Storage

TICK_S = 0.001


class Process:
    def __init__(self) -> None:
        self._loaded = False
        self._wanted: Iterator[tuple[str, Status]] = iter(())
        self._seen: list[tuple[int, float]] = []
        self._unseen = 0
        self._acknowledged: list[tuple[int, float]] = []
        self._took_s: list[float] = []

    def follow(self, storage: Storage, followed: AppliedEntry) -> None:
        if followed.held is not None and self._loaded:
            held = storage.reads.local.get(followed.held.id)
            self._seen.append((followed.n, time.monotonic()))
            if not isinstance(held, EncodedOrder) or held.version != followed.held.version:
                self._unseen += 1

    async def serve(self, redis_url: str, prefix: str, database_url: str) -> None:
        async with opened_storage(redis_url, prefix, database_url, self.follow) as storage:
            print("ready", flush=True)
            while line := await asyncio.to_thread(sys.stdin.readline):
                command = json.loads(line)
                answer = await getattr(self, command.pop("do"))(storage, **command)
                print(json.dumps(answer), flush=True)

    async def create(self, storage: Storage, count: int) -> list[str]:
        ids = await new_orders(storage, count)
        await drain(storage)
        return ids

    async def load(self, storage: Storage, ids: list[str]) -> None:
        """Into the local tier; they are what is changed from here on."""
        for order_id in ids:
            await storage.reads.get(order_id)
        self._loaded = True
        self._wanted = itertools.cycle((order_id, status) for status in THERE_AND_BACK for order_id in ids)

    async def most(self, storage: Storage, seconds: float) -> float:
        """Acknowledged changes per second of 32 callers who each wait for their own."""
        began_s = time.perf_counter()
        taken_s = await work_for(self._wanted, changing(storage), seconds)
        per_s = len(taken_s) / (time.perf_counter() - began_s)
        await drain(storage)
        return per_s

    async def pace(self, storage: Storage, per_s: float, seconds: float) -> dict[str, Any]:
        """So many changes a second, begun when they are due, whether those before are done or not."""
        self._acknowledged, self._took_s = [], []
        tasks: set[asyncio.Task[None]] = set()
        turn, began_s, begun = self._wanted, time.monotonic(), 0
        while (passed_s := time.monotonic() - began_s) < seconds:
            due = int(passed_s * per_s)
            for order_id, status in itertools.islice(turn, due - begun):
                task = asyncio.create_task(self._change(storage, order_id, status))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            begun = due
            await asyncio.sleep(TICK_S)
        while tasks:
            await asyncio.gather(*tasks)
        return {
            "acknowledged": self._acknowledged,
            "per_s": len(self._acknowledged) / (time.monotonic() - began_s),
            "took_p99_ms": sorted(self._took_s)[int(len(self._took_s) * 0.99)] * 1000,
            "behind": await drain(storage),
        }

    async def seen(self, storage: Storage) -> dict[str, Any]:
        """What was followed since this was asked last."""
        await storage.change_log.reach_head()
        seen, self._seen, unseen, self._unseen = self._seen, [], self._unseen, 0
        return {"seen": seen, "unseen": unseen, "flushes": storage.lease.held}

    async def _change(self, storage: Storage, order_id: str, status: Status) -> None:
        began_s = time.monotonic()
        outcome = await changing(storage)(order_id, status)
        now_s = time.monotonic()
        self._acknowledged.append((outcome.position.n, now_s))
        self._took_s.append(now_s - began_s)


if __name__ == "__main__":
    pin(int(sys.argv[4]))
    uvloop.run(Process().serve(*sys.argv[1:4]))
