"""Facts of an uploaded file found out once: by one task of one of several processes, for all that ask
meanwhile.

In a process the callers share a task, and only the first one's file is needed. Between processes there is a
lock: its holder computes, leaves the facts in the shared cache and releases it; the others poll the cache,
and one of them takes over when the lock expires without.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple, Protocol

from storage.bounds import Bounds
from storage.memory.single_flight import SingleFlight
from storage.models.shared import Model, Refusal, SharedModels
from storage.shared.locks import Lock, Locks
from storage.tasks import Backoff


class Work(Protocol):
    """What computes the facts of one uploaded file."""

    def hold(self) -> AbstractContextManager[None]:
        """The file stays until this is left, also when its upload is over."""

    def drop(self) -> None:
        """The file is not needed: what another caller has is used."""

    async def compute(self) -> bytes | Refusal:
        """Encoded facts, or why there are none and never will be. Raises what passes."""


Source = Literal["local", "shared", "database", "computed"]


class Known(NamedTuple):
    found: Model | Refusal
    source: Source


class ComputeOnce:
    def __init__(
        self,
        copies: SharedModels,
        locks: Locks,
        analyser: str,
        bounds: Bounds,
        look_up: Callable[[str], Awaitable[Known | None]],
        keep: Callable[[str, Model | Refusal], None],
    ) -> None:
        """`look_up`: what is known without the file. `keep` is called with what was found out, before anybody
        hears of it: who asks between the two would compute once more."""
        self._copies = copies
        self._locks = locks
        self._analyser = analyser
        self._bounds = bounds
        self._look_up = look_up
        self._keep = keep
        self._flights: SingleFlight[str, Known] = SingleFlight()
        self.computations = self.takeovers = self.awaited = 0

    async def facts(self, sha256: str, byte_count: int, work: Work) -> Known:
        """A caller that goes away takes nothing from the others."""
        if self._flights.under_way(sha256):
            work.drop()
        return await self._flights.do(sha256, lambda: self._once(sha256, byte_count, work))

    async def _once(self, sha256: str, byte_count: int, work: Work) -> Known:
        with work.hold():
            if known := await self._look_up(sha256):
                return known
            lock = Lock(self._locks, f"facts:{sha256}", self._bounds.model_turn_s)
            if (found := await self._found_by_others(sha256, lock)) is not None:
                self._keep(sha256, found)
                return Known(found, "shared")
            async with lock.kept():
                found = await self._compute(sha256, byte_count, work)
                await self._copies.keep(sha256, found)
                return Known(found, "computed")

    async def _compute(self, sha256: str, byte_count: int, work: Work) -> Model | Refusal:
        self.computations += 1
        facts = await work.compute()
        found = facts if isinstance(facts, Refusal) else self._model(sha256, byte_count, facts)
        self._keep(sha256, found)
        return found

    def _model(self, sha256: str, byte_count: int, facts: bytes) -> Model:
        return Model(sha256, byte_count, facts, frozenset(), self._analyser)

    async def _found_by_others(self, sha256: str, lock: Lock) -> Model | Refusal | None:
        """None: this process holds the lock, or the others have taken too long."""
        loop, bounds = asyncio.get_running_loop(), self._bounds
        deadline_s, waited = loop.time() + bounds.model_wait_s, False
        backoff = Backoff(bounds.model_look_s, bounds.model_look_max_s, spread=0.5)
        while not await lock.acquire():
            if loop.time() >= deadline_s:
                return None
            waited = True
            await backoff.pause()
            if found := await self._copies.find(sha256):
                self.awaited += 1
                return found
        found = await self._copies.find(sha256)  # left between the first look and the lock
        if found is not None:
            await lock.release()
        elif waited:
            self.takeovers += 1
        return found
