"""A server whose disk is full, or that has no file descriptors left: it says so, refuses what it cannot do
for now, and goes on when there is room again."""

import contextlib
import resource
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.gates import until_true
from tests.support.meshes import binary_stl, torus
from tests.support.processes import ADMIN_TOKEN, Client, Reply, Service, clients_of, served

NOTICED_S = 8.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("shortages")
    with served(folder / "data", FACET_MODEL_WORKERS="1") as service:
        yield service


@pytest.fixture
async def admin(service: Service) -> AsyncIterator[Client]:
    async with clients_of(service.url) as clients:
        await told(clients.admin, [])
        yield clients.admin


@contextlib.contextmanager
def limited(service: Service, limit: int, most: int) -> Iterator[None]:
    """Real limits of the kernel on the running process: writes fail as on a full disk, or opens do."""
    before = resource.prlimit(service.pid, limit)
    resource.prlimit(service.pid, limit, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(service.pid, limit, before)


def full_disk(service: Service) -> contextlib.AbstractContextManager[None]:
    """No file grows."""
    return limited(service, resource.RLIMIT_FSIZE, 0)


def no_descriptors(service: Service) -> contextlib.AbstractContextManager[None]:
    """Nothing can be opened any more."""
    return limited(service, resource.RLIMIT_NOFILE, 3)


async def told(admin: Client, troubles: list[str]) -> None:
    async def is_told() -> bool:
        found: list[str] = (await admin.get("/readyz")).json["troubles"]
        return set(troubles) <= set(found) if troubles else not found

    await until_true(is_told, NOTICED_S)


def refused(reply: Reply, *codes: str) -> Any:
    assert reply.status == 503, reply
    assert reply.json["code"] in codes, reply
    assert int(reply.headers["Retry-After"]) > 0
    return reply.json


def large(seed: int) -> BytesIO:
    """More than is kept in memory."""
    return BytesIO(binary_stl(torus(9.0 + seed / 100, around=400, across=80)))


async def test_uploads_are_refused_while_the_disk_is_full(service: Service, admin: Client) -> None:
    known = binary_stl(torus(9.7))
    path = "/v1/prices?material=gold-585-yellow"
    assert (await admin.send("POST", path, data=known)).status == 200
    with full_disk(service):
        refused(await admin.send("POST", "/v1/models", data=large(1)), "disk_full")
        refused(await admin.send("POST", path, data=binary_stl(torus(9.8))), "disk_full")
        await told(admin, ["disk_full"])
        assert (await admin.send("POST", path, data=known)).status == 200, "a known model is priced"
    await told(admin, [])
    assert (await admin.send("POST", "/v1/models", data=large(1))).status == 201


async def test_the_log_says_so_while_the_disk_is_full_and_recovers_by_itself(
    service: Service, admin: Client
) -> None:
    order = (await admin.post("/v1/orders", {"customer": "anna"})).json["id"]
    with full_disk(service):
        codes = set()
        for _ in range(20):
            reply = await admin.post(f"/v1/orders/{order}/comments", {"comment": "x"})
            assert reply.status == 503, reply
            codes.add(reply.json["code"])
        assert codes == {"log_unavailable"}
        await told(admin, ["log"])
        assert (await admin.get(f"/v1/orders/{order}")).status == 200
    await told(admin, [])
    said = [row for row in service.log_text().splitlines() if "the log accepts" in row]
    assert len(said) <= 2, said
    changed = await admin.post(f"/v1/orders/{order}/comments", {"comment": "y"})
    assert (changed.status, changed.json["version"]) == (201, 2)


async def test_previews_and_backups_are_refused_while_the_disk_is_full(
    service: Service, admin: Client, tmp_path: Path
) -> None:
    sha256 = (await admin.send("POST", "/v1/models", data=binary_stl(torus(9.9)))).json["model"]["sha256"]
    await admin.post("/v1/orders", {"customer": "anna"}, headers={"Prefer": "durability=database"})
    with full_disk(service):
        refused(await admin.get(f"/v1/models/{sha256}/preview"), "disk_full")
        reply = await backed_up(service, tmp_path / "backup.tar")
        refused(reply, "disk_full", "disk_failed")  # SQLite calls this limit an error of the disk
        assert not list(tmp_path.iterdir())
    await told(admin, [])
    assert (await admin.get(f"/v1/models/{sha256}/preview")).status == 200
    assert (await backed_up(service, tmp_path / "backup.tar")).status == 201


async def test_without_descriptors_uploads_are_refused(service: Service, admin: Client) -> None:
    with no_descriptors(service):
        refused(await admin.send("POST", "/v1/models", data=large(2)), "no_descriptors")
        await told(admin, ["no_descriptors"])
        assert (await admin.get("/v1/orders")).status == 200
    await told(admin, [])
    assert (await admin.send("POST", "/v1/models", data=large(2))).status == 201


async def backed_up(service: Service, target: Path) -> Reply:
    """As the command asks for it."""
    connector = aiohttp.UnixConnector(path=str(service.data_dir / "control.sock"))
    async with aiohttp.ClientSession(connector=connector) as session:
        return await Client(session, "http://facet", ADMIN_TOKEN).post("/v1/backups", {"path": str(target)})
