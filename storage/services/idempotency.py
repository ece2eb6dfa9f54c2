"""Requests with an Idempotency-Key: each is answered once, whichever process it reaches, and the same again
for 24 hours. Everything that takes a key goes through `Idempotency.once`.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from storage.clock import Clock
from storage.errors import AlreadyAnswered, KeyReused, OutcomeUnknown, Unavailable
from storage.ids import new_id
from storage.log.change_log import ChangeLog
from storage.log.entries import Answer, AnswerKept, AnyEntry, IdempotencyRecord, Position
from storage.memory.keyed_locks import KeyedLocks

Result = TypeVar("Result")


class IdempotencyKey(msgspec.Struct, frozen=True, kw_only=True):
    """A request with an Idempotency-Key. `scope` hashes token, method, path and key."""

    scope: str
    key: str
    body_hash: str

    def remembered(self, answer: Answer) -> IdempotencyRecord:
        """What an entry carries, so that the answer is accepted together with what it tells of."""
        return IdempotencyRecord(scope=self.scope, key=self.key, body_hash=self.body_hash, answer=answer)


class Idempotency:
    def __init__(self, change_log: ChangeLog, clock: Clock) -> None:
        self._change_log = change_log
        self._clock = clock
        self._locks: KeyedLocks[str] = KeyedLocks()

    async def once(
        self,
        keyed: IdempotencyKey | None,
        act: Callable[[], Awaitable[Result]],
        again: Callable[[Position, AnyEntry], Awaitable[Result]],
    ) -> Result:
        """What `act` returns; or what `again` makes of the entry that answered this key before. `act` accepts
        an entry that carries the key, or changes nothing.

        Of equal requests at once on one process the later ones wait. On other processes the log accepts a
        key once. And what `act` refuses may be refused only because an equal request was accepted there
        meanwhile (an order is taken already, a version exists), so a refusal counts only after another look.

        Raises KeyReused, OutcomeUnknown, and what `act` raises.
        """
        if keyed is None:
            return await act()
        async with self._locks.hold(keyed.scope):
            if (found := await self._find(keyed)) is None:
                try:
                    return await act()
                except AlreadyAnswered:
                    if (found := await self._find(keyed)) is None:
                        raise OutcomeUnknown from None
                except Unavailable:
                    raise
                except Exception:
                    if (found := await self._find(keyed)) is None:
                        raise
        return await again(*found)

    async def remember(self, keyed: IdempotencyKey, answer: Answer) -> Position:
        """Accept the answer to a request that changes nothing in the log. Raises AlreadyAnswered."""
        now = self._clock.now()
        entry = AnswerKept(id=new_id(now), at=now, remembered=keyed.remembered(answer))
        return await self._change_log.append(entry)

    async def _find(self, keyed: IdempotencyKey) -> tuple[Position, AnyEntry] | None:
        if (found := await self._change_log.find_remembered(keyed.scope)) is None:
            return None
        remembered = found[1].remembered
        if remembered is None or remembered.body_hash != keyed.body_hash:
            raise KeyReused
        return found
