"""One connection to Redis with a deadline on everything. Whatever goes wrong with it ends it: what became of
a command is then unknown, and another connection must first make sure that it talks to the same Redis."""

import asyncio
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    ClusterError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from storage.errors import LogUnavailable
from storage.redis.endpoint import Endpoint, connection_of

Argument = str | bytes | int


class CommandRefused(Exception):
    """Redis understood and said no; nothing was done."""


class Closed(LogUnavailable):
    """The connection is gone, by a word of the other end or of something in between. Redis may well be there,
    unlike one that is silent."""


class Script:
    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class RedisConnection:
    """Used by one task at a time."""

    def __init__(self, connection: AbstractConnection, deadline_s: float) -> None:
        self._connection = connection
        self._deadline_s = deadline_s

    async def open(self) -> None:
        """Raises LogUnavailable."""
        try:
            async with asyncio.timeout(2 * self._deadline_s):
                await self._connection.connect()
        except Exception as error:
            await self.close()
            raise LogUnavailable(f"Redis cannot be reached: {_words(error)}.") from None

    @property
    def lost(self) -> bool:
        """Whether Redis is known to have ended it: what has not been said yet is better said on another."""
        reader, writer = self._connection._reader, self._connection._writer
        if reader is None or writer is None:
            return True
        return reader.at_eof() or reader.exception() is not None or writer.transport.is_closing()

    def require(self) -> None:
        """Raises LogUnavailable when it is lost."""
        if self.lost:
            raise Closed("Redis has closed the connection.")

    async def call(self, *command: Argument, wait_s: float = 0.0) -> Any:
        """The reply. `wait_s`: how long the command itself may wait. Raises LogUnavailable, Refused."""
        (reply,) = await self.pipeline(command, wait_s=wait_s)
        if isinstance(reply, Exception):
            raise CommandRefused(str(reply)) from reply
        return reply

    async def pipeline(self, *commands: Sequence[Argument], wait_s: float = 0.0) -> list[Any]:
        """All replies; errors among them are returned. Raises LogUnavailable when the connection is lost."""
        await self.send(*commands)
        return await self.receive(len(commands), wait_s=wait_s)

    async def send(self, *commands: Sequence[Argument]) -> None:
        """Commands whose replies are received later, in order. Raises LogUnavailable."""
        packed = [hiredis.pack_command(tuple(command)) for command in commands]  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._connection.send_packed_command(packed, check_health=False)
        except BaseException as error:
            raise await self._ended(error) from None

    async def receive(self, count: int, *, wait_s: float = 0.0) -> list[Any]:
        """The replies to the oldest commands sent; errors among them are returned. Raises LogUnavailable."""
        try:
            async with asyncio.timeout(self._deadline_s + wait_s):
                return [await self._read() for _ in range(count)]
        except BaseException as error:
            raise await self._ended(error) from None

    async def load(self, script: Script) -> None:
        """Make a script known to this Redis. Raises LogUnavailable, CommandRefused."""
        await self.call("SCRIPT", "LOAD", script.source)

    async def run(self, script: Script, keys: Sequence[Argument], *arguments: Argument) -> Any:
        """A script's reply; it is loaded when this Redis does not know it. Raises LogUnavailable, Refused."""
        command = ("EVALSHA", script.sha, len(keys), *keys, *arguments)
        (reply,) = await self.pipeline(command)
        if isinstance(reply, NoScriptError):
            await self.load(script)
            (reply,) = await self.pipeline(command)
        if isinstance(reply, Exception):
            raise CommandRefused(str(reply)) from reply
        return reply

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)

    async def _ended(self, error: BaseException) -> BaseException:
        """Whatever it was, the link is over: a late reply would be taken for that to the next command. What a
        driver and an event loop raise of a connection that broke, or on which there were invalid replies, is
        theirs to choose: uvloop has RuntimeError for one that the peer has closed."""
        await self.close()
        if isinstance(error, Exception):
            kind = LogUnavailable if isinstance(error, TimeoutError) else Closed
            return kind(f"Redis does not answer: {_words(error)}.")
        return error

    async def _read(self) -> Any:
        try:
            return await self._connection.read_response(
                disable_decoding=True, timeout=math.inf, disconnect_on_error=False
            )
        except (AskError, ClusterError, ReadOnlyError, TryAgainError):
            raise  # another server is in charge, or soon will be: this link is of no use
        except ResponseError as error:
            return error


async def opened(endpoint: Endpoint, deadline_s: float) -> RedisConnection:
    """Raises LogUnavailable."""
    link = RedisConnection(connection_of(await endpoint.options()), deadline_s)
    await link.open()
    return link


def _words(error: BaseException) -> str:
    if isinstance(error, AskError):
        return f"it refers to {error.host}:{error.port}, which serves the slot"
    return str(error).rstrip(".") or type(error).__name__
