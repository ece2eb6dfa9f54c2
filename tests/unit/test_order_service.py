"""The order book: who is first, what is repeated, what is refused, and what must be in the database."""

import asyncio
from pathlib import Path

import pytest

from storage.errors import (
    AlreadyTaken,
    DuplicateReference,
    KeyReused,
    NotFound,
    NothingToUndo,
    OrderParked,
    OutcomeUnknown,
    PreconditionFailed,
)
from storage.orders.actors import Role
from storage.orders.order import Order
from storage.orders.workflow import Kind, Status
from storage.services.orders import ChangeOutcome, ChangeRequest
from storage.services.stack import Storage
from tests.support.acts import Workshop, keyed
from tests.support.changes import id_of
from tests.support.gates import GatedDatabase, cure, gated_database, locked, poison
from tests.support.small_bounds import smaller
from tests.support.stacks import IVAN, OLGA, SHOP, ManualClock, actor, by, opened


@pytest.fixture
def shop(storage: Storage) -> Workshop:
    return Workshop(storage)


async def versions(storage: Storage, order: Order) -> list[int]:
    items = (await storage.reads.history(order.id)).items
    return [item.version for item in items]


async def test_an_order_begins_with_version_one_and_numbers_grow(shop: Workshop) -> None:
    first, second = await shop.order(), await shop.order(model="a" * 64)
    assert (first.version, first.status, second.status) == (1, Status.INITIATED, Status.FILE_UPLOADED)
    assert second.number == first.number + 1
    assert first.created_by == SHOP.token_id


async def test_versions_of_concurrent_changes_have_no_gaps(shop: Workshop) -> None:
    order = await shop.order()
    outcomes = await asyncio.gather(*(shop.comment(order, str(n)) for n in range(50)))
    assert sorted(outcome.order.version for outcome in outcomes) == list(range(2, 52))
    assert await versions(shop.storage, order) == list(range(1, 52))


async def test_a_change_is_seen_by_whoever_reads_after_it(shop: Workshop) -> None:
    order = await shop.order()
    outcome = await shop.edit(order, note="engrave")
    assert await shop.storage.reads.order(order.id) == outcome.order
    assert (await shop.storage.reads.get(order.id)).held.body == outcome.body


async def test_an_order_that_does_not_exist_is_not_changed(shop: Workshop) -> None:
    for order_id in (id_of(99), "no id at all"):
        with pytest.raises(NotFound):
            await shop.storage.orders.undo(order_id, by(SHOP))


# Conditions


async def test_if_match_lets_only_the_named_versions_through(shop: Workshop) -> None:
    order = await shop.order()
    await shop.comment(order, if_match=frozenset({1}))
    with pytest.raises(PreconditionFailed) as caught:
        await shop.comment(order, if_match=frozenset({1}))
    assert caught.value.members["current"] == await shop.storage.reads.order(order.id)
    assert (await shop.comment(order, if_match=frozenset({7, 2}))).order.version == 3


async def test_of_many_with_the_same_if_match_one_succeeds(shop: Workshop) -> None:
    order = await shop.order()
    attempts = [shop.comment(order, str(n), if_match=frozenset({1})) for n in range(20)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(result, ChangeOutcome) for result in results) == 1
    assert sum(isinstance(result, PreconditionFailed) for result in results) == 19


# Idempotency keys


async def test_the_same_request_again_gets_the_first_answer_and_changes_nothing(shop: Workshop) -> None:
    first = await shop.create(key=keyed("a"))
    await shop.comment(first.order)
    again = await shop.create(key=keyed("a"))
    assert (again.order, again.body, again.position, again.status) == (
        first.order,
        first.body,
        first.position,
        201,
    )
    assert again.repeated
    assert not first.repeated


async def test_the_same_key_many_times_at_once_has_one_effect(shop: Workshop) -> None:
    outcomes = await asyncio.gather(*(shop.create(key=keyed("a")) for _ in range(30)))
    assert len({outcome.order.id for outcome in outcomes}) == 1
    assert sum(not outcome.repeated for outcome in outcomes) == 1


async def test_a_key_with_another_body_is_refused(shop: Workshop) -> None:
    await shop.create(key=keyed("a"))
    with pytest.raises(KeyReused):
        await shop.create(key=keyed("a", "another body"))


async def test_a_key_is_looked_for_before_if_match(shop: Workshop) -> None:
    order = await shop.order()
    first = await shop.comment(order, if_match=frozenset({1}), keyed=keyed("a"))
    again = await shop.comment(order, if_match=frozenset({1}), keyed=keyed("a"))
    assert again.order == first.order


async def test_a_request_that_changed_nothing_is_remembered_as_well(shop: Workshop) -> None:
    order = await shop.order()
    await shop.step(order, Status.FILE_UPLOADED, SHOP)
    first = await shop.step(order, Status.FILE_UPLOADED, SHOP, keyed=keyed("a"))
    assert first.order.version == 2
    await shop.step(order, Status.SUBMITTED, SHOP)
    again = await shop.step(order, Status.FILE_UPLOADED, SHOP, keyed=keyed("a"))
    assert (again.order, again.body) == (first.order, first.body)
    assert (await shop.storage.reads.order(order.id)).status is Status.SUBMITTED


async def test_a_refused_request_leaves_its_key_free(shop: Workshop) -> None:
    order = await shop.order()
    with pytest.raises(PreconditionFailed):
        await shop.comment(order, if_match=frozenset({5}), keyed=keyed("a"))
    assert (await shop.comment(order, keyed=keyed("a"))).order.version == 2


async def test_keys_are_remembered_across_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        first = await Workshop(storage).create(key=keyed("a"))
    async with opened(tmp_path) as storage:
        again = await Workshop(storage).create(key=keyed("a"))
        assert (again.order, again.status) == (first.order, 201)
        with pytest.raises(KeyReused):
            await Workshop(storage).create(key=keyed("a", "another body"))


async def test_a_key_is_forgotten_when_its_time_is_over(tmp_path: Path, clock: ManualClock) -> None:
    async with opened(tmp_path, clock) as storage:
        first = await Workshop(storage).create(key=keyed("a"))
        await Workshop(storage).persisted()
        clock.move(25 * 3600)
        await Workshop(storage).create()
        await Workshop(storage).persisted()
    async with opened(tmp_path, clock) as storage:
        assert (await Workshop(storage).create(key=keyed("a"))).order.id != first.order.id


# References


async def test_a_reference_is_used_once_per_token(shop: Workshop) -> None:
    order = await shop.order(reference="r")
    with pytest.raises(DuplicateReference) as caught:
        await shop.order(reference="r")
    assert caught.value.members["order"] == order.id
    await shop.persisted()
    with pytest.raises(DuplicateReference):
        await shop.order(reference="r")
    assert (await shop.order(who=actor(Role.SELLER, "other"), reference="r")).reference == "r"


async def test_of_many_orders_with_one_reference_at_once_one_is_made(shop: Workshop) -> None:
    results = await asyncio.gather(*(shop.order(reference="r") for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(result, Order) for result in results) == 1
    assert sum(isinstance(result, DuplicateReference) for result in results) == 19


async def test_an_edit_cannot_take_the_reference_of_another_order(shop: Workshop) -> None:
    order, other = await shop.order(reference="r"), await shop.order()
    with pytest.raises(DuplicateReference):
        await shop.edit(other, reference="r")
    assert (await shop.edit(order, reference="r", note="mine")).order.note == "mine"


async def test_a_reference_that_was_given_up_is_free_at_once(shop: Workshop) -> None:
    order = await shop.order(reference="r")
    await shop.persisted()
    await shop.edit(order, reference=None)
    assert (await shop.order(reference="r")).reference == "r"
    await shop.persisted()
    assert await shop.storage.database.load_dead_letters() == []


# Taking


async def test_of_two_operators_one_gets_the_order_and_the_database_knows_it(shop: Workshop) -> None:
    order = await shop.approved()
    results = await asyncio.gather(shop.take(order, IVAN), shop.take(order, OLGA), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["AlreadyTaken", "ChangeOutcome"]
    (outcome,) = (result for result in results if isinstance(result, ChangeOutcome))
    assert outcome.in_database
    assert await shop.storage.database.load_order(order.id) == outcome.order


async def test_other_changes_do_not_wait_for_the_database_unless_asked(tmp_path: Path) -> None:
    async with opened(tmp_path, database_type=GatedDatabase) as storage:
        shop = Workshop(storage)
        async with gated_database(storage).writes.closed():
            order = await shop.order()
            assert not (await shop.comment(order)).in_database
            waiting = asyncio.create_task(shop.comment(order, wait_for_database=True))
            await gated_database(storage).writes.reached()
            assert not waiting.done()
        assert (await waiting).in_database


async def test_a_preference_for_the_database_that_cannot_be_met_is_told(tmp_path: Path) -> None:
    bounds = smaller(durability_deadline_s=0.05)
    async with opened(tmp_path, bounds=bounds, database_type=GatedDatabase) as storage:
        shop = Workshop(storage)
        order = await shop.order()
        async with gated_database(storage).writes.closed():
            outcome = await shop.comment(order, wait_for_database=True)
            assert not outcome.in_database
            assert outcome.order.version == 2


async def test_a_take_past_its_deadline_is_unknown_and_a_retry_joins_the_wait(tmp_path: Path) -> None:
    bounds = smaller(take_deadline_s=0.3)
    async with opened(tmp_path / "data", bounds=bounds) as storage:
        shop = Workshop(storage)
        order = await shop.approved()
        await shop.persisted()
        with locked(tmp_path / "data" / "facet.db"):
            with pytest.raises(OutcomeUnknown):
                await shop.take(order, IVAN, keyed=keyed("a"))
            with pytest.raises(AlreadyTaken):
                await shop.take(order, OLGA)
            with pytest.raises(OutcomeUnknown):
                await shop.take(order, IVAN)
        await shop.persisted()
        with_key, without = await shop.take(order, IVAN, keyed=keyed("a")), await shop.take(order, IVAN)
        assert with_key.in_database
        assert with_key.order == without.order
        assert await storage.database.load_order(order.id) == with_key.order
        assert (await versions(storage, order))[-1] == with_key.order.version == order.version + 1


async def test_a_take_that_the_database_refuses_is_never_confirmed(tmp_path: Path) -> None:
    """Not at once, not when repeated with its key or without, not after a restart."""
    path = tmp_path / "data"
    async with opened(path) as storage:
        shop = Workshop(storage)
        order = await shop.approved()
        await shop.persisted()
        poison(path / "facet.db", order.id)
        for _ in range(2):
            with pytest.raises(OrderParked):
                await shop.take(order, IVAN, keyed=keyed("a"))
            with pytest.raises(OrderParked):
                await shop.take(order, IVAN)
    async with opened(path) as storage:
        shop = Workshop(storage)
        with pytest.raises(OrderParked):
            await shop.take(order, IVAN, keyed=keyed("a"))
        cure(path / "facet.db")
        await storage.replay_dead_letters(order.id)
        assert (await shop.take(order, IVAN, keyed=keyed("a"))).in_database


async def test_what_the_database_refused_is_not_said_to_be_in_it(tmp_path: Path) -> None:
    path = tmp_path / "data"
    async with opened(path) as storage:
        shop = Workshop(storage)
        order = await shop.order()
        await shop.persisted()
        poison(path / "facet.db", order.id)
        await shop.comment(order, keyed=keyed("a"))
        await Workshop(storage).order()
        await shop.persisted()
        assert not (await shop.comment(order, keyed=keyed("a"))).in_database


# Undoing


async def test_ones_own_last_step_is_undone_within_its_window(shop: Workshop, clock: ManualClock) -> None:
    order = await shop.approved()
    await shop.take(order)
    clock.move(30)
    undone = (await shop.storage.orders.undo(order.id, by(IVAN))).order
    assert (undone.status, undone.operator) == (Status.MANUFACTURING_APPROVED, None)
    items = (await shop.storage.reads.history(order.id)).items
    assert [item.kind for item in items[-2:]] == [Kind.TAKE, Kind.UNDO]
    with pytest.raises(NothingToUndo):
        await shop.storage.orders.undo(order.id, by(IVAN))


async def test_undo_ends_with_its_window(shop: Workshop, clock: ManualClock) -> None:
    order = await shop.approved()
    await shop.take(order)
    clock.move(30.1)
    with pytest.raises(NothingToUndo):
        await shop.storage.orders.undo(order.id, by(IVAN))


async def test_undo_of_a_release_waits_for_the_database_as_a_take_does(shop: Workshop) -> None:
    order = await shop.approved()
    await shop.take(order)
    await shop.step(order, Status.MANUFACTURING_APPROVED, IVAN)
    undone = await shop.storage.orders.undo(order.id, ChangeRequest(actor=IVAN))
    assert undone.in_database
    stored = await shop.storage.database.load_order(order.id)
    assert stored is not None
    assert stored.operator == "ivan"
