"""The fault drill: three servers over one Redis and one PostgreSQL, more than fifty clients, and everything
that can break, one after the other.

`python -m tests.drills.drill [--seed N] [--faults 25] [--only NAME ...] [--plant NAME]`

The order of the faults is drawn from the seed. After each the service must be whole again within 10 s. In the
end nothing acknowledged may be lost or doubled, no two operators may have got one order, and nobody may have
been shown what was superseded a second before. Exit code 1 when that is not so.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.drills.drill_clients import Floor, People, Violation, Walker, people_of
from tests.drills.drill_faults import FAULTS, Fault, Scene
from tests.drills.drill_judge import Window, divergences, drained, judge, stored
from tests.drills.drill_world import SERVERS, World, opened_world
from tests.support.altered_server import PLANTS
from tests.support.unseen import unseen_failures

SERVICE_S = 10.0
GIVE_UP_S = 45.0
BETWEEN_S = 1.0
CLOSING_S = 20.0
EXCEPTION_S = 2.0
SHOWN = 40


class Happened(NamedTuple):
    fault: Fault
    seconds: float
    service_s: float | None
    """From lifting the fault to full service; None: never."""
    counts: Counter[str]
    refusals: Counter[str]
    slowest_refusal_s: float
    note: str

    def __str__(self) -> str:
        counts = self.counts
        whole = "NO FULL SERVICE" if self.service_s is None else f"whole after {self.service_s:4.1f} s"
        return (
            f"{self.fault.name:33} {self.seconds:5.1f} s, {whole}; {counts['acknowledged']:4} acknowledged,"
            f" writes {counts['writes refused']:4} refused {counts['writes unanswered']:3} unanswered,"
            f" reads {counts['fresh reads']:4} fresh {counts['stale reads']:4} stale"
            f" {counts['reads refused']:3} refused {counts['reads unanswered']:3} unanswered;"
            f" 503 after at most {self.slowest_refusal_s:.2f} s: {dict(self.refusals)}"
            + (f" ({self.note})" if self.note else "")
        )


class Report(NamedTuple):
    seed: int
    happened: list[Happened]
    counts: Counter[str]
    violations: list[str]
    lost_by_exception: int
    seconds: float

    def __str__(self) -> str:
        slowest_s = max((item.service_s or GIVE_UP_S for item in self.happened), default=0.0)
        counts = self.counts
        return (
            f"seed {self.seed}: {len(self.happened)} faults, {counts['acknowledged']:,} changes acknowledged,"
            f" {counts['takes']:,} takes, {counts['fresh reads']:,} fresh and {counts['stale reads']:,}"
            f" stale reads, {counts['writes refused']:,} writes refused, {counts['writes unanswered']:,}"
            f" unanswered;"
            f" full service after at most {slowest_s:.1f} s; {self.lost_by_exception} lost by contract 1's"
            f" exception; {len(self.violations)} violations; {self.seconds:.0f} s"
        )


class Drill:
    def __init__(self, world: World, people: People, floor: Floor) -> None:
        self._world = world
        self._people = people
        self._floor = floor
        self._windows: list[Window] = []
        self._working: list[asyncio.Task[None]] = []
        self._probes: list[tuple[Walker, str]] = []
        self.happened: list[Happened] = []
        self.violations: list[str] = []

    async def run(self, faults: list[Fault]) -> None:
        for index in range(SERVERS):
            walker = await self._people.walker("shop", f"probe-{index + 1}", pinned=index)
            self._probes.append((walker, (await walker.create(next(self._floor.numbers)))["id"]))
        self._working = await self._people.start()
        await asyncio.sleep(3 * BETWEEN_S)
        for fault in faults:
            await self._inflict(fault)
            print(f"  {self.happened[-1]}", flush=True)
            if self.happened[-1].service_s is None:
                break  # what follows would say nothing about the next fault
            await asyncio.sleep(BETWEEN_S)
        await self._close()

    async def stop(self) -> None:
        """Nobody works any more, however it came to that."""
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)

    async def judged(self) -> int:
        """Adds to the violations; how many changes were lost by the stated exception."""
        left = await drained(self._people)
        found = await stored(self._world.postgres.url)
        verdict = judge(found, self._floor, self._windows)
        self.violations += [left] if left else []
        self.violations += verdict.violations
        self.violations += await divergences(self._world, self._people, found)
        return len(verdict.lost_by_exception)

    async def _inflict(self, fault: Fault) -> None:
        scene, floor = Scene(self._world, self._people, self._floor), self._floor
        before, began_s, floor.slowest_refusal_s = floor.counts.copy(), time.monotonic(), 0.0
        floor.refusals.clear()
        await fault.inflict(scene)
        service_s = await self._service_again(scene.lifted_s)
        if service_s is None or service_s > SERVICE_S:
            self.violations.append(f"{fault.name}: full service only after {service_s} s")
        if fault.may_lose:
            self._windows.append(Window(began_s - EXCEPTION_S, scene.lifted_s + EXCEPTION_S))
        took_s, counts = time.monotonic() - began_s, floor.counts.copy()
        counts.subtract(before)
        refusals, slowest_s = floor.refusals.copy(), floor.slowest_refusal_s
        self.happened.append(Happened(fault, took_s, service_s, counts, refusals, slowest_s, scene.note))

    async def _service_again(self, lifted_s: float) -> float | None:
        """Once every server has brought a change to the database and shown it."""
        try:
            async with asyncio.timeout(GIVE_UP_S):
                await asyncio.gather(*(self._probe(walker, order) for walker, order in self._probes))
        except TimeoutError:
            return None
        return time.monotonic() - lifted_s

    async def _probe(self, walker: Walker, order_id: str) -> None:
        try:
            await walker.remark(order_id, {"Prefer": "durability=database"})
            await walker.order(order_id)
            while walker.stale:
                await asyncio.sleep(0.05)
                await walker.order(order_id)
        except Violation as error:
            self._floor.violated(error)

    async def _close(self) -> None:
        """Everybody finishes what they are at."""
        self._floor.closing = True
        done, unfinished = await asyncio.wait(self._working, timeout=CLOSING_S)
        if unfinished:
            self.violations.append(f"{len(unfinished)} clients still wait for an outcome")
        for task in done:
            task.result()


def drawn(chance: random.Random, count: int, names: list[str]) -> list[Fault]:
    """Every kind once before any comes again."""
    kinds = [fault for fault in FAULTS if not names or fault.name in names]
    faults: list[Fault] = []
    while len(faults) < count:
        faults += chance.sample(kinds, len(kinds))
    return faults[:count]


async def run(seed: int, faults: list[Fault], directory: Path, plant: str = "") -> Report:
    began_s = time.monotonic()
    async with opened_world(directory, plant) as world:
        floor = Floor(world.urls, random.Random(seed))
        async with people_of(floor) as people:
            drill = Drill(world, people, floor)
            try:
                await drill.run(faults)
            finally:
                await drill.stop()
            lost = await drill.judged()
        codes = await world.stop_services()
        if any(codes):
            drill.violations.append(f"the servers stopped with exit codes {codes}")
        for service in world.services:
            drill.violations += unseen_failures(service.log_text())
    seconds = time.monotonic() - began_s
    return Report(seed, drill.happened, floor.counts, drill.violations, lost, seconds)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills.drill", description="The fault drill.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--faults", type=int, default=len(FAULTS), help="how many")
    parser.add_argument(
        "--only", action="append", default=[], help="only faults of this name; may be repeated"
    )
    parser.add_argument(
        "--plant", default="", choices=list(PLANTS), help="a fault of before, to see that it is found"
    )
    chosen = parser.parse_args(arguments)
    print(f"seed {chosen.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="facet-drill-"))
    faults = drawn(random.Random(chosen.seed), chosen.faults, chosen.only)
    report = asyncio.run(run(chosen.seed, faults, directory, chosen.plant))
    print(report)
    if not report.violations:
        shutil.rmtree(directory)
        return 0
    for violation in report.violations[:SHOWN]:
        print(f"  {violation}")
    print(f"  the servers' logs: {directory}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
