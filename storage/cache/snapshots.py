"""Snapshots of lists and counts, as processes hand them to each other: rows, and the position they are of.

However old a snapshot is, the log brings it up to date; when the log no longer reaches back so far, it is of
no use.
"""

import hashlib

import msgspec

from storage.database.records import CountsSnapshot, ListSnapshot
from storage.log.entries import Invalidated, Position
from storage.log.tail import Tail
from storage.orders.filters import ListQuery, OrderFilter
from storage.orders.order import Order
from storage.orders.workflow import Status
from storage.shared.cache import SharedCache

FORMAT = 1
TTL_S = 3600.0


class _Kept(msgspec.Struct, array_like=True):
    format: int
    epoch: int
    n: int
    rows: list[msgspec.Raw]
    counts: dict[Status, int]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Kept).decode
_decode_order = msgspec.json.Decoder(Order).decode
_COMMON = frozenset({"statuses", "operator", "customer"})
"""Lists that many ask for. Others, a search say, are not worth a copy."""


class Snapshots:
    def __init__(self, copies: SharedCache, tail: Tail) -> None:
        self._copies = copies
        self._tail = tail

    async def find_list(self, query: ListQuery) -> ListSnapshot | None:
        kept = await self._find(query) if _is_common(query.filter) and query.after is None else None
        if kept is None:
            return None
        try:
            return ListSnapshot(Position(kept.epoch, kept.n), [_decode_order(row) for row in kept.rows])
        except msgspec.ValidationError:  # of a later release
            return None

    async def find_counts(self, order_filter: OrderFilter) -> CountsSnapshot | None:
        kept = await self._find(order_filter) if _is_common(order_filter) else None
        return None if kept is None else CountsSnapshot(Position(kept.epoch, kept.n), kept.counts)

    def keep_list(self, query: ListQuery, snapshot: ListSnapshot) -> None:
        if _is_common(query.filter) and query.after is None:
            position, rows = snapshot.position, [msgspec.Raw(_encode(order)) for order in snapshot.rows]
            self._keep(query, _Kept(FORMAT, position.epoch, position.n, rows, {}))

    def keep_counts(self, order_filter: OrderFilter, snapshot: CountsSnapshot) -> None:
        if _is_common(order_filter):
            position, counts = snapshot.position, snapshot.counts
            self._keep(order_filter, _Kept(FORMAT, position.epoch, position.n, [], counts))

    async def _find(self, query: ListQuery | OrderFilter) -> _Kept | None:
        if (value := await self._copies.get(_key(query))) is None:
            return None
        try:
            kept = _decode(value)
        except msgspec.DecodeError:
            return None
        followed = self._tail.since(kept.n) if kept.epoch == self._tail.epoch else None
        if kept.format != FORMAT or followed is None:
            return None
        if any(isinstance(entry.logged.entry, Invalidated) for entry in followed):
            return None  # the database was changed by hand since
        return kept

    def _keep(self, query: ListQuery | OrderFilter, kept: _Kept) -> None:
        self._copies.put(_key(query), _encode(kept), TTL_S)


def _is_common(order_filter: OrderFilter) -> bool:
    empty = OrderFilter()
    return all(
        getattr(order_filter, name) == getattr(empty, name)
        for name in order_filter.__struct_fields__
        if name not in _COMMON
    )


def _key(query: ListQuery | OrderFilter) -> str:
    described = repr((type(query).__name__, _plain(query))).encode()
    return f"view:{hashlib.blake2b(described, digest_size=16).hexdigest()}"


def _plain(query: ListQuery | OrderFilter) -> object:
    """The same text in every process: sets have no order of their own."""
    if isinstance(query, ListQuery):
        return (_plain(query.filter), query.sort.field.value, query.sort.descending)
    statuses = query.statuses
    return (sorted(statuses) if statuses else None, query.operator, query.customer)
