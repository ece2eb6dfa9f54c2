"""Lists over HTTP: filters, sorts, walks by cursor, counts, several statuses at once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest

from tests.support.processes import Client, Reply
from tests.support.workshop import LINE, Workshop, pointers, problem, set_status


async def orders_of(client: Client, **query: Any) -> Any:
    reply = await client.get("/v1/orders", params=query)
    assert reply.status == 200, reply
    return reply.json["items"]


async def ids_of(client: Client, **query: Any) -> list[str]:
    return [order["id"] for order in await orders_of(client, **query)]


async def pages_of(client: Client, **query: Any) -> AsyncIterator[Reply]:
    """Every page of a list, from `next` to `next`."""
    while True:
        reply = await client.get("/v1/orders", params=query)
        assert reply.status == 200, reply
        yield reply
        if reply.json["next"] is None:
            return
        query["cursor"] = reply.json["next"]


async def walk(client: Client, **query: Any) -> list[str]:
    return [order["id"] async for page in pages_of(client, **query) for order in page.json["items"]]


def a_name() -> str:
    """A customer of one test alone, so that its lists hold its orders alone."""
    return f"customer {uuid4()}"


async def some(workshop: Workshop, count: int, **fields: Any) -> list[str]:
    """Ids of new orders, oldest first."""
    return [(await workshop.order(**fields))["id"] for _ in range(count)]


async def test_a_list_shows_the_newest_first_and_the_same_fields_as_the_order(workshop: Workshop) -> None:
    name = a_name()
    ids = await some(workshop, 3, customer=name)
    listed = await orders_of(workshop.seller, customer=name)
    assert [order["id"] for order in listed] == ids[::-1]
    assert listed[0] == (await workshop.seller.get(f"/v1/orders/{ids[-1]}")).json


async def test_a_list_is_there_the_moment_its_order_changes(workshop: Workshop) -> None:
    name = a_name()
    (order_id,) = await some(workshop, 1, customer=name)
    for status in LINE[1:]:
        assert await ids_of(workshop.seller, customer=name, status=status) == []
        assert (await workshop.step(order_id, status)).status == 200
        listed = await orders_of(workshop.seller, customer=name, status=status)
        assert [(order["id"], order["status"]) for order in listed] == [(order_id, status)]
        assert await ids_of(workshop.seller, customer=name, status=LINE[LINE.index(status) - 1]) == []


@pytest.mark.parametrize("sort", ["-created_at", "created_at", "-updated_at", "due_at"])
async def test_a_page_with_more_behind_it_shows_changes_and_newcomers_too(
    workshop: Workshop, sort: str
) -> None:
    query = {"customer": a_name(), "limit": "2", "sort": sort}
    await some(workshop, 4, customer=query["customer"])
    for turn in range(3):
        shown = await orders_of(workshop.shop, **query)
        await workshop.shop.patch(f"/v1/orders/{shown[1]['id']}", {"note": f"turn {turn}"})
        await workshop.order(customer=query["customer"], due_at="2027-01-01T00:00:00Z")
        everything = await orders_of(workshop.shop, **(query | {"limit": "200"}))
        assert await orders_of(workshop.shop, **query) == everything[:2]
        assert f"turn {turn}" in {order["note"] for order in everything}


async def test_filters_hold_all_together(workshop: Workshop) -> None:
    name = a_name()
    taken = (await workshop.order("MANUFACTURING_STARTED", customer=name))["id"]
    approved = (await workshop.order("MANUFACTURING_APPROVED", customer=name, note="Гравировка ЁЛКА"))["id"]
    submitted = (await workshop.order("SUBMITTED", customer=name, reference=f"{name}/3"))["id"]

    async def found(**query: Any) -> list[str]:
        return await ids_of(workshop.ivan, customer=name, **query)

    assert await found() == [submitted, approved, taken]
    assert await found(status="SUBMITTED,MANUFACTURING_STARTED") == [submitted, taken]
    assert await found(operator="me") == [taken]
    assert await found(operator="ivan") == [taken]
    assert await found(operator="none") == [submitted, approved]
    assert await found(operator="none", status="MANUFACTURING_APPROVED") == [approved]
    assert await found(reference=f"{name}/3") == [submitted]
    assert await found(q="гравировка ёлка") == [approved]
    assert await found(q="GRAVIROVKA") == []
    assert await found(q="Гравировка е\u0308лка") == await found(q="елка") == [approved]
    assert await found(q="/3") == [submitted]  # two characters: in numbers and references
    assert await found(q="ёл") == []
    assert await found(q="no such text") == []
    number = (await workshop.ivan.get(f"/v1/orders/{approved}")).json["number"]
    assert await found(number=number) == [approved]
    assert await found(number=number, operator="me") == []


async def test_moments_filter_from_inclusive_to_exclusive(workshop: Workshop) -> None:
    name = a_name()
    days = ("2027-05-01T00:00:00Z", "2027-05-02T00:00:00Z", "2027-05-03T00:00:00Z")
    first, second, third = [(await workshop.order(customer=name, due_at=day))["id"] for day in days]
    undated = (await workshop.order(customer=name))["id"]
    shop = workshop.shop
    assert await ids_of(shop, customer=name, due_from=days[0], due_to=days[2]) == [second, first]
    assert await ids_of(shop, customer=name, due_from="2027-05-03T03:00:00+03:00") == [third]
    created = (await shop.get(f"/v1/orders/{third}")).json["created_at"]
    assert await ids_of(shop, customer=name, created_from=created) == [undated, third]
    assert await ids_of(shop, customer=name, created_to=created) == [second, first]


async def test_sorts_go_both_ways_and_orders_without_a_date_come_last(workshop: Workshop) -> None:
    name = a_name()
    late = (await workshop.order(customer=name, due_at="2027-06-01T00:00:00Z"))["id"]
    undated = (await workshop.order(customer=name))["id"]
    soon = (await workshop.order(customer=name, due_at="2027-05-01T00:00:00Z"))["id"]
    await set_status(workshop.shop, late, "FILE_UPLOADED")
    expected = {
        "created_at": [late, undated, soon],
        "-created_at": [soon, undated, late],
        "due_at": [soon, late, undated],
        "-due_at": [late, soon, undated],
        "updated_at": [undated, soon, late],
        "-updated_at": [late, soon, undated],
    }
    for sort, ids in expected.items():
        assert await ids_of(workshop.shop, customer=name, sort=sort) == ids, sort


@pytest.mark.parametrize(
    "sort", ["-created_at", "created_at", "due_at", "-due_at", "updated_at", "-updated_at"]
)
@pytest.mark.parametrize("limit", [1, 3, 200])
async def test_a_walk_shows_every_order_once(workshop: Workshop, sort: str, limit: int) -> None:
    name = a_name()
    dates: list[dict[str, Any]] = [{"due_at": f"2027-05-0{day}T00:00:00Z"} for day in (1, 1, 2)]
    ids = [(await workshop.order(customer=name, **fields))["id"] for fields in [*dates, {}, {}, *dates]]
    walked = await walk(workshop.shop, customer=name, sort=sort, limit=limit)
    assert sorted(walked) == sorted(ids)
    assert walked == await ids_of(workshop.shop, customer=name, sort=sort)


async def test_a_walk_neither_repeats_nor_skips_when_orders_come_and_change_meanwhile(
    workshop: Workshop,
) -> None:
    name = a_name()
    ids = await some(workshop, 9, customer=name)
    seen: list[str] = []
    async for page in pages_of(workshop.shop, customer=name, limit=2):
        seen += [order["id"] for order in page.json["items"]]
        await workshop.order(customer=name)
        await set_status(workshop.shop, ids[0], LINE[1 + len(seen) % 2])
    assert seen == ids[::-1]


async def test_a_walk_by_change_never_shows_an_order_twice(workshop: Workshop) -> None:
    name = a_name()
    ids = await some(workshop, 8, customer=name)
    for sort in ("updated_at", "-updated_at"):
        seen: list[str] = []
        async for page in pages_of(workshop.shop, customer=name, limit=2, sort=sort):
            shown = [order["id"] for order in page.json["items"]]
            seen += shown
            await workshop.shop.post(
                f"/v1/orders/{shown[0]}/comments", {"comment": "seen"}
            ) if shown else None
        assert len(seen) == len(set(seen))
        assert set(seen) <= set(ids)


async def test_the_next_page_is_linked_with_all_filters(workshop: Workshop) -> None:
    name = a_name()
    ids = await some(workshop, 3, customer=name)
    reply = await workshop.shop.get("/v1/orders", params={"customer": name, "limit": "2"})
    address, _, relation = reply.headers["Link"].partition(";")
    assert relation.strip() == 'rel="next"'
    linked = urlsplit(address.strip("<>"))
    assert parse_qs(linked.query) == {
        "customer": [name],
        "limit": ["2"],
        "cursor": [reply.json["next"]],
    }
    following = await workshop.shop.get(f"{linked.path}?{linked.query}")
    assert [order["id"] for order in following.json["items"]] == [ids[0]]
    assert following.json["next"] is None
    assert "Link" not in following.headers


async def test_counts_follow_every_change_and_take_the_same_filters(workshop: Workshop) -> None:
    name = a_name()
    ids = await some(workshop, 4, customer=name)

    async def counted(**query: str) -> dict[str, int]:
        reply = await workshop.shop.get("/v1/orders/counts", params={"customer": name, **query})
        assert reply.json["counts"].keys() == {*LINE, "CANCELLED"}
        return {status: count for status, count in reply.json["counts"].items() if count}

    assert await counted() == {"INITIATED": 4}
    for order_id in ids[:2]:
        await workshop.step(order_id, "FILE_UPLOADED")
    await set_status(workshop.shop, ids[2], "CANCELLED", comment="gone")
    assert await counted() == {"INITIATED": 1, "FILE_UPLOADED": 2, "CANCELLED": 1}
    assert await counted(status="CANCELLED,INITIATED") == {"INITIATED": 1, "CANCELLED": 1}
    assert await counted(operator="ivan") == {}


async def test_a_list_comes_from_the_local_tier_the_second_time(workshop: Workshop) -> None:
    query = {"customer": a_name()}
    first = await workshop.shop.get("/v1/orders", params=query)
    second = await workshop.shop.get("/v1/orders", params=query)
    assert first.headers["Cache-Status"] == "facet; fwd=miss; stored"
    assert second.headers["Cache-Status"] == "facet; hit; detail=local"
    assert first.raw == second.raw


async def test_a_changed_list_has_another_etag_and_an_unchanged_one_is_304(workshop: Workshop) -> None:
    query = {"customer": a_name()}
    await workshop.order(**query)
    first = await workshop.shop.get("/v1/orders", params=query)
    condition = {"If-None-Match": first.headers["ETag"]}
    same = await workshop.shop.get("/v1/orders", params=query, headers=condition)
    assert (same.status, same.raw, same.headers["ETag"]) == (304, b"", first.headers["ETag"])
    await workshop.order(**query)
    changed = await workshop.shop.get("/v1/orders", params=query, headers=condition)
    assert changed.status == 200
    assert changed.headers["ETag"] != first.headers["ETag"]


async def test_concurrent_misses_of_one_list_share_one_load(workshop: Workshop) -> None:
    query = {"customer": a_name()}
    before = (await workshop.admin.get("/v1/cache")).json["loads"]["list"]
    replies = await asyncio.gather(*(workshop.shop.get("/v1/orders", params=query) for _ in range(20)))
    assert {reply.status for reply in replies} == {200}
    assert (await workshop.admin.get("/v1/cache")).json["loads"]["list"] == before + 1


async def test_statuses_come_in_the_order_asked_and_missing_ones_are_named(workshop: Workshop) -> None:
    ids = await some(workshop, 3, customer=a_name())
    unknown = ["0190a1b2-0000-7000-8000-000000000000", "not-an-id"]
    asked = [ids[2], unknown[0], ids[0], unknown[1], ids[1], ids[2]]
    reply = await workshop.shop.get("/v1/statuses", params={"ids": ",".join(asked)})
    assert [item["id"] for item in reply.json["items"]] == [ids[2], ids[0], ids[1]]
    assert reply.json["missing"] == unknown
    alone = (await workshop.shop.get(f"/v1/orders/{ids[0]}/status")).json
    assert reply.json["items"][1] == alone
    assert alone.keys() == {"id", "number", "status", "status_since", "version"}


async def test_at_most_200_statuses_are_asked_at_once(workshop: Workshop) -> None:
    reply = await workshop.shop.get("/v1/statuses", params={"ids": ",".join(map(str, range(201)))})
    assert pointers(problem(reply, 422, "invalid")) == {"/ids"}
    reply = await workshop.shop.get("/v1/statuses", params={"ids": ",".join(map(str, range(200)))})
    assert len(reply.json["missing"]) == 200


WRONG_QUERIES = {
    "limit=0": {"/limit"},
    "limit=201": {"/limit"},
    "limit=-1": {"/limit"},
    "limit=1.5": {"/limit"},
    "limit=9223372036854775808": {"/limit"},
    "limit=" + "9" * 400: {"/limit"},
    "limit=null": {"/limit"},
    "number=null": {"/number"},
    "number=-1": {"/number"},
    "number=9223372036854775808": {"/number"},
    "status=DONE": {"/status"},
    "status=SUBMITTED,submitted": {"/status"},
    "sort=number": {"/sort"},
    "sort=--created_at": {"/sort"},
    "cursor=abc": {"/cursor"},
    "cursor=%00": {"/cursor"},
    "cursor=bnVsbA": {"/cursor"},
    "cursor=" + "A" * 401: {"/cursor"},
    "cursor=W10": {"/cursor"},
    "created_from=yesterday": {"/created_from"},
    "created_from=2026-01-01T00:00:00": {"/created_from"},
    "created_from=0001-01-01T00:00:00%2B14:00": {"/created_from"},
    "created_to=9999-12-31T23:59:59-12:00": {"/created_to"},
    "due_from=1969-12-31T23:59:59Z": {"/due_from"},
    "due_to=2026-02-30T00:00:00Z": {"/due_to"},
    "due_to=0.5": {"/due_to"},
    "due_to=1700000000": {"/due_to"},
    "q=" + "x" * 101: {"/q"},
    "customer=" + "x" * 201: {"/customer"},
    "reference=" + "x" * 201: {"/reference"},
    "customer=%20": {"/customer"},
    "colour=red": {"/colour"},
    "limit=5&limit=6": {"/limit"},
    "limit=0&sort=x&colour=red&due_to=now": {"/limit", "/colour", "/due_to"},
}


@pytest.mark.parametrize("query", WRONG_QUERIES)
async def test_a_wrong_parameter_is_named(workshop: Workshop, query: str) -> None:
    reply = await workshop.shop.get(f"/v1/orders?{query}")
    assert pointers(problem(reply, 422, "invalid")) == WRONG_QUERIES[query]


async def test_a_cursor_of_another_sort_is_refused(workshop: Workshop) -> None:
    name = a_name()
    await some(workshop, 2, customer=name)
    cursor = (await workshop.shop.get("/v1/orders", params={"customer": name, "limit": "1"})).json["next"]
    query = {"customer": name, "sort": "due_at", "cursor": cursor}
    problem(await workshop.shop.get("/v1/orders", params=query), 422, "invalid")


@pytest.mark.parametrize("text", ["%", "_", "'", '"', "\\", "%00", "*", "NEAR(", "\udcff", "İ", "ß", "🙂"])
async def test_any_text_can_be_looked_for(workshop: Workshop, text: str) -> None:
    name = a_name()
    await workshop.order(customer=name, note="plain")
    encoded = f"customer={_quoted(name)}&q={_quoted(text)}"
    reply = await workshop.shop.get(f"/v1/orders?{encoded}")
    assert (reply.status, reply.json["items"]) == (200, [])


async def test_what_no_text_can_contain_is_refused(workshop: Workshop) -> None:
    problem(await workshop.shop.get("/v1/orders?q=%00"), 422, "invalid")
    problem(await workshop.shop.get("/v1/orders?q=%CC%81"), 422, "invalid")  # an accent, on nothing


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode("utf-8", "surrogateescape"))


async def test_empty_parameters_count_as_absent(workshop: Workshop) -> None:
    reply = await workshop.shop.get("/v1/orders?status=&operator=&customer=&q=&due_to=&cursor=&limit=1")
    assert reply.status == 200
