"""Quotes: promises to customers. Each is persisted once, however often the same question is asked."""

from storage.clock import Clock
from storage.database import Database, StoredQuote
from storage.entries import QuoteIssued
from storage.errors import Claimed, NotFound
from storage.ids import new_id
from storage.local import ABSENT, Lru, Sentinel
from storage.shared import SharedTier
from storage.single_flight import KeyedLocks, SingleFlight
from storage.tail import Followed, Tail

QUOTES = 20_000
QUOTES_BYTES = 64 * 2**20


class Quotes:
    """Quotes by id: held here, pending, or in the database."""

    def __init__(self, database: Database, shared: SharedTier, tail: Tail, clock: Clock) -> None:
        self._database = database
        self._shared = shared
        self._tail = tail
        self._clock = clock
        self.lru: Lru[str, StoredQuote] = Lru(QUOTES, QUOTES_BYTES)
        self._flights: SingleFlight[str, StoredQuote | Sentinel] = SingleFlight()
        self._issuing: KeyedLocks[str] = KeyedLocks()
        self.loads = 0

    def apply(self, followed: Followed) -> None:
        """Follow the log by one entry."""
        entry = followed.logged.entry
        if isinstance(entry, QuoteIssued):
            stored = _stored(entry)
            self.lru.put(stored.id, stored, len(stored.body))

    def peek(self, quote_id: str) -> StoredQuote | Sentinel:
        """The quote if it is held here; never waits."""
        return self.lru.get(quote_id)

    async def get(self, quote_id: str) -> StoredQuote:
        """Raises NotFound."""
        found = self.lru.get(quote_id)
        if isinstance(found, StoredQuote):
            return found
        pending = self._tail.pending_quote(quote_id)
        if pending is not None:
            return _stored(pending)
        loaded = await self._flights.do(quote_id, lambda: self._load(quote_id))
        if not isinstance(loaded, StoredQuote):
            raise NotFound("There is no such quote.")
        return loaded

    async def issue(self, quote: StoredQuote, sha256: str) -> StoredQuote:
        """Persist a quote unless it is known; returns the one that was issued first."""
        async with self._issuing.hold(quote.id):
            return await self._issue(quote, sha256)

    async def _issue(self, quote: StoredQuote, sha256: str) -> StoredQuote:
        try:
            known = await self.get(quote.id)
        except NotFound:
            known = None
        if known is not None:
            return known
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
            await self._shared.append(entry)
        except Claimed:  # issued by another process meanwhile
            await self._shared.reach_head()
            return await self.get(quote.id)
        return quote

    async def _load(self, quote_id: str) -> StoredQuote | Sentinel:
        self.loads += 1
        stored = await self._database.load_quote(quote_id)
        if stored is None:
            return ABSENT
        self.lru.put(stored.id, stored, len(stored.body))
        return stored


def _stored(entry: QuoteIssued) -> StoredQuote:
    return StoredQuote(entry.quote_id, entry.tenant, entry.valid_until, entry.body)
