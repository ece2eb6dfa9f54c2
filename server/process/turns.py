"""Rounds of the event loop, which all connections share: thousands that send or end together are served by
turns, some in each round."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

ROUND_REQUESTS = 16
"""Requests that are begun in one round of the event loop, of all connections: some 3 ms."""
ROUND_ENDINGS = 16
"""Connections whose end is dealt with in one round: some 2 ms."""
ROUND_PARSING_S = 0.002
"""How long the parser works in one round, and one slice more."""


class Parsed(Protocol):
    """A connection that holds what was not parsed yet."""

    def parse_slice(self) -> bool:
        """When it is its turn. Whether there is more."""


class Turns:
    """Who waits for the parser, to be begun with, or to be let go of: first come, first served, some in each
    round of the event loop.

    uvloop reads its clock once a round, so a new time is a new round. (Rounds within a millisecond have one
    time: they share what one may do.)
    """

    def __init__(self) -> None:
        self._time = asyncio.get_running_loop().time
        self._parsed: deque[Parsed] = deque()
        self._begun: deque[asyncio.Future[None]] = deque()
        self._ended: deque[Callable[[], None]] = deque()
        self._round_is_due = False
        self._round_s = 0.0
        self._requests_left = ROUND_REQUESTS
        self._parses_until_s = 0.0
        """0 until something is parsed in this round."""
        self.held_bytes = 0

    def may_parse(self) -> bool:
        """Whether no other connection waits for the parser, and this round has time left."""
        if (now_s := self._time()) != self._round_s:
            self._new_round(now_s)
        if self._parses_until_s == 0.0:
            self._parses_until_s = time.perf_counter() + ROUND_PARSING_S
            return not self._parsed
        return not self._parsed and time.perf_counter() < self._parses_until_s

    def may_begin(self) -> bool:
        """Whether a request may be begun with now; if so, it counts as begun."""
        if (now_s := self._time()) != self._round_s:
            self._new_round(now_s)
        if self._requests_left <= 0 or self._begun:
            return False
        self._requests_left -= 1
        return True

    async def begin(self) -> None:
        """Returns when a request may be begun with."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._begun.append(turn)
        self._call_a_round()
        await turn

    def _new_round(self, now_s: float) -> None:
        self._round_s, self._requests_left, self._parses_until_s = now_s, ROUND_REQUESTS, 0.0

    def parse(self, connection: Parsed) -> None:
        """When its turn comes."""
        self._parsed.append(connection)
        self._call_a_round()

    def end(self, act: Callable[[], None]) -> None:
        """Do this when its turn comes."""
        self._ended.append(act)
        self._call_a_round()

    def _call_a_round(self) -> None:
        if not self._round_is_due:
            self._round_is_due = True
            asyncio.get_running_loop().call_soon(self._round)

    def _round(self) -> None:
        """The event loop has looked at all connections since the last one."""
        self._round_is_due = False
        self._new_round(self._time())
        for _ in range(min(ROUND_ENDINGS, len(self._ended))):
            self._ended.popleft()()
        while self._begun and self._requests_left > 0:
            turn = self._begun.popleft()
            if not turn.done():  # cancelled, else
                self._requests_left -= 1
                turn.set_result(None)
        self._parses_until_s = time.perf_counter() + ROUND_PARSING_S
        while self._parsed and time.perf_counter() < self._parses_until_s:
            connection = self._parsed.popleft()
            if connection.parse_slice():
                self._parsed.append(connection)
        if self._parsed or self._begun or self._ended:
            self._call_a_round()
