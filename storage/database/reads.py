"""What is read from the database, once for every engine. An engine says how a statement is run, and the few
words in which its SQL differs.

Statements have the placeholders of PostgreSQL, each once and in order: `$1`, `$2`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from storage.database.order_rows import ORDER_NAMES
from storage.database.queries import (
    QueryShape,
    Values,
    Way,
    counts_question,
    counts_statement,
    list_question,
    list_statement,
    rows_statement,
)
from storage.database.records import (
    CountsSnapshot,
    DeadLetter,
    Epoch,
    ListSnapshot,
    RowsSnapshot,
    StoredModel,
    StoredQuote,
    StoredToken,
    StoredVersion,
)
from storage.database.rows import HISTORY_COLUMNS, MODEL_COLUMNS, Rows, answer_of
from storage.database.schema import ORDERS_POSITION
from storage.log.entries import AnyEntry, LogRecord, Position
from storage.orders.filters import ListQuery, OrderFilter
from storage.orders.order import HistoryItem, Order
from storage.orders.workflow import Status


class Words(NamedTuple):
    """Where the SQL of engines differs. `inserted`: a column that grows with every row; `tenants`: all of a
    model's, as one value that `read_tenants` understands; `most_popular`: an order by popularity, with the
    half-life as its parameter; `candidates`: numbers of orders that the search index has `:tokens` for."""

    inserted: str
    tenants: str
    most_popular: str
    candidates: str
    read_tenants: Callable[[Any], frozenset[str]]


class Reads(ABC):
    def __init__(self, rows: Rows, words: Words) -> None:
        self._rows = rows
        self._words = words
        self._models = (
            f"SELECT {MODEL_COLUMNS}, (SELECT {words.tenants} FROM model_tenants AS t"
            " WHERE t.sha256 = models.sha256) FROM models"
        )

    @abstractmethod
    async def _fetch(self, sql: str, *parameters: Any) -> list[Any]:
        """All rows of one statement. Raises DatabaseUnavailable."""

    @abstractmethod
    async def _select(self, statement: sa.Select[Any], values: Values) -> list[Any]:
        """The same of a composed statement with these values for its names; no row at all when it asks for
        what no column can hold."""

    async def _find(self, sql: str, *parameters: Any) -> list[Any]:
        """As `_fetch`, for values that callers give: one that no column can hold is not found."""
        return await self._fetch(sql, *parameters)

    async def position(self) -> Position:
        return (await self.epoch()).position

    async def epoch(self) -> Epoch:
        ((epoch, n, lineage),) = await self._fetch(
            "SELECT epoch, position, lineage FROM log_positions WHERE name = $1", ORDERS_POSITION
        )
        return Epoch(Position(epoch, n), lineage)

    async def installation(self) -> str:
        return str((await self._fetch("SELECT id FROM installation"))[0][0])

    async def load_order(self, order_id: str) -> Order | None:
        rows = await self._find(_SELECT_ORDER, order_id)
        return self._rows.order_of(rows[0]) if rows else None

    async def load_history(self, order_id: str) -> list[HistoryItem]:
        rows = await self._find(
            f"SELECT {HISTORY_COLUMNS} FROM order_history WHERE order_id = $1 ORDER BY version", order_id
        )
        return [self._rows.history_of(row) for row in rows]

    async def load_list(self, query: ListQuery, limit: int) -> ListSnapshot:
        position, rows = await self._load(query, limit)
        return ListSnapshot(position, [self._rows.order_of(row) for row in rows])

    async def load_rows(self, query: ListQuery, limit: int) -> RowsSnapshot:
        position, rows = await self._load(query, limit)
        place_of, body_of, sort = self._rows.place_of, self._rows.body_of, query.sort
        return RowsSnapshot(position, [(place_of(row, sort), body_of(row)) for row in rows])

    async def _load(self, query: ListQuery, limit: int) -> tuple[Position, list[Any]]:
        """Rows of ORDER_COLUMNS, and more behind them."""
        found: list[Any] = []
        for way in _ways(query.filter):
            shape, values = list_question(query, limit, way)
            rows = await self._rows_of(shape, values)
            found = [row[2:] for row in map(tuple, rows) if row[2] is not None]
            if _is_whole(way, rows) or len(found) == limit:
                break
        return await self._position_of(rows), found

    async def _rows_of(self, shape: QueryShape, values: Values) -> list[Any]:
        """Position and columns of the rows of a list, all of one snapshot; of an empty one a row of nulls."""
        statement = rows_statement(shape)
        if statement is not None and (rows := await self._select(statement, values)):
            return rows
        return await self._select(list_statement(shape, self._words.candidates), values)

    async def load_counts(self, order_filter: OrderFilter) -> CountsSnapshot:
        for way in _ways(order_filter)[-2:]:
            shape, values = counts_question(order_filter, way)
            rows = await self._select(counts_statement(shape, self._words.candidates), values)
            if _is_whole(way, rows):
                break
        counts = {Status(row[2]): row[3] for row in rows if row[2] is not None}
        return CountsSnapshot(await self._position_of(rows), counts)

    async def _position_of(self, rows: list[Any]) -> Position:
        """Each row of a snapshot begins with its position."""
        return Position(rows[0][0], rows[0][1]) if rows else await self.position()

    async def find_reference(self, created_by: str, reference: str) -> str | None:
        rows = await self._find(
            "SELECT id FROM orders WHERE created_by = $1 AND reference = $2", created_by, reference
        )
        return rows[0][0] if rows else None

    async def load_quote(self, quote_id: str) -> StoredQuote | None:
        rows = await self._find("SELECT id, tenant, valid_until, body FROM prices WHERE id = $1", quote_id)
        return self._rows.quote_of(rows[0]) if rows else None

    async def load_model(self, sha256: str) -> StoredModel | None:
        rows = await self._find(f"{self._models} WHERE sha256 = $1", sha256)
        return self._model_of(rows[0]) if rows else None

    async def load_popular_models(self, limit: int, half_life_s: float) -> list[StoredModel]:
        statement = f"{self._models} ORDER BY {self._words.most_popular} DESC LIMIT $2"
        return [self._model_of(row) for row in await self._fetch(statement, half_life_s, limit)]

    async def load_models_that_differ(self, limit: int) -> list[StoredModel]:
        statement = (
            f"{self._models} WHERE verification IN ('differs', 'rejected') ORDER BY verified_at DESC LIMIT $1"
        )
        return [self._model_of(row) for row in await self._fetch(statement, limit)]

    def _model_of(self, row: Any) -> StoredModel:
        return self._rows.model_of(row, self._words.read_tenants(row[-1]))

    async def load_price_lists(self) -> list[StoredVersion]:
        return await self._load_versions("version, valid_from, valid_to, body FROM price_lists")

    async def load_metal_fixes(self) -> list[StoredVersion]:
        return await self._load_versions("version, fixed_at, NULL, body FROM metal_fixes")

    async def _load_versions(self, columns: str) -> list[StoredVersion]:
        rows = await self._fetch(f"SELECT {columns} ORDER BY published_at, {self._words.inserted}")
        return [self._rows.version_of(row) for row in rows]

    async def load_tokens(self) -> list[StoredToken]:
        rows = await self._fetch(
            "SELECT id, secret_hash, role, name, customer, created_at FROM tokens"
            " WHERE revoked_at IS NULL ORDER BY created_at, id"
        )
        return [self._rows.token_of(row) for row in rows]

    async def load_dead_letters(self) -> list[tuple[DeadLetter, LogRecord]]:
        rows = await self._fetch(
            "SELECT id, epoch, position, order_id, error, payload, at FROM dead_letters"
            " ORDER BY epoch, position"
        )
        return [self._rows.dead_letter_of(row) for row in rows]

    async def rejected(self, old: Position, new: Position) -> dict[int, str]:
        rows = await self._fetch(
            "SELECT position, error FROM dead_letters WHERE epoch = $1 AND position > $2 AND position <= $3",
            old.epoch,
            old.n,
            new.n,
        )
        return {row[0]: row[1] for row in rows}

    async def find_answer(self, scope: str) -> tuple[Position, AnyEntry] | None:
        rows = await self._find("SELECT epoch, position, payload FROM answers WHERE scope = $1", scope)
        return answer_of(*rows[0]) if rows else None


def _ways(order_filter: OrderFilter) -> Sequence[Way]:
    """One after the other, until what is found is all there is to find."""
    return (Way.SCAN,) if order_filter.q is None else (Way.FIRST_ROWS, Way.CANDIDATES, Way.SCAN)


def _is_whole(way: Way, rows: Sequence[Any]) -> bool:
    return way is Way.SCAN or (way is Way.CANDIDATES and bool(rows) and bool(rows[0][-1]))


_SELECT_ORDER = f"SELECT {ORDER_NAMES} FROM orders WHERE id = $1"
