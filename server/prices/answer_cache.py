"""Prices by hash, as they were answered: the same question is answered from here while nothing has changed
that the answer depends on."""

from datetime import datetime

import msgspec

from pricing.price.price_list import MetalFix, PriceList
from storage.memory.lru import Lru
from storage.models.shared import Model

ANSWERS = 20_000
ANSWERS_BYTES = 64 * 2**20

Question = tuple[str | None, str, str]
"""Tenant, hash and query text: another writing of the same question is another key, no more."""


class PriceAnswer(msgspec.Struct, frozen=True, gc=False):
    """`until`: with the day the quote changes."""

    price_list: PriceList
    metal_fix: MetalFix
    until: datetime
    model: Model
    body: bytes
    etag: str


class PriceAnswers:
    def __init__(self) -> None:
        self._held: Lru[Question, PriceAnswer] = Lru(ANSWERS, ANSWERS_BYTES)

    def get(
        self, question: Question, model: Model, versions: tuple[PriceList, MetalFix], now: datetime
    ) -> PriceAnswer | None:
        """The answer if it is still right."""
        held = self._held.get(question)
        if not isinstance(held, PriceAnswer) or now >= held.until or not _same(held.model, model):
            return None
        # Versions never change: the same ones are the same objects.
        return held if held.price_list is versions[0] and held.metal_fix is versions[1] else None

    def put(self, question: Question, answer: PriceAnswer) -> None:
        self._held.put(question, answer, len(answer.body) + len(question[2]))


def _same(one: Model, other: Model) -> bool:
    """Whether the two say the same of the file, whoever may see it."""
    return one is other or (one.facts == other.facts and one.verification == other.verification)
