"""What the drill breaks: three real server processes over one Valkey and one PostgreSQL, with a proxy between
each of the three and Valkey."""

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

from server.demo.private_servers.servers import PostgresServer, ValkeyServer
from tests.support.network import NONSENSE, reset
from tests.support.processes import Service, free_port

SERVERS = 3
START_S = 60.0
"""How long a server may take to start while the others and all clients are busy."""
LOCAL_BYTES = str(2**20)
"""So little that each process evicts what it holds all the time."""


SKEWS_S = ("", "200", "-90")
"""How far the clocks of the servers' machines are ahead."""


class FaultyProxy:
    """Stands between one process and a server that all share. Its attributes may be set from another
    thread."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._clients: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.delay_s = 0.0
        self.cut = False
        self.lose_answer_to: bytes | None = None
        self.lost = 0
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        said = asyncio.Event()
        ends = (writer, server_writer)
        self._ends.update(ends)
        self._clients.add(writer)
        tasks = [
            asyncio.create_task(self._forth(reader, server_writer, said)),
            asyncio.create_task(self._back(server_reader, writer, said)),
        ]
        self._tasks.update(tasks)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.difference_update(tasks)
        self._ends.difference_update(ends)
        self._clients.discard(writer)
        for end in ends:
            end.transport.abort()

    async def _forth(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: asyncio.Event
    ) -> None:
        while data := await reader.read(65_536):
            if self.lose_answer_to is not None and self.lose_answer_to in data:
                said.set()
            await asyncio.sleep(self.delay_s)
            writer.write(data)

    async def _back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: asyncio.Event
    ) -> None:
        while data := await reader.read(65_536):
            if said.is_set():
                self.lost += 1
                return
            await asyncio.sleep(self.delay_s)
            writer.write(data)

    def harm(self, chance: random.Random) -> None:
        """One of the connections is reset, closed, or hears nonsense."""
        clients = sorted(self._clients, key=id)
        if not clients:
            return
        client = chance.choice(clients)
        match chance.randrange(3):
            case 0:
                reset(client)
            case 1:
                client.close()
            case _:
                client.write(NONSENSE)

    def abort(self) -> None:
        """Every connection breaks."""
        for end in list(self._ends):
            end.transport.abort()


class Proxies:
    """One for each process, in a thread of their own: what the clients do delays nothing here."""

    def __init__(self, server_port: int) -> None:
        self.each = [FaultyProxy(server_port) for _ in range(SERVERS)]
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxies", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def harm(self, index: int, chance: random.Random) -> None:
        self._loop.call_soon_threadsafe(self.each[index].harm, chance)

    def cut(self, index: int) -> None:
        self.each[index].cut = True
        self._loop.call_soon_threadsafe(self.each[index].abort)

    def _run(self) -> None:
        self._loop.run_until_complete(self._listen())
        self._ready.set()
        self._loop.run_forever()

    async def _listen(self) -> None:
        for proxy in self.each:
            server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
            proxy.port = server.sockets[0].getsockname()[1]


class World:
    def __init__(self, directory: Path, plant: str) -> None:
        self.directory = directory
        self._plant = plant
        self.redis = ValkeyServer(directory / "redis")
        self.postgres = PostgresServer(directory / "postgres")
        self.proxies = Proxies(self.redis.port)
        self.to_postgres = Proxies(self.postgres.port)
        self.ports = [free_port() for _ in range(SERVERS)]
        self.services: list[Service] = []

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    async def start(self, index: int) -> float:
        """How long it took."""
        began_s = time.monotonic()
        await asyncio.to_thread(self.services[index].start, self.ports[index], START_S)
        return time.monotonic() - began_s

    def pause(self, index: int) -> None:
        os.kill(self.services[index].pid, signal.SIGSTOP)

    def resume(self, index: int) -> None:
        os.kill(self.services[index].pid, signal.SIGCONT)

    async def open(self) -> None:
        await asyncio.to_thread(self.redis.start)
        await asyncio.to_thread(self.postgres.start)
        self.proxies.start()
        self.to_postgres.start()
        for index, proxy in enumerate(self.proxies.each):
            there = f":{self.to_postgres.each[index].port}/"
            settings = {
                "FACET_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0",
                "FACET_DATABASE_URL": self.postgres.url.replace(f":{self.postgres.port}/", there),
                "TEST_SKEW_S": SKEWS_S[index],
                "TEST_PLANT": self._plant,
                "FACET_LOCAL_BYTES": LOCAL_BYTES,
                "FACET_MODEL_WORKERS": "1",
            }
            self.services.append(Service(self.directory / f"server-{index + 1}", **settings))
        await self.start(0)  # makes the tables
        await asyncio.gather(*(self.start(index) for index in range(1, SERVERS)))

    async def stop_services(self) -> list[int]:
        """Their exit codes."""
        for index in range(len(self.services)):
            self.resume(index)
        return list(await asyncio.gather(*(asyncio.to_thread(service.stop) for service in self.services)))

    async def close(self) -> None:
        for service in self.services:
            with contextlib.suppress(ProcessLookupError):
                service.kill()
        await asyncio.to_thread(self.redis.stop)
        await asyncio.to_thread(self.postgres.stop)
        self.proxies.stop()
        self.to_postgres.stop()


@contextlib.asynccontextmanager
async def opened_world(directory: Path, plant: str = "") -> AsyncIterator[World]:
    """`plant`: a fault of before that its servers have again."""
    world = World(directory, plant)
    try:
        await world.open()
        yield world
    finally:
        await world.close()
