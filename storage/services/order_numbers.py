"""Order numbers, from blocks leased ahead of need: a stalled database does not stall new orders."""

import asyncio

from storage.bounds import Bounds
from storage.database.contract import Database
from storage.errors import DatabaseUnavailable
from storage.log.tail import AppliedEntry


class OrderNumbers:
    def __init__(self, database: Database, bounds: Bounds) -> None:
        self._database = database
        self._block = bounds.number_block
        self._ranges: list[range] = []
        self._leasing: asyncio.Task[bool] | None = None
        self._used = 0

    def apply(self, followed: AppliedEntry) -> None:
        """Follow the log by one entry. A database restored from an older copy does not know the blocks that
        were leased after it: what an order of the log has is used."""
        if followed.order is not None and followed.order.number > self._used:
            self._used = followed.order.number

    async def open(self) -> None:
        """Lease the first block now: the first order may come while the database is blocked."""
        await asyncio.wait([self._lease_more()])

    async def next(self) -> int:
        """A number that no other order has. Raises DatabaseUnavailable when the leased ones are used up."""
        if self._left() <= self._block // 2:
            self._lease_more()
        while not self._left():
            # Others may use up what a lease brought before this caller runs again: then one more.
            leasing = self._lease_more()
            await asyncio.wait([leasing])
            if not leasing.result():
                raise DatabaseUnavailable("No order number is available: the database does not answer.")
        first = self._ranges[0]
        number = first.start
        self._ranges[0] = first[1:]
        if not self._ranges[0]:
            self._ranges.pop(0)
        return number

    async def close(self) -> None:
        if self._leasing is not None:
            await asyncio.wait([self._leasing])

    def _left(self) -> int:
        return sum(map(len, self._ranges))

    def _lease_more(self) -> "asyncio.Task[bool]":
        if self._leasing is None:
            self._leasing = asyncio.create_task(self._lease(), name="lease numbers")
        return self._leasing

    async def _lease(self) -> bool:
        """False when the database is away: asked again with the next order; whoever has none left is told."""
        try:
            block = range(0)
            while not block:
                leased = await self._database.lease_numbers(self._block)
                block = range(max(leased.start, self._used + 1), leased.stop)
            self._ranges.append(block)
        except DatabaseUnavailable:
            return False
        else:
            return True
        finally:
            self._leasing = None
