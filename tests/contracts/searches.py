"""What every database finds, before and after its search index has taken the orders in."""

from typing import Any

import pytest

from storage.database.contract import Database
from storage.database.queries import counts_statement, list_statement
from storage.orders.filters import ListQuery, OrderFilter
from storage.orders.search import fold
from tests.support.changes import an_order, apply, changed, created, entry_of
from tests.support.orders_drawn import cased_text


async def tend(database: Database, tended: bool) -> None:
    """Bring the search index to the orders, or leave it behind."""
    while tended and await database.tend_search(2):
        pass


async def numbers_found(database: Database, text: str, *, cased: bool = False, **others: Any) -> list[int]:
    """`cased`: as the release before asks."""
    query = ListQuery(filter=OrderFilter(q=text.casefold() if cased else fold(text), **others))
    found = [order.number for order in (await database.load_list(query, 10)).rows]
    assert sum((await database.load_counts(query.filter)).counts.values()) == len(found)
    return found


class SearchContract:
    def execute_sql(self, sql: str) -> None:
        """One statement, from outside."""
        raise NotImplementedError

    @pytest.mark.parametrize("tended", [False, True])
    @pytest.mark.parametrize("q", ["%", "_", "/", "ring%", "a_b", "50%/"])
    async def test_what_sql_takes_for_a_pattern_is_only_text(
        self, database: Database, q: str, tended: bool
    ) -> None:
        plain = an_order(1, note="ring aXb 50 per cent", reference="R1")
        special = an_order(2, note="ring% a_b 50%/", reference="_%/")
        await apply(database, [entry_of(created(order)) for order in (plain, special)])
        await tend(database, tended)
        assert await numbers_found(database, q) == [special.number]

    @pytest.mark.parametrize("tended", [False, True])
    @pytest.mark.parametrize(
        "q", ["ЁЛКА", "елка", "STRASSE", "straße", "İ", "Ångström", "angstrom", "ЧАИ\u0306"]
    )
    async def test_neither_case_nor_accents_nor_composition_matter(
        self, database: Database, q: str, tended: bool
    ) -> None:
        order = an_order(1, customer="Straße", note="Ёлка A\u030angstro\u0308m,\nЧай", reference="İ")
        await apply(database, [entry_of(created(order)), entry_of(created(an_order(2)))])
        await tend(database, tended)
        assert await numbers_found(database, q) == [order.number]

    @pytest.mark.parametrize("tended", [False, True])
    async def test_one_or_two_characters_are_looked_for_in_number_and_reference_only(
        self, database: Database, tended: bool
    ) -> None:
        population = [
            an_order(1, customer="Xy", note="xy"),
            an_order(2, reference="PO-Xy/7"),
            an_order(3, operator="xy", reference="yx"),
        ]
        await apply(database, [entry_of(created(order)) for order in population])
        await tend(database, tended)
        for q, found in (("xy", [2]), ("7", [2]), ("x", [3, 2]), ("1", [3, 2, 1]), ("03", [3]), ("zz", [])):
            assert await numbers_found(database, q) == [population[n - 1].number for n in found], q
        assert sorted(await numbers_found(database, "PO-Xy")) == [population[1].number]

    async def test_a_search_finds_what_a_text_is_now_however_far_the_index_is(
        self, database: Database
    ) -> None:
        change, entries = created(an_order(1, note="the first text")), []
        entries.append(entry_of(change))
        for note in ("the second text", None, "the third text"):
            change = changed(change.order, note=note)
            entries.append(entry_of(change))
        for done, (entry, note) in enumerate(zip(entries, ("first", "second", "no", "third"), strict=True)):
            await apply(database, [entry], done)
            for tended in (False, done % 2 == 0):
                await tend(database, tended)
                for other in ("first", "second", "third"):
                    found = await numbers_found(database, f"the {other} text")
                    assert bool(found) is (other == note), (done, other)

    async def test_the_index_takes_in_so_many_at_a_time_and_ends(self, database: Database) -> None:
        await apply(database, [entry_of(created(an_order(n, note="ring"))) for n in range(1, 8)])
        steps = [await database.tend_search(3) for _ in range(4)]
        assert steps == [3, 3, 1, 0]
        assert len(await numbers_found(database, "ring")) == 7

    async def test_texts_of_the_release_before_are_stored_anew_and_found(self, database: Database) -> None:
        """Whenever it writes them: it may run beside this one."""
        population = [
            an_order(1, customer="Ёлкин", note="кольцо"),
            an_order(2, note="two\nlines"),
            an_order(3, note="plain"),
            an_order(4, note="Ёжик", operator="Zoë"),
        ]
        await apply(database, [entry_of(created(order)) for order in population])
        await tend(database, True)
        assert await database.fold_texts(10) == 0
        for order in population:
            self.execute_sql(
                f"UPDATE orders SET search = '{cased_text(order)}' WHERE number = {order.number}"
            )
        assert await numbers_found(database, "ёлкин", cased=True) == [population[0].number]
        steps = [await database.fold_texts(2) for _ in range(3)]
        assert steps == [2, 1, 0]
        for tended in (False, True):
            await tend(database, tended)
            for text, n in (("елкин", 1), ("two lines", 2), ("plain", 3), ("ежик", 4), ("zoe", 4)):
                assert await numbers_found(database, text) == [population[n - 1].number], text

    async def test_orders_from_before_the_index_are_taken_in_and_changed_ones_once(
        self, database: Database
    ) -> None:
        population = [an_order(n, note=f"ring {n}") for n in range(1, 8)]
        await apply(database, [entry_of(created(order)) for order in population])
        self.execute_sql("DELETE FROM search_pending")  # as after the migration
        self.execute_sql(f"UPDATE search_index SET built = 0, until = {population[-1].number}")
        assert await numbers_found(database, "ring 5") == [population[4].number]  # though it has none of them
        done = len(population)
        for step in range(4):
            assert await database.tend_search(2) >= 1
            for order in (population[0], population[-1]):  # taken in already, and not yet
                change = changed(order, note=f"step {step}")
                population[population.index(order)] = change.order
                await apply(database, [entry_of(change)], done)
                done += 1
            assert len(await numbers_found(database, f"step {step}")) == 2
            assert len(await numbers_found(database, "ring")) == 5
        await tend(database, True)
        assert len(await numbers_found(database, "step 3")) == 2
        assert await numbers_found(database, "step 2") == await numbers_found(database, "ring 1") == []

    async def test_more_candidates_than_are_looked_at_change_nothing(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A text that many have, in a list that few of them are in."""
        monkeypatch.setattr("storage.database.queries.SCANNED_ROWS", 3)
        monkeypatch.setattr("storage.database.search_sql.CANDIDATES_MAX", 4)
        for cached in (list_statement, counts_statement):
            cached.cache_clear()
        population = [an_order(n, note="ring", customer="anna" if n < 4 else "boris") for n in range(1, 10)]
        await apply(database, [entry_of(created(order)) for order in population])
        for tended in (False, True):
            await tend(database, tended)
            assert len(await numbers_found(database, "ring")) == 9
            assert len(await numbers_found(database, "ring", customer="anna")) == 3
        for cached in (list_statement, counts_statement):
            cached.cache_clear()

    async def test_an_order_that_is_deleted_by_hand_leaves_the_index(self, database: Database) -> None:
        population = [an_order(n, note="ring") for n in (1, 2)]
        await apply(database, [entry_of(created(order)) for order in population])
        await tend(database, True)
        self.execute_sql(f"DELETE FROM orders WHERE number = {population[0].number}")
        for tended in (False, True):
            await tend(database, tended)
            assert await numbers_found(database, "ring") == [population[1].number]
