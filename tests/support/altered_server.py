"""The service on a machine whose clock is wrong (TEST_SKEW_S), or with a fault of before planted back
(TEST_PLANT), to see that the drill finds it: `python -m tests.support.altered_server serve ...`. Nothing of
this can be switched on in the service itself.
"""

import os
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from multiprocessing.context import BaseContext

from storage.clock import SystemClock


def skew(seconds: float) -> None:
    """From now on the clock of this machine is ahead by so much."""
    right = SystemClock.now

    def now(self: SystemClock) -> datetime:
        return right(self) + timedelta(seconds=seconds)

    SystemClock.now = now  # type: ignore[method-assign]


def own_clock() -> None:
    """Each server takes the time from its own machine."""
    from storage.clock import SharedClock
    from storage.log.tail import Tail

    Tail.newest_at = property(lambda self: None, lambda self, at: None)  # type: ignore[assignment]
    SharedClock.measured = lambda *_: None  # type: ignore[method-assign]


def network_ends_server() -> None:
    """A lost connection is what the event loop happens to call it, and ends who did not expect that."""
    from storage.redis.change_log import RedisChangeLog
    from storage.redis.connection import RedisConnection

    async def ended(self: RedisConnection, error: BaseException) -> BaseException:
        await self.close()
        return RuntimeError(str(error))

    keep = RedisChangeLog._keep

    async def keep_or_fall(self: RedisChangeLog) -> None:
        met = self._trouble.met

        def met_or_fallen(error: str, cause: BaseException | None = None) -> None:
            met(error, cause)
            if cause is not None:
                os._exit(1)

        self._trouble.met = met_or_fallen  # type: ignore[method-assign]
        await keep(self)

    RedisConnection._ended = ended  # type: ignore[method-assign]
    RedisChangeLog._keep = keep_or_fall  # type: ignore[method-assign]


def lost_commit_is_another_facet() -> None:
    """A position that this process has not heard of was moved by somebody else."""
    from storage.cache.write_behind import WriteBehind
    from storage.errors import Fenced

    async def fenced(self: WriteBehind, old: object, new: object) -> None:
        raise Fenced(f"The database is past {old}: another Facet uses it.")

    WriteBehind._fenced = fenced  # type: ignore[method-assign]


def full_disk_is_internal() -> None:
    """A write that fails is nobody's business."""
    from server.http import problems

    problems.shortage_of = lambda error: None  # type: ignore[attr-defined]


def later_entry_is_fatal() -> None:
    """An entry that this release does not know ends who reads it."""
    from storage.log import entries

    def refuse(data: object) -> entries.AnyEntry:
        os._exit(1)

    entries._later_entry = refuse


def flushed_past() -> None:
    """What this release does not know is flushed past."""
    from storage.log.tail import Tail

    Tail.batch = lambda self, limit: list(self._waiting)[:limit]  # type: ignore[method-assign]
    Tail.blocked = False  # type: ignore[method-assign, assignment]


def tokens_as_held() -> None:
    """A token that is not held here is not valid."""
    from storage.services.tokens import Tokens

    async def find(self: Tokens, secret: str) -> object:
        return self.authenticate(secret)

    Tokens.find = find  # type: ignore[method-assign, assignment]


def quotes_as_held() -> None:
    """A quote that is neither held here nor in the database does not exist."""
    from storage.errors import NotFound
    from storage.services.quotes import Quotes

    async def get(self: Quotes, quote_id: str) -> object:
        found = await self._find(quote_id)
        if found is None:
            raise NotFound("There is no such quote.")
        return found

    Quotes.get = get  # type: ignore[method-assign, assignment]


def positions_ignored() -> None:
    """Histories are shown as they are held, whatever the caller has seen."""
    from server.http.request import Call

    begin = Call.begin

    async def begun(self: Call) -> None:
        if not self.request.path.endswith("/history"):
            await begin(self)

    Call.begin = begun  # type: ignore[method-assign]


def long_polls_sleep_on() -> None:
    """Who waits for a change is not woken by a new epoch of the log, and is then told what the wait began
    with."""
    from server.api.orders import orders

    async def find(call: object, tag: Callable[[object], int]) -> object:
        found = await orders._visible(call)  # type: ignore[arg-type]
        wait_s = call.preferences.wait_s  # type: ignore[attr-defined]
        if wait_s is not None and orders.if_none_match(call.request, f'"{tag(found.held)}"'):  # type: ignore[attr-defined]
            await call.storage.reads.wait_for_change(found.held.id, wait_s)  # type: ignore[attr-defined]
        return found, {}

    orders._find = find  # type: ignore[assignment]


def kept_answers_do_not_wait() -> None:
    """A take that is already so is repeated by the log's word."""
    from storage.services import orders as book

    book._was_given = lambda order: False


def workers_planted() -> None:
    """The workers that read models have a fault: see `tests.support.planted_workers`."""
    from pricing import pool

    right = pool._context

    def planted() -> BaseContext:
        context = right()
        context.set_forkserver_preload(
            ["pricing.pool", "pricing.mesh.warmed", "tests.support.planted_workers"]
        )
        return context

    pool._context = planted


PLANTS: dict[str, Callable[[], None]] = {
    plant.__name__: plant
    for plant in (
        own_clock,
        network_ends_server,
        lost_commit_is_another_facet,
        full_disk_is_internal,
        later_entry_is_fatal,
        flushed_past,
        tokens_as_held,
        quotes_as_held,
        positions_ignored,
        kept_answers_do_not_wait,
        long_polls_sleep_on,
    )
}


def main() -> int:
    if seconds := os.environ.get("TEST_SKEW_S"):
        skew(float(seconds))
    if name := os.environ.get("TEST_PLANT"):
        PLANTS[name]()
    if "TEST_PLANT_WORKERS" in os.environ:
        workers_planted()
    from server.commands.cli import main as serve

    return serve(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
