"""Rows <-> records, the same for both engines but for how they keep a moment."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from storage.database.order_rows import order_rows
from storage.database.records import (
    DECISIONS,
    DeadLetter,
    StoredModel,
    StoredQuote,
    StoredToken,
    StoredVersion,
    Verification,
)
from storage.database.schema import ORDER_COLUMNS
from storage.log.entries import (
    AnyEntry,
    Entry,
    LogRecord,
    MetalFixed,
    OrderChanged,
    Position,
    PriceListPublished,
    QuoteIssued,
    TokenIssued,
    TokenRevoked,
    logged_of,
    payload_of,
    require_known,
)
from storage.orders.actors import Role
from storage.orders.filters import Place, Sort, place_at
from storage.orders.order import HistoryItem, Previous
from storage.orders.unknown_fields import from_json
from storage.orders.workflow import Kind, Status

HISTORY_NAMES = (
    "order_id, version, epoch, position, entry_id, kind, from_status, to_status, actor, at, comment, was,"
    " idempotency_key"
)
HISTORY_COLUMNS = "version, kind, from_status, to_status, actor, at, comment, was"
_IS_NEWER = "(length(excluded.analyser), excluded.analyser) >= (length(models.analyser), models.analyser)"
_DECIDES = "excluded.verification IN ('{}', '{}')".format(*DECISIONS)
_DECIDED = "models.verification IN ('{}', '{}')".format(*DECISIONS)
_PREVAILS = (
    "CASE WHEN excluded.analyser = models.analyser THEN models.verified_at IS NULL"
    f" OR (coalesce({_DECIDES}, false) AND (NOT {_DECIDED} OR excluded.verified_at > models.verified_at))"
    f" ELSE {_IS_NEWER} END"
)
"""As `prevailing` says."""
_KEEP = {
    "analyser": _IS_NEWER,
    "facts": _IS_NEWER,
    "verification": _PREVAILS,
    "verified_at": _PREVAILS,
    "opinion": _PREVAILS,
}
KEEP_NEWER_FACTS = ", ".join(
    f"{name} = CASE WHEN {newer} THEN excluded.{name} ELSE models.{name} END" for name, newer in _KEEP.items()
)
"""Of two releases side by side neither overwrites what a later analyser has found, and of two processes
neither what a person has decided."""
MODEL_COLUMNS = (
    "sha256, analyser, bytes, facts, first_seen_at, requests_score, requested_at, verification, verified_at,"
    " opinion"
)

_encode = msgspec.json.Encoder().encode


class Rows:
    """`stored` makes of a moment what the engine keeps, `loaded` the reverse, `shown` what answers show."""

    def __init__(
        self,
        stored: Callable[[datetime], Any],
        loaded: Callable[[Any], datetime],
        shown: Callable[[Any], Any],
    ) -> None:
        self._stored = stored
        self._loaded = loaded
        self.order_row, self.step_row, self.move_row, self.order_of, self.body_of = order_rows(
            stored, loaded, shown
        )

    def place_of(self, row: Any, sort: Sort) -> Place:
        """Where the order of a row of ORDER_COLUMNS stands."""
        moment = row[ORDER_COLUMNS.index(sort.field)]
        return place_at(None if moment is None else self._loaded(moment), row[0], sort)

    def history_row(self, logged: LogRecord, epoch: int) -> tuple[Any, ...]:
        """Of an entry that is an OrderChanged, in the order of HISTORY_NAMES."""
        entry = logged.entry
        assert isinstance(entry, OrderChanged)
        change = entry.change
        return (
            change.order.id,
            change.order.version,
            epoch,
            logged.n,
            entry.id,
            change.kind.value,
            None if change.from_status is None else change.from_status.value,
            change.to_status.value,
            change.actor,
            self._stored(change.at),
            change.comment,
            _encode(change.was).decode(),
            None if entry.remembered is None else entry.remembered.key,
        )

    def history_of(self, row: Any) -> HistoryItem:
        """From a row of HISTORY_COLUMNS."""
        return HistoryItem(
            version=row[0],
            kind=Kind(row[1]) if row[1] in Kind.__members__.values() else row[1],
            from_status=None if row[2] is None else Status(row[2]),
            to_status=Status(row[3]),
            actor=row[4],
            at=self._loaded(row[5]),
            comment=row[6],
            was=_previous_of(row[7]),
        )

    def other_row(self, entry: object) -> tuple[type[Entry], tuple[Any, ...]] | None:
        """What is stored of an entry that is not an order's; None when there is nothing to store."""
        stored = self._stored
        match entry:
            case QuoteIssued():
                validity = (stored(entry.at), stored(entry.valid_until))
                row: tuple[Any, ...] = (entry.quote_id, entry.sha256, entry.tenant, *validity)
                return QuoteIssued, (*row, entry.body.decode())
            case PriceListPublished():
                until = None if entry.valid_to is None else stored(entry.valid_to)
                validity = (stored(entry.valid_from), until)
                return PriceListPublished, (entry.version, *validity, stored(entry.at), entry.body.decode())
            case MetalFixed():
                moments = (stored(entry.fixed_at), stored(entry.at))
                return MetalFixed, (entry.version, *moments, entry.body.decode())
            case TokenIssued():
                who = (entry.role.value, entry.name, entry.customer)
                return TokenIssued, (entry.token_id, entry.secret_hash, *who, stored(entry.at))
            case TokenRevoked():
                return TokenRevoked, (stored(entry.at), entry.token_id)
        return None

    def answer_row(self, logged: LogRecord, epoch: int) -> tuple[Any, ...]:
        """(scope, epoch, position, payload, at) of an entry that answers a keyed request."""
        entry = logged.entry
        assert entry.remembered is not None
        return (entry.remembered.scope, epoch, logged.n, payload_of(logged), self._stored(entry.at))

    def dead_letter_row(self, logged: LogRecord, epoch: int, error: str) -> tuple[Any, ...]:
        """(id, epoch, position, order_id, error, payload, at)."""
        entry = logged.entry
        order_id = order_id_of(logged)
        return (entry.id, epoch, logged.n, order_id, error, payload_of(logged), self._stored(entry.at))

    def dead_letter_of(self, row: Any) -> tuple[DeadLetter, LogRecord]:
        letter = DeadLetter(
            id=row[0],
            position=str(Position(row[1], row[2])),
            order_id=row[3],
            error=row[4],
            at=self._loaded(row[6]),
        )
        return letter, logged_of(row[2], row[5])

    def model_row(self, model: StoredModel) -> tuple[Any, ...]:
        return (
            model.sha256,
            model.analyser,
            model.byte_count,
            model.facts.decode(),
            self._stored(model.first_seen_at),
            model.score,
            self._stored(model.requested_at),
            *self._verification_row(model.verification),
        )

    def _verification_row(self, found: Verification | None) -> tuple[Any, ...]:
        if found is None:
            return None, None, None
        return found.state, self._stored(found.at), found.body.decode()

    def model_of(self, row: Any, tenants: frozenset[str]) -> StoredModel:
        """From a row of MODEL_COLUMNS."""
        return StoredModel(
            sha256=row[0],
            analyser=row[1],
            byte_count=row[2],
            facts=row[3].encode(),
            first_seen_at=self._loaded(row[4]),
            score=row[5],
            requested_at=self._loaded(row[6]),
            tenants=tenants,
            verification=(
                None if row[7] is None else Verification(row[7], self._loaded(row[8]), row[9].encode())
            ),
        )

    def quote_of(self, row: Any) -> StoredQuote:
        return StoredQuote(row[0], row[1], self._loaded(row[2]), row[3].encode())

    def version_of(self, row: Any) -> StoredVersion:
        ends_at = None if row[2] is None else self._loaded(row[2])
        return StoredVersion(row[0], self._loaded(row[1]), ends_at, row[3].encode())

    def token_of(self, row: Any) -> StoredToken:
        return StoredToken(row[0], row[1], Role(row[2]), row[3], row[4], self._loaded(row[5]))


def answer_of(epoch: int, n: int, payload: bytes) -> tuple[Position, AnyEntry]:
    """Raises Upgrading."""
    return Position(epoch, n), require_known(logged_of(n, payload)).entry


_decode_previous = msgspec.json.Decoder(Previous).decode


def _previous_of(text: str) -> Previous:
    """As far as this release knows it."""
    try:
        return _decode_previous(text)
    except msgspec.ValidationError:
        return from_json(text, Previous)


def order_id_of(logged: LogRecord) -> str | None:
    return logged.entry.change.order.id if isinstance(logged.entry, OrderChanged) else None
