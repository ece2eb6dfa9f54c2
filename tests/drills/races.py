"""Randomised races: three processes over one Redis and one PostgreSQL, everything small, nobody careful.

`python -m tests.drills.races [--seed N] [--operations 200000] [--fault NAME] [--loses 0.002]`

Each process runs a random program of changes, reads, invalidations and evictions on the same orders.
Meanwhile values vanish from Redis, loads are slow, replies to appends get lost, and one process after the
other is killed or restarted. Then all come to rest, and the judge compares. Exit code 1 when anything is
wrong. `--fault` plants one, to see that it is found.
"""

import argparse
import asyncio
import contextlib
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import asyncpg
import msgspec
import redis.asyncio

from server.demo.private_servers.servers import PostgresServer, ValkeyServer
from storage.postgresql.migrate import migrate_postgresql
from storage.redis.keys import Keys
from tests.drills.race_board import RACERS, Board
from tests.drills.race_faults import Fault
from tests.drills.race_judge import KINDS, Facts, Wrong, judge, read_records, read_state
from tests.drills.race_process import Spec
from tests.support.shared_stacks import PREFIX
from tests.support.template import Process, environment_of, start
from tests.support.unseen import unseen_failures

ERRORS = "errors.log"
START_S, STOP_S, EXAMINE_S = 60.0, 40.0, 120.0
STALLED_S = 30.0
POLL_S = 0.05
SHOWN = 10
EVICT_EVERY_S = 0.02
EVICTED_TOGETHER = 4
KILLED_SHARE = 0.6
"""Of the restarts; the others are told to leave."""
FLUSHER_SHARE = 0.5
"""Of the restarts, those that befall the process which brings the log to the database."""
EVICT = """
-- As if memory were short: an order goes, unless the database lacks it.
local mark, flushed = redis.call('HGET', KEYS[2], ARGV[1]), redis.call('HGET', KEYS[3], 'flushed')
if mark and tonumber(string.match(mark, ' (%d+)$')) > tonumber(flushed or '0') then return 0 end
return redis.call('DEL', KEYS[1])
"""


class Plan(NamedTuple):
    seed: int
    operations: int = 200_000
    fault: Fault = Fault.NONE
    loses: float = 0.002
    """The share of groups of changes whose reply gets lost."""
    restart_every_s: float = 4.0
    clients: int = 24
    """In each process."""


class Report(NamedTuple):
    plan: Plan
    counts: Counter[str]
    wrong: list[Wrong]
    operations: int
    seconds: float
    racing_s: float

    def __str__(self) -> str:
        found = Counter(wrong.kind for wrong in self.wrong)
        verdicts = ", ".join(f"{found[kind]} {kind}" for kind in KINDS)
        shown = ("acknowledged", "reads", "invalidations", "kills", "restarts", "fills refused")
        counts = ", ".join(f"{self.counts[what]:,} {what}" for what in shown)
        rate = self.operations / self.racing_s
        return (
            f"seed {self.plan.seed}: {self.operations:,} operations in {self.seconds:.0f} s ({rate:,.0f}/s),"
            f" {counts}; {verdicts}"
        )


class Racer:
    """A racing process, over its incarnations."""

    def __init__(self, spec: Spec, directory: Path) -> None:
        self.spec = spec
        self._directory = directory
        self._process: Process
        self._hears: asyncio.StreamReader
        self._says: asyncio.StreamWriter

    @property
    def name(self) -> str:
        return f"racer-{self.spec.index}-{self.spec.incarnation}"

    async def start(self) -> None:
        """Returns once it follows the log."""
        record = str(self._directory / f"{self.spec.index}-{self.spec.incarnation + 1}.jsonl")
        self.spec = msgspec.structs.replace(self.spec, incarnation=self.spec.incarnation + 1, record=record)
        ours, theirs = socket.socketpair()
        words = [msgspec.json.encode(self.spec).decode()]
        with (self._directory / ERRORS).open("ab") as log, theirs:
            output, errors = theirs.fileno(), log.fileno()
            self._process = start(
                "tests.drills.race_process", words, environment_of({}), output, errors, given=output
            )
        self._hears, self._says = await asyncio.open_connection(sock=ours)
        await self._hear("open", START_S)

    async def tell(self, word: str, deadline_s: float) -> None:
        """Returns when it has done it. Raises Fallen."""
        self._says.write(f"{word}\n".encode())
        await self._hear(f"{word} done", deadline_s)

    async def leave(self) -> None:
        await self.tell("leave", STOP_S)
        if await asyncio.to_thread(self._process.wait, STOP_S) != 0:
            raise Fallen(f"{self.name} ended with {self._process.returncode}")
        self._says.close()

    async def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(self._process.wait)
        self._says.close()

    async def _hear(self, words: str, deadline_s: float) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                heard = (await self._hears.readline()).decode().strip()
        except TimeoutError:
            heard = "nothing"
        except ConnectionError:
            heard = ""
        if heard != words:
            raise Fallen(f"{self.name} says {heard or 'no more'!r} where {words!r} was due")


class Fallen(Exception):
    """A process has ended or hangs that should not."""


class Race:
    def __init__(self, plan: Plan, redis_url: str, database_url: str, directory: Path) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._redis_url = redis_url
        self._database_url = database_url
        self._directory = directory
        self._board = Board(directory / "board", RACERS)
        self._counts: Counter[str] = Counter()
        self._racers = [Racer(self._spec(index), directory) for index in range(RACERS)]
        self._over = asyncio.Event()

    def _spec(self, index: int) -> Spec:
        return Spec(
            index=index,
            incarnation=0,
            seed=self._plan.seed,
            redis_url=self._redis_url,
            database_url=self._database_url,
            board=str(self._directory / "board"),
            record="",
            fault=self._plan.fault,
            loses=self._plan.loses,
            clients=self._plan.clients,
            operations=self._plan.operations,
        )

    async def run(self) -> Report:
        began_s, racing_s = time.monotonic(), 0.0
        wrong: list[Wrong] = []
        await migrate_postgresql(self._database_url)
        try:
            await asyncio.gather(*(racer.start() for racer in self._racers))
            started_s = time.monotonic()
            await self._race()
            racing_s = time.monotonic() - started_s
            await self._all("stop", STOP_S)
            await self._all("examine", EXAMINE_S)
        except Fallen as error:
            wrong.append(Wrong("unexpected", str(error)))
        fallen = bool(wrong)
        facts = read_records(sorted(self._directory.glob("*.jsonl")))
        wrong += judge(await read_state(self._redis_url, self._database_url), facts)
        wrong += await self._end(graceful=not fallen)
        self._add_counts(facts)
        seconds = time.monotonic() - began_s
        return Report(self._plan, self._counts, wrong, self._board.operations, seconds, racing_s or seconds)

    async def _race(self) -> None:
        for racer in self._racers:
            await racer.tell("start", START_S)
        evicting = asyncio.create_task(self._evict(), name="evictions")
        restarting = asyncio.create_task(self._restart_again_and_again(), name="restarts")
        try:
            await self._enough()
        finally:
            self._over.set()
            try:
                async with asyncio.timeout(START_S + STOP_S):
                    await asyncio.gather(evicting, restarting)
            except TimeoutError:
                hanging = [task.get_name() for task in (evicting, restarting) if not task.done()]
                raise Fallen(f"no end of {hanging}") from None

    async def _enough(self) -> None:
        """Returns after so many operations. Raises Fallen when nothing moves any more."""
        done, moved_s = 0, time.monotonic()
        while done < self._plan.operations:
            await asyncio.sleep(POLL_S)
            now = self._board.operations
            if now > done:
                done, moved_s = now, time.monotonic()
            elif time.monotonic() - moved_s > STALLED_S:
                raise Fallen(f"nothing has moved for {STALLED_S:.0f} s")

    async def _restart_again_and_again(self) -> None:
        while True:
            wait_s = self._random.uniform(0.5, 1.5) * self._plan.restart_every_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._over.wait()
            if self._over.is_set():
                return
            await self._restart_one()

    async def _restart_one(self) -> None:
        racer = self._random.choice(self._racers)
        if self._random.random() < FLUSHER_SHARE:
            flusher = await self._flusher()
            racer = next((racer for racer in self._racers if racer.name == flusher), racer)
        if self._random.random() < KILLED_SHARE:
            await racer.kill()
            self._counts["kills"] += 1
        else:
            await racer.leave()
            self._counts["restarts"] += 1
        self._board.count_operation()
        await racer.start()
        await racer.tell("start", START_S)

    async def _flusher(self) -> str | None:
        connection = await asyncpg.connect(self._database_url)
        try:
            holder = await connection.fetchval("SELECT holder FROM leases WHERE name = 'write_behind'")
        finally:
            await connection.close()
        return None if holder is None else str(holder)

    async def _evict(self) -> None:
        """Redis forgets an order here and there."""
        async with redis.asyncio.Redis.from_url(self._redis_url, socket_timeout=STOP_S) as client:
            script = client.register_script(EVICT)
            while not self._over.is_set():
                epoch = await client.hget(Keys(PREFIX, 0).meta, "epoch")
                keys = Keys(PREFIX, int(epoch or 0))
                for _ in range(EVICTED_TOGETHER):
                    row = self._board.hot_row(self._random)
                    if row is not None:
                        order_id = self._board.id_of(row)
                        gone = await script([keys.order(order_id), keys.marks, keys.meta], [order_id])
                        self._counts["evicted from Redis"] += gone
                        self._board.count_operation()
                await asyncio.sleep(EVICT_EVERY_S)

    async def _all(self, word: str, deadline_s: float) -> None:
        await asyncio.gather(*(racer.tell(word, deadline_s) for racer in self._racers))

    async def _end(self, *, graceful: bool) -> list[Wrong]:
        leaving = [racer.leave() for racer in self._racers] if graceful else []
        ends = await asyncio.gather(*leaving, return_exceptions=True)
        for racer in self._racers:
            await racer.kill()
        unexpected = [str(end) for end in ends if isinstance(end, Exception)]
        unexpected += unseen_failures((self._directory / ERRORS).read_text())
        return [Wrong("unexpected", words) for words in unexpected]

    def _add_counts(self, facts: list[Facts]) -> None:
        for fact in facts:
            if fact[0] == "counts":
                self._counts.update(fact[1])


async def run(plan: Plan, redis_url: str, database_url: str, directory: Path) -> Report:
    """Race over these engines, both empty."""
    directory.mkdir(parents=True, exist_ok=True)
    return await Race(plan, redis_url, database_url, directory).run()


@contextlib.asynccontextmanager
async def engines(directory: Path) -> AsyncIterator[tuple[str, str]]:
    """Private ones. Nothing here survives a power loss: that is another drill."""
    fast = {"appendonly": "no", "save": '""', "maxmemory-policy": "noeviction"}
    with (
        ValkeyServer(directory / "valkey", settings=fast) as valkey,
        PostgresServer(
            directory / "postgres", settings={"max_connections": "100", "fsync": "off"}
        ) as postgres,
    ):
        yield valkey.url, postgres.url


async def _main(plan: Plan, directory: Path) -> Report:
    async with engines(directory) as (redis_url, database_url):
        return await run(plan, redis_url, database_url, directory / "race")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills.races", description="Randomised races.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--operations", type=int, default=Plan._field_defaults["operations"])
    parser.add_argument("--fault", type=Fault, choices=list(Fault), default=Fault.NONE)
    parser.add_argument("--loses", type=float, default=Plan._field_defaults["loses"])
    plan = Plan(**vars(parser.parse_args(arguments)))
    print(f"seed {plan.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="facet-races-"))
    report = asyncio.run(_main(plan, directory))
    for kind in KINDS:
        for wrong in [wrong for wrong in report.wrong if wrong.kind == kind][:SHOWN]:
            print(f"  {kind}: {wrong.words}")
    if report.wrong:
        print(f"  what the processes recorded: {directory}")
    else:
        shutil.rmtree(directory, ignore_errors=True)
    print(report)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
