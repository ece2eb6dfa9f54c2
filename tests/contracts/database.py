"""What every database keeps to. A new implementation subclasses `DatabaseContract`, opens itself empty and
says how rows of one order are refused."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.database.contract import Database
from storage.database.records import (
    Epoch,
    StoredModel,
    StoredQuote,
    StoredToken,
    StoredVersion,
    Verification,
)
from storage.errors import Conflict, Fenced
from storage.log.entries import (
    MetalFixed,
    Position,
    PriceListPublished,
    QuoteIssued,
    TokenIssued,
    TokenRevoked,
)
from storage.orders.actors import Role
from storage.orders.filters import ALL, ListQuery, Sort, SortField, place_of
from storage.orders.order import Change, Order, encode_order, history_item
from storage.orders.workflow import Kind, Status
from storage.sqlite.database import SqliteDatabase
from tests.contracts.searches import SearchContract, tend
from tests.support.changes import START, an_order, apply, changed, created, entry_of, id_of, logged
from tests.support.orders_drawn import filters, listed, populations, queries, wide_filters
from tests.support.stored_models import stored_model

FULL = {
    "customer": "Аня",
    "operator": "ivan",
    "model": "a" * 64,
    "units": "mm",
    "material": "gold-585-yellow",
    "finish": "polished",
    "plating": "rhodium",
    "quantity": 7,
    "quote": "q-1",
    "note": "кольцо\nс камнем",
    "reference": "R/1",
    "due_at": START + timedelta(days=3, microseconds=1),
}

Opened = Callable[..., AbstractAsyncContextManager[Database]]


def life(n: int = 1, versions: int = 4) -> list[Change]:
    """The first changes of an order."""
    changes = [created(an_order(n))]
    for version in range(2, versions + 1):
        status = (Status.FILE_UPLOADED, Status.SUBMITTED)[version % 2]
        changes.append(changed(changes[-1].order, status=status, kind=Kind.STATUS))
    return changes


GAP = entry_of(life(3)[1])


class DatabaseContract(SearchContract):
    @pytest.fixture
    def opened(self) -> Opened:
        """Opens a new, empty database as often as it is called; `keeps_answers` as the engines take it."""
        raise NotImplementedError

    def poison(self, order_id: str, when: str = "TRUE") -> None:
        """From now on history rows of this order are refused, those of which `when` holds."""
        raise NotImplementedError

    def cure(self) -> None:
        raise NotImplementedError

    @pytest.fixture
    async def database(self, opened: Opened) -> AsyncIterator[Database]:
        async with opened() as database:
            yield database

    async def test_a_new_database_has_read_nothing(self, database: Database) -> None:
        assert await database.position() == Position(1, 0)
        assert await database.load_order(id_of(1)) is None
        assert await database.load_history(id_of(1)) == []
        assert await database.load_tokens() == []
        assert await database.load_dead_letters() == []

    async def test_a_batch_and_its_position_are_stored_together(self, database: Database) -> None:
        changes = life()
        assert await apply(database, [entry_of(change) for change in changes]) == []
        assert await database.position() == Position(1, 4)
        assert await database.load_order(id_of(1)) == changes[-1].order

    @pytest.mark.parametrize("old", [Position(1, 1), Position(2, 0), Position(0, 0)])
    async def test_a_writer_that_is_not_at_the_position_is_fenced(
        self, database: Database, old: Position
    ) -> None:
        with pytest.raises(Fenced):
            await database.apply(logged([entry_of(life()[0])]), old, Position(old.epoch, 1))
        assert await database.position() == Position(1, 0)
        assert await database.load_order(id_of(1)) is None

    async def test_of_two_writers_at_one_position_one_is_fenced(self, database: Database) -> None:
        batches = [logged([entry_of(life(n)[0])]) for n in (1, 2)]
        results = await asyncio.gather(
            *(database.apply(batch, Position(1, 0), Position(1, 1)) for batch in batches),
            return_exceptions=True,
        )
        assert [type(result) for result in results if isinstance(result, BaseException)] == [Fenced]
        stored = [await database.load_order(id_of(n)) for n in (1, 2)]
        assert stored.count(None) == 1

    async def test_the_history_keeps_every_change_also_those_within_a_batch(self, database: Database) -> None:
        changes = [*life(), changed(life()[-1].order, note="n", reference=None)]
        await apply(database, [entry_of(change, key="k") for change in changes])
        assert await database.load_history(id_of(1)) == [history_item(change) for change in changes]

    async def test_every_field_of_an_order_comes_back_as_it_was(self, database: Database) -> None:
        order = an_order(1, **FULL)
        await apply(database, [entry_of(created(order))])
        assert await database.load_order(order.id) == order
        emptied = changed(order, operator=None, model=None, note=None, reference=None, due_at=None)
        await apply(database, [entry_of(emptied)], after=1)
        assert await database.load_order(order.id) == emptied.order

    async def test_entries_that_the_database_has_are_recognised(self, database: Database) -> None:
        """After a crash that lost the position but not the log: nothing is stored twice."""
        entries = [entry_of(change) for change in life()]
        await apply(database, entries[:2])
        assert await apply(database, entries, after=2) == []
        assert await database.load_order(id_of(1)) == life()[-1].order
        assert [item.version for item in await database.load_history(id_of(1))] == [1, 2, 3, 4]

    async def test_an_older_state_never_replaces_a_newer_one(self, database: Database) -> None:
        entries = [entry_of(change) for change in life()]
        await apply(database, entries)
        assert await apply(database, entries[:2], after=4) == []
        assert await database.load_order(id_of(1)) == life()[-1].order

    async def test_another_entry_of_a_known_version_is_a_fork_and_is_set_aside(
        self, database: Database
    ) -> None:
        first, second = life(versions=2)
        await apply(database, [entry_of(first), entry_of(second)])
        other = entry_of(changed(first.order, note="the other one"), entry_id=id_of(99))
        errors = await apply(database, [other, entry_of(life(2)[0])], after=2)
        assert [error.partition(":")[0] for error in errors] == ["fork"]
        assert await database.load_order(id_of(1)) == second.order
        assert await database.load_order(id_of(2)) == life(2)[0].order
        assert [letter.id for letter, _ in await database.load_dead_letters()] == [id_of(99)]

    @pytest.mark.parametrize(
        ("stored", "given", "error"),
        [
            (2, [4], "gap: version 4 follows 2"),
            (0, [2], "gap: version 2 follows 0"),
            (1, [2, 4], "gap: version 4 follows 2"),
        ],
    )
    async def test_a_version_that_does_not_follow_is_set_aside(
        self, database: Database, stored: int, given: list[int], error: str
    ) -> None:
        changes = life()
        await apply(database, [entry_of(change) for change in changes[:stored]])
        fitting = entry_of(life(2)[0])
        batch = [*(entry_of(changes[version - 1]) for version in given), fitting]
        assert await apply(database, batch, after=stored) == [error]
        history = [item.version for item in await database.load_history(id_of(1))]
        assert history == list(range(1, stored + len(given)))
        assert await database.load_order(id_of(2)) is not None

    # What the database refuses

    async def test_a_refused_entry_is_set_aside_with_all_later_ones_of_its_order_and_the_rest_flows(
        self, database: Database
    ) -> None:
        self.poison(id_of(1), "NEW.version = 2")
        bad, good = life(1), life(2)
        mixed = [entry_of(change) for pair in zip(bad, good, strict=True) for change in pair]
        assert len(await apply(database, mixed)) == 3
        assert await database.position() == Position(1, 8)
        assert await database.load_order(id_of(1)) == bad[0].order
        assert await database.load_order(id_of(2)) == good[-1].order
        letters = await database.load_dead_letters()
        assert [letter.position for letter, _ in letters] == ["1-3", "1-5", "1-7"]
        assert [item.entry for _, item in letters] == [entry_of(change) for change in bad[1:]]
        assert {letter.order_id for letter, _ in letters} == {id_of(1)}
        assert "poisoned" in letters[0][0].error

    async def test_entries_of_a_parked_order_in_later_batches_are_set_aside_as_well(
        self, database: Database
    ) -> None:
        """No version is skipped: the later entry alone would fit."""
        self.poison(id_of(1), "NEW.version = 2")
        entries = [entry_of(change) for change in life()]
        await apply(database, entries[:2])
        assert len(await apply(database, [entries[2], entry_of(life(2)[0])], after=2)) == 1
        assert [item.version for item in await database.load_history(id_of(1))] == [1]
        assert await database.load_order(id_of(1)) == life()[0].order
        assert await database.load_order(id_of(2)) == life(2)[0].order
        assert len(await database.load_dead_letters()) == 2

    async def test_dead_letters_are_applied_in_order_after_the_repair(self, database: Database) -> None:
        self.poison(id_of(1), "NEW.version = 2")
        await apply(database, [entry_of(change) for change in (*life(1), *life(2))])
        with pytest.raises(Conflict, match="poisoned"):
            await database.replay(id_of(1))
        assert len(await database.load_dead_letters()) == 3
        self.cure()
        await database.replay(id_of(1))
        assert await database.load_dead_letters() == []
        assert await database.load_order(id_of(1)) == life()[-1].order
        assert [item.version for item in await database.load_history(id_of(1))] == [1, 2, 3, 4]

    async def test_entries_of_an_older_life_of_the_log_are_united_by_their_ids(
        self, database: Database
    ) -> None:
        entries = [entry_of(change) for change in life()]
        await apply(database, entries[:2])
        assert await database.recover_entries(logged(entries), 1) == []
        assert await database.recover_entries(logged(entries), 1) == []
        assert await database.load_order(id_of(1)) == life()[-1].order
        assert len(await database.load_history(id_of(1))) == 4
        assert await database.position() == Position(1, 2)

    async def test_a_new_epoch_begins_at_zero_and_only_from_the_one_that_is_named(
        self, database: Database
    ) -> None:
        await apply(database, [entry_of(life()[0])])
        assert await database.epoch() == Epoch(Position(1, 1), 1)
        await database.begin_epoch(1, 5)
        assert await database.epoch() == Epoch(Position(5, 0), 1)
        with pytest.raises(Fenced):
            await database.begin_epoch(1, 6)
        assert await database.position() == Position(5, 0)

    async def test_every_new_database_is_an_installation_of_its_own(self, opened: Opened) -> None:
        async with opened() as one:
            first = await one.installation()
            assert await one.installation() == first
        async with opened() as other:
            assert await other.installation() != first

    async def test_whoever_proposes_a_secret_first_proposes_it_for_all(self, database: Database) -> None:
        proposed = [bytes([number]) * 32 for number in range(8)]
        shared = await asyncio.gather(*(database.secret("links", value) for value in proposed))
        assert set(shared) <= set(proposed)
        assert len(set(shared)) == 1
        assert await database.secret("links", b"later") == shared[0]
        assert await database.secret("other", b"another") == b"another"

    async def test_what_is_known_is_skipped_even_behind_a_dead_letter(self, database: Database) -> None:
        entries = [entry_of(change) for change in life()]
        await apply(database, [entries[0], entries[2]])
        assert await database.recover_entries(logged(entries[:1]), 1) == []
        assert len(await database.load_dead_letters()) == 1

    async def test_what_does_not_fit_when_lives_are_united_is_set_aside_once(
        self, database: Database
    ) -> None:
        first, second = life(versions=2)
        await apply(database, [entry_of(first), entry_of(second)])
        fork = entry_of(changed(first.order, note="the other one"), entry_id=id_of(99))
        gap, good = entry_of(life(2)[2]), entry_of(life(3)[0])
        for _ in range(2):
            assert len(await database.recover_entries(logged([fork, gap, good]), 1)) == 2
        letters = [letter for letter, _ in await database.load_dead_letters()]
        assert [letter.position for letter in letters] == ["1-1", "1-2"]
        assert [letter.error.partition(":")[0] for letter in letters] == ["fork", "gap"]
        assert await database.load_order(id_of(3)) == life(3)[0].order

    async def test_the_dead_letters_of_a_stretch_of_the_log_are_told(self, database: Database) -> None:
        late = [entry_of(life(n)[1]) for n in (1, 2, 3)]
        await apply(database, late)
        error = "gap: version 2 follows 0"
        assert await database.rejected(Position(1, 0), Position(1, 3)) == {1: error, 2: error, 3: error}
        assert await database.rejected(Position(1, 1), Position(1, 2)) == {2: error}
        assert await database.rejected(Position(2, 0), Position(2, 3)) == {}

    # Answers

    async def test_answers_are_kept_where_the_log_does_not_keep_them(self, opened: Opened) -> None:
        change, other = entry_of(life()[0], key="k"), entry_of(life(2)[1], key="late")
        async with opened(keeps_answers=True) as database:
            await apply(database, [change, other, entry_of(life(3)[0])])
            assert await database.find_answer("scope k") == (Position(1, 1), change)
            assert await database.find_answer("scope late") == (Position(1, 2), other), "set aside, answered"
            assert await database.find_answer("scope unknown") is None
        async with opened(keeps_answers=False) as database:
            await apply(database, [change])
            assert await database.find_answer("scope k") is None

    async def test_a_key_that_is_used_again_has_its_last_answer(self, opened: Opened) -> None:
        first, second = (entry_of(change, key="k") for change in life(versions=2))
        async with opened(keeps_answers=True) as database:
            await apply(database, [first, second])
            assert await database.find_answer("scope k") == (Position(1, 2), second)

    @pytest.mark.parametrize("keeps_answers", [False, True])
    async def test_uniting_keeps_the_answers_and_replaces_none(
        self, opened: Opened, keeps_answers: bool
    ) -> None:
        first, second = (entry_of(change, key="k") for change in life(versions=2))
        async with opened(keeps_answers=keeps_answers) as database:
            await apply(database, [msgspec.structs.replace(first, remembered=None)])
            await database.recover_entries(logged([first, second]), 1)
            await database.recover_entries(logged([second], after=5), 1)
            assert await database.find_answer("scope k") == (Position(1, 1), first)

    async def test_old_answers_are_forgotten_a_few_at_a_time(self, opened: Opened) -> None:
        entries = [entry_of(life(n)[0], key=str(n)) for n in range(1, 4)]
        young = entry_of(life(4)[1], key="young")
        async with opened(keeps_answers=True) as database:
            await apply(database, [*entries, young])
            assert await database.prune_answers(young.at, 2) == 2
            assert await database.prune_answers(young.at, 2) == 1
            assert await database.prune_answers(young.at, 2) == 0
            assert await database.find_answer("scope young") is not None

    # Processes

    async def test_a_lease_has_one_holder_until_it_ends_or_is_given_up(self, database: Database) -> None:
        assert await database.hold_lease("flusher", "a", 60)
        assert await database.hold_lease("flusher", "a", 60)
        assert not await database.hold_lease("flusher", "b", 60)
        assert await database.hold_lease("another", "b", 60)
        await database.give_lease("flusher", "b")
        assert not await database.hold_lease("flusher", "b", 60)
        await database.give_lease("flusher", "a")
        assert await database.hold_lease("flusher", "b", 0)
        assert await database.hold_lease("flusher", "a", 60), "b's time is over"

    async def test_of_many_who_want_a_lease_one_gets_it(self, database: Database) -> None:
        taken = await asyncio.gather(*(database.hold_lease("x", f"holder {n}", 60) for n in range(8)))
        assert taken.count(True) == 1

    async def test_processes_are_there_from_when_they_say_so_until_they_leave(
        self, database: Database
    ) -> None:
        await database.heartbeat("a", 1)
        await database.heartbeat("b", 1)
        await database.heartbeat("a", 2)
        found = await database.members(60)
        assert [(each.process, each.united) for each in found] == [("a", 2), ("b", 1)]
        assert all(0 <= each.seen_ago_s < 30 for each in found)
        await database.leave("b")
        assert [each.process for each in await database.members(60)] == ["a"]

    async def test_who_was_not_seen_for_long_is_forgotten(self, database: Database) -> None:
        await database.heartbeat("a", 1)
        assert await database.members(-60) == []
        assert await database.members(60) == []

    async def test_a_secret_is_the_one_that_was_proposed_first(self, database: Database) -> None:
        found = await asyncio.gather(*(database.secret("k", bytes([n])) for n in range(5)))
        assert len(set(found)) == 1
        assert await database.secret("another", b"x") == b"x"

    # Lists

    @given(data=st.data())
    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @pytest.mark.slow
    async def test_lists_and_counts_mean_the_same_here_and_in_memory(
        self, opened: Opened, data: st.DataObject
    ) -> None:
        """Every filter, sort and cursor, on the same random orders."""
        population = data.draw(populations(14))
        async with opened() as database:
            await apply(database, [entry_of(created(order)) for order in population])
            for query in data.draw(
                st.lists(queries(filters | wide_filters, population), min_size=6, max_size=6)
            ):
                await tend(database, data.draw(st.booleans()))
                await agrees(database, population, query, data.draw(st.integers(1, 20)))

    async def test_a_list_and_its_position_are_of_one_moment(self, database: Database) -> None:
        empty = await database.load_list(ListQuery(), 10)
        assert empty == (Position(1, 0), [])
        await apply(database, [entry_of(life()[0])])
        snapshot = await database.load_list(ListQuery(), 10)
        assert snapshot == (Position(1, 1), [life()[0].order])
        assert await database.load_counts(ALL) == (Position(1, 1), {Status.INITIATED: 1})

    @pytest.mark.parametrize("descending", [False, True])
    async def test_orders_without_a_due_date_come_last(self, database: Database, descending: bool) -> None:
        dated = [an_order(n, due_at=START + timedelta(days=n)) for n in (1, 2)]
        await apply(database, [entry_of(created(order)) for order in (an_order(3), *dated)])
        snapshot = await database.load_list(ListQuery(sort=Sort(SortField.DUE_AT, descending)), 10)
        assert snapshot.rows == [*(dated[::-1] if descending else dated), an_order(3)]

    # Everything else

    async def test_a_reference_leads_to_the_order_of_its_token(self, database: Database) -> None:
        await apply(database, [entry_of(created(an_order(1, reference="r", created_by="a")))])
        assert await database.find_reference("a", "r") == id_of(1)
        assert await database.find_reference("b", "r") is None
        assert await database.find_reference("a", "s") is None

    async def test_a_reference_moves_from_one_order_to_another_within_a_batch(
        self, database: Database
    ) -> None:
        first, second = an_order(1, reference="r"), an_order(2)
        await apply(database, [entry_of(created(first)), entry_of(created(second))])
        remark, gone = changed(second, note="n"), changed(first, reference=None)
        came = changed(remark.order, reference="r")
        assert await apply(database, [entry_of(remark), entry_of(gone), entry_of(came)], after=2) == []
        assert await database.find_reference(first.created_by, "r") == second.id

    async def test_quotes_are_kept_as_they_were_first_issued(self, database: Database) -> None:
        def issued(body: bytes, n: int) -> QuoteIssued:
            return QuoteIssued(
                id=id_of(n), at=START, quote_id="q", sha256="a", tenant="t", valid_until=START, body=body
            )

        assert await apply(database, [issued(b'{"n": 1}', 1), issued(b'{"n": 2}', 2)]) == []
        assert await database.load_quote("q") == StoredQuote("q", "t", START, b'{"n": 1}')
        assert await database.load_quote("unknown") is None

    async def test_price_lists_and_metal_fixes_come_back_in_the_order_of_publication(
        self, database: Database
    ) -> None:
        until = START + timedelta(days=1)
        lists = [
            PriceListPublished(
                id=id_of(n), at=START, version=name, valid_from=START, valid_to=until, body=b"{}"
            )
            for n, name in enumerate(("b", "a"))
        ]
        fix = MetalFixed(id=id_of(9), at=START, version="f", fixed_at=START, body=b"{}")
        await apply(database, [*lists, fix])
        assert await database.load_price_lists() == [
            StoredVersion(name, START, until, b"{}") for name in ("b", "a")
        ]
        assert await database.load_metal_fixes() == [StoredVersion("f", START, None, b"{}")]

    async def test_revoked_tokens_are_not_loaded(self, database: Database) -> None:
        tokens = [
            TokenIssued(
                id=id_of(n),
                at=START,
                token_id=id_of(n),
                secret_hash=f"hash {n}",
                role=Role.PARTNER,
                name="p",
                customer="c",
            )
            for n in (1, 2)
        ]
        revoked = TokenRevoked(id=id_of(3), at=START, token_id=id_of(1))
        await apply(database, [*tokens, revoked])
        assert await database.load_tokens() == [
            StoredToken(id_of(2), "hash 2", Role.PARTNER, "p", "c", START)
        ]

    async def test_models_come_back_with_all_who_uploaded_them_the_most_popular_first(
        self, database: Database
    ) -> None:
        def model(name: str, score: float, *tenants: str) -> StoredModel:
            return stored_model(name, START, *tenants, score=score)

        await database.store_models([model("a", 1.0, "x"), model("b", 2.0)], 1e6)
        await database.store_models([model("a", 3.0, "y")], 1e6)
        assert await database.load_model("a" * 64) == model("a", 4.0, "x", "y")
        assert [found.sha256[0] for found in await database.load_popular_models(5, 1e6)] == ["a", "b"]
        assert len(await database.load_popular_models(1, 1e6)) == 1
        assert await database.load_model("c" * 64) is None

    async def test_what_a_later_analyser_found_is_not_overwritten_by_an_earlier_one(
        self, database: Database
    ) -> None:
        for analyser, kept in (("9", "9"), ("8", "9"), ("10", "10"), ("9", "10")):
            await database.store_models([stored_model("a", START, analyser=analyser)], 1e6)
            found = await database.load_model("a" * 64)
            assert found is not None
            assert found.facts == stored_model("a", START, analyser=kept).facts

    async def test_the_first_verification_of_the_same_facts_stays_but_for_a_persons_decision(
        self, database: Database
    ) -> None:
        def verified(state: str | None, minutes: int = 0, analyser: str = "1") -> StoredModel:
            at = START + timedelta(minutes=minutes)
            said = None if state is None else Verification(state, at, b'{"said":1}')
            return msgspec.structs.replace(stored_model("a", START, analyser=analyser), verification=said)

        for model, kept in (
            (verified(None), None),
            (verified("agreed", 1), "agreed"),
            (verified(None), "agreed"),  # of a process that has not heard of it
            (verified("differs", 2), "agreed"),
            (verified("accepted", 3), "accepted"),
            (verified("not_possible", 5), "accepted"),
            (verified("rejected", 2), "accepted"),
            (verified("rejected", 4), "rejected"),
            (verified(None, analyser="2"), None),  # new facts: nothing is known of them
            (verified("agreed", 9), None),
            (verified("differs", 4, "2"), "differs"),
        ):
            await database.store_models([model], 1e6)
            found = await database.load_model("a" * 64)
            assert found is not None
            assert (found.verification.state if found.verification else None) == kept, model
        other = msgspec.structs.replace(verified("differs", 5), sha256="b" * 64)
        await database.store_models([other, msgspec.structs.replace(other, sha256="c" * 64)], 1e6)
        await database.store_models([msgspec.structs.replace(verified("accepted", 6), sha256="c" * 64)], 1e6)
        listed = await database.load_models_that_differ(5)
        assert [model.sha256[0] for model in listed] == ["b", "a"]
        assert len(await database.load_models_that_differ(1)) == 1
        assert listed[0].verification == other.verification

    async def test_order_numbers_are_leased_once(self, database: Database) -> None:
        leased = await asyncio.gather(*(database.lease_numbers(10) for _ in range(5)))
        numbers = [number for block in leased for number in block]
        assert len(set(numbers)) == 50
        assert min(numbers) == 1001

    async def test_a_copy_is_a_whole_sqlite_database(self, database: Database, tmp_path: Path) -> None:
        order = an_order(1, **FULL)
        await apply(database, [entry_of(created(order)), *(entry_of(change) for change in life(2)), GAP])
        await database.backup(tmp_path / "copy")
        copy = SqliteDatabase(tmp_path / "copy", 1.0, 1, 5.0)
        await copy.open()
        assert await copy.load_order(order.id) == order
        for name in ("epoch", "installation", "load_dead_letters"):
            assert await getattr(copy, name)() == await getattr(database, name)()
        assert await copy.load_list(ListQuery(), 9) == await database.load_list(ListQuery(), 9)
        assert await copy.load_history(id_of(2)) == await database.load_history(id_of(2))
        await copy.close()


async def agrees(database: Database, population: list[Order], query: ListQuery, limit: int) -> None:
    """The database's list and counts are those that the definition gives."""
    snapshot = await database.load_list(query, limit)
    rows = listed(population, query)[:limit]
    assert snapshot.rows == rows
    shown = [(place_of(order, query.sort), encode_order(order)) for order in rows]
    assert await database.load_rows(query, limit) == (snapshot.position, shown)
    covered = {order.id for order in population if query.covers(order)}
    assert {order.id for order in listed(population, query)} == covered
    counts: dict[Status, int] = {}
    for order in filter(query.filter.matches, population):
        counts[order.status] = counts.get(order.status, 0) + 1
    assert (await database.load_counts(query.filter)).counts == counts
