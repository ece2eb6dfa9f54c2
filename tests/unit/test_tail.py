"""The end of the log in memory: what the database lacks, and what lists catch up from."""

import pytest

from storage.bounds import Bounds
from storage.errors import BacklogFull
from storage.log.entries import Position, QuoteIssued
from storage.log.tail import Tail
from storage.orders.order import Change
from tests.support.changes import START, an_order, changed, created, entry_of, id_of, logged
from tests.support.small_bounds import smaller
from tests.support.stacks import ManualClock


def tail_of(changes: list[Change], bounds: Bounds | None = None) -> Tail:
    tail = Tail(bounds or Bounds(), ManualClock())
    for item in logged(entry_of(change) for change in changes):
        tail.add(item)
    return tail


def life(n: int = 1, versions: int = 4) -> list[Change]:
    changes = [created(an_order(n, reference=f"r{n}"))]
    while len(changes) < versions:
        changes.append(changed(changes[-1].order, note=str(len(changes))))
    return changes


def test_the_newest_state_is_pending_until_the_database_has_all_of_the_order() -> None:
    tail = tail_of(life())
    for flushed in (1, 2, 3):
        tail.release(flushed)
        pending = tail.pending(id_of(1))
        assert pending is not None
        assert pending.order.version == 4
        assert [change.n for change in pending.changes] == list(range(flushed + 1, 5))
    tail.release(4)
    assert tail.pending(id_of(1)) is None
    assert (len(tail), tail.byte_count, tail.flushed, tail.head) == (0, 0, 4, 4)


def test_a_batch_is_the_oldest_entries() -> None:
    tail = tail_of(life())
    assert [item.n for item in tail.batch(2)] == [1, 2]
    tail.release(2)
    assert [item.n for item in tail.batch(10)] == [3, 4]


def test_entries_after_a_position_are_told_as_long_as_all_of_them_are_held() -> None:
    tail = tail_of(life(versions=9), smaller(journal_entries=3, log_group_entries=3))
    tail.release(6)
    for n in range(3, 10):
        found = tail.since(n)
        assert found is not None
        assert [item.n for item in found] == list(range(n + 1, 10))
    assert tail.since(2) is None


def test_before_the_first_entry_of_this_process_nothing_is_known() -> None:
    tail = Tail(Bounds(), ManualClock())
    tail.start(Position(1, 5))
    tail.add(logged([entry_of(life()[0])], after=5)[0])
    assert tail.since(4) is None
    found = tail.since(5)
    assert found is not None
    assert [item.n for item in found] == [6]


def test_pending_references_and_quotes_lead_to_their_owners_until_they_are_flushed() -> None:
    tail = tail_of(life())
    quote = QuoteIssued(id=id_of(9), at=START, quote_id="q", sha256="a", valid_until=START, body=b"{}")
    tail.add(logged([quote], after=4)[0])
    assert tail.pending_reference("token-shop", "r1") == id_of(1)
    assert tail.pending_reference("token-other", "r1") is None
    assert tail.pending_quote("q") == quote
    tail.release(5)
    assert tail.pending_reference("token-shop", "r1") is None
    assert tail.pending_quote("q") is None


def test_a_reference_that_went_to_another_order_stays_with_that_one() -> None:
    first = life(versions=1)[0]
    gone = changed(first.order, reference=None)
    came = created(an_order(2, reference="r1"))
    tail = tail_of([first, gone, came])
    tail.release(2)
    assert tail.pending_reference("token-shop", "r1") == id_of(2)


def test_a_rejected_order_stays_pending_with_all_that_follows() -> None:
    tail = tail_of([*life(1), *life(2)])
    tail.release(8, rejected=frozenset({2, 3, 4}))
    pending = tail.pending(id_of(1))
    assert pending is not None
    assert pending.parked
    assert [change.history.version for change in pending.changes] == [2, 3, 4]
    assert tail.parked == [id_of(1)]
    assert tail.pending(id_of(2)) is None
    assert [tail.lacks_for_good(id_of(1), version) for version in (1, 2, 4)] == [False, True, True]
    tail.unpark(id_of(1))
    assert tail.pending(id_of(1)) is None
    assert not tail.lacks_for_good(id_of(1), 4)


def test_what_still_waits_when_an_order_is_repaired_stays_pending() -> None:
    changes = life()
    tail = tail_of(changes)
    tail.release(3, rejected=frozenset({2, 3}))
    tail.unpark(id_of(1))
    pending = tail.pending(id_of(1))
    assert pending is not None
    assert (pending.parked, pending.order.version) == (False, 4)
    tail.release(4)
    assert tail.pending(id_of(1)) is None


def test_a_letter_of_an_earlier_life_is_not_confused_with_an_entry_at_the_same_position() -> None:
    tail = Tail(Bounds(), ManualClock())
    tail.park(logged([entry_of(life(1)[0])], after=4)[0])
    tail.start(Position(1, 4))
    tail.add(logged([entry_of(life(2)[0])], after=4)[0])
    tail.unpark(id_of(1))
    assert tail.pending(id_of(1)) is None
    assert tail.pending(id_of(2)) is not None


def test_age_is_that_of_the_oldest_entry_the_database_lacks() -> None:
    clock = ManualClock()
    tail = Tail(Bounds(), clock)
    assert tail.age_s == 0
    for item in logged(map(entry_of, life(versions=2))):
        tail.add(item)
        clock.move(10)
    assert tail.age_s == 20
    tail.release(1)
    assert tail.age_s == 10


def test_no_room_is_left_at_the_bound() -> None:
    tail = tail_of(life(versions=2), smaller(backlog_entries=3, flush_batch_entries=1))
    tail.require_room()
    tail.add(logged([entry_of(life(2)[0])], after=2)[0])
    with pytest.raises(BacklogFull):
        tail.require_room()
    tail.release(1)
    tail.require_room()
