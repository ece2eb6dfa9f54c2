"""Of several processes, one that lags behind refuses nothing, and calls nothing done, on an older state."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import pytest

from storage.errors import AlreadyTaken, PreconditionFailed
from storage.orders.order import Order
from storage.orders.workflow import Status
from storage.services.stack import Storage
from tests.drills.drill_world import FaultyProxy
from tests.support.acts import Workshop
from tests.support.gates import until
from tests.support.shared_stacks import opened_shared
from tests.support.small_bounds import PATIENT
from tests.support.stacks import IVAN, OLGA

LAG_S = 0.1


@contextlib.asynccontextmanager
async def slow_link(redis_url: str) -> AsyncIterator[tuple[FaultyProxy, str]]:
    """A way to Redis that can be slowed down, and its URL."""
    parts = urlsplit(redis_url)
    proxy = FaultyProxy(parts.port or 6379)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield proxy, urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))
    finally:
        server.close()
        proxy.abort()


@pytest.fixture
async def lagging(fresh_redis: str, fresh_database: str) -> AsyncIterator[tuple[Storage, Storage, Order]]:
    """Two processes with an order that waits to be taken; the second learns of what follows later."""
    async with (
        slow_link(fresh_redis) as (proxy, slow_redis),
        opened_shared(fresh_redis, fresh_database, PATIENT) as first,
        opened_shared(slow_redis, fresh_database, PATIENT) as second,
    ):
        order = await Workshop(first).approved()
        await until(lambda: second.tail.head == first.tail.head)
        proxy.delay_s = LAG_S
        yield first, second, order
        proxy.delay_s = 0.0


async def test_version_that_another_process_has_just_made_is_not_refused(
    lagging: tuple[Storage, Storage, Order],
) -> None:
    first, second, order = lagging
    newest = (await Workshop(first).comment(order)).order
    outcome = await Workshop(second).comment(order, if_match=frozenset({newest.version}))
    assert outcome.order.version == newest.version + 1


async def test_order_that_another_process_has_just_created_is_found(
    lagging: tuple[Storage, Storage, Order],
) -> None:
    first, second, _ = lagging
    outcome = await Workshop(second).comment(await Workshop(first).order())
    assert outcome.order.version == 2


async def test_step_that_another_process_has_just_made_legal_is_not_refused(
    lagging: tuple[Storage, Storage, Order],
) -> None:
    first, second, order = lagging
    taken = (await Workshop(first).take(order)).order
    outcome = await Workshop(second).step(taken, Status.MANUFACTURING_COMPLETED, IVAN)
    assert outcome.order.status is Status.MANUFACTURING_COMPLETED


async def test_own_take_is_not_confirmed_again_once_another_operator_has_the_order(
    lagging: tuple[Storage, Storage, Order],
) -> None:
    first, second, order = lagging
    await Workshop(first).take(order, IVAN)
    await until(lambda: second.tail.head == first.tail.head)
    await Workshop(first).step(order, Status.MANUFACTURING_APPROVED, IVAN)
    await Workshop(first).take(order, OLGA)
    with pytest.raises(AlreadyTaken):
        await Workshop(second).take(order, IVAN)


async def test_what_is_refused_rightly_is_refused_in_spite_of_other_orders(
    lagging: tuple[Storage, Storage, Order],
) -> None:
    first, second, order = lagging
    await Workshop(first).order()
    with pytest.raises(PreconditionFailed):
        await Workshop(second).comment(order, if_match=frozenset({order.version + 1}))
