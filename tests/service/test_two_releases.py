"""Two releases side by side: what the later one writes is carried on as it is by the earlier one, never
brought to the database without what it does not know, dropped, or fatal; and it is not written too early."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import redis

from storage.database.records import StoredVersion
from storage.errors import Incompatible, Upgrading
from storage.log import entries
from storage.log.entries import (
    FORMAT,
    LEVEL,
    AnswerKept,
    LaterEntry,
    MetalFixed,
    decode_entry,
    encode_entry,
    logged_of,
    payload_of,
)
from storage.orders.encoded import EncodedOrder
from storage.orders.order import Money, Order, OrderPrice, PriceSource, encode_order
from storage.orders.workflow import Status
from storage.redis.keys import Keys, encode_value
from storage.services.price_versions import PriceVersions
from tests.support.acts import keyed
from tests.support.changes import an_order, changed, created, entry_of
from tests.support.gates import until
from tests.support.shared_processes import PREFIX, PostgresData, Process, RedisFacet
from tests.support.small_bounds import smaller

BOUNDS = smaller(flush_silence_s=0.2, attend_s=0.05)
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def of_later_release(payload: bytes, *, inside: str = "") -> bytes:
    """The same entry with a field that this release does not know; `inside`: of its order."""
    data = msgspec.msgpack.decode(payload[1:])
    where = data["change"]["order"] if inside else data
    where["engraving"] = {"text": "for ever", "font": 7}
    return payload[:1] + msgspec.msgpack.encode(data)


UNKNOWN_KIND = bytes((FORMAT,)) + msgspec.msgpack.encode(
    {"t": "courier_called", "id": "0" * 32, "at": NOW, "parcel": 5}
)
UNKNOWN_FORMAT = bytes((FORMAT + 1,)) + b"whatever"


# Reading


@pytest.mark.parametrize("inside", ["", "order"])
def test_a_known_kind_with_an_unknown_field_is_understood_as_far_as_it_goes(inside: str) -> None:
    change = created(an_order(1))
    payload = of_later_release(encode_entry(entry_of(change, key="a")), inside=inside)
    entry, whole = decode_entry(payload)
    assert not whole
    assert entry == entry_of(change, key="a") or entry.change == change  # type: ignore[union-attr]
    logged = logged_of(7, payload)
    assert (logged.later, payload_of(logged)) == (payload, payload)


@pytest.mark.parametrize("payload", [UNKNOWN_KIND, UNKNOWN_FORMAT])
def test_an_unknown_kind_or_format_is_carried_on_unchanged(payload: bytes) -> None:
    logged = logged_of(7, payload)
    assert isinstance(logged.entry, LaterEntry)
    assert payload_of(logged) == payload


def test_what_this_release_writes_it_understands_whole() -> None:
    entry = entry_of(created(an_order(1)), key="a")
    payload = encode_entry(entry)
    assert decode_entry(payload) == (entry, True)
    assert logged_of(1, payload).later is None


# Following


@pytest.fixture
def facet(fresh_redis: str, migrated_database: str) -> RedisFacet:
    return RedisFacet(PostgresData(migrated_database), fresh_redis, lambda: None)


@pytest.fixture
async def process(facet: RedisFacet) -> AsyncIterator[Process]:
    async with facet.open(BOUNDS, drain_s=1.0) as process:
        yield process


class LaterRelease:
    """What another process of a later release does to Redis and the database."""

    def __init__(self, facet: RedisFacet, process: Process) -> None:
        self._facet = facet
        self._epoch = process.tier.epoch
        self._keys = Keys(PREFIX, self._epoch)

    def append(self, payload: bytes, order: Order | None = None) -> int:
        """Its position. As the script of any release does."""
        with redis.Redis.from_url(self._facet.url) as client:
            n = int(client.hincrby(self._keys.meta, "head", 1))
            fields = {"p": payload, "o": order.id if order else "", "c": "\x1f", "f": ""}
            if order is not None:
                body = json.loads(encode_order(order)) | {"engraving": "for ever"}
                client.hset(self._keys.marks, order.id, f"{order.version} {n}")
                value = encode_value(order.version, json.dumps(body).encode())
                client.set(self._keys.order(order.id), value)
            client.xadd(self._keys.log, fields, id=f"{self._epoch}-{n}")
            return n

    def flush(self, n: int, order: Order | None = None) -> None:
        """It brings what it knows to the database."""
        if order is not None:
            self._facet.data.execute(
                f"UPDATE orders SET version = {order.version}, note = '{order.note}' WHERE id = '{order.id}'"
            )
        self._facet.data.execute(f"UPDATE log_positions SET position = {n} WHERE position < {n}")


@pytest.fixture
def later(facet: RedisFacet, process: Process) -> LaterRelease:
    return LaterRelease(facet, process)


async def database_at(process: Process) -> int:
    return (await process.database.position()).n


async def test_an_unknown_entry_is_followed_and_waits_for_who_knows_it(
    process: Process, later: LaterRelease
) -> None:
    first = await process.shop.order()
    await process.persisted()
    n = later.append(UNKNOWN_KIND)
    await until(lambda: process.storage.tail.head == n)
    second = await process.shop.order()
    await until(lambda: process.storage.write_behind.last_error is not None)
    assert (await process.storage.reads.order(second.id)) == second
    assert not process.storage.lease.held or process.storage.tail.blocked
    assert await database_at(process) == n - 1, "it is not flushed past"
    later.flush(n)
    await process.persisted()
    assert await database_at(process) == n + 1
    assert await process.database.load_order(second.id) == second
    assert await process.database.load_order(first.id) == first
    await until(lambda: process.storage.write_behind.last_error is None)


async def test_an_order_that_a_later_release_changed_is_shown_and_not_changed_here(
    process: Process, later: LaterRelease
) -> None:
    order = await process.shop.order()
    await process.persisted()
    change = changed(order, note="engraved")
    n = later.append(of_later_release(encode_entry(entry_of(change)), inside="order"), change.order)
    await until(lambda: process.storage.tail.head == n)
    assert (await process.storage.reads.get(order.id)).held.version == 2
    with pytest.raises(Upgrading):
        await process.shop.comment(order)
    assert await database_at(process) == n - 1
    later.flush(n, change.order)
    await until(lambda: process.storage.tail.flushed == n)
    assert (await process.storage.reads.get(order.id)).held.version == 2
    other = await process.shop.order()
    await process.persisted()
    assert await process.database.load_order(other.id) == other


async def test_what_redis_holds_of_a_later_release_is_not_changed_here(
    facet: RedisFacet, process: Process, later: LaterRelease
) -> None:
    order = await process.shop.order()
    await process.persisted()
    body = json.loads(encode_order(order)) | {"engraving": "for ever"}
    with redis.Redis.from_url(facet.url) as client:
        keys = Keys(PREFIX, process.tier.epoch)
        client.set(keys.order(order.id), encode_value(1, json.dumps(body).encode()))
    async with facet.open(BOUNDS) as another:
        found = await another.storage.reads.get(order.id)
        assert isinstance(found.held, EncodedOrder)
        assert found.held.version == 1


async def test_a_keyed_request_that_a_later_release_answered_is_left_to_it(
    process: Process, later: LaterRelease, facet: RedisFacet
) -> None:
    payload = of_later_release(encode_entry(entry_of(created(an_order(1)), key="a")))
    with redis.Redis.from_url(facet.url) as client:
        client.set(Keys(PREFIX, process.tier.epoch).answer("scope a"), b"1 " + payload)
    with pytest.raises(Upgrading):
        await process.shop.create(key=keyed("a"))


# A list with one more field


def test_a_price_list_that_this_release_cannot_read_ends_nothing() -> None:
    class Clock:
        def now(self) -> datetime:
            return NOW

    def decode(body: bytes) -> bytes:
        if b"new_field" in body:
            raise ValueError("unknown field")
        return body

    published: PriceVersions[bytes] = PriceVersions(MetalFixed, decode, Any, Clock())  # type: ignore[arg-type]
    old, new = StoredVersion("1", NOW, None, b"{}"), StoredVersion("2", NOW, None, b'{"new_field":1}')
    published.load([old])
    assert published.current(NOW) == b"{}"
    published.load([new])
    assert [stored.version for stored in published.all()] == ["1", "2"]
    assert published.get("2") is None
    with pytest.raises(Upgrading):
        published.current(NOW)


# Levels


async def test_nothing_newer_is_written_while_a_process_is_there_that_reads_less(
    facet: RedisFacet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("storage.log.entries", "storage.redis.epochs"):
        monkeypatch.setattr(f"{module}.LEVEL", LEVEL + 1)
    monkeypatch.setattr("storage.log.entries.KIND_LEVELS", {AnswerKept: LEVEL + 1})
    facet.data.execute("INSERT INTO processes (id, united, seen_at) VALUES ('old', 0, clock_timestamp())")
    async with facet.open(BOUNDS) as process:
        order = await process.shop.order()  # what the old one reads goes on
        with pytest.raises(Upgrading) as refused:
            await process.storage.idempotency.remember(keyed("a"), entries.Answer(status=200, body=b"{}"))
        assert refused.value.retry_after_s > 0
        await process.database.leave("old")
        await until(lambda: process.tier.status().level == LEVEL + 1)
        await process.storage.idempotency.remember(keyed("a"), entries.Answer(status=200, body=b"{}"))
        assert (await process.storage.reads.order(order.id)) == order


@pytest.mark.parametrize(
    ("levels", "of"),
    [("FIELD_LEVELS", "note"), ("STATUS_LEVELS", Status.FILE_UPLOADED)],
    ids=["field", "status"],
)
async def test_a_new_field_or_status_waits_until_every_process_reads_it(
    facet: RedisFacet, monkeypatch: pytest.MonkeyPatch, levels: str, of: str
) -> None:
    for module in ("storage.log.entries", "storage.redis.epochs"):
        monkeypatch.setattr(f"{module}.LEVEL", LEVEL + 1)
    monkeypatch.setattr(entries, levels, {of: LEVEL + 1})
    facet.data.execute("INSERT INTO processes (id, united, seen_at) VALUES ('old', 0, clock_timestamp())")
    async with facet.open(BOUNDS) as process:
        order = await process.shop.order()  # without what is new
        new = {"note": "new"} if of == "note" else {"model": "a" * 64}
        with pytest.raises(Upgrading) as refused:
            await process.shop.order(**new)
        assert refused.value.retry_after_s > 0
        await process.database.leave("old")
        await until(lambda: process.tier.status().level == LEVEL + 1)
        changed = await process.shop.order(**new)
        await process.persisted()
        for each in (order, changed):
            assert await process.database.load_order(each.id) == each


async def test_an_answer_with_a_field_of_a_later_release_is_not_repeated_here(process: Process) -> None:
    order = await process.shop.order()
    body = json.dumps({**json.loads(encode_order(order)), "engraving": None}).encode()
    await process.storage.idempotency.remember(keyed("a"), entries.Answer(status=200, body=body))
    with pytest.raises(Upgrading):
        await process.shop.comment(order, keyed=keyed("a"))


def test_an_order_without_a_new_field_is_written_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    amount = Money(Decimal("10.50"), "EUR")
    price = OrderPrice(source=PriceSource.QUOTE, net=amount, vat=amount, gross=amount)
    entry = entry_of(created(an_order(1, due_at=NOW, price=price)))
    monkeypatch.setattr(entries, "FIELD_LEVELS", {"note": LEVEL + 1})
    written = encode_entry(entry)
    assert b"note" not in written
    assert decode_entry(written) == (entry, True)


async def test_a_process_of_an_earlier_release_changes_nothing_once_more_is_in_use(
    facet: RedisFacet, process: Process
) -> None:
    order = await process.shop.order()
    facet.data.execute(f"UPDATE installation SET level = {LEVEL + 1}")
    await until(lambda: process.tier.status().level == LEVEL + 1)
    with pytest.raises(Upgrading):
        await process.shop.comment(order)
    assert (await process.storage.reads.order(order.id)) == order
    with pytest.raises(Incompatible, match="later release"):
        async with facet.open(BOUNDS):
            pass


async def test_what_a_later_release_wrote_is_set_aside_when_nobody_else_can_bring_it(
    process: Process,
) -> None:
    payload = of_later_release(encode_entry(entry_of(created(an_order(1)))), inside="order")
    rejected = await process.database.recover_entries([logged_of(1, payload), logged_of(2, UNKNOWN_KIND)], 1)
    assert len(rejected) == 2
    kept = [logged for _, logged in await process.database.load_dead_letters()]
    assert [payload_of(logged) for logged in kept] == [payload, UNKNOWN_KIND]
