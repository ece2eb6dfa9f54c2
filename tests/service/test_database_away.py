"""PostgreSQL that is killed, stopped, locked or cut off: calls end in time and nothing happens twice."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from server.demo.private_servers.servers import PostgresServer
from storage.database.contract import Database
from storage.errors import DatabaseUnavailable, Fenced
from storage.log.entries import Position
from storage.orders.filters import ListQuery
from storage.postgresql.connection import connect, is_refusal, session, unavailable
from storage.postgresql.database import PostgresDatabase
from storage.postgresql.migrate import migrate_postgresql
from tests.contracts.database import life
from tests.support.changes import apply, entry_of, id_of, logged
from tests.support.engines import execute, query
from tests.support.gates import DEADLINE_S, until
from tests.support.proxies import proxied

READ_S, WRITE_S = 0.4, 1.5
PATIENCE_S = 1.5
"""How much later than its deadline an answer may come on a busy machine."""
FIRST = [entry_of(life()[0])]


@pytest.fixture
async def url(postgres_server: PostgresServer) -> str:
    postgres_server.start()
    url = postgres_server.create_database(f"facet_{secrets.token_hex(6)}")
    await migrate_postgresql(url)
    return url


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresDatabase]:
    database = PostgresDatabase(url, 4, READ_S, WRITE_S, keeps_answers=True)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def database(url: str) -> AsyncIterator[PostgresDatabase]:
    async with opened(url) as database:
        yield database


async def insist(act: Callable[[], Awaitable[object]]) -> None:
    """Again and again, as write-behind does, until the database is there."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await act()
            except DatabaseUnavailable:
                continue
            return


async def fails_within(seconds: float, act: Awaitable[object]) -> str:
    began_s = time.monotonic()
    with pytest.raises(DatabaseUnavailable) as caught:
        await act
    assert time.monotonic() - began_s < seconds + PATIENCE_S
    assert "\n" not in caught.value.detail
    return caught.value.detail


async def test_a_stopped_server_is_noticed_in_time_and_serves_again_afterwards(
    postgres_server: PostgresServer, database: Database
) -> None:
    await apply(database, FIRST)
    await database.load_order(id_of(1))
    postgres_server.pause()
    try:
        write = asyncio.create_task(apply_at(database, 1))
        await fails_within(READ_S, database.load_order(id_of(1)))
        await fails_within(READ_S, database.load_list(ListQuery(), 10))
        assert not write.done(), "the reads were over before the write was"
        await fails_within(WRITE_S, write)
        await fails_within(WRITE_S, apply_at(database, 1))
    finally:
        postgres_server.resume()
    await insist(lambda: database.load_order(id_of(1)))
    await insist(lambda: apply_or_done(database, 1))
    assert await database.position() == Position(1, 2)
    assert await database.load_order(id_of(1)) == life()[1].order


async def apply_at(database: Database, n: int) -> object:
    """The n-th change of the first order, from 0, at the position before it."""
    return await database.apply(logged([entry_of(life()[n])], after=n), Position(1, n), Position(1, n + 1))


async def apply_or_done(database: Database, n: int) -> None:
    """As write-behind does: who is fenced looks at the position."""
    try:
        await apply_at(database, n)
    except Fenced:
        assert await database.position() == Position(1, n + 1)


async def test_a_killed_server_is_away_until_it_is_back(
    postgres_server: PostgresServer, database: Database
) -> None:
    await apply(database, FIRST)
    postgres_server.kill()
    await fails_within(READ_S, database.load_order(id_of(1)))
    await fails_within(WRITE_S, apply_at(database, 1))
    await fails_within(READ_S, database.position())
    postgres_server.start()
    await database.load_order(id_of(1))
    await apply_at(database, 1)
    assert await database.load_order(id_of(1)) == life()[1].order


async def test_a_server_that_is_away_cannot_be_opened_or_migrated(
    postgres_server: PostgresServer, url: str
) -> None:
    await fails_within(1, migrate_postgresql(f"{url}_unknown"))
    postgres_server.kill()
    try:
        await fails_within(1, migrate_postgresql(url))
        await fails_within(READ_S, PostgresDatabase(url, 4, READ_S, keeps_answers=True).open())
    finally:
        postgres_server.start()


async def test_the_position_tells_whether_a_commit_happened_whose_answer_was_lost(
    postgres_server: PostgresServer, url: str
) -> None:
    port = str(postgres_server.port)
    async with proxied(int(port)) as proxy, opened(url.replace(port, str(proxy.port))) as database:
        proxy.lose_answer_to = b"COMMIT\0"
        with pytest.raises(DatabaseUnavailable):
            await apply(database, [*FIRST, entry_of(life(2)[1])])
        assert proxy.lost.is_set()
        proxy.lose_answer_to = None
        assert await database.position() == Position(1, 2)
        assert await database.rejected(Position(1, 0), Position(1, 2)) == {2: "gap: version 2 follows 0"}
        with pytest.raises(Fenced):
            await database.apply(logged(FIRST), Position(1, 0), Position(1, 1))
        assert len(await database.load_history(id_of(1))) == 1


async def test_a_server_killed_within_a_commit_has_all_of_it_or_nothing(
    postgres_server: PostgresServer, url: str, database: Database
) -> None:
    """The COMMIT was sent and waits for a lock: it did not happen."""
    execute(
        url,
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$",
    )
    execute(
        url,
        "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON order_history DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION wait()",
    )
    async with session(url, 5.0) as holder:
        await holder.execute("SELECT pg_advisory_lock(1)")
        write = asyncio.create_task(apply_at(database, 0))
        await until(
            lambda: query(url, "SELECT FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'active'")
        )
        postgres_server.kill()
        await fails_within(WRITE_S, write)
    postgres_server.start()
    assert await database.position() == Position(1, 0)
    assert await database.load_history(id_of(1)) == []
    await apply_at(database, 0)
    assert await database.load_order(id_of(1)) == life()[0].order


async def test_a_writer_that_stops_inside_its_transaction_does_not_hold_others_up(
    url: str, database: Database
) -> None:
    stopped = await connect(url, 5.0)
    await stopped.execute("BEGIN")
    await stopped.execute("UPDATE log_positions SET position = 77")
    await fails_within(WRITE_S, apply_at(database, 0))
    assert await database.load_order(id_of(1)) is None, "reads go on"
    await insist(lambda: apply_at(database, 0))
    assert await database.position() == Position(1, 1)
    stopped.terminate()


async def test_a_write_that_waits_for_a_lock_holds_up_no_read_and_gives_up(
    url: str, database: Database
) -> None:
    async with session(url, 5.0) as other:
        await other.execute("BEGIN")
        await other.execute("LOCK TABLE order_history IN EXCLUSIVE MODE")
        write = asyncio.create_task(apply_at(database, 0))
        await until(lambda: query(url, "SELECT FROM pg_locks WHERE NOT granted"))
        assert await database.load_order(id_of(1)) is None
        assert await database.hold_lease("flusher", "a", 60)
        assert await database.lease_numbers(5) == range(1001, 1006)
        assert not write.done()
        assert "lock timeout" in await fails_within(WRITE_S, write)
        await other.execute("ROLLBACK")
    await apply_at(database, 0)


async def test_uniting_waits_until_a_batch_of_another_process_is_in(url: str, database: Database) -> None:
    async with session(url, 5.0) as other:
        await other.execute("BEGIN")
        await other.execute("UPDATE log_positions SET position = 0")
        await fails_within(WRITE_S, database.recover_entries(logged(FIRST), 1))
        await other.execute("ROLLBACK")
    assert await database.recover_entries(logged(FIRST), 1) == []


async def test_a_caller_that_is_cancelled_leaves_no_transaction_behind(url: str, database: Database) -> None:
    async with session(url, 5.0) as other:
        await other.execute("BEGIN")
        await other.execute("LOCK TABLE order_history IN EXCLUSIVE MODE")
        write = asyncio.create_task(apply_at(database, 0))
        await until(lambda: query(url, "SELECT FROM pg_locks WHERE NOT granted"))
        write.cancel()
        await other.execute("ROLLBACK")
    await insist(lambda: apply_or_done(database, 0))
    assert await database.position() == Position(1, 1)
    assert not query(url, "SELECT FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'")


async def test_of_two_processes_at_one_position_one_is_fenced(url: str, database: Database) -> None:
    async with opened(url) as other:
        results = await asyncio.gather(apply_at(database, 0), apply_at(other, 0), return_exceptions=True)
        assert [type(result) for result in results if isinstance(result, BaseException)] == [Fenced]
        assert len(await other.load_history(id_of(1))) == 1


async def test_connections_that_the_server_ends_are_opened_again(url: str, database: Database) -> None:
    await apply(database, FIRST)
    await database.load_order(id_of(1))
    execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'facet' AND datname = current_database()",
    )
    await insist(lambda: database.load_order(id_of(1)))
    await insist(lambda: apply_at(database, 1))
    assert await database.position() == Position(1, 2)


async def test_a_session_is_set_up_so_that_it_holds_nobody_up_for_long(url: str) -> None:
    async with session(url, 3.0) as connection:
        found = {
            name: await connection.fetchval(f"SHOW {name}")
            for name in (
                "application_name",
                "idle_in_transaction_session_timeout",
                "lock_timeout",
                "statement_timeout",
                "synchronous_commit",
                "TimeZone",
            )
        }
    assert list(found.values()) == ["facet", "2s", "1s", "3s", "on", "UTC"]


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.TooManyConnectionsError("sorry, too many clients already\nmore"),
        asyncpg.DiskFullError("could not extend file"),
        asyncpg.AdminShutdownError("terminating connection"),
        asyncpg.CannotConnectNowError("the database system is starting up"),
        asyncpg.ReadOnlySQLTransactionError("cannot execute UPDATE in a read-only transaction"),
        asyncpg.DeadlockDetectedError("deadlock detected"),
        asyncpg.InterfaceError("connection is closed"),
        ConnectionResetError("reset by peer"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_may_be_different_next_time_is_no_refusal_and_said_in_one_line(error: Exception) -> None:
    assert not is_refusal(error)
    assert unavailable(error).detail.startswith("PostgreSQL is not available: ")
    assert "\n" not in unavailable(error).detail
