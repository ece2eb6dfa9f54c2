"""Bodies are taken in by turns: a fixed number of bytes in each round of the event loop. Other answers
then never waits for twenty uploads that all have something to be hashed."""

import asyncio
from collections import deque

ROUND_BYTES = 512 << 10
"""About half a millisecond of reading and hashing."""


class FairShare:
    """First come, first served."""

    def __init__(self, round_bytes: int = ROUND_BYTES) -> None:
        self._round_bytes = self._left = round_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._next_is_due = False

    async def turn(self, byte_count: int) -> None:
        """Returns when it is the caller's turn to work on this many bytes: at once, or in a later round."""
        if self._left > 0 and not self._waiting:
            self._take(byte_count)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((byte_count, waiter))
        await waiter

    def _take(self, byte_count: int) -> None:
        self._left -= byte_count
        self._call_next()

    def _call_next(self) -> None:
        if not self._next_is_due:
            self._next_is_due = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """The event loop has looked at all connections since. What went beyond a round is made up for."""
        self._next_is_due, self._left = False, min(self._left, 0) + self._round_bytes
        while self._waiting and self._left > 0:
            byte_count, waiter = self._waiting.popleft()
            if not waiter.done():  # cancelled, else
                self._take(byte_count)
                waiter.set_result(None)
        if self._waiting or self._left <= 0:
            self._call_next()
