"""Rows <-> records, the same for both engines but for how they keep a moment."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from storage.database.records import DeadLetter, StoredModel, StoredQuote, StoredToken, StoredVersion
from storage.database.schema import ORDER_COLUMNS
from storage.log.entries import (
    AnyEntry,
    Entry,
    MetalFixed,
    OrderChanged,
    PriceListPublished,
    QuoteIssued,
    TokenIssued,
    TokenRevoked,
)
from storage.log.log import LogRecord, Position, logged_of, payload_of, require_known
from storage.orders.actors import Role
from storage.orders.filters import search_text
from storage.orders.order import HistoryItem, Order, OrderPrice, Previous
from storage.orders.unknown_fields import from_json
from storage.orders.workflow import Kind, Status

ORDER_NAMES = ", ".join(ORDER_COLUMNS)
STEP_NAMES = (
    *("id", "version", "status", "status_since", "status_version"),
    *("operator", "quote", "price", "updated_at", "search"),
)
"""What anything but an edit can change of an order."""
UPDATED_NAMES = [name for name in (*ORDER_COLUMNS, "search") if name not in ("id", "number", "created_by")]
"""What a newer state of an order replaces."""
HISTORY_NAMES = (
    "order_id, version, epoch, position, entry_id, kind, from_status, to_status, actor, at, comment, was,"
    " idempotency_key"
)
HISTORY_COLUMNS = "version, kind, from_status, to_status, actor, at, comment, was"
_IS_NEWER = "(length(excluded.analyser), excluded.analyser) >= (length(models.analyser), models.analyser)"
KEEP_NEWER_FACTS = ", ".join(
    f"{name} = CASE WHEN {_IS_NEWER} THEN excluded.{name} ELSE models.{name} END"
    for name in ("analyser", "facts")
)
"""Of two releases side by side neither overwrites what a later analyser has found."""
MODEL_COLUMNS = "sha256, analyser, bytes, facts, first_seen_at, requests_score, requested_at"

Record = TypeVar("Record", bound=msgspec.Struct)
_encode = msgspec.json.Encoder().encode


class Rows:
    """`stored` makes of a moment what the engine keeps, `loaded` the reverse."""

    def __init__(self, stored: Callable[[datetime], Any], loaded: Callable[[Any], datetime]) -> None:
        self._stored = stored
        self._loaded = loaded

    def order_row(self, order: Order) -> tuple[Any, ...]:
        """In the order of ORDER_COLUMNS, then `search`."""
        stored = self._stored
        return (
            order.id,
            order.number,
            order.version,
            order.status.value,
            stored(order.status_since),
            order.status_version,
            order.customer,
            order.operator,
            order.model,
            order.units,
            order.material,
            order.finish,
            order.plating,
            order.quantity,
            order.quote,
            None if order.price is None else _encode(order.price).decode(),
            order.note,
            order.reference,
            None if order.due_at is None else stored(order.due_at),
            stored(order.created_at),
            order.created_by,
            stored(order.updated_at),
            search_text(order),
        )

    def step_row(self, order: Order) -> tuple[Any, ...]:
        """In the order of STEP_NAMES: what a step can have changed."""
        stored = self._stored
        return (
            order.id,
            order.version,
            order.status.value,
            stored(order.status_since),
            order.status_version,
            order.operator,
            order.quote,
            None if order.price is None else _encode(order.price).decode(),
            stored(order.updated_at),
            search_text(order),
        )

    def order_of(self, row: Any) -> Order:
        """From a row of ORDER_COLUMNS."""
        loaded = self._loaded
        return Order(
            id=row[0],
            number=row[1],
            version=row[2],
            status=Status(row[3]),
            status_since=loaded(row[4]),
            status_version=row[5],
            customer=row[6],
            operator=row[7],
            model=row[8],
            units=row[9],
            material=row[10],
            finish=row[11],
            plating=row[12],
            quantity=row[13],
            quote=row[14],
            price=None if row[15] is None else _decoded(row[15], OrderPrice),
            note=row[16],
            reference=row[17],
            due_at=None if row[18] is None else loaded(row[18]),
            created_at=loaded(row[19]),
            created_by=row[20],
            updated_at=loaded(row[21]),
        )

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
            kind=_kind_of(row[1]),
            from_status=None if row[2] is None else Status(row[2]),
            to_status=Status(row[3]),
            actor=row[4],
            at=self._loaded(row[5]),
            comment=row[6],
            was=_decoded(row[7], Previous),
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
        )

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


_decoders: dict[type[msgspec.Struct], Callable[[str], Any]] = {
    kind: msgspec.json.Decoder(kind).decode for kind in (OrderPrice, Previous)
}


def _decoded(text: str, kind: type[Record]) -> Record:
    """A part of a row that is kept as JSON, as far as this release knows it."""
    try:
        found: Record = _decoders[kind](text)
        return found
    except msgspec.ValidationError:
        return from_json(text, kind)


def _kind_of(text: str) -> Kind | str:
    return Kind(text) if text in Kind.__members__.values() else text


def order_id_of(logged: LogRecord) -> str | None:
    return logged.entry.change.order.id if isinstance(logged.entry, OrderChanged) else None
