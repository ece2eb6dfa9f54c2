"""The people of the drill: each request goes to any of the three servers, and is sent again, with the same
Idempotency-Key and perhaps to another one, until its outcome is known."""

import asyncio
import bisect
import contextlib
import itertools
import json
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, NamedTuple

import aiohttp

from tests.drills.day_history import APPROVED, LINE, STARTED, Acknowledged
from tests.support.meshes import binary_stl, torus
from tests.support.processes import ADMIN_TOKEN, Client, Reply

OPERATORS, POLLERS, PASSERS_BY, SHOPS, MES, SELLERS, CLOSERS = 14, 14, 8, 4, 3, 4, 2
WAITERS, NEWCOMERS, ASKERS = 4, 2, 2
ANSWER_S = 6.0
"""How long a client waits for an answer: taking an order may wait for the database for 5 s."""
OUTCOME_S = 90.0
"""After this long without an outcome a request is a violation, not a fault's consequence."""
PAUSE_MIN_S, PAUSE_MAX_S = 0.02, 0.4
THINK_S = 0.25
OLD_S = 1.0
"""What was superseded this long before a read began may not be its answer, unless that says it is
stale."""
IMPATIENT = 0.2
"""The share of operators who do not wait for what becomes of their first request."""
IMPATIENT_S = 0.5
WAIT_S = 3
OPEN_ORDERS_MAX = 60
RECENT_ORDERS = 80

Order = dict[str, Any]


class Violation(Exception):
    """A client was told something that cannot be. `order_id`: which order it is about, if one."""

    def __init__(self, message: str, order_id: str = "") -> None:
        super().__init__(message)
        self.order_id = order_id


class Told(NamedTuple):
    at_s: float
    change: Acknowledged


class Floor:
    """The workshop as all its clients share it: what was told, what is left to do."""

    def __init__(self, urls: list[str], chance: random.Random) -> None:
        self.urls = urls
        self.random = chance
        self.acknowledged: list[Told] = []
        self.refused_keys: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        """Answers of 503, by what was asked and the reason given."""
        self.violations: list[tuple[float, Violation]] = []
        self.recent: deque[str] = deque(maxlen=RECENT_ORDERS)
        self.ids: set[str] = set()
        self.numbers = itertools.count(1)
        self.open_orders = 0
        self.to_price: asyncio.Queue[Order] = asyncio.Queue()
        self.to_approve: asyncio.Queue[Order] = asyncio.Queue()
        self.to_close: asyncio.Queue[Order] = asyncio.Queue()
        self.closing = False
        self.model = ""
        """The hash of a model that has been uploaded."""
        self.slowest_refusal_s = 0.0
        self._versions: dict[str, tuple[list[float], list[int]]] = defaultdict(lambda: ([], []))

    def told(self, change: Acknowledged) -> None:
        now_s = time.monotonic()
        self.acknowledged.append(Told(now_s, change))
        self.counts["acknowledged"] += 1
        self.ids.add(change.order_id)
        times, versions = self._versions[change.order_id]
        times.append(now_s)
        versions.append(max(change.version, versions[-1] if versions else 0))

    def ids_before(self, at_s: float) -> set[str]:
        """The orders that anybody was told of before a moment."""
        return {order_id for order_id, (times, _) in self._versions.items() if times and times[0] < at_s}

    def version_before(self, order_id: str, at_s: float) -> int:
        """The newest version that anybody was told of before a moment."""
        times, versions = self._versions.get(order_id, ([], []))
        index = bisect.bisect_left(times, at_s)
        return versions[index - 1] if index else 0

    def violated(self, error: Violation) -> None:
        self.violations.append((time.monotonic(), error))

    async def think(self, share: float = 1.0) -> None:
        await asyncio.sleep(self.random.uniform(0.2, 1.8) * THINK_S * share)


class Walker:
    """One client: remembers what it has seen, echoes it, and is told nothing older. A `forgetful` one echoes
    nothing: it may be told what is a little old, but not what is older than a second."""

    def __init__(self, clients: list[Client], name: str, floor: Floor, pinned: int | None = None) -> None:
        self.name = name
        self.forgetful = False
        self.floor = floor
        self._clients = clients
        self._pinned = pinned
        self._keys = (f"{name}-{count}" for count in itertools.count(1))
        self._position = (0, 0)
        self._versions: dict[str, int] = {}
        self._status_versions: dict[str, int] = {}
        self._held: dict[str, tuple[str, Any]] = {}
        self._asked_s = 0.0
        self.source = ""
        """`Cache-Status` of the last answer to a read."""

    @property
    def stale(self) -> bool:
        return "detail=stale" in self.source

    async def create(self, number: int) -> Order:
        body = {"customer": f"customer-{number % 50}", "reference": f"drill-{number}", "quantity": 1}
        return (await self.change("POST", "/v1/orders", body)).json  # type: ignore[no-any-return]

    async def step(self, order: Order, status: str, comment: str | None = None) -> Order:
        """Nobody else changes the order meanwhile, so that the version is known."""
        body = {"status": status} | ({"comment": comment} if comment else {})
        path, match = f"/v1/orders/{order['id']}/status", {"If-Match": f'"{order["version"]}"'}
        reply = await self.change("PUT", path, body, match)
        if reply.json["version"] != order["version"] + 1:
            raise Violation(f"{self.name}: {status} after {order} was answered {reply}", order["id"])
        return reply.json  # type: ignore[no-any-return]

    async def remark(self, order_id: str, headers: dict[str, str] | None = None) -> Order:
        path = f"/v1/orders/{order_id}/comments"
        return (await self.change("POST", path, {"comment": "engrave it"}, headers)).json  # type: ignore[no-any-return]

    async def take(self, order_id: str) -> Order | None:
        """None when another operator was first. Some are impatient: what is not answered at once they ask for
        again, as another request."""
        refusals, path = ("already_taken", "illegal_transition"), f"/v1/orders/{order_id}/take"
        before: tuple[str, ...] = ()
        if self.floor.random.random() < IMPATIENT:
            key = next(self._keys)
            headers = {"Idempotency-Key": key}
            reply = await self._try("writes", "POST", path, headers, {}, answer_s=IMPATIENT_S)
            before = (key,)
            if reply is not None and reply.status == 200:
                return self._told(reply, key).json  # type: ignore[no-any-return]
        reply = await self.change("POST", path, {}, refusals=refusals, or_by=before)
        if reply.status == 409:
            self.floor.counts["takes lost to another"] += 1
            return None
        return reply.json  # type: ignore[no-any-return]

    async def change(
        self,
        method: str,
        path: str,
        body: Any,
        conditions: dict[str, str] | None = None,
        refusals: tuple[str, ...] = (),
        or_by: tuple[str, ...] = (),
    ) -> Reply:
        """`or_by`: keys of earlier requests for the same; one of them may have been the one that did it."""
        key = next(self._keys)
        reply = await self._send(method, path, {"Idempotency-Key": key, **(conditions or {})}, body)
        if reply.status not in (200, 201):
            if reply.json["code"] not in refusals:
                raise Violation(f"{self.name} {key}: {method} {path} {body} was answered {reply}", _id(path))
            self.floor.refused_keys.add(key)
            return reply
        return self._told(reply, key, *or_by)

    def _told(self, reply: Reply, *keys: str) -> Reply:
        """A change was acknowledged."""
        order = reply.json
        if reply.headers["ETag"] != f'"{order["version"]}"':
            raise Violation(f"ETag {reply.headers['ETag']} of {order}", order["id"])
        if order["status"] == STARTED and reply.headers["Durability"] != "database":
            raise Violation(f"{self.name} was given {order} by the log alone", order["id"])
        self._note(order)
        self._position = max(self._position, _position(reply))
        told = (order["id"], order["version"], keys[0], self.name, order["status"], order["operator"])
        self.floor.told(Acknowledged(*told, keys[1:]))
        return reply

    async def listed(self, status: str, limit: int) -> list[Order]:
        rows: list[Order] = (await self._read(f"/v1/orders?status={status}&limit={limit}"))["items"]
        for row in rows:
            if row["status"] != status:
                raise Violation(f"the list of {status} shows {row}", row["id"])
            self._compare(self._versions, row["id"], row["version"])
            self._require_recent(row["id"], row["version"])
            self._note(row)
        return rows

    async def order(self, order_id: str) -> Order:
        order = await self._read(f"/v1/orders/{order_id}", or_nothing={"version": 0, "status_version": 0})
        order = {"id": order_id, **order}
        self._compare(self._versions, order_id, order["version"])
        self._require_recent(order_id, order["version"])
        self._note(order)
        return order

    async def status(self, order_id: str) -> None:
        row = await self._read(f"/v1/orders/{order_id}/status", or_nothing={"version": 0})
        if not row["version"]:
            self._require_recent(order_id, 0)
        self._see_status({"id": order_id, **row})

    async def statuses(self, ids: list[str]) -> None:
        found = await self._read(f"/v1/statuses?ids={','.join(ids)}")
        for order_id in found["missing"]:
            self._compare(self._versions, order_id, 0)
            self._require_recent(order_id, 0)
        for row in found["items"]:
            self._see_status(row)

    async def history(self, order_id: str) -> None:
        """Every change of an order: none is missing, and none that is known."""
        found = await self._read(f"/v1/orders/{order_id}/history", or_nothing={"items": []})
        versions = [item["version"] for item in found["items"]]
        if versions != list(range(1, len(versions) + 1)):
            raise Violation(f"the history of {order_id} has versions {versions}", order_id)
        self._compare(self._versions, order_id, len(versions))
        self._require_recent(order_id, len(versions))

    async def wait(self, order_id: str) -> None:
        """A long poll: in the end it is told the newest, or that nobody can say."""
        etag, _ = self._held.get(f"/v1/orders/{order_id}", ("", None))
        if not etag:
            await self.order(order_id)
            return
        path, headers = f"/v1/orders/{order_id}", {"If-None-Match": etag, "Prefer": f"wait={WAIT_S}"}
        reply = await self._try("reads", "GET", path, headers, None)
        if reply is None or reply.status == 503:
            return
        self.source = reply.headers.get("Cache-Status", "")
        version = int(etag.strip('"')) if reply.status == 304 else reply.json["version"]
        self._asked_s = time.monotonic()  # it is as new as its answer, not as the question
        self._require_recent(order_id, version)

    async def operators(self) -> None:
        await self._read("/v1/operators")

    async def walk(self) -> None:
        """By the last change, upwards: everything that was there before is met."""
        wanted, asked_s, met = self.floor.ids_before(time.monotonic() - OLD_S), time.monotonic(), set()
        path: str = "/v1/orders?sort=updated_at&limit=20"
        while path:
            page = await self._read(path)
            if self.stale:
                return
            met |= {row["id"] for row in page["items"]}
            path = f"/v1/orders?sort=updated_at&limit=20&cursor={page['next']}" if page["next"] else ""
        for order_id in wanted - met:
            order = await self.order(order_id)
            if order["version"] <= self.floor.version_before(order_id, asked_s):
                raise Violation(f"{self.name}'s walk missed {order}", order_id)
            # else it was changed meanwhile, and may have moved behind the walk

    def _see_status(self, row: Order) -> None:
        self._compare(self._status_versions, row["id"], row["version"])
        self._status_versions[row["id"]] = row["version"]

    def _note(self, order: Order) -> None:
        order_id = order["id"]
        self._versions[order_id] = max(order["version"], self._versions.get(order_id, 0))
        known = self._status_versions.get(order_id, 0)
        self._status_versions[order_id] = max(order["status_version"], known)

    def _compare(self, known: dict[str, int], order_id: str, version: int) -> None:
        self.floor.counts["versions compared"] += 1
        if self.forgetful:
            return
        if version < known.get(order_id, 0):
            raise Violation(
                f"{self.name} saw {order_id} go from {known[order_id]} back to {version} ({self.source})",
                order_id,
            )

    def _require_recent(self, order_id: str, version: int) -> None:
        if self.stale:
            return
        newest = self.floor.version_before(order_id, self._asked_s - OLD_S)
        if version < newest:
            raise Violation(
                f"{self.name} was shown version {version} of {order_id}, {newest} was told {OLD_S} s before"
                f" ({self.source})",
                order_id,
            )

    async def _read(self, path: str, or_nothing: Order | None = None) -> Any:
        """The body; what was held when it has not changed; `or_nothing` where nothing is found."""
        if self.forgetful:
            self._held.clear()
            self._position = (0, 0)
        etag, body = self._held.get(path, ("", None))
        echo = {"Facet-Position": "{}-{}".format(*self._position)} if self._position[0] else {}
        reply = await self._send("GET", path, echo | ({"If-None-Match": etag} if etag else {}))
        if reply.status == 404 and or_nothing is not None:
            self.source = ""
            return or_nothing
        if reply.status not in (200, 304):
            raise Violation(f"{self.name}: GET {path} was answered {reply}", _id(path))
        self.source = reply.headers.get("Cache-Status", "")
        position = _position(reply)
        if position < self._position:
            raise Violation(
                f"{self.name} saw position {self._position} go back to {position} ({self.source})"
            )
        self._position = position
        self.floor.counts["stale reads" if self.stale else "fresh reads"] += 1
        if reply.status == 304:
            return body
        body = json.loads(reply.raw)
        if "ETag" in reply.headers:
            self._held[path] = (reply.headers["ETag"], body)
        return body

    async def _send(self, method: str, path: str, headers: dict[str, str], body: Any = None) -> Reply:
        """The answer, once there is one that says what happened."""
        kind, pause_s = "reads" if method == "GET" else "writes", PAUSE_MIN_S
        deadline_s, reply = time.monotonic() + OUTCOME_S, None
        while time.monotonic() < deadline_s:
            reply = await self._try(kind, method, path, headers, body)
            if reply is not None and reply.status != 503:
                return reply
            await asyncio.sleep(pause_s * self.floor.random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, PAUSE_MAX_S)
        raise Violation(f"{self.name}: {method} {path} had no outcome in {OUTCOME_S:g} s: {reply}", _id(path))

    @property
    def clients(self) -> list[Client]:
        return self._clients

    async def tried(self, client: Client, method: str, path: str, **body: str) -> Reply | None:
        """One request that nobody repeats; None when it was not answered."""
        try:
            async with asyncio.timeout(ANSWER_S):
                reply = await client.send(method, path, json=body or None)
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            return None
        if reply.status >= 500 and reply.status != 503:
            raise Violation(f"{self.name}: {method} {path} failed: {reply}")
        return reply

    async def _try(
        self,
        kind: str,
        method: str,
        path: str,
        headers: dict[str, str],
        body: Any,
        answer_s: float = ANSWER_S,
    ) -> Reply | None:
        floor, self._asked_s = self.floor, time.monotonic()
        client = (
            self._clients[self._pinned] if self._pinned is not None else floor.random.choice(self._clients)
        )
        try:
            async with asyncio.timeout(answer_s):
                reply = await client.send(method, path, headers=headers, json=body)
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            floor.counts[f"{kind} unanswered"] += 1
            return None
        if reply.status == 503:
            floor.counts[f"{kind} refused"] += 1
            floor.refusals[f"{kind} {reply.json['code']}"] += 1
            floor.slowest_refusal_s = max(floor.slowest_refusal_s, time.monotonic() - self._asked_s)
            if "Retry-After" not in reply.headers:
                raise Violation(f"{method} {path}: 503 without Retry-After: {reply}")
        elif reply.status >= 500:
            raise Violation(f"{self.name}: {method} {path} failed: {reply}", _id(path))
        return reply


def _id(path: str) -> str:
    parts = path.split("?")[0].split("/")
    return parts[3] if len(parts) > 3 else ""


def _position(reply: Reply) -> tuple[int, int]:
    epoch, _, n = reply.headers["Facet-Position"].partition("-")
    return int(epoch), int(n)


async def shop(walker: Walker, floor: Floor) -> None:
    if floor.open_orders >= OPEN_ORDERS_MAX:
        return
    floor.open_orders += 1
    try:
        order = await walker.create(next(floor.numbers))
        floor.recent.append(order["id"])
        order = await walker.step(order, "FILE_UPLOADED")
        order = await walker.step(order, "SUBMITTED")
        if floor.random.random() < 0.2:
            order = await walker.remark(order["id"])
    except BaseException:
        floor.open_orders -= 1
        raise
    floor.to_price.put_nowait(order)


async def mes(walker: Walker, floor: Floor) -> None:
    if not floor.to_price.empty():
        floor.to_approve.put_nowait(await walker.step(floor.to_price.get_nowait(), "PRICE_CALCULATED"))


async def approve(walker: Walker, floor: Floor) -> None:
    if floor.to_approve.empty():
        return
    order = floor.to_approve.get_nowait()
    if floor.random.random() < 0.04:
        await walker.step(order, "CANCELLED", "the customer changed their mind")
        floor.open_orders -= 1
    else:
        await walker.step(order, APPROVED)


async def close(walker: Walker, floor: Floor) -> None:
    if not floor.to_close.empty():
        await walker.step(floor.to_close.get_nowait(), "CLOSED")
        floor.open_orders -= 1


async def operator(walker: Walker, floor: Floor) -> None:
    rows = await walker.listed(APPROVED, 5)
    if not rows:
        return
    # The newest first, as everybody does: that is where they meet.
    wanted = rows[0] if floor.random.random() < 0.8 else floor.random.choice(rows)
    order = await walker.take(wanted["id"])
    if order is None:
        return
    if order["status"] != STARTED or order["operator"] != walker.name:
        raise Violation(f"{walker.name} took an order and got {order}", wanted["id"])
    floor.counts["takes"] += 1
    if floor.random.random() < 0.1:
        await walker.step(order, APPROVED)
        return
    for status in ("MANUFACTURING_COMPLETED", "PACKAGING", "SHIPPED"):
        await floor.think(0.3)
        order = await walker.step(order, status)
    floor.to_close.put_nowait(order)


async def passer_by(walker: Walker, floor: Floor) -> None:
    walker.forgetful = True
    if floor.recent and floor.random.random() < 0.7:
        await walker.order(floor.random.choice(floor.recent))
    else:
        await walker.listed(floor.random.choice(LINE), 50)


async def waiter(walker: Walker, floor: Floor) -> None:
    if floor.recent:
        await walker.wait(floor.random.choice(floor.recent))


async def newcomer(walker: Walker, floor: Floor) -> None:
    """A token issued by one server is good at another at once."""
    admins = [client.with_token(ADMIN_TOKEN) for client in walker.clients]
    name = f"newcomer-{next(floor.numbers)}"
    issued = await walker.tried(floor.random.choice(admins), "POST", "/v1/tokens", role="shop", name=name)
    if issued is None or issued.status != 201:
        return
    there = floor.random.choice(walker.clients).with_token(issued.json["token"])
    asked = await walker.tried(there, "GET", "/v1/me")
    if asked is not None and asked.status not in (200, 503):
        raise Violation(f"{name}, who has just been given a token, was answered {asked}")


async def asker(walker: Walker, floor: Floor) -> None:
    """A quote given by one server is found at another at once."""
    if not floor.model:
        body = binary_stl(torus(9.25))
        reply = await floor.random.choice(walker.clients).send("POST", "/v1/models", data=body)
        if reply.status == 201:
            floor.model = reply.json["model"]["sha256"]
        return
    query = f"material=silver-925&quantity={floor.random.randrange(1, 10_000)}"
    path = f"/v1/models/{floor.model}/price?{query}"
    priced = await walker.tried(floor.random.choice(walker.clients), "GET", path)
    if priced is None or priced.status != 200:
        return
    quote = f"/v1/prices/{priced.json['price']['id']}"
    found = await walker.tried(floor.random.choice(walker.clients), "GET", quote)
    if found is not None and found.status not in (200, 503):
        raise Violation(f"{quote}, which has just been given, was answered {found}")


async def poller(walker: Walker, floor: Floor) -> None:
    if not floor.recent:
        return
    match floor.random.randrange(8):
        case 0 | 1:
            await walker.order(floor.random.choice(floor.recent))
        case 2:
            await walker.status(floor.random.choice(floor.recent))
        case 3:
            await walker.listed(floor.random.choice((*LINE, "CANCELLED")), 50)
        case 4:
            await walker.history(floor.random.choice(floor.recent))
        case 5:
            await walker.operators()
        case 6:
            await walker.walk()
        case _:
            await walker.statuses(floor.random.sample(list(floor.recent), min(20, len(floor.recent))))


Work = Callable[[Walker, Floor], Coroutine[Any, Any, None]]
CROWD: tuple[tuple[Work, str, int], ...] = (
    (shop, "shop", SHOPS),
    (mes, "mes", MES),
    (approve, "seller", SELLERS),
    (close, "seller", CLOSERS),
    (operator, "operator", OPERATORS),
    (poller, "seller", POLLERS),
    (passer_by, "seller", PASSERS_BY),
    (waiter, "seller", WAITERS),
    (newcomer, "seller", NEWCOMERS),
    (asker, "shop", ASKERS),
)


async def live(work: Work, walker: Walker, floor: Floor) -> None:
    """Until the floor closes; what is found wrong does not keep anybody from going on."""
    while not floor.closing:
        await floor.think()
        try:
            await work(walker, floor)
        except Violation as error:
            floor.violated(error)


class People:
    """Everybody's connections and tokens."""

    def __init__(self, session: aiohttp.ClientSession, floor: Floor) -> None:
        self._session = session
        self.floor = floor
        self.admins = [Client(session, url, ADMIN_TOKEN) for url in floor.urls]

    async def walker(self, role: str, name: str, pinned: int | None = None) -> Walker:
        reply = await self.admins[0].post("/v1/tokens", {"role": role, "name": name})
        if reply.status != 201:
            raise RuntimeError(f"no token: {reply}")
        token = reply.json["token"]
        return Walker(
            [Client(self._session, url, token) for url in self.floor.urls], name, self.floor, pinned
        )

    async def start(self) -> list["asyncio.Task[None]"]:
        return [
            asyncio.create_task(live(work, await self.walker(role, f"{work.__name__}-{number}"), self.floor))
            for work, role, count in CROWD
            for number in range(1, count + 1)
        ]


@contextlib.asynccontextmanager
async def people_of(floor: Floor) -> AsyncIterator[People]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:  # takes what is encoded, as callers do
        yield People(session, floor)
