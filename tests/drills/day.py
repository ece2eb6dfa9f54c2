"""A scripted day of the workshop, with the service killed again and again while it happens.

`python -m tests.drills.day [--seed N] [--orders 1000] [--kills 10]`

Shops open orders, a MES prices them, sellers approve them, eight operators reach for the same ones and make
them, eight more clients only look. Whatever has an unknown outcome is sent again with its Idempotency-Key.
In the evening the database must hold every acknowledged change exactly once, and nobody may have been told
two things. Exit code 1 when that is not so.
"""

import argparse
import asyncio
import itertools
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from tests.drills.day_history import APPROVED, LINE, STARTED, Acknowledged, violations
from tests.support.processes import Client, Clients, Reply, Service, clients_of, free_port

OPERATORS, POLLERS, SHOPS, MES, SELLERS = 8, 8, 4, 2, 2
ATTEMPTS_MAX = 200
"""How often a request with an unknown outcome is sent again before the day is called off."""
ANSWER_S = 30.0
CHANGES_PER_ORDER = 8
"""No order that is not cancelled has fewer: kills are spread over what is sure to happen."""

Order = dict[str, Any]


class Plan(NamedTuple):
    seed: int
    orders: int = 1_000
    kills: int = 10


class Report(NamedTuple):
    plan: Plan
    counts: Counter[str]
    violations: list[str]
    seconds: float

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} {what}" for what, count in self.counts.items())
        found = f"{len(self.violations)} violations"
        return f"seed {self.plan.seed}: {self.plan.orders} orders, {counts}, {found}, {self.seconds:.1f} s"


class Violation(Exception):
    """A client was told something that cannot be."""


class Workshop:
    """The day as all its clients share it: the service, what was told, what is left to do."""

    def __init__(self, plan: Plan, service: Service) -> None:
        self.plan = plan
        self.random = random.Random(plan.seed)
        self.service = service
        self._port = free_port()
        self.up = asyncio.Event()
        self.acknowledged: list[Acknowledged] = []
        self.counts: Counter[str] = Counter()
        self.ids: list[str] = []
        self.numbers = iter(range(plan.orders))
        self.to_price: asyncio.Queue[Order] = asyncio.Queue()
        self.to_approve: asyncio.Queue[Order] = asyncio.Queue()
        self.to_close: asyncio.Queue[Order] = asyncio.Queue()
        self.news = asyncio.Event()
        self.evening = asyncio.Event()
        self._finished = 0
        total = plan.orders * CHANGES_PER_ORDER
        self._kill_after = sorted(self.random.sample(range(total // 20, total), plan.kills))
        self._kill = asyncio.Event()

    def told(self, change: Acknowledged) -> None:
        self.acknowledged.append(change)
        self.counts["changes acknowledged"] += 1
        if self._kill_after and len(self.acknowledged) >= self._kill_after[0]:
            self._kill.set()

    def announce(self) -> None:
        """Wake everybody who waits for something to do."""
        news, self.news = self.news, asyncio.Event()
        news.set()

    def finish(self) -> None:
        self._finished += 1
        if self._finished == self.plan.orders:
            self.evening.set()

    async def open(self) -> None:
        await asyncio.to_thread(self.service.start, self._port)
        self.up.set()

    async def kill_again_and_again(self) -> None:
        while self._kill_after:
            await self._kill.wait()
            self._kill.clear()
            self._kill_after.pop(0)
            self.up.clear()
            self.service.kill()
            self.counts["kills"] += 1
            await self.open()


class Walker:
    """One client: remembers what it has seen, echoes it, and is told nothing older."""

    def __init__(self, client: Client, name: str, workshop: Workshop) -> None:
        self.name = name
        self.workshop = workshop
        self._client = client
        self._keys = (f"{name}-{count}" for count in itertools.count(1))
        self._position = (0, 0)
        self._versions: dict[str, int] = {}
        self._status_versions: dict[str, int] = {}
        self._held: dict[str, tuple[str, Any]] = {}

    async def create(self, number: int) -> Order:
        body = {"customer": f"customer-{number % 50}", "reference": f"day-{number}", "quantity": 1}
        return (await self.change("POST", "/v1/orders", body)).json  # type: ignore[no-any-return]

    async def step(self, order: Order, status: str, comment: str | None = None) -> Order:
        """Nobody else changes the order meanwhile, so that the version is known."""
        body = {"status": status} | ({"comment": comment} if comment else {})
        path, match = f"/v1/orders/{order['id']}/status", {"If-Match": f'"{order["version"]}"'}
        return (await self.change("PUT", path, body, match)).json  # type: ignore[no-any-return]

    async def remark(self, order: Order) -> Order:
        path = f"/v1/orders/{order['id']}/comments"
        return (await self.change("POST", path, {"comment": "engrave it"})).json  # type: ignore[no-any-return]

    async def take(self, order_id: str) -> Order | None:
        """None when another operator was first."""
        reply = await self.change("POST", f"/v1/orders/{order_id}/take", {}, refusals=("already_taken",))
        if reply.status == 409:
            self.workshop.counts["takes lost to another"] += 1
            if reply.json["operator"] == self.name:
                raise Violation(f"{self.name} was refused its own order: {reply}")
            return None
        return reply.json  # type: ignore[no-any-return]

    async def change(
        self,
        method: str,
        path: str,
        body: Any,
        conditions: dict[str, str] | None = None,
        refusals: tuple[str, ...] = (),
    ) -> Reply:
        key = next(self._keys)
        reply = await self._send(method, path, {"Idempotency-Key": key, **(conditions or {})}, body)
        if reply.status not in (200, 201):
            if reply.json["code"] not in refusals:
                raise Violation(f"{self.name}: {method} {path} {body} was answered {reply}")
            return reply
        order = reply.json
        if reply.headers["ETag"] != f'"{order["version"]}"':
            raise Violation(f"{path}: ETag {reply.headers['ETag']} of {order}")
        self._note(order)
        self._position = max(self._position, _position(reply))
        operator = order["operator"]
        told = (order["id"], order["version"], key, self.name, order["status"], operator)
        self.workshop.told(Acknowledged(*told))
        return reply

    async def listed(self, status: str, limit: int) -> list[Order]:
        rows: list[Order] = (await self._read(f"/v1/orders?status={status}&limit={limit}"))["items"]
        for row in rows:
            if row["status"] != status:
                raise Violation(f"the list of {status} shows {row}")
            self._compare(self._versions, row["id"], row["version"])
            self._note(row)
        return rows

    async def order(self, order_id: str) -> None:
        order = await self._read(f"/v1/orders/{order_id}")
        self._compare(self._versions, order_id, order["version"])
        self._note(order)

    async def status(self, order_id: str) -> None:
        self._see_status(await self._read(f"/v1/orders/{order_id}/status"))

    async def statuses(self, ids: list[str]) -> None:
        found = await self._read(f"/v1/statuses?ids={','.join(ids)}")
        if found["missing"]:
            raise Violation(f"{self.name} no longer finds {found['missing']}")
        for row in found["items"]:
            self._see_status(row)

    def _see_status(self, row: Order) -> None:
        self._compare(self._status_versions, row["id"], row["version"])
        self._status_versions[row["id"]] = row["version"]

    def _note(self, order: Order) -> None:
        order_id = order["id"]
        self._versions[order_id] = max(order["version"], self._versions.get(order_id, 0))
        known = self._status_versions.get(order_id, 0)
        self._status_versions[order_id] = max(order["status_version"], known)

    def _compare(self, known: dict[str, int], order_id: str, version: int) -> None:
        self.workshop.counts["versions compared"] += 1
        if version < known.get(order_id, 0):
            raise Violation(f"{self.name} saw {order_id} go from {known[order_id]} back to {version}")

    async def _read(self, path: str) -> Any:
        """The body; what was held when it has not changed."""
        etag, body = self._held.get(path, ("", None))
        echo = {"Facet-Position": "{}-{}".format(*self._position)} if self._position[0] else {}
        conditions = {"If-None-Match": etag} if etag else {}
        reply = await self._send("GET", path, echo | conditions)
        if reply.status not in (200, 304):
            raise Violation(f"{self.name}: GET {path} was answered {reply}")
        position = _position(reply)
        if position < self._position:
            raise Violation(f"{self.name} saw position {self._position} go back to {position}")
        self._position = position
        self.workshop.counts["reads"] += 1
        if reply.status == 304:
            return body
        body = json.loads(reply.raw)
        if "ETag" in reply.headers:
            self._held[path] = (reply.headers["ETag"], body)
        return body

    async def _send(self, method: str, path: str, headers: dict[str, str], body: Any = None) -> Reply:
        """The answer, once there is one that says what happened."""
        reply: Reply | None = None
        for _ in range(ATTEMPTS_MAX):
            await self.workshop.up.wait()
            try:
                async with asyncio.timeout(ANSWER_S):
                    reply = await self._client.send(method, path, headers=headers, json=body)
            except (aiohttp.ClientError, ConnectionError, TimeoutError):
                self.workshop.counts["outcomes unknown"] += 1
                continue
            if reply.status == 500:
                raise Violation(f"{self.name}: {method} {path} failed: {reply}")
            if reply.status < 500:
                return reply
            self.workshop.counts["answers of 503"] += 1
        raise Violation(f"{self.name}: {method} {path} had no outcome in {ATTEMPTS_MAX} attempts: {reply}")


def _position(reply: Reply) -> tuple[int, int]:
    epoch, _, n = reply.headers["Facet-Position"].partition("-")
    return int(epoch), int(n)


async def shop(walker: Walker, workshop: Workshop) -> None:
    for number in workshop.numbers:
        order = await walker.create(number)
        workshop.ids.append(order["id"])
        workshop.announce()
        order = await walker.step(order, "FILE_UPLOADED")
        order = await walker.step(order, "SUBMITTED")
        if workshop.random.random() < 0.1:
            order = await walker.remark(order)
        workshop.to_price.put_nowait(order)


async def mes(walker: Walker, workshop: Workshop) -> None:
    while True:
        order = await workshop.to_price.get()
        workshop.to_approve.put_nowait(await walker.step(order, "PRICE_CALCULATED"))


async def approve(walker: Walker, workshop: Workshop) -> None:
    while True:
        order = await workshop.to_approve.get()
        if workshop.random.random() < 0.04:
            await walker.step(order, "CANCELLED", "the customer changed their mind")
            workshop.finish()
        else:
            await walker.step(order, APPROVED)
            workshop.announce()


async def close(walker: Walker, workshop: Workshop) -> None:
    while True:
        await walker.step(await workshop.to_close.get(), "CLOSED")
        workshop.finish()


async def operator(walker: Walker, workshop: Workshop) -> None:
    while True:
        news = workshop.news
        rows = await walker.listed(APPROVED, 3)
        if not rows:
            await news.wait()
            continue
        # The newest first, as everybody does: that is where they meet.
        wanted = rows[0] if workshop.random.random() < 0.8 else workshop.random.choice(rows)
        order = await walker.take(wanted["id"])
        if order is not None:
            await make(walker, order, workshop)


async def make(walker: Walker, order: Order, workshop: Workshop) -> None:
    if order["status"] != STARTED or order["operator"] != walker.name:
        raise Violation(f"{walker.name} took an order and got {order}")
    if workshop.random.random() < 0.1:
        workshop.counts["releases"] += 1
        await walker.step(order, APPROVED)
        workshop.announce()
        return
    for status in ("MANUFACTURING_COMPLETED", "PACKAGING", "SHIPPED"):
        order = await walker.step(order, status)
    workshop.to_close.put_nowait(order)


async def poller(walker: Walker, workshop: Workshop) -> None:
    while True:
        if not workshop.ids:
            await workshop.news.wait()
            continue
        recent = workshop.ids[-60:]
        match workshop.random.randrange(4):
            case 0:
                await walker.status(workshop.random.choice(recent))
            case 1:
                await walker.order(workshop.random.choice(recent))
            case 2:
                await walker.listed(workshop.random.choice((*LINE, "CANCELLED")), 50)
            case _:
                await walker.statuses(workshop.random.sample(recent, min(20, len(recent))))


async def _people(clients: Clients, workshop: Workshop) -> list[Coroutine[Any, Any, None]]:
    """Everybody who works or looks today, each with a token of their own."""
    crowd = [
        (shop, "shop", SHOPS),
        (mes, "mes", MES),
        (approve, "seller", SELLERS),
        (close, "seller", 1),
        (operator, "operator", OPERATORS),
        (poller, "seller", POLLERS),
    ]
    people = []
    for work, role, count in crowd:
        for number in range(1, count + 1):
            name = f"{work.__name__}-{number}"
            people.append(work(Walker(await clients.of(role, name), name, workshop), workshop))
    return people


async def _live(workshop: Workshop) -> None:
    """From opening to the last order; raises ExceptionGroup of Violation."""
    async with clients_of(workshop.service.url) as clients:
        people = await _people(clients, workshop)
        async with asyncio.TaskGroup() as group:
            working = [group.create_task(person) for person in people]
            await group.create_task(workshop.kill_again_and_again())
            await workshop.evening.wait()
            for task in working:
                task.cancel()


async def run(plan: Plan, data_dir: Path) -> Report:
    """Live the day on this data directory, stop the service, look into the database."""
    began_s = time.monotonic()
    service = Service(data_dir)
    workshop = Workshop(plan, service)
    found: list[str] = []
    await workshop.open()
    try:
        await _live(workshop)
    except* Violation as group:
        found += [str(error) for error in group.exceptions]
    finally:
        await workshop.up.wait()
        code = await asyncio.to_thread(service.stop)
    if code != 0:
        found.append(f"the service stopped with exit code {code}")
    found += violations(data_dir / "facet.db", workshop.acknowledged)
    return Report(plan, workshop.counts, found, time.monotonic() - began_s)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.drills.day", description="A scripted day with kills."
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--orders", type=int, default=1_000)
    parser.add_argument("--kills", type=int, default=10)
    plan = Plan(**vars(parser.parse_args(arguments)))
    print(f"seed {plan.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="facet-day-"))
    report = asyncio.run(run(plan, directory / "data"))
    print(report)
    if not report.violations:
        shutil.rmtree(directory)
        return 0
    for violation in report.violations[:50]:
        print(f"  {violation}")
    print(f"  data and the service's log: {directory}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
