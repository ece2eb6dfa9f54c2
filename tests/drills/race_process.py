"""One of the racing processes: storage over Redis and PostgreSQL with small bounds, and a random program.

`python -m tests.drills.race_process SPEC` is told by its parent, a line each, what to do next, and answers in
lines.
"""

import asyncio
import gc
import os
import sys
import zlib
from pathlib import Path
from random import Random

import msgspec
import uvloop

from storage.bounds import Bounds
from storage.cache.list_views import CountsQuery, CountsView, ListView
from storage.errors import NotFound, StorageError
from storage.orders.encoded import EncodedOrder
from storage.orders.filters import ListQuery
from storage.orders.order import encode_order
from storage.redis.change_log import RedisChangeLog
from storage.redis.endpoint import endpoint_of
from storage.services.stack import Storage
from tests.drills.race_board import Board
from tests.drills.race_faults import Fault, clock_of, database_of, plant
from tests.drills.race_program import COUNTED, QUERIES, Program, Record
from tests.support.shared_stacks import PREFIX, storage_on

REST_S = 15.0
POLL_S = 0.01
DRAIN_S = 10.0
BOUNDS = Bounds(
    flush_batch_entries=100,
    log_group_entries=64,
    journal_entries=128,
    log_keep_entries=300,
    log_trim_together=100,
    local_entries=50,
    warm_orders=10,
    views=8,
    view_rows=300,
    view_rows_min=200,
    number_block=50,
    shared_ttl_s=2.0,
    absent_age_s=0.5,
    lease_s=1.0,
)
"""Small, so that everything is evicted, trimmed and filled again all the time."""


SKEWS_S = (0.0, 200.0, -90.0)
"""How far the clocks of their machines are ahead."""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What the parent tells a process at its start. `incarnation` counts the starts."""

    index: int
    incarnation: int
    seed: int
    redis_url: str
    database_url: str
    board: str
    record: str
    fault: Fault
    loses: float
    clients: int
    operations: int
    """Of all processes together: enough."""


class Racer:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._name = f"racer-{spec.index}-{spec.incarnation}"
        self._record = Record(Path(spec.record))
        self._board = Board(Path(spec.board), spec.index)
        self._storage: Storage
        self._program: Program
        self._running: asyncio.Task[None] | None = None

    async def open(self) -> None:
        spec = self._spec
        random = Random(f"{spec.seed} faults {self._name}")
        plant(spec.fault, spec.loses, random)
        database = database_of(spec.fault, spec.database_url, BOUNDS, random)
        await database.open()
        endpoint = endpoint_of(spec.redis_url, PREFIX, BOUNDS.shared_deadline_s)
        clock = clock_of(spec.fault, SKEWS_S[spec.index])
        self._storage = storage_on(endpoint, database, BOUNDS, clock, self._name)
        await self._storage.open(self._task_ended)
        seed = f"{spec.seed}.{spec.index}.{spec.incarnation}"
        self._program = Program(self._storage, self._board, self._record, seed, spec.index, spec.operations)

    def start(self) -> None:
        self._running = asyncio.create_task(self._program.run(self._spec.clients))

    async def stop(self) -> None:
        self._program.stop()
        if self._running is not None:
            await self._running

    async def leave(self) -> None:
        """As a process does that is restarted."""
        await self.stop()
        await self._storage.drain(DRAIN_S)
        await self._storage.close()
        self._write_counts()

    async def examine(self) -> None:
        """At rest: everything this process holds and shows, for the judge."""
        if not await self._is_at_rest():
            self._record.wrong("unrest", f"{self._name} does not come to rest: {self._state()}")
        await self._examine_orders()
        await self._examine_views()
        forks, parked = self._storage.write_behind.forks, self._storage.tail.parked
        if forks:
            self._record.wrong("forks", f"{self._name} met {forks}")
        if parked:
            self._record.wrong("parked", f"{self._name} has {len(parked)} orders parked")
        self._write_counts()

    async def _is_at_rest(self) -> bool:
        deadline_s = asyncio.get_running_loop().time() + REST_S
        while asyncio.get_running_loop().time() < deadline_s:
            if await self._storage.change_log.reach_head() and not len(self._storage.tail):
                return True
            await asyncio.sleep(POLL_S)
        return False

    def _state(self) -> str:
        storage = self._storage
        return (
            f"{len(storage.tail)} entries wait, head {storage.tail.head}, flushed {storage.tail.flushed};"
            f" {storage.change_log.last_error}; {storage.write_behind.last_error}"
        )

    async def _examine_orders(self) -> None:
        reads = self._storage.reads
        for order_id in list(reads.local.lru):
            held = reads.local.lru.peek(order_id)
            if isinstance(held, EncodedOrder):
                self._record.write("local", order_id, held.version, zlib.crc32(held.body))
        for row in self._board.rows():
            order_id = self._board.id_of(row)
            try:
                held = (await reads.get(order_id)).held
            except NotFound:
                self._record.wrong("stale", f"{self._name} does not find {order_id}")
                continue
            self._record.write("shown", order_id, held.version, zlib.crc32(held.body))

    async def _examine_views(self) -> None:
        views = self._storage.reads.views
        for query in list(views.lru):
            if isinstance(query, CountsQuery):
                await self._examine_counts(query)
            else:
                await self._examine_list(query)
        for query in QUERIES:
            await self._examine_list(query)
        for order_filter in COUNTED:
            await self._examine_counts(CountsQuery(order_filter))

    async def _examine_list(self, query: ListQuery) -> None:
        views = self._storage.reads.views
        shown = await views.bodies(query, BOUNDS.view_rows)
        snapshot = await self._storage.database.load_list(query, BOUNDS.view_rows)
        stored = [encode_order(order) for order in snapshot.rows]
        view = views.lru.peek(query)
        if not isinstance(view, ListView) or not view.complete:
            stored = stored[: len(shown)]
        if shown != stored:
            wrong = sum(a != b for a, b in zip(shown, stored, strict=False))
            words = f"{query}: {len(shown)} rows, {len(stored)} in the database, {wrong} differ"
            self._record.wrong("divergent", f"{self._name}: {words}")

    async def _examine_counts(self, query: CountsQuery) -> None:
        shown, _ = await self._storage.reads.views.counts(query)
        snapshot = await self._storage.database.load_counts(query.filter)
        stored = CountsView(query, snapshot.counts, snapshot.position).body
        if shown != stored:
            self._record.wrong("divergent", f"{self._name}: counts {shown!r}, in the database {stored!r}")

    def _task_ended(self, name: str, error: BaseException) -> None:
        self._record.wrong("unexpected", f"{self._name}: task {name}: {type(error).__name__}: {error}")

    def _write_counts(self) -> None:
        storage, counts = self._storage, self._record.counts
        assert isinstance(storage.change_log, RedisChangeLog)
        counts["loads"] = storage.reads.loads["order"]
        counts["views loaded"] = storage.reads.views.loads
        counts["fills refused"] = storage.change_log.status().fills_refused
        counts["local fills refused"] = storage.reads.local.refused_fills
        counts["joins"] = storage.change_log.joins
        counts["evictions"] = storage.reads.local.lru.evictions
        self._record.write("counts", counts)


async def _answered(racer: Racer, word: str) -> str:
    match word:
        case "start":
            racer.start()
        case "stop":
            await racer.stop()
        case "examine":
            await racer.examine()
        case "leave":
            await racer.leave()
    return f"{word} done"


async def serve(spec: Spec) -> None:
    racer = Racer(spec)
    await racer.open()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("open", flush=True)
    while line := (await reader.readline()).decode().strip():
        try:
            print(await _answered(racer, line), flush=True)
        except StorageError as error:
            print(f"{line} failed: {error}", flush=True)
        if line == "leave":
            return
    os._exit(1)  # whoever started this process is gone


def main() -> None:
    gc.freeze()
    uvloop.run(serve(msgspec.json.decode(sys.argv[1], type=Spec)))


if __name__ == "__main__":
    main()
