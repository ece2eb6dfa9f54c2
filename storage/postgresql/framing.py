"""A guard before asyncpg's parser: a message whose length is negative puts that (0.32) into an endless loop,
which no timeout of ours can end since the event loop is in it. So what arrives is first followed from one
message to the next, and a connection with an invalid message is closed.

A message of PostgreSQL is one byte of type and four of length, which counts itself.
"""

import struct

import asyncpg.protocol

HEADER = struct.Struct("!xi")
LENGTH_MIN = 4
LENGTH_MAX = (1 << 30) + LENGTH_MIN
"""No message of the server is longer than the longest row."""


class Frames:
    """Where in a stream of messages one is."""

    __slots__ = ("_header", "_left")

    def __init__(self) -> None:
        self._left = 0
        self._header = b""

    def follow(self, data: bytes) -> bool:
        """False when these bytes cannot be what comes next."""
        at, end = self._left, len(data)
        if at >= end:
            self._left -= end
            return True
        if self._header:
            missing = HEADER.size - len(self._header)
            header = self._header + data[at : at + missing]
            if len(header) < HEADER.size:
                self._header = header
                return True
            (length,) = HEADER.unpack(header)
            if not LENGTH_MIN <= length <= LENGTH_MAX:
                return False
            at += missing + length - LENGTH_MIN
        while end - at >= HEADER.size:
            (length,) = HEADER.unpack_from(data, at)
            if not LENGTH_MIN <= length <= LENGTH_MAX:
                return False
            at += 1 + length
        self._header = data[at:end]
        self._left = max(0, at - end)
        return True


class GuardedProtocol(asyncpg.protocol.Protocol):  # type: ignore[misc]
    """asyncpg's protocol, behind the guard."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self._frames = Frames()

    def data_received(self, data: bytes) -> None:
        if self._frames.follow(data):
            super().data_received(data)
        else:
            self.abort()


def install() -> None:
    """From now on asyncpg's connections have the guard: there is no parameter for it."""
    asyncpg.protocol.Protocol = GuardedProtocol
