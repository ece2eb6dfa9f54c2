"""What every change log keeps to. A new one subclasses `ChangeLogContract` and says how a process on it is
opened; one for many processes subclasses `ManyProcessesContract`."""

import asyncio
from typing import cast

import pytest

from storage.bounds import Bounds
from storage.errors import (
    AlreadyAnswered,
    AlreadyTaken,
    BacklogFull,
    Claimed,
    DuplicateReference,
    KeyReused,
    LogUnavailable,
    NotFound,
    OrderParked,
    Superseded,
    Unavailable,
)
from storage.log.entries import (
    Answer,
    AnswerKept,
    CacheKind,
    IdempotencyRecord,
    Invalidated,
    OrderChanged,
    Position,
)
from storage.orders.actors import Role
from storage.orders.encoded import EncodedOrder
from storage.orders.filters import ListQuery
from storage.orders.order import Order, decode_order
from storage.services.orders import ChangeOutcome
from storage.services.stack import Storage
from tests.support.acts import keyed
from tests.support.changes import an_order, changed, created, entry_of, id_of
from tests.support.gates import turns, until
from tests.support.shared_processes import Facet, Process
from tests.support.small_bounds import smaller
from tests.support.stacks import IVAN, OLGA


def stands(process: Process) -> Position:
    """How far this process has followed the log."""
    return Position(process.storage.change_log.epoch, process.storage.tail.head)


async def listed(storage: Storage) -> list[Order]:
    return [decode_order(body) for body in await storage.reads.views.bodies(ListQuery(), 100)]


class ChangeLogContract:
    @pytest.fixture
    def facet(self) -> Facet:
        raise NotImplementedError

    # Accepting

    async def test_positions_grow_by_one_and_a_change_is_visible_on_return(self, facet: Facet) -> None:
        async with facet.open() as process, process.writes.closed():
            storage, start = process.storage, stands(process)
            assert await listed(storage) == []
            first = await process.shop.create(note="a")
            assert first.position == Position(start.epoch, start.n + 1)
            assert await storage.reads.order(first.order.id) == first.order
            assert await listed(storage) == [first.order]
            second = await process.shop.comment(first.order)
            assert second.position == Position(start.epoch, start.n + 2)
            _, secret, position = await storage.tokens.issue(Role.SHOP, "shop", None)
            assert storage.tokens.authenticate(secret) is not None
            assert position == Position(start.epoch, start.n + 3) == stands(process)
            assert await listed(storage) == [second.order]

    async def test_many_at_once_are_accepted_in_one_order_without_gaps(self, facet: Facet) -> None:
        async with facet.open() as process:
            start = stands(process)
            outcomes = await asyncio.gather(*(process.shop.create() for _ in range(50)))
            assert sorted(outcome.position.n for outcome in outcomes) == [
                start.n + 1 + index for index in range(50)
            ]
            assert process.storage.change_log.appended >= 50
            assert process.storage.change_log.groups < process.storage.change_log.appended
            await process.persisted()
            assert await process.database.position() == stands(process)

    async def test_of_changes_decided_on_the_same_version_one_wins(self, facet: Facet) -> None:
        async with facet.open() as process, process.writes.closed():
            first = created(an_order(1))
            await process.storage.change_log.append(entry_of(first))
            seen = stands(process)
            results = await asyncio.gather(
                *(
                    process.storage.change_log.append(
                        entry_of(changed(first.order, note=str(n)), entry_id=id_of(n)), seen
                    )
                    for n in range(5)
                ),
                return_exceptions=True,
            )
            assert sorted(type(result).__name__ for result in results) == ["Position"] + ["Superseded"] * 4
            (won,) = [n for n, result in enumerate(results) if isinstance(result, Position)]
            assert await process.note(first.order.id) == str(won)

    async def test_a_change_that_does_not_follow_the_newest_version_is_superseded(self, facet: Facet) -> None:
        async with facet.open() as process, process.writes.closed():
            first = created(an_order(1))
            await process.storage.change_log.append(entry_of(first))
            second = changed(first.order, note="a")
            third = changed(second.order, note="b")
            with pytest.raises(Superseded):
                await process.storage.change_log.append(entry_of(third))
            await process.storage.change_log.append(entry_of(second))
            with pytest.raises(Superseded):
                await process.storage.change_log.append(
                    entry_of(changed(first.order, note="c"), entry_id=id_of(9))
                )
            await process.storage.change_log.append(entry_of(third))
            assert await process.note(first.order.id) == "b"

    # References

    async def test_a_reference_is_taken_once_while_it_is_pending_and_after(self, facet: Facet) -> None:
        async with facet.open() as process:
            async with process.writes.closed():
                holder = await process.shop.order(reference="r")
                with pytest.raises(DuplicateReference):
                    await process.shop.create(reference="r")
            await process.persisted()
            with pytest.raises(DuplicateReference) as refused:
                await process.shop.create(reference="r")
            assert refused.value.members["order"] == holder.id

    async def test_two_who_saw_a_reference_free_do_not_both_get_it(self, facet: Facet) -> None:
        async with facet.open() as process, process.writes.closed():
            seen = stands(process)
            await process.storage.change_log.append(entry_of(created(an_order(1, reference="r"))), seen)
            with pytest.raises((Claimed, DuplicateReference)):
                await process.storage.change_log.append(entry_of(created(an_order(2, reference="r"))), seen)
            with pytest.raises(NotFound):
                await process.storage.reads.order(id_of(2))
            other = an_order(3, reference="r", created_by="somebody else")
            await process.storage.change_log.append(entry_of(created(other)), seen)

    async def test_of_many_who_ask_for_a_reference_at_once_one_gets_it(self, facet: Facet) -> None:
        async with facet.open() as process:
            results = await asyncio.gather(
                *(process.shop.create(reference="r") for _ in range(8)), return_exceptions=True
            )
            assert [type(result).__name__ for result in results].count("ChangeOutcome") == 1
            assert [type(result).__name__ for result in results].count("DuplicateReference") == 7

    async def test_a_reference_that_an_edit_lets_go_of_can_be_taken(self, facet: Facet) -> None:
        async with facet.open() as process:
            async with process.writes.closed():
                first = await process.shop.order(reference="r")
                await process.shop.edit(first, reference="s")
                second = await process.shop.order(reference="r")
                with pytest.raises(DuplicateReference):
                    await process.shop.edit(first, reference="r")
                await process.shop.edit(second, reference=None)
                await process.shop.edit(first, reference="r")
            await process.persisted()
            assert await process.database.load_dead_letters() == []
            found = await process.storage.reads.find_reference(first.created_by, "r")
            assert found == first.id

    # Keys

    async def test_a_key_is_answered_once_also_when_asked_at_once(self, facet: Facet) -> None:
        async with facet.open() as process:
            head = process.storage.tail.head
            outcomes = await asyncio.gather(*(process.shop.create(key=keyed("a")) for _ in range(8)))
            assert len({outcome.order.id for outcome in outcomes}) == 1
            assert [outcome.repeated for outcome in outcomes].count(False) == 1
            await process.persisted()
            assert (await process.shop.create(key=keyed("a"))).order == outcomes[0].order
            assert process.storage.tail.head == head + 1
            with pytest.raises(KeyReused):
                await process.shop.create(key=keyed("a", "another body"))

    async def test_a_key_that_was_just_answered_is_not_accepted_again(self, facet: Facet) -> None:
        """By whoever looked before the first was accepted."""
        async with facet.open() as process, process.writes.closed():
            await process.storage.change_log.append(entry_of(created(an_order(1)), key="a"))
            with pytest.raises((AlreadyAnswered, LogUnavailable)):
                await process.storage.change_log.append(entry_of(created(an_order(2)), key="a"))
            with pytest.raises(NotFound):
                await process.storage.reads.order(id_of(2))

    async def test_what_answered_a_key_is_found(self, facet: Facet) -> None:
        async with facet.open() as process:
            assert await process.storage.change_log.find_remembered("scope a") is None
            outcome = await process.shop.create(key=keyed("a"))
            position, entry = await self.found(process, "a")
            assert (position, cast(OrderChanged, entry).change.order) == (outcome.position, outcome.order)
            kept = await process.storage.idempotency.remember(keyed("b"), Answer(status=200, body=b"{}"))
            position, entry = await self.found(process, "b")
            assert (position, isinstance(entry, AnswerKept)) == (kept, True)
            assert cast(AnswerKept, entry).remembered == IdempotencyRecord(
                scope="scope b", key="b", body_hash="hash", answer=Answer(status=200, body=b"{}")
            )

    async def test_whoever_repeats_a_take_under_whichever_key_waits_for_the_database(
        self, facet: Facet
    ) -> None:
        async with facet.open() as process:
            order = await process.shop.approved()
            await process.persisted()
            async with process.writes.closed():
                takes = [
                    asyncio.create_task(process.shop.take(order, keyed=key))
                    for key in (keyed("a"), keyed("b"), keyed("b"), keyed("a"), None)
                ]
                await until(lambda: process.storage.tail.head >= order.version + 2)
                await turns()
                assert not any(take.done() for take in takes)
            outcomes = await asyncio.gather(*takes)
            assert {outcome.order.version for outcome in outcomes} == {order.version + 1}
            assert all(outcome.in_database for outcome in outcomes)

    async def test_a_repeated_take_that_was_lost_since_is_not_said_to_have_happened(
        self, facet: Facet
    ) -> None:
        """Its answer outlived it: the database has another operator's take in its place."""
        async with facet.open() as process:
            order = await process.shop.approved()
            lost = await process.shop.take(order, IVAN, keyed=keyed("a"))
            await process.shop.take(order, IVAN, keyed=keyed("b"))
            await process.persisted()
            facet.data.execute(
                "UPDATE order_history SET at = (SELECT created_at FROM orders), actor = 'olga'"
                f" WHERE version = {lost.order.version}"
            )
            facet.data.execute("UPDATE orders SET operator = 'olga'")
            await process.storage.invalidate_order(order.id)
            for key in ("a", "b"):
                with pytest.raises(AlreadyTaken):
                    await process.shop.take(order, IVAN, keyed=keyed(key))

    async def test_a_key_is_still_answered_after_reopening(self, facet: Facet) -> None:
        async with facet.open() as process:
            outcome = await process.shop.create(key=keyed("a"))
        async with facet.open() as process:
            again = await process.shop.create(key=keyed("a"))
            assert (again.order, again.repeated, again.position) == (outcome.order, True, outcome.position)

    async def test_a_key_is_still_answered_in_the_next_life_of_the_log(self, facet: Facet) -> None:
        async with facet.open() as process:
            outcome = await process.shop.create(key=keyed("a"))
            epoch = process.storage.change_log.epoch
        await facet.lose_the_log()
        async with facet.open() as process:
            assert process.storage.change_log.epoch > epoch
            again = await process.shop.create(key=keyed("a"))
            assert (again.order, again.repeated) == (outcome.order, True)
            assert (await process.shop.create(key=keyed("b"))).repeated is False
            assert len(await listed(process.storage)) == 2

    @staticmethod
    async def found(process: Process, key: str) -> tuple[Position, object]:
        found = await process.storage.change_log.find_remembered(f"scope {key}")
        assert found is not None
        return found

    # Refusing

    async def test_a_parked_order_takes_no_changes_until_its_repair(self, facet: Facet) -> None:
        async with facet.open() as process:
            order, other = await process.shop.order(), await process.shop.order()
            await process.persisted()
            facet.data.poison(order.id)
            refused = (await process.shop.comment(order)).order
            await process.persisted()
            with pytest.raises(OrderParked):
                await process.shop.comment(order)
            assert await process.storage.reads.order(order.id) == refused
            assert (await process.shop.comment(other)).order.version == 2
            facet.data.cure()
            await process.storage.replay_dead_letters(order.id)
            assert (await process.shop.comment(order)).order.version == 3
            await process.persisted()
            stored = await process.database.load_order(order.id)
            assert stored == await process.storage.reads.order(order.id)

    async def test_a_parked_order_is_still_parked_after_reopening(self, facet: Facet) -> None:
        async with facet.open() as process:
            order = await process.shop.order()
            await process.persisted()
            facet.data.poison(order.id)
            refused = (await process.shop.comment(order)).order
            await process.persisted()
        async with facet.open() as process:
            assert await process.storage.reads.order(order.id) == refused
            with pytest.raises(OrderParked):
                await process.shop.comment(order)

    async def test_a_backlog_that_is_full_refuses_changes_and_lets_read(self, facet: Facet) -> None:
        async with facet.open(smaller(backlog_entries=3, flush_batch_entries=2)) as process:
            async with process.writes.closed():
                orders = [await process.shop.order() for _ in range(3)]
                with pytest.raises(BacklogFull) as refused:
                    await process.shop.order()
                assert refused.value.retry_after_s > 0
                assert await process.storage.reads.order(orders[0].id) == orders[0]
            await process.persisted()
            assert (await process.shop.order()).version == 1

    async def test_who_stops_accepts_nothing_more_and_keeps_what_is_accepted(self, facet: Facet) -> None:
        async with facet.open() as process:
            order = await process.shop.order()
            process.storage.change_log.stop()
            with pytest.raises(Unavailable):
                await process.shop.order()
            await process.persisted()
            assert await process.database.load_order(order.id) == order

    # Forgetting

    async def test_a_forgotten_order_is_read_again(self, facet: Facet) -> None:
        async with facet.open() as process:
            order = await process.shop.order(note="old")
            await process.persisted()
            facet.data.execute(f"UPDATE orders SET note = 'repaired' WHERE id = '{order.id}'")
            assert await process.note(order.id) == "old"
            assert await process.storage.invalidate_order(order.id)
            assert await process.note(order.id) == "repaired"
            assert [each.note for each in await listed(process.storage)] == ["repaired"]
            assert not await process.storage.invalidate_order(id_of(77))

    async def test_what_is_pending_is_not_forgotten(self, facet: Facet) -> None:
        async with facet.open() as process:
            order = await process.shop.order(note="old")
            await process.persisted()
            async with process.writes.closed():
                await process.shop.edit(order, note="new")
                await process.storage.invalidate_order(order.id)
                assert await process.note(order.id) == "new"
                now = process.storage.clock.now()
                forget = Invalidated(id=id_of(5), at=now, thing=CacheKind.ORDER, key=order.id)
                await process.storage.change_log.append(forget)
                assert (await process.shop.comment(order)).order.version == 3
            await process.persisted()
            stored = await process.database.load_order(order.id)
            assert stored is not None
            assert (stored.version, stored.note) == (3, "new")

    # Ending

    async def test_what_the_database_lacked_is_there_after_a_crash(self, facet: Facet) -> None:
        async with facet.open(smaller(lease_s=0.4)) as process:
            kept = await process.shop.order(note="kept")
            await process.persisted()
            process.writes.close()
            order = (await process.shop.comment(await process.shop.order(note="a"))).order
            _, secret, _ = await process.storage.tokens.issue(Role.SHOP, "shop", None)
            await process.shop.edit(kept, note="b")
            held = stands(process)
            await process.crash()
        async with facet.open(smaller(lease_s=0.4)) as process:
            assert stands(process) == held
            assert process.storage.change_log.replayed == 4
            assert await process.storage.reads.order(order.id) == order
            assert await process.note(kept.id) == "b"
            assert process.storage.tokens.authenticate(secret) is not None
            await process.persisted()
            assert await process.database.load_order(order.id) == order
            assert [item.version for item in await process.database.load_history(order.id)] == [1, 2]

    async def test_drained_the_database_has_all_that_was_accepted(self, facet: Facet) -> None:
        async with facet.open() as process:
            orders = [await process.shop.order() for _ in range(30)]
            await process.shop.comment(orders[0])
            held = stands(process)
        database = facet.data.connect(Bounds(), keeps_answers=False)
        await database.open()
        try:
            assert await database.position() == held
            loaded = [await database.load_order(order.id) for order in orders]
            assert [order.version for order in loaded if order is not None] == [2] + [1] * 29
        finally:
            await database.close()

    async def test_positions_go_on_after_reopening(self, facet: Facet) -> None:
        async with facet.open() as process:
            order = await process.shop.order()
            held = stands(process)
        async with facet.open() as process:
            assert (await process.shop.comment(order)).position == Position(held.epoch, held.n + 1)

    async def test_who_follows_alone_is_always_at_the_head(self, facet: Facet) -> None:
        async with facet.open() as process:
            await process.shop.order()
            assert await process.storage.change_log.reach_head()
            assert await process.storage.change_log.catch_up()
            assert process.storage.reads.fresh


class ManyProcessesContract(ChangeLogContract):
    """Of a tier that several processes share, over a database that lets many in."""

    async def test_a_change_is_seen_on_the_other_process(self, facet: Facet) -> None:
        async with facet.open() as here, facet.open() as there:
            order = await here.shop.order(note="a")
            await shows(there, order)
            _, secret, position = await here.storage.tokens.issue(Role.SHOP, "shop", None)
            await there.storage.reads.require_position(position)
            who = there.storage.tokens.authenticate(secret)
            assert who is not None
            await there.storage.tokens.revoke(who.token_id)
            order = (await there.shop.edit(order, note="b")).order
            await shows(here, order)
            assert here.storage.tokens.authenticate(secret) is None
            assert await listed(here.storage) == await listed(there.storage) == [order]

    async def test_at_the_head_everything_accepted_before_is_held(self, facet: Facet) -> None:
        async with facet.open() as here, facet.open() as there:
            for _ in range(5):
                order = await here.shop.order()
                assert await there.storage.change_log.reach_head()
                assert there.storage.tail.head >= here.storage.tail.head
                assert isinstance(there.storage.reads.peek(order.id), EncodedOrder)

    async def test_changes_of_one_order_on_both_make_versions_without_gaps(self, facet: Facet) -> None:
        async with facet.open() as here, facet.open() as there:
            order = await here.shop.order()
            await shows(there, order)
            for _ in range(10):
                await asyncio.gather(here.shop.comment(order), there.shop.comment(order))
            await asyncio.gather(here.persisted(), there.persisted())
            history = await here.database.load_history(order.id)
            assert [item.version for item in history] == list(range(1, 22))
            assert await here.database.load_dead_letters() == []

    async def test_an_order_is_given_to_one_of_two_who_take_it_at_once(self, facet: Facet) -> None:
        async with facet.open() as here, facet.open() as there:
            order = await here.shop.approved()
            await shows(there, order)
            results = await asyncio.gather(
                here.shop.take(order, IVAN), there.shop.take(order, OLGA), return_exceptions=True
            )
            assert sorted(type(result).__name__ for result in results) == ["AlreadyTaken", "ChangeOutcome"]
            assert all(result.in_database for result in results if isinstance(result, ChangeOutcome))

    async def test_a_reference_is_taken_once_on_both(self, facet: Facet) -> None:
        async with facet.open() as here, facet.open() as there:
            results = await asyncio.gather(
                *(process.shop.create(reference="r") for process in (here, there, here, there)),
                return_exceptions=True,
            )
            assert [type(result).__name__ for result in results].count("ChangeOutcome") == 1
            assert [type(result).__name__ for result in results].count("DuplicateReference") == 3
            (holder,) = [result.order for result in results if isinstance(result, ChangeOutcome)]
            for process in (here, there):
                await shows(process, holder)
                with pytest.raises(DuplicateReference):
                    await process.shop.create(reference="r")
            await here.shop.edit(holder, reference="s")
            await there.storage.change_log.reach_head()
            assert (await there.shop.create(reference="r")).order.id != holder.id
            await asyncio.gather(here.persisted(), there.persisted())
            assert await here.database.load_dead_letters() == []

    async def test_a_key_is_answered_once_on_both(self, facet: Facet) -> None:
        async with facet.open() as here, facet.open() as there:
            outcomes = await asyncio.gather(
                *(process.shop.create(key=keyed("a")) for process in (here, there, here, there))
            )
            assert len({outcome.order.id for outcome in outcomes}) == 1
            assert [outcome.repeated for outcome in outcomes].count(False) == 1
            first = await here.shop.create(key=keyed("b"))
            assert (await there.shop.create(key=keyed("b"))).order == first.order
            with pytest.raises(KeyReused):
                await there.shop.create(key=keyed("b", "another body"))

    async def test_forgotten_on_one_it_is_read_again_on_both_and_what_is_pending_stays(
        self, facet: Facet
    ) -> None:
        async with facet.open() as here, facet.open() as there:
            order, pending = await here.shop.order(note="old"), await here.shop.order(note="old")
            await here.persisted()
            await shows(there, pending)
            facet.data.execute("UPDATE orders SET note = 'repaired'")
            async with here.writes.closed(), there.writes.closed():
                changed_here = (await here.shop.edit(pending, note="new")).order
                assert await here.storage.invalidate_order(order.id)
                await here.storage.invalidate_order(pending.id)
                await there.storage.change_log.reach_head()
                for process in (here, there):
                    assert await process.note(order.id) == "repaired"
                    assert await process.storage.reads.order(pending.id) == changed_here
            async with facet.open() as another:
                assert await another.note(order.id) == "repaired"
                assert await another.note(pending.id) == "new"

    async def test_who_comes_later_is_told_what_the_database_lacks(self, facet: Facet) -> None:
        async with facet.open() as here, here.writes.closed():
            order = (await here.shop.comment(await here.shop.order(note="a"))).order
            async with facet.open(drain_s=0.05) as there, there.writes.closed():
                assert await there.storage.reads.order(order.id) == order
                assert await listed(there.storage) == [order]
                assert stands(there) == stands(here)

    async def test_a_parked_order_is_parked_on_both_and_repaired_on_both(self, facet: Facet) -> None:
        async with facet.open() as here, facet.open() as there:
            order = await here.shop.order()
            await here.persisted()
            facet.data.poison(order.id)
            refused = (await here.shop.comment(order)).order
            await asyncio.gather(here.persisted(), there.persisted())
            await there.storage.change_log.reach_head()
            await until(lambda: here.storage.tail.parked == there.storage.tail.parked == [order.id])
            for process in (here, there):
                assert await process.storage.reads.order(order.id) == refused
                with pytest.raises(OrderParked):
                    await process.shop.comment(order)
            facet.data.cure()
            await there.storage.replay_dead_letters(order.id)
            await here.storage.change_log.reach_head()
            assert (await here.shop.comment(order)).order.version == 3


async def shows(process: Process, order: Order) -> None:
    """Returns when this process shows the order so."""
    await process.storage.change_log.reach_head()
    assert await process.storage.reads.order(order.id) == order
