"""What the database must say after a scripted day, checked with plain SQL and a transition table of its own.

The table is written down here once more on purpose: a mistake in the service's own would pass by it.
"""

import itertools
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

LINE = (
    "INITIATED",
    "FILE_UPLOADED",
    "SUBMITTED",
    "PRICE_CALCULATED",
    "MANUFACTURING_APPROVED",
    "MANUFACTURING_STARTED",
    "MANUFACTURING_COMPLETED",
    "PACKAGING",
    "SHIPPED",
    "CLOSED",
)
APPROVED, STARTED = "MANUFACTURING_APPROVED", "MANUFACTURING_STARTED"
LEGAL: dict[tuple[str | None, str], str] = {
    (None, "INITIATED"): "create",
    **dict.fromkeys(itertools.pairwise(LINE), "status"),
    **{(status, "CANCELLED"): "status" for status in LINE[:8]},
    (APPROVED, STARTED): "take",
    (STARTED, APPROVED): "release",
}
"""(from, to) -> the kind of step. Comments stay where they are."""


class Acknowledged(NamedTuple):
    """A change that a client was told is made. `operator`: whom the answer named as the order's operator.
    `or_by`: keys of earlier requests for the same, any of which may have made it."""

    order_id: str
    version: int
    key: str
    actor: str
    status: str
    operator: str | None
    or_by: tuple[str, ...] = ()


class Row(NamedTuple):
    """A row of `order_history`."""

    order_id: str
    version: int
    kind: str
    before: str | None
    after: str
    actor: str
    at: str
    key: str | None


class State(NamedTuple):
    """A row of `orders`."""

    id: str
    version: int
    status: str
    operator: str | None
    updated_at: str


_HISTORY = (
    "SELECT order_id, version, kind, from_status, to_status, actor, at, idempotency_key"
    " FROM order_history ORDER BY order_id, version"
)


def violations(database: Path, acknowledged: Iterable[Acknowledged]) -> list[str]:
    """Everything in the database that contradicts the contract or what the clients were told."""
    connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
    try:
        rows = [Row(*row) for row in connection.execute(_HISTORY)]
        states = {
            row[0]: State(*row)
            for row in connection.execute("SELECT id, version, status, operator, updated_at FROM orders")
        }
        dead_letters = connection.execute("SELECT count(*) FROM dead_letters").fetchone()[0]
    finally:
        connection.close()
    return judged(rows, states, dead_letters, acknowledged)


def judged(
    rows: list[Row], states: dict[str, State], dead_letters: int, acknowledged: Iterable[Acknowledged]
) -> list[str]:
    """The same of what was read from any database: the history in the order of orders and versions."""
    acknowledged = list(acknowledged)
    return [
        *([f"{dead_letters} dead letters"] if dead_letters else []),
        *_contradictions(rows, states),
        *_lost_or_doubled(rows, acknowledged),
        *_told_both(acknowledged),
    ]


def _contradictions(rows: list[Row], states: dict[str, State]) -> Iterator[str]:
    histories: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        histories[row.order_id].append(row)
    for order_id in states.keys() - histories.keys():
        yield f"{order_id} has no history"
    for order_id, history in histories.items():
        yield from _history_faults(order_id, history)
        yield from _row_faults(states.get(order_id), order_id, history)


def _history_faults(order_id: str, history: list[Row]) -> Iterator[str]:
    if [row.version for row in history] != list(range(1, len(history) + 1)):
        yield f"{order_id} has versions {[row.version for row in history]}"
    status: str | None = None
    for row in history:
        if row.before != status:
            yield f"{order_id} version {row.version} starts from {row.before}, the order was {status}"
        if row.kind == "comment":
            legal = row.before == row.after
        else:
            legal = LEGAL.get((row.before, row.after)) == row.kind
        if not legal:
            yield f"{order_id} version {row.version}: {row.kind} from {row.before} to {row.after}"
        status = row.after
    yield from _double_takes(order_id, history)


def _double_takes(order_id: str, history: list[Row]) -> Iterator[str]:
    holder: str | None = None
    for row in history:
        if row.kind == "take":
            if holder is not None:
                yield f"{order_id} was taken by {row.actor} while {holder} had it"
            holder = row.actor
        elif row.kind == "release":
            holder = None


def _row_faults(state: State | None, order_id: str, history: list[Row]) -> Iterator[str]:
    last = history[-1]
    if state is None:
        yield f"{order_id} has a history and no row"
    elif (state.version, state.status, state.updated_at) != (last.version, last.after, last.at):
        yield f"{order_id}: the row says {state}, the history ends with {last}"
    elif state.operator != _holder(history):
        yield f"{order_id}: the row names {state.operator}, by the history it is {_holder(history)}"


def _holder(history: list[Row]) -> str | None:
    given = [row for row in history if row.kind in ("take", "release")]
    return given[-1].actor if given and given[-1].kind == "take" else None


def _lost_or_doubled(rows: list[Row], acknowledged: list[Acknowledged]) -> Iterator[str]:
    by_place = {(row.order_id, row.version): row for row in rows}
    times = Counter(row.key for row in rows)
    for told in acknowledged:
        row = by_place.get((told.order_id, told.version))
        if row is None:
            yield f"lost: {told}"
        elif row.key not in (told.key, *told.or_by) or (row.actor, row.after) != (told.actor, told.status):
            yield f"{told} was told, the history has {row}"
        if times[told.key] > 1:
            yield f"{told.key} took effect {times[told.key]} times"
    keys = Counter(told.key for told in acknowledged)
    yield from (f"{key} was acknowledged {count} times" for key, count in keys.items() if count > 1)


def _told_both(acknowledged: list[Acknowledged]) -> Iterator[str]:
    """Of two clients that were told they have the order at one version, one was told wrong."""
    told: dict[tuple[str, int], set[str]] = defaultdict(set)
    for item in acknowledged:
        if item.operator is not None:
            told[item.order_id, item.version].add(item.operator)
    for (order_id, version), operators in told.items():
        if len(operators) > 1:
            yield f"{order_id} version {version} was given to {' and '.join(sorted(operators))}"
