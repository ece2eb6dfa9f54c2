"""Computations of facts that a test lets through, makes fail, and counts."""

import contextlib
from collections.abc import Iterator

from storage.models.shared import Refusal
from tests.support.gates import Gate

FACTS = b'{"volume_mm3":1.0}'


class Computation:
    """What `storage.models.compute_once.Work` asks for."""

    def __init__(self, answer: bytes | Refusal = FACTS, fails: Exception | None = None) -> None:
        self.gate = Gate()
        self.count = 0
        self.held = self.dropped = 0
        self._answer = answer
        self._fails = fails

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1

    def drop(self) -> None:
        self.dropped += 1

    async def compute(self) -> bytes | Refusal:
        self.count += 1
        await self.gate.enter()
        if self._fails is not None:
            raise self._fails
        return self._answer
