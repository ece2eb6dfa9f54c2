"""Fixtures shared by all tests. Everything is real: SQLite files, server processes, sockets."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from storage.services.stack import Storage
from tests.support.processes import Clients, Service, clients_of, served
from tests.support.stacks import ManualClock, opened
from tests.support.workshop import Workshop

pytest_plugins = ["tests.support.engines"]
pytest.register_assert_rewrite("tests.contracts")
collect_ignore = [] if os.environ.get("FACET_TEST_CASES") else ["unit/test_model_cases.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first, spread over the workers: at the end none has a long one left. Each
    worker is given a run of the list, and takes from those of others when it is through."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    run = -(-len(items) // workers)
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        first = slow[worker::workers]
        ordered += first
        ordered += others[: run - len(first)]
        del others[: run - len(first)]
    items[:] = ordered + others


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def storage(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Storage]:
    async with opened(tmp_path / "data", clock) as storage:
        yield storage


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One server process for all tests of a worker."""
    with served(tmp_path_factory.mktemp("service") / "data") as service:
        yield service


@pytest.fixture
async def clients(service: Service) -> AsyncIterator[Clients]:
    async with clients_of(service.url) as clients:
        yield clients


@pytest.fixture
async def workshop(clients: Clients) -> Workshop:
    workshop = Workshop(clients)
    await workshop.open()
    return workshop
