"""Two servers, the second on a way to Redis that can be slow or cut: what it answers is never older than it
says, whatever is asked."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from redis import Redis

from server.app import all_routes
from storage.cache.read_through import CacheStatus
from tests.drills.drill_world import FaultyProxy, Proxies
from tests.support.engines import execute
from tests.support.gates import until_true
from tests.support.meshes import binary_stl, torus
from tests.support.processes import Client, Clients, Reply, clients_of, served
from tests.support.workshop import Workshop

PATIENCE_S = 20.0
LAG_S = 0.08
ROUTES = [route for route in all_routes() if route.roles is not None]
NOT_READ_HERE = {"GET /v1/cache/orders/{id}"}
"""Shows what each tier holds, by asking each: Redis as well."""


class Pair(NamedTuple):
    one: str
    two: str
    proxy: FaultyProxy
    proxies: Proxies

    def cut(self) -> None:
        self.proxies.cut(0)

    def restore(self) -> None:
        self.proxy.cut = False


@pytest.fixture(scope="module")
def module_pair(
    tmp_path_factory: pytest.TempPathFactory, redis_url: str, postgres_url: str
) -> Iterator[Pair]:
    """Over a Redis and a database that are these tests' alone."""
    with Redis.from_url(redis_url) as client:
        client.flushdb()
    name = "facet_freshness"
    execute(postgres_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    execute(postgres_url, f'CREATE DATABASE "{name}"')
    url = urlsplit(postgres_url)._replace(path=f"/{name}").geturl()
    proxies = Proxies(urlsplit(redis_url).port or 6379)
    proxies.start()
    proxy = proxies.each[0]
    common = {"FACET_DATABASE_URL": url, "FACET_MODEL_WORKERS": "1"}
    path = urlsplit(redis_url).path
    folder = tmp_path_factory.mktemp("freshness")
    with (
        served(folder / "one", FACET_REDIS_URL=redis_url, **common) as one,
        served(folder / "two", FACET_REDIS_URL=f"redis://127.0.0.1:{proxy.port}{path}", **common) as two,
    ):
        yield Pair(one.url, two.url, proxy, proxies)
    proxies.stop()
    execute(postgres_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
async def pair(module_pair: Pair) -> AsyncIterator[Pair]:
    yield module_pair
    module_pair.proxy.delay_s = 0.0
    module_pair.restore()
    async with clients_of(module_pair.two) as clients:
        await until_ready(clients)


@pytest.fixture
async def workshop(pair: Pair) -> AsyncIterator[Workshop]:
    async with clients_of(pair.one) as clients:
        workshop = Workshop(clients)
        await workshop.open()
        yield workshop


async def until_ready(clients: Clients) -> None:
    found: Any = None

    async def is_ready() -> bool:
        nonlocal found
        found = (await clients.nobody.get("/readyz")).json
        return bool(found["status"] == "ready")

    try:
        await until_true(is_ready, PATIENCE_S)
    except TimeoutError:
        pytest.fail(f"not ready: {found}")


def path_of(template: str) -> str:
    return re.sub(r"\{\w+\}", "0" * 64, template)


def head_of(reply: Reply) -> tuple[int, int]:
    epoch, _, n = reply.headers["Facet-Position"].partition("-")
    return int(epoch), int(n)


async def send(who: Client, method: str, path: str, **headers: str) -> Reply:
    return await who.send(method, path, headers=headers, data=b"" if method != "GET" else None)


# Every endpoint, from the table of routes


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
async def test_every_answer_has_a_position_and_none_is_given_before_the_one_that_was_seen(
    pair: Pair, workshop: Workshop, route: object
) -> None:
    method, template = route.name.split()  # type: ignore[attr-defined]
    reply = await send(workshop.admin, method, path_of(template))
    epoch, n = head_of(reply)
    ahead = await send(workshop.admin, method, path_of(template), **{"Facet-Position": f"{epoch}-{n + 999}"})
    assert (ahead.status, ahead.json["code"]) == (503, "behind"), ahead
    assert ahead.headers["Retry-After"]
    stranger = await send(workshop.nobody, method, path_of(template), **{"Facet-Position": "1-999999"})
    assert stranger.status == 401


async def test_every_read_of_a_server_that_is_cut_off_says_so(pair: Pair, workshop: Workshop) -> None:
    order = await workshop.order("MANUFACTURING_STARTED")
    body = binary_stl(torus(9.1))
    priced = (await workshop.shop.post("/v1/prices?material=gold-585-yellow", None, data=body)).json
    there = workshop.admin.at(pair.two)
    assert (await there.send("POST", "/v1/models", data=body)).status == 201  # files are kept where they came
    names = {"orders": order["id"], "prices": priced["price"]["id"], "models": priced["model"]["sha256"]}
    paths = {}
    for route in ROUTES:
        if route.method == "GET" and route.name not in NOT_READ_HERE:
            noun = route.path.split("/")[2]
            path = re.sub(r"\{\w+\}", names.get(noun, "unknown"), route.path)
            query = {
                "/v1/statuses": f"?ids={order['id']}",
                "/v1/models": "?verification=differs",
                "/v1/models/{sha256}/price": "?material=silver-925",
            }
            paths[route.name] = path + query.get(route.path, "")
    for path in paths.values():
        assert (await there.get(path)).status in (200, 404, 503)
    pair.cut()
    async with asyncio.timeout(PATIENCE_S):
        while (await there.get(f"/v1/orders/{order['id']}")).headers["Cache-Status"] != CacheStatus.STALE:
            pass
    stale = set()
    for name, path in paths.items():
        reply = await there.get(path)
        if reply.status == 503:
            assert reply.json["code"] in ("behind", "log_unavailable", "unavailable"), (name, reply)
        else:
            assert reply.headers["Cache-Status"] == CacheStatus.STALE, (name, reply, reply.headers)
            assert reply.status == 200, (name, reply)
            stale.add(name)
    assert set(paths) - stale <= {"GET /v1/jobs/{id}"}


# A server that lags behind


@pytest.fixture
def lagging(pair: Pair) -> Pair:
    pair.proxy.delay_s = LAG_S
    return pair


async def once_caught_up(ask: Callable[[], Awaitable[Reply]]) -> Reply:
    """The first answer that is not "I am behind, ask again": a busy machine may say that many times."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            reply = await ask()
            if reply.status != 503 or reply.json["code"] != "behind":
                return reply


async def test_what_another_server_has_just_acknowledged_is_not_refused_as_unknown(
    lagging: Pair, workshop: Workshop
) -> None:
    for count in range(3):
        who = await workshop.clients.of("shop", f"shop-{count}")
        there = who.at(lagging.two)
        assert (await once_caught_up(partial(there.get, "/v1/me"))).status == 200
        body = binary_stl(torus(9.2 + count / 10))
        query = "material=gold-585-yellow"
        priced = await who.send("POST", f"/v1/prices?{query}", data=body)
        quote = priced.json["price"]["id"]
        assert (await once_caught_up(partial(there.get, f"/v1/prices/{quote}"))).status == 200
        body = binary_stl(torus(9.5 + count / 10))
        quote = (await who.send("POST", f"/v1/prices?{query}", data=body)).json["price"]["id"]
        order = {"customer": "anna", "quote": quote}
        ordered = await once_caught_up(partial(there.post, "/v1/orders", order))
        assert ordered.status == 201, ordered


async def test_an_unknown_token_is_refused_and_keeps_nobody_waiting(
    lagging: Pair, workshop: Workshop
) -> None:
    there = workshop.admin.at(lagging.two)
    strangers = [Client(there._session, lagging.two, f"facet_{count}") for count in range(200)]
    asked = [once_caught_up(partial(stranger.get, "/v1/me")) for stranger in strangers]
    assert {reply.status for reply in await asyncio.gather(*asked)} == {401}
    nonsense = await Client(there._session, lagging.two, "nonsense").get("/v1/me")
    assert nonsense.status == 401


async def test_a_price_is_decided_on_what_the_caller_has_seen_and_found_elsewhere_by_its_position(
    lagging: Pair, workshop: Workshop
) -> None:
    current = (await workshop.admin.get("/v1/price-lists/current")).json
    body = binary_stl(torus(9.9))
    for count in range(3):
        version = f"fresh-{count}"
        listed = await workshop.admin.post("/v1/price-lists", {**current, "version": version})
        seen = {"Facet-Position": listed.headers["Facet-Position"]}
        there, path = workshop.shop.at(lagging.two), "/v1/prices?material=silver-925"
        priced = await once_caught_up(partial(there.send, "POST", path, data=body, headers=seen))
        assert priced.json["price"]["price_list"] == version
        assert head_of(priced) > head_of(listed)
        seen = {"Facet-Position": priced.headers["Facet-Position"]}
        quote = f"/v1/prices/{priced.json['price']['id']}"
        assert (await once_caught_up(partial(workshop.shop.get, quote, headers=seen))).status == 200


# Long polls


async def polled(who: Client, order: dict[str, object], wait_s: int) -> Reply:
    headers = {"If-None-Match": f'"{order["version"]}"', "Prefer": f"wait={wait_s}"}
    return await who.get(f"/v1/orders/{order['id']}", headers=headers)


async def test_a_long_poll_of_a_server_that_is_cut_off_says_that_it_may_be_old(
    pair: Pair, workshop: Workshop
) -> None:
    order = await workshop.order()
    there = workshop.shop.at(pair.two)
    assert (await there.get(f"/v1/orders/{order['id']}")).status == 200
    poll = asyncio.create_task(polled(there, order, 3))
    await asyncio.sleep(0)
    pair.cut()
    reply = await poll
    assert (reply.status, reply.headers.get("Cache-Status")) == (304, CacheStatus.STALE), reply


async def test_a_long_poll_is_answered_across_a_new_life_of_the_log(
    pair: Pair, workshop: Workshop, redis_url: str
) -> None:
    order = await workshop.order()
    there = workshop.shop.at(pair.two)
    assert (await there.get(f"/v1/orders/{order['id']}")).status == 200
    poll = asyncio.create_task(polled(there, order, 45))
    await asyncio.sleep(0)
    pair.cut()
    changed = await workshop.shop.patch(
        f"/v1/orders/{order['id']}", {"note": "changed"}, headers={"Prefer": "durability=database"}
    )
    assert (changed.status, changed.headers["Durability"]) == (200, "database")
    with Redis.from_url(redis_url) as client:
        client.flushdb()
    pair.restore()
    async with asyncio.timeout(PATIENCE_S):
        reply = await poll
    assert (reply.status, reply.json["note"]) == (200, "changed")
