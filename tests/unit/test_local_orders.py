"""The local tier: bounded, and never set back by a load that something has overtaken."""

import pytest

from storage.cache.local_orders import LocalOrders
from storage.memory.lru import ABSENT, ENTRY_OVERHEAD_BYTES, MISS, Lru
from storage.orders.encoded import EncodedOrder, encoded_order
from tests.support.changes import an_order, id_of
from tests.support.stacks import ManualClock


@pytest.fixture
def local(clock: ManualClock) -> LocalOrders:
    return LocalOrders(100, 2**20, 3, 10.0, clock)


def held(version: int = 1, n: int = 1) -> EncodedOrder:
    return encoded_order(an_order(n, version=version), 0.0)


def test_the_least_recently_used_goes_first() -> None:
    lru: Lru[str, int] = Lru(2, 2**20)
    lru.put("a", 1, 0)
    lru.put("b", 2, 0)
    assert lru.get("a") == 1
    lru.put("c", 3, 0)
    assert list(lru) == ["a", "c"]
    assert (lru.hits, lru.misses, lru.evictions) == (1, 0, 1)


def test_looking_does_not_count_as_use() -> None:
    lru: Lru[str, int] = Lru(2, 2**20)
    lru.put("a", 1, 0)
    lru.put("b", 2, 0)
    assert lru.peek("a") == 1
    assert lru.peek("z") is MISS
    lru.put("c", 3, 0)
    assert list(lru) == ["b", "c"]


def test_bytes_are_bounded_and_counted_with_what_an_entry_costs() -> None:
    lru: Lru[str, int] = Lru(100, 3 * (ENTRY_OVERHEAD_BYTES + 100))
    for n in range(5):
        lru.put(str(n), n, 100)
    assert list(lru) == ["2", "3", "4"]
    assert lru.byte_count == 3 * (ENTRY_OVERHEAD_BYTES + 100)
    lru.put("4", 4, 10)
    assert lru.byte_count == 3 * ENTRY_OVERHEAD_BYTES + 210
    assert lru.discard("4")
    assert not lru.discard("4")
    lru.clear()
    assert (lru.byte_count, len(lru)) == (0, 0)


def test_what_is_larger_than_everything_is_not_held_and_evicts_nothing() -> None:
    lru: Lru[str, int] = Lru(100, 2_000)
    lru.put("a", 1, 10)
    lru.put("b", 2, 5_000)
    assert list(lru) == ["a"]
    lru.put("a", 1, 5_000)
    assert list(lru) == []


def test_empty_values_are_values() -> None:
    lru: Lru[str, int | list[int]] = Lru(5, 2**20)
    lru.put("zero", 0, 0)
    lru.put("empty", [], 0)
    assert lru.get("zero") == 0
    assert lru.get("empty") == []
    assert lru.get("missing") is MISS


def test_a_load_does_not_replace_what_is_newer(local: LocalOrders) -> None:
    ticket = local.begin_fill()
    local.replace(held(2))
    assert local.fill(held(1), ticket).version == 2
    kept = local.get(id_of(1))
    assert isinstance(kept, EncodedOrder)
    assert kept.version == 2
    assert local.refused_fills == 1
    assert local.fill(held(3), local.begin_fill()).version == 3


def test_a_load_that_an_invalidation_overtook_is_answered_and_not_kept(local: LocalOrders) -> None:
    ticket = local.begin_fill()
    local.invalidate(id_of(9))
    assert local.fill(held(1), ticket).version == 1
    assert local.get(id_of(1)) is MISS
    local.fill_absent(id_of(1), ticket)
    assert local.get(id_of(1)) is MISS


def test_a_change_that_comes_late_is_left_out(local: LocalOrders) -> None:
    local.replace(held(3))
    local.replace(held(2))
    kept = local.get(id_of(1))
    assert isinstance(kept, EncodedOrder)
    assert kept.version == 3


def test_absence_is_known_for_a_while_and_ended_by_a_change(local: LocalOrders, clock: ManualClock) -> None:
    local.fill_absent(id_of(1), local.begin_fill())
    assert local.get(id_of(1)) is ABSENT
    clock.move(10)
    assert local.get(id_of(1)) is MISS
    local.fill_absent(id_of(2), local.begin_fill())
    local.replace(held(1, n=2))
    assert isinstance(local.get(id_of(2)), EncodedOrder)
    local.fill_absent(id_of(2), local.begin_fill())
    assert isinstance(local.get(id_of(2)), EncodedOrder)
    local.fill_absent(id_of(3), local.begin_fill())
    local.invalidate(id_of(3))
    assert local.get(id_of(3)) is MISS


def test_a_flood_of_wrong_ids_evicts_no_order(local: LocalOrders) -> None:
    local.replace(held(1))
    for n in range(10, 500):
        local.fill_absent(id_of(n), local.begin_fill())
    assert isinstance(local.get(id_of(1)), EncodedOrder)
    assert local.get(id_of(499)) is ABSENT
    assert local.get(id_of(10)) is MISS
