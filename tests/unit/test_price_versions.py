"""Which price list and metal fix are valid when: versions begin and end by the clock, and never change."""

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from pricing.price.formula import price
from pricing.price.options import Options
from pricing.price.price_list import MetalFix, PriceList, read_metal_fix, read_price_list
from storage.database.records import StoredVersion
from storage.errors import Conflict
from storage.log.entries import MetalFixed, PriceListPublished
from storage.services.price_versions import PriceVersions
from storage.services.stack import Storage
from tests.support.price_lists_drawn import FIX, LIST, facts
from tests.support.stacks import ManualClock, opened

HOUR = timedelta(hours=1)


def price_list(
    version: str, starts_at: datetime, ends_at: datetime | None = None, markup: str = "0.25"
) -> PriceList:
    rates = msgspec.structs.replace(LIST.rates, markup=Decimal(markup))
    return msgspec.structs.replace(LIST, version=version, valid_from=starts_at, valid_to=ends_at, rates=rates)


def fix(version: str, fixed_at: datetime, gold: str) -> MetalFix:
    return msgspec.structs.replace(FIX, version=version, fixed_at=fixed_at, gold_per_oz=Decimal(gold))


class Desk:
    """Publishes, and asks what is valid."""

    def __init__(self, storage: Storage, clock: ManualClock) -> None:
        self.clock = clock
        self.lists: PriceVersions[PriceList] = PriceVersions(
            PriceListPublished, read_price_list, storage.change_log, clock
        )
        self.fixes: PriceVersions[MetalFix] = PriceVersions(
            MetalFixed, read_metal_fix, storage.change_log, clock
        )
        storage.change_log.follow(self.lists.apply)
        storage.change_log.follow(self.fixes.apply)

    async def publish(self, record: PriceList | MetalFix) -> None:
        body = msgspec.json.encode(record)
        if isinstance(record, MetalFix):
            await self.fixes.publish(StoredVersion(record.version, record.fixed_at, None, body))
        else:
            await self.lists.publish(StoredVersion(record.version, record.valid_from, record.valid_to, body))

    def current(self) -> str | None:
        record = self.lists.current(self.clock.now())
        return None if record is None else record.version

    def gross(self) -> Decimal | None:
        now = self.clock.now()
        rates, metals = self.lists.current(now), self.fixes.current(now)
        assert rates is not None
        assert metals is not None
        return price(facts(), Options("gold-585-yellow", quantity=3), rates, metals).gross


@pytest.fixture
async def desk(storage: Storage, clock: ManualClock) -> Desk:
    return Desk(storage, clock)


async def test_a_list_that_begins_later_changes_prices_at_that_moment(desk: Desk, clock: ManualClock) -> None:
    now = clock.now()
    await desk.publish(fix("fix", now - HOUR, "2000"))
    await desk.publish(price_list("today", now - HOUR))
    await desk.publish(price_list("later", now + HOUR, markup="0.50"))
    assert (desk.current(), desk.gross()) == ("today", Decimal("852.17"))
    clock.move(HOUR.total_seconds() - 0.001)
    assert (desk.current(), desk.gross()) == ("today", Decimal("852.17"))
    clock.move(0.001)
    assert (desk.current(), desk.gross()) == ("later", Decimal("1022.60"))


async def test_a_metal_fix_of_a_later_moment_changes_prices_then(desk: Desk, clock: ManualClock) -> None:
    now = clock.now()
    await desk.publish(price_list("today", now - HOUR))
    await desk.publish(fix("morning", now, "2000"))
    await desk.publish(fix("evening", now + HOUR, "4000"))
    before = desk.gross()
    clock.move(HOUR.total_seconds())
    after = desk.gross()
    assert before == Decimal("852.17")
    # Only the metal line is twice as dear (to a cent for each piece), with markup and VAT on top.
    assert after is not None
    assert abs(after - (before + Decimal("448.17") * Decimal("1.5"))) <= Decimal("0.05")


async def test_a_list_for_a_season_gives_way_to_the_one_before_it(desk: Desk, clock: ManualClock) -> None:
    now = clock.now()
    await desk.publish(price_list("always", now - HOUR))
    await desk.publish(price_list("sale", now + HOUR, now + 2 * HOUR))
    seen = []
    for _ in range(4):
        seen.append(desk.current())
        clock.move(HOUR.total_seconds())
    assert seen == ["always", "sale", "always", "always"]


async def test_of_lists_that_overlap_the_one_that_begins_last_is_valid(
    desk: Desk, clock: ManualClock
) -> None:
    now = clock.now()
    await desk.publish(price_list("young", now - HOUR))
    await desk.publish(price_list("old", now - 2 * HOUR))
    assert desk.current() == "young"
    await desk.publish(price_list("corrected", now - HOUR))
    assert desk.current() == "corrected"


async def test_without_a_valid_list_there_is_none_and_none_is_guessed(desk: Desk, clock: ManualClock) -> None:
    now = clock.now()
    assert desk.current() is None
    await desk.publish(price_list("over", now - 2 * HOUR, now))
    await desk.publish(price_list("ahead", now + HOUR))
    assert desk.current() is None


async def test_a_version_is_published_once_whatever_it_says(desk: Desk, clock: ManualClock) -> None:
    now = clock.now()
    await desk.publish(price_list("one", now - HOUR))
    with pytest.raises(Conflict, match="never changes"):
        await desk.publish(price_list("one", now - HOUR, markup="0.99"))
    record = desk.lists.current(now)
    assert record is not None
    assert record.rates.markup == Decimal("0.25")
    rivals = [price_list("two", now, markup=f"0.{number}") for number in range(1, 6)]
    results = await asyncio.gather(*(desk.publish(rival) for rival in rivals), return_exceptions=True)
    assert [type(result) for result in results].count(Conflict) == 4


async def test_what_was_published_is_the_same_after_a_restart(tmp_path: Path, clock: ManualClock) -> None:
    now = clock.now()
    async with opened(tmp_path / "data", clock) as storage:
        first = Desk(storage, clock)
        for record in (price_list("a", now - HOUR), price_list("b", now - HOUR), price_list("c", now + HOUR)):
            await first.publish(record)
    async with opened(tmp_path / "data", clock) as storage:
        second = Desk(storage, clock)
        second.lists.load(await storage.database.load_price_lists())
        assert [item.version for item in second.lists.all()] == ["a", "b", "c"]
        for desk in (first, second):
            assert desk.current() == "b"
        clock.move(HOUR.total_seconds())
        assert second.current() == "c"
        known = second.lists.get("b")
        assert known is not None
        assert known[1] == price_list("b", now - HOUR)
