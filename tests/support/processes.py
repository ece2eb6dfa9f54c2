"""The real service in a process of its own, and a client for it."""

import contextlib
import json
import random
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from storage.data_directory import DataDirectory, Holder
from tests.support.template import ROOT, Process, environment_of, start

ADMIN_TOKEN = "an-admin-token-for-tests"
START_S = 60.0
"""On a machine busy with other tests. The first start of all may compile."""
POLL_S = 0.02


class Service:
    """`facet serve` over a data directory."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        """TEST_SKEW_S, TEST_PLANT and TEST_PLANT_WORKERS among the settings: see
        `tests.support.altered_server`."""
        self.data_dir = data_dir
        self.url = ""
        self.checkout = ROOT
        """Whose code runs."""
        self._settings = settings
        self._process: Process

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, port: int = 0, wait_s: float = START_S) -> None:
        """Returns once it is ready. Port 0: a free one, another at each start."""
        given = {"FACET_ADMIN_TOKEN": ADMIN_TOKEN, **self._settings}
        altered = self._settings.keys() & {"TEST_SKEW_S", "TEST_PLANT", "TEST_PLANT_WORKERS"}
        program = "tests.support.altered_server" if altered else "server"
        words = ["serve", f"--port={port}", f"--data-dir={self.data_dir}"]
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with (self.data_dir.parent / f"{self.data_dir.name}.log").open("ab") as log:
            output, root = log.fileno(), self.checkout
            self._process = start(program, words, environment_of(given, root), output, output, root)
        self.url = self._wait_for_url(wait_s)

    def _wait_for_url(self, wait_s: float) -> str:
        """The service announces its address in the lock file once it is ready."""
        workers = int(self._settings.get("FACET_WORKERS", "1"))
        deadline_s = time.monotonic() + wait_s * workers
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                raise RuntimeError(f"the service ended with {self._process.returncode}: {self.log_text()}")
            serving = self.serving()
            if len(serving) >= workers:
                return serving[0].url or ""
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(POLL_S)
        self.kill()
        raise RuntimeError(f"the service did not start: {self.log_text()}")

    def serving(self) -> list[Holder]:
        """Its processes that serve: itself, or its workers."""
        holders = DataDirectory(self.data_dir).holders().values()
        return [holder for holder in holders if self.pid in (holder.pid, holder.parent) and holder.url]

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL: no chance to finish anything."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Until it ends by itself; the exit code."""
        return self._process.wait(60)

    def log_text(self) -> str:
        return (self.data_dir.parent / f"{self.data_dir.name}.log").read_text()


def free_port() -> int:
    """A port that stays free while the service on it is down: outgoing connections get higher ones."""
    candidates = random.SystemRandom().sample(range(20_000, 30_000), 100)
    for port in candidates:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


@contextlib.contextmanager
def served(data_dir: Path, **settings: str) -> Iterator[Service]:
    service = Service(data_dir, **settings)
    service.start()
    try:
        yield service
    finally:
        if service._process.poll() is None:
            service.stop()


class Client:
    """One token's requests."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str | None) -> None:
        self._session = session
        self.url = url
        self.token = token
        self._headers = {"Authorization": f"Bearer {token}"} if token is not None else {}

    def at(self, url: str) -> "Client":
        """The same token at another server."""
        return Client(self._session, url, self.token)

    def with_token(self, token: str) -> "Client":
        """Somebody else at the same server."""
        return Client(self._session, self.url, token)

    async def send(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **options: Any
    ) -> "Reply":
        merged = {**self._headers, **(headers or {})}
        async with self._session.request(method, self.url + path, headers=merged, **options) as response:
            raw = await response.read()
            return Reply(response.status, response.headers, raw)

    async def get(self, path: str, **options: Any) -> "Reply":
        return await self.send("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> "Reply":
        return await self.send("POST", path, json=body, **options)

    async def put(self, path: str, body: Any, **options: Any) -> "Reply":
        return await self.send("PUT", path, json=body, **options)

    async def patch(self, path: str, body: Any, **options: Any) -> "Reply":
        return await self.send("PATCH", path, json=body, **options)

    async def delete(self, path: str, **options: Any) -> "Reply":
        return await self.send("DELETE", path, **options)


class Reply:
    def __init__(self, status: int, headers: Mapping[str, str], raw: bytes) -> None:
        self.status = status
        self.headers = headers
        self.raw = raw

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    def __repr__(self) -> str:
        return f"Reply({self.status}, {self.raw[:500]!r})"


class Clients:
    """Clients of every role, their tokens issued by the administrator."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self.admin = Client(session, url, ADMIN_TOKEN)
        self.nobody = Client(session, url, None)

    async def of(self, role: str, name: str | None = None, customer: str | None = None) -> Client:
        body = {"role": role, "name": name or role} | ({"customer": customer} if customer else {})
        reply = await self.admin.post("/v1/tokens", body)
        assert reply.status == 201, reply
        return Client(self._session, self._url, reply.json["token"])

    def again(self, client: Client) -> Client:
        """A token that is known already, over connections of this session."""
        return Client(self._session, self._url, client.token)


@contextlib.asynccontextmanager
async def clients_of(url: str) -> AsyncIterator[Clients]:
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Accept-Encoding": "identity"}  # tests look at bytes
    async with aiohttp.ClientSession(connector=connector, headers=headers, auto_decompress=False) as session:
        yield Clients(session, url)
