"""Clients at work, that count what fails and keep what was acknowledged. They repeat nothing."""

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import aiohttp

from tests.support.processes import ADMIN_TOKEN, Client, Clients, Reply

TIMEOUT_S = 30.0
CHECK_S = 2.0
CHECK_EVERY_S = 0.1
FAILURES_SHOWN = 10
PAUSE_S = 0.02
"""Of a customer, before each request."""


class Tally:
    """What all visitors of a test have seen."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.acknowledged: set[tuple[str, int]] = set()
        """Order and version."""
        self.news = asyncio.Event()

    @property
    def requests(self) -> int:
        return sum(self.answers.values()) + len(self.failures)

    def failed(self, what: str) -> None:
        self.failures.append(what)

    def __repr__(self) -> str:
        shown = "; ".join(self.failures[:FAILURES_SHOWN])
        return f"{len(self.failures)} of {self.requests} requests failed: {shown}"


class Visitor:
    """One connection, kept alive; an order at a time is opened, remarked on and read again."""

    def __init__(self, client: Client, tally: Tally, find: Callable[[], str], patience_s: float) -> None:
        self._client = client
        self._tally = tally
        self._find = find
        self._patience_s = patience_s
        self._position = ""

    async def work(self) -> None:
        while True:
            made = await self._send("POST", "/v1/orders", 201, json={"customer": "anna"})
            if made is None:
                continue
            order_id, version = made.json["id"], 1
            for turn in range(4):
                await asyncio.sleep(random.uniform(0, self._patience_s))
                said = await self._send(
                    "POST", f"/v1/orders/{order_id}/comments", 201, json={"comment": f"remark {turn}"}
                )
                version += said is not None
                read = await self._send("GET", f"/v1/orders/{order_id}", 200)
                if read is not None and read.json["version"] < version:
                    self._tally.failed(f"{order_id} went back from {version} to {read.json['version']}")
            await self._send("GET", "/v1/orders?limit=5", 200)

    async def _send(self, method: str, path: str, expected: int, **options: object) -> Reply | None:
        headers = {"Facet-Position": self._position} if self._position else {}
        if method == "POST":
            headers["Idempotency-Key"] = str(uuid4())
        self._client.url = self._find()
        try:
            reply = await self._client.send(method, path, headers=headers, **options)
        except (aiohttp.ClientError, TimeoutError) as error:
            self._tally.failed(f"{method} {path}: {error!r}")
            return None
        finally:
            self._tally.news.set()
        if reply.status != expected:
            self._tally.failed(f"{method} {path}: {reply!r}")
            return None
        self._tally.answers[method] += 1
        self._position = reply.headers.get("Facet-Position", self._position)
        if method == "POST":
            self._tally.acknowledged.add(
                (path.split("/")[3] if "comments" in path else reply.json["id"], reply.json["version"])
            )
        return reply


@contextlib.asynccontextmanager
async def visited(find: Callable[[], str], visitors: int = 20) -> AsyncIterator[Tally]:
    """The service, whose address `find` says before each request, visited by that many. They pause between
    requests, a quarter of them long enough for a connection to be idle when its worker leaves."""
    tally = Tally()
    async with contextlib.AsyncExitStack() as stack:
        tasks = []
        for number in range(visitors):
            session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
            session._retry_connection = False  # else aiohttp hides a connection closed too early
            await stack.enter_async_context(session)
            visitor = Visitor(Client(session, "", ADMIN_TOKEN), tally, find, 5.0 if number % 4 == 0 else 0.4)
            tasks.append(asyncio.create_task(visitor.work()))
        try:
            yield tally
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if error is not None and not isinstance(error, asyncio.CancelledError):
                raise error


class Balancer:
    """Sends each request to a server that says it is ready, as a load balancer does."""

    def __init__(self, urls: list[str]) -> None:
        self.ready: list[str] = []
        self._urls = urls
        self._turn = itertools.count()

    async def __aenter__(self) -> "Balancer":
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=CHECK_S))
        self.ready = [url for url in self._urls if await self._answers(url)]
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._session.close()

    def is_ready(self, url: str) -> bool:
        return url in self.ready

    def find(self) -> str:
        return self.ready[next(self._turn) % len(self.ready)]

    async def _look(self) -> None:
        while True:
            self.ready = [url for url in self._urls if await self._answers(url)] or self.ready
            await asyncio.sleep(CHECK_EVERY_S)

    async def _answers(self, url: str) -> bool:
        try:
            async with self._session.get(f"{url}/readyz") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


class Customer:
    """Reads and changes orders all the time; told nothing but what happened, or 503."""

    def __init__(self, clients: Clients, order_id: str) -> None:
        self._who = clients.admin
        self._order_id = order_id
        self.failures: list[Reply | BaseException] = []

    @contextlib.asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        life = asyncio.create_task(self._live())
        try:
            yield
        finally:
            life.cancel()

    async def _live(self) -> None:
        while True:
            for method, path in (
                ("GET", f"/v1/orders/{self._order_id}"),
                ("DELETE", "/v1/cache/lists"),
                ("GET", "/v1/orders?status=INITIATED"),
                ("GET", f"/v1/orders/{self._order_id}/history"),
                ("POST", f"/v1/orders/{self._order_id}/comments"),
            ):
                await asyncio.sleep(PAUSE_S)
                await self._ask(method, path)

    async def _ask(self, method: str, path: str) -> None:
        body = {"comment": "still there?"} if method == "POST" else None
        try:
            reply = await self._who.send(method, path, json=body)
        except Exception as error:
            self.failures.append(error)
        else:
            if reply.status >= 500 and reply.status != 503:
                self.failures.append(reply)
