"""A thousand uploads of one model that nobody has seen: one computation, equal answers, bounded memory; on
one process, and on four of them over one Redis."""

import asyncio
import contextlib
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import redis

from pricing.facts import ANALYSER_VERSION
from server.uploads.receiving import CONNECTION_BYTES_MAX, MEMORY_BYTES_TOTAL, RESERVED_BYTES_TOTAL
from tests.support.meshes import binary_stl, torus
from tests.support.processes import Client, Reply, Service, clients_of, served

UPLOADS = 1_000
LARGE_UPLOADS = 200
ASK = {"material": "gold-585-yellow"}


def memory_bytes_max(uploads: int) -> int:
    """By how much a service may grow while so many uploads are under way: 273 MiB for 200 of them, 723 MiB
    for 1,000, however large they are."""
    return MEMORY_BYTES_TOTAL + RESERVED_BYTES_TOTAL + uploads * CONNECTION_BYTES_MAX


class Ring(NamedTuple):
    body: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


def a_ring(around: int, across: int) -> Ring:
    return Ring(binary_stl(torus(9.0 + np.random.default_rng().random(), around=around, across=across)))


@pytest.fixture
def ring() -> Ring:
    """Of 150 KB, never seen before."""
    return a_ring(around=60, across=25)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with served(tmp_path / "data", FACET_MODEL_WORKERS="1") as service:
        yield service


@pytest.fixture
def fleet(tmp_path: Path, engines: dict[str, str]) -> Iterator[list[Service]]:
    """Four services, each with a data directory of its own."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(4) as threads:
        starting = [
            threads.submit(stack.enter_context, served(tmp_path / str(n), **engines)) for n in range(4)
        ]
        wait(starting)
        yield [started.result() for started in starting]


def memory_bytes(pid: int, line: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(row.split()[1] for row in status.splitlines() if row.startswith(line)))


async def metric(client: Client, name: str) -> float:
    lines = (await client.get("/metrics")).raw.decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


async def rush(clients: list[Client], ring: Ring, uploads: int) -> list[Reply]:
    """All at once, in turn to each of the services."""
    return await asyncio.gather(
        *(
            clients[n % len(clients)].send("POST", "/v1/prices", data=BytesIO(ring.body), params=ASK)
            for n in range(uploads)
        )
    )


def require_equal(replies: list[Reply], ring: Ring) -> None:
    """But for the second opinion, which comes when it comes."""
    assert {reply.status for reply in replies} == {200}
    answers = [reply.json for reply in replies]
    assert {answer["model"].pop("verification")["state"] for answer in answers} <= {"pending", "agreed"}
    assert all(answer == answers[0] for answer in answers)
    assert replies[0].json["model"]["sha256"] == ring.sha256


async def grown_bytes(service: Service, client: Client, ring: Ring, uploads: int) -> int:
    """By how much the service grew at most while it answered so many uploads of one unseen model, all alike
    and from one computation."""
    await rush([client], a_ring(24, 12), 1)  # what is loaded at first use is loaded
    computed = await metric(client, "facet_model_computations_total")
    Path(f"/proc/{service.pid}/clear_refs").write_text("5")  # forgets the peak
    before = memory_bytes(service.pid, "VmRSS")
    require_equal(await rush([client], ring, uploads), ring)
    assert await metric(client, "facet_model_computations_total") == computed + 1
    return memory_bytes(service.pid, "VmHWM") - before


async def test_a_thousand_uploads_of_one_unseen_model_are_one_computation(
    service: Service, ring: Ring
) -> None:
    async with clients_of(service.url) as clients:
        partner = await clients.of("partner", "rush", "rush")
        grown = await grown_bytes(service, partner, ring, UPLOADS)
        assert grown < min(memory_bytes_max(UPLOADS), 1.5 * UPLOADS * len(ring.body))
        again = await partner.send("POST", "/v1/prices", data=BytesIO(ring.body), params=ASK)
        assert again.headers["Cache-Status"] == "facet; hit; detail=local"


@pytest.mark.slow
async def test_large_uploads_at_once_take_bounded_memory_and_leave_no_files(service: Service) -> None:
    ring = a_ring(around=400, across=100)
    assert LARGE_UPLOADS * len(ring.body) > 2 * memory_bytes_max(LARGE_UPLOADS)
    async with clients_of(service.url) as clients:
        partner = await clients.of("partner", "rush", "rush")
        assert await grown_bytes(service, partner, ring, LARGE_UPLOADS) < memory_bytes_max(LARGE_UPLOADS)
    left = [path for path in service.data_dir.glob("uploads*/**/*") if path.is_file()]
    assert left == []


@pytest.mark.slow
async def test_on_four_processes_over_one_redis_it_is_one_computation_as_well(
    fleet: list[Service], ring: Ring, engines: dict[str, str]
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        each = [await stack.enter_async_context(clients_of(service.url)) for service in fleet]
        partners = [await clients.of("partner", "rush", "rush") for clients in each]
        require_equal(await rush(partners, ring, UPLOADS), ring)
        counts = [await metric(one.nobody, "facet_model_computations_total") for one in each]
        assert sum(counts) == 1
    with redis.Redis.from_url(engines["FACET_REDIS_URL"]) as client:
        copy = client.get(f"{{facet}}:copy:facts:{ANALYSER_VERSION}:{ring.sha256}")
        assert copy is not None
        assert b"stl-binary" in copy
