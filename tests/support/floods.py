"""Models asked for by many: a workshop's day of popular ones, and floods of models asked for once."""

import asyncio
from collections.abc import Iterable

from storage.models.shared import Model
from storage.services.models import Models
from storage.services.stack import Storage
from tests.support.computations import FACTS, Computation
from tests.support.gates import until

POPULAR = [f"popular-{n:03}" for n in range(100)]
TOGETHER = 100
"""Uploads at once."""
QUEUED_MAX = 1_000
"""Records on their way to the database at once."""


async def upload_all(models: Models, names: Iterable[str]) -> None:
    waiting = list(names)
    for first in range(0, len(waiting), TOGETHER):
        batch = waiting[first : first + TOGETHER]
        await asyncio.gather(*(models.facts(name, 1, "t", Computation()) for name in batch))


async def ask_once(models: Models, names: Iterable[str]) -> None:
    """As what uploads leave behind, but for their copies: these would be ten thousand round trips."""
    for name in names:
        if len(models.records) >= QUEUED_MAX:
            await until(lambda: len(models.records) < QUEUED_MAX)
        models.count(Model(name, 1, FACTS, frozenset({"t"})))


async def make_popular(models: Models, requests: int = 3) -> None:
    """The hundredth is asked for as often as the first."""
    for _ in range(requests):
        await upload_all(models, POPULAR)


async def stored(storage: Storage) -> None:
    """Everything has reached the database."""
    await until(lambda: len(storage.models.records) == 0)


async def answered_from_memory(models: Models) -> bool:
    """Whether all popular models answer without a computation or a read."""
    before = (models.loads, models.computing.computations)
    found = [await models.find_for(name, "t") for name in POPULAR]
    held = all(each is not None and each[1] == "local" for each in found)
    return held and (models.loads, models.computing.computations) == before
