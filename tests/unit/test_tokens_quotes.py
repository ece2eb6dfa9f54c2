"""Tokens, quotes and published versions: they follow the log, and what is promised once stays as it is."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from storage.clock import to_text
from storage.database.records import StoredQuote, StoredVersion
from storage.errors import Conflict, Invalid, NotFound
from storage.log.entries import PriceListPublished
from storage.orders.actors import Role
from storage.services.price_versions import PriceVersions
from storage.services.stack import Storage
from tests.support.changes import START
from tests.support.gates import GatedDatabase, execute, gated_database
from tests.support.stacks import opened

QUOTE = StoredQuote("q", "tenant", START + timedelta(days=1), b'{"gross":"1.00"}')


async def test_a_token_is_valid_from_its_issue_to_its_revocation(storage: Storage) -> None:
    token, secret, _ = await storage.tokens.issue(Role.PARTNER, "Rings", "rings")
    actor = storage.tokens.authenticate(secret)
    assert actor is not None
    assert (actor.token_id, actor.role, actor.name, actor.customer) == (
        token.id,
        Role.PARTNER,
        "Rings",
        "rings",
    )
    assert storage.tokens.authenticate(secret + "x") is None
    await storage.tokens.revoke(token.id)
    assert storage.tokens.authenticate(secret) is None
    assert storage.tokens.list() == []
    with pytest.raises(NotFound):
        await storage.tokens.revoke(token.id)


async def test_tokens_are_known_after_a_restart_and_revoked_ones_are_not(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        kept, secret, _ = await storage.tokens.issue(Role.SHOP, "shop", None)
        gone, gone_secret, _ = await storage.tokens.issue(Role.SHOP, "old", None)
        await storage.tokens.revoke(gone.id)
    async with opened(tmp_path) as storage:
        assert storage.tokens.authenticate(secret) is not None
        assert storage.tokens.authenticate(gone_secret) is None
        assert [token.id for token in storage.tokens.list()] == [kept.id]


async def test_tokens_that_the_database_lacks_are_known_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path, database_type=GatedDatabase, drain_s=0.05) as storage:
        gated_database(storage).away = True
        token, secret, _ = await storage.tokens.issue(Role.SHOP, "shop", None)
        _, other, _ = await storage.tokens.issue(Role.SHOP, "other", None)
        await storage.tokens.revoke(token.id)
    async with opened(tmp_path) as storage:
        assert storage.tokens.authenticate(secret) is None
        assert storage.tokens.authenticate(other) is not None


async def test_no_secret_is_stored(storage: Storage, tmp_path: Path) -> None:
    _, secret, position = await storage.tokens.issue(Role.SHOP, "shop", None)
    await storage.write_behind.wait_for(position.n, 10.0)
    for name in ("facet.db", "facet.db-wal", "log.db", "log.db-wal"):
        path = tmp_path / "data" / name
        assert secret.encode() not in (path.read_bytes() if path.exists() else b"")
    assert execute(tmp_path / "data" / "facet.db", "SELECT count(*) FROM tokens")[0][0] == 1


@pytest.mark.parametrize(
    ("role", "customer"), [(Role.PARTNER, None), (Role.CUSTOMER, None), (Role.SHOP, "c")]
)
async def test_tenants_have_a_customer_and_others_have_none(
    storage: Storage, role: Role, customer: str | None
) -> None:
    with pytest.raises(Invalid):
        await storage.tokens.issue(role, "name", customer)


async def test_the_configured_secret_is_an_admins_and_is_listed_nowhere(storage: Storage) -> None:
    storage.tokens.add_configured("secret of the settings")
    actor = storage.tokens.authenticate("secret of the settings")
    assert actor is not None
    assert actor.role is Role.ADMIN
    assert storage.tokens.list() == []


async def test_a_quote_is_kept_as_it_was_first_issued(storage: Storage) -> None:
    assert (await storage.quotes.issue(QUOTE, "sha"))[0] == QUOTE
    again = StoredQuote("q", "tenant", START + timedelta(days=9), b'{"gross":"2.00"}')
    assert (await storage.quotes.issue(again, "sha"))[0] == QUOTE
    assert await storage.quotes.get("q") == QUOTE
    assert storage.tail.head == 1


async def test_a_quote_is_found_pending_and_in_the_database(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, database_type=GatedDatabase) as storage,
        gated_database(storage).writes.closed(),
    ):
        await storage.quotes.issue(QUOTE, "sha")
        storage.quotes.lru.clear()
        assert await storage.quotes.get("q") == QUOTE
        assert storage.quotes.loads == 1  # before it was issued
    async with opened(tmp_path) as storage:
        found = await asyncio.gather(*(storage.quotes.get("q") for _ in range(50)))
        assert found == [QUOTE] * 50
        assert storage.quotes.loads == 1
        with pytest.raises(NotFound):
            await storage.quotes.get("unknown")


async def test_a_published_version_never_changes_and_the_one_that_begins_last_is_current(
    storage: Storage,
) -> None:
    lists: PriceVersions[str] = PriceVersions(
        PriceListPublished, lambda body: body.decode(), storage.change_log, storage.clock
    )
    storage.change_log.follow(lists.apply)
    days = [START + timedelta(days=n) for n in range(4)]
    await lists.publish(StoredVersion("spring", days[0], None, b"spring"))
    await lists.publish(StoredVersion("sale", days[1], days[2], b"sale"))
    with pytest.raises(Conflict):
        await lists.publish(StoredVersion("sale", days[1], None, b"another"))
    assert [lists.current(day) for day in (days[0], days[1], days[2])] == ["spring", "sale", "spring"]
    assert lists.current(days[0] - timedelta(seconds=1)) is None
    await storage.write_behind.wait_for(storage.tail.head, 10.0)
    again: PriceVersions[str] = PriceVersions(
        PriceListPublished, lambda body: body.decode(), storage.change_log, storage.clock
    )
    again.load(await storage.database.load_price_lists())
    assert again.all() == lists.all()
    assert to_text(again.all()[0].starts_at) == "2026-03-01T09:00:00.000000Z"
