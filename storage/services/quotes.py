"""Quotes: promises to customers. Each is persisted once, however often the same question is asked."""

from storage.clock import Clock
from storage.database.contract import Database
from storage.database.records import StoredQuote
from storage.errors import Behind, Claimed, NotFound
from storage.ids import new_id
from storage.log.change_log import ChangeLog
from storage.log.entries import Position, QuoteIssued
from storage.log.tail import AppliedEntry, Tail
from storage.memory.keyed_locks import KeyedLocks
from storage.memory.lru import ABSENT, Lru, Sentinel
from storage.memory.single_flight import SingleFlight

QUOTES = 20_000
QUOTES_BYTES = 64 * 2**20


class Quotes:
    """Quotes by id: held here, pending, or in the database."""

    def __init__(self, database: Database, change_log: ChangeLog, tail: Tail, clock: Clock) -> None:
        self._database = database
        self._change_log = change_log
        self._tail = tail
        self._clock = clock
        self.lru: Lru[str, StoredQuote] = Lru(QUOTES, QUOTES_BYTES)
        self._flights: SingleFlight[str, StoredQuote | Sentinel] = SingleFlight()
        self._issuing: KeyedLocks[str] = KeyedLocks()
        self.loads = 0

    def apply(self, followed: AppliedEntry) -> None:
        """Follow the log by one entry."""
        entry = followed.logged.entry
        if isinstance(entry, QuoteIssued):
            stored = _stored(entry)
            self.lru.put(stored.id, stored, len(stored.body))

    def peek(self, quote_id: str) -> StoredQuote | Sentinel:
        """The quote if it is held here; never waits."""
        return self.lru.get(quote_id)

    async def get(self, quote_id: str) -> StoredQuote:
        """Raises NotFound; Behind when it cannot be known whether another process has issued it."""
        found = await self._find(quote_id)
        if found is None:  # another process may have issued it a moment ago
            if not await self._change_log.reach_head():
                raise Behind("This process cannot say whether there is such a quote.")
            found = self._followed(quote_id)
        if found is None:
            raise NotFound("There is no such quote.")
        return found

    async def find(self, quote_id: str) -> StoredQuote | None:
        """A quote that this process has followed the log to, or that the database has."""
        return await self._find(quote_id)

    async def issue(self, quote: StoredQuote, sha256: str) -> tuple[StoredQuote, Position | None]:
        """Persist a quote unless it is known: the one that was issued first, and where the log has it when
        that was now."""
        async with self._issuing.hold(quote.id):
            known = await self._find(quote.id)
            return (known, None) if known is not None else await self._issue(quote, sha256)

    def _followed(self, quote_id: str) -> StoredQuote | None:
        """What this process has followed the log to, or loaded before."""
        held = self.lru.get(quote_id)
        if isinstance(held, StoredQuote):
            return held
        pending = self._tail.pending_quote(quote_id)
        return None if pending is None else _stored(pending)

    async def _find(self, quote_id: str) -> StoredQuote | None:
        if (known := self._followed(quote_id)) is not None:
            return known
        loaded = await self._flights.do(quote_id, lambda: self._load(quote_id))
        return loaded if isinstance(loaded, StoredQuote) else None

    async def _issue(self, quote: StoredQuote, sha256: str) -> tuple[StoredQuote, Position | None]:
        now = self._clock.now()
        entry = QuoteIssued(
            id=new_id(now),
            at=now,
            quote_id=quote.id,
            sha256=sha256,
            tenant=quote.tenant,
            valid_until=quote.valid_until,
            body=quote.body,
        )
        try:
            return quote, await self._change_log.append(entry)
        except Claimed:  # issued by another process meanwhile
            return await self.get(quote.id), self._stands

    @property
    def _stands(self) -> Position:
        return Position(self._tail.epoch, self._tail.head)

    async def _load(self, quote_id: str) -> StoredQuote | Sentinel:
        self.loads += 1
        if (stored := await self._database.load_quote(quote_id)) is None:
            return ABSENT
        self.lru.put(stored.id, stored, len(stored.body))
        return stored


def _stored(entry: QuoteIssued) -> StoredQuote:
    return StoredQuote(entry.quote_id, entry.tenant, entry.valid_until, entry.body)
