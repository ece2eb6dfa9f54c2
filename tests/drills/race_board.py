"""What the racing processes share: a small table in memory, where each writes only cells of its own.

It stands for the clients that hop between the processes and echo what they saw: the highest position that any
process has answered with, and the newest version of each order that any client has seen.
"""

import mmap
from pathlib import Path
from random import Random

from storage.log.entries import Position

RACERS = 3
WRITERS = RACERS + 1
"""The last is the one who starts and kills the others."""
ORDERS_MAX = 40_000
"""Orders that one process can add."""
HOT = 50
"""The newest orders of each process: these are the ones that everybody works on."""

_POSITION_BITS = 40
_HEADER = 8
_OPERATIONS, _POSITION, _ORDERS, _REPEATABLE, _HEDGED = range(5)
_ROW = 2 + RACERS
_CELLS = WRITERS * _HEADER + RACERS * ORDERS_MAX * _ROW


class Board:
    """A row stands for one order; rows are only ever added."""

    def __init__(self, path: Path, writer: int) -> None:
        if not path.exists():
            path.write_bytes(bytes(8 * _CELLS))
        with path.open("r+b") as file:
            self._cells = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        self._own = writer
        self._base = writer * _HEADER
        self._ids: dict[int, str] = {}
        self._rows: dict[str, int] = {}

    @property
    def operations(self) -> int:
        return sum(self._cells[writer * _HEADER + _OPERATIONS] for writer in range(WRITERS))

    def count_operation(self) -> None:
        self._cells[self._base + _OPERATIONS] += 1

    def publish(self, position: Position) -> None:
        """A client was answered with this position."""
        cell, packed = self._base + _POSITION, position.epoch << _POSITION_BITS | position.n
        if packed > self._cells[cell]:
            self._cells[cell] = packed

    @property
    def position(self) -> Position:
        """The highest that any client was answered with."""
        packed = max(self._cells[writer * _HEADER + _POSITION] for writer in range(RACERS))
        return Position(packed >> _POSITION_BITS, packed & ((1 << _POSITION_BITS) - 1))

    def offer_repeat(self, row: int, count: int) -> None:
        """Everybody may now send this keyed request again."""
        self._cells[self._base + _REPEATABLE] = count << 32 | row + 1

    def repeatable(self, writer: int) -> tuple[int, int] | None:
        """The row and the count of a request that was just sent."""
        packed = self._cells[writer * _HEADER + _REPEATABLE]
        return ((packed & 0xFFFF_FFFF) - 1, packed >> 32) if packed else None

    def offer_hedge(self, row: int, version: int) -> None:
        """Everybody may now send this keyed request, which is for one version of the order."""
        self._cells[self._base + _HEDGED] = version << 32 | row + 1

    def hedged(self, writer: int) -> tuple[int, int] | None:
        """The row and the version of such a request."""
        packed = self._cells[writer * _HEADER + _HEDGED]
        return ((packed & 0xFFFF_FFFF) - 1, packed >> 32) if packed else None

    def add_order(self, order_id: str) -> int:
        """Its row."""
        count = self._cells[self._base + _ORDERS]
        row = self._own * ORDERS_MAX + count
        number, at = int(order_id.replace("-", ""), 16), self._at(row)
        self._cells[at], self._cells[at + 1] = number >> 64, number & (1 << 64) - 1
        self._cells[self._base + _ORDERS] = count + 1
        return row

    def rows(self, newest: int = ORDERS_MAX) -> list[int]:
        """Of each process the newest so many."""
        found: list[int] = []
        for racer in range(RACERS):
            end = racer * ORDERS_MAX + self._cells[racer * _HEADER + _ORDERS]
            found += range(max(racer * ORDERS_MAX, end - newest), end)
        return found

    def hot_row(self, random: Random) -> int | None:
        """The newer, the likelier: processes shall collide."""
        racer = random.randrange(RACERS)
        count = self._cells[racer * _HEADER + _ORDERS]
        if not count:
            return None
        back = int(min(count, HOT) * random.random() ** 2)
        return racer * ORDERS_MAX + int(count) - 1 - back

    def id_of(self, row: int) -> str:
        order_id = self._ids.get(row)
        if order_id is None:
            at = self._at(row)
            text = f"{self._cells[at] << 64 | self._cells[at + 1]:032x}"
            order_id = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
            self._ids[row], self._rows[order_id] = order_id, row
        return order_id

    def row_of(self, order_id: str) -> int | None:
        """Of an order whose id was asked for here before."""
        return self._rows.get(order_id)

    def saw(self, row: int, version: int) -> None:
        """A client has seen this version. Only after its position was published."""
        cell = self._at(row) + 2 + self._own
        if version > self._cells[cell]:
            self._cells[cell] = version

    def newest_seen(self, row: int) -> int:
        """Whoever echoes must ask for this first, for the position next."""
        at = self._at(row) + 2
        return max(self._cells[at], self._cells[at + 1], self._cells[at + 2])

    def _at(self, row: int) -> int:
        return WRITERS * _HEADER + row * _ROW
