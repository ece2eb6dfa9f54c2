"""Waiting for a second opinion has an end, and what stands in its way stops nobody."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pricing.errors import Refused
from pricing.facts import Decision, Facts, Opinion
from pricing.mesh.analysis import analyse
from pricing.pool import FactsPool, Limits
from server.prices.quoting import is_disputed
from server.prices.verification import PENDING_S_MAX, Verifications, opinion_of
from storage.database.records import Verification
from storage.errors import LogUnavailable
from storage.log.entries import Position
from storage.models.files import ModelFiles
from storage.models.shared import Model
from storage.services.stack import Storage
from tests.support import meshes
from tests.support.computations import Computation
from tests.support.stacks import ManualClock

RING = meshes.binary_stl(meshes.torus())
FACTS = analyse(RING)
SHA256 = "ab" * 32


class Answering(FactsPool):
    """A pool that says what a test wants it to say."""

    def __init__(self, *answers: Opinion | Exception) -> None:
        super().__init__(Limits(workers=0))
        self.answers = list(answers)

    async def opinion(self, body: bytes | Path, facts: Facts) -> Opinion:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
async def model(storage: Storage) -> Model:
    work = Computation(msgspec.json.encode(FACTS))
    storage.models.unverified.work = nobody
    found, _ = await storage.models.facts(SHA256, len(RING), "acme", work)
    return found


async def nobody(sha256: str) -> bool:
    """Tests ask themselves."""
    return False


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    kept = ModelFiles(tmp_path / "models", 1 << 30)
    kept.keep(SHA256, RING)
    return kept


async def state_of(storage: Storage) -> str | None:
    found = await storage.models.find(SHA256)
    assert found is not None
    opinion = opinion_of(found[0])
    return None if opinion is None else opinion.state


async def test_after_ten_minutes_without_workers_nobody_waits_any_more(
    storage: Storage, model: Model, files: ModelFiles, clock: ManualClock
) -> None:
    asked = Verifications(storage, FactsPool(Limits(workers=0)), files, clock)
    assert not await asked.verify(SHA256)
    assert (await asked.settled(model, 0.01)).verification is None
    clock.move(PENDING_S_MAX - 1)
    assert asked.lag_s == PENDING_S_MAX - 1
    assert not await asked.verify(SHA256)
    clock.move(1)
    assert await asked.verify(SHA256)
    settled = await asked.settled(model, 10.0)
    opinion = opinion_of(settled)
    assert opinion is not None
    assert (opinion.state, "Nobody could be asked" in str(opinion.reason)) == ("not_possible", True)
    assert asked.outcomes["not_possible"] == 1


async def test_a_worker_that_was_killed_is_tried_once_more_and_a_file_that_kills_it_is_not(
    storage: Storage, model: Model, files: ModelFiles, clock: ManualClock
) -> None:
    died = Refused("worker_died", "It ended with code -9.", "x")
    asked = Verifications(storage, Answering(died, died), files, clock)
    assert not await asked.verify(SHA256)
    assert await state_of(storage) is None
    assert await asked.verify(SHA256)
    assert await state_of(storage) == "not_possible"


async def test_a_killed_worker_costs_no_opinion(
    storage: Storage, model: Model, files: ModelFiles, clock: ManualClock
) -> None:
    agreed = Opinion(state="agreed", by="trimesh", at=clock.now())
    pool = Answering(Refused("worker_died", "It ended.", "x"), RuntimeError("what nobody expects"), agreed)
    asked = Verifications(storage, pool, files, clock)
    assert [await asked.verify(SHA256) for _ in range(3)] == [False, False, True]
    assert await state_of(storage) == "agreed"
    assert await asked.verify(SHA256)  # it is known: nobody is asked again
    assert asked.outcomes == {"agreed": 1}


@pytest.mark.parametrize("code", ["time_limit", "out_of_memory", "not_a_mesh"])
async def test_what_its_worker_may_not_do_is_said(
    storage: Storage, model: Model, files: ModelFiles, clock: ManualClock, code: str
) -> None:
    asked = Verifications(storage, Answering(Refused(code, "So it is.", "x")), files, clock)
    assert await asked.verify(SHA256)
    opinion = opinion_of(await asked.settled(model, 10.0))
    assert opinion is not None
    assert (opinion.state, opinion.reason) == ("not_possible", f"{code}: So it is.")


async def test_new_facts_are_held_against_it_anew(
    storage: Storage, model: Model, files: ModelFiles, clock: ManualClock
) -> None:
    agreed = Opinion(state="agreed", by="trimesh", at=clock.now())
    asked = Verifications(storage, Answering(agreed, agreed), files, clock)
    assert await asked.verify(SHA256)
    storage.models.store_reanalysed(SHA256, len(RING), msgspec.json.encode(FACTS))
    assert await state_of(storage) == "agreed"  # the same analyser has found the same
    storage.models._analyser = "2"
    storage.models.store_reanalysed(SHA256, len(RING), msgspec.json.encode(FACTS))
    assert await state_of(storage) is None
    assert await asked.verify(SHA256)
    assert await state_of(storage) == "agreed"


async def test_what_differs_is_announced_also_when_that_failed_at_first(
    storage: Storage, model: Model, files: ModelFiles, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    differs = Opinion(state="differs", by="trimesh", at=clock.now(), reason="The volume is 1, not 2.")
    asked = Verifications(storage, Answering(differs), files, clock)
    append, fails = storage.change_log.append, [True]

    async def append_or_fail(*arguments: Any) -> Position:
        if fails:
            fails.clear()
            raise LogUnavailable("Redis is away.")
        return await append(*arguments)

    monkeypatch.setattr(storage.change_log, "append", append_or_fail)
    head = storage.tail.head
    assert not await asked.verify(SHA256)
    assert await state_of(storage) == "differs"
    assert storage.tail.head == head
    assert await asked.verify(SHA256)
    assert storage.tail.head == head + 1
    assert asked.outcomes == {"differs": 1}
    assert await asked.verify(SHA256)  # once
    assert storage.tail.head == head + 1


async def test_the_first_opinion_stays_and_a_person_has_the_last_word(
    storage: Storage, model: Model, files: ModelFiles, clock: ManualClock
) -> None:
    differs = Opinion(state="differs", by="trimesh", at=clock.now(), reason="x")
    asked = Verifications(storage, Answering(differs), files, clock)
    assert await asked.verify(SHA256)
    late = Verification("not_possible", clock.now() + timedelta(minutes=1), b"{}")
    found = await storage.models.look_again(SHA256)
    assert found is not None
    await storage.models.verify(found, late, durable=True)
    assert await state_of(storage) == "differs"
    for accepted, disputed in ((True, False), (False, True), (True, False)):
        clock.move(1)
        decision = Decision(accepted=accepted, by="admin", at=clock.now())
        decided, _ = await asked.decide(SHA256, decision)
        assert is_disputed(decided) == disputed
        listed = await storage.models.that_differ(5)
        assert [each.sha256 for each in listed] == ([SHA256] if disputed else [])


async def test_an_opinion_about_facts_that_were_found_anew_meanwhile_is_none(
    storage: Storage, model: Model, files: ModelFiles, clock: ManualClock
) -> None:
    agreed = Opinion(state="agreed", by="trimesh", at=clock.now())
    pool = Answering(agreed, agreed)
    asked = Verifications(storage, pool, files, clock)
    other = msgspec.json.encode(msgspec.structs.replace(FACTS, volume=FACTS.volume * 2))

    async def opinion(body: bytes | Path, facts: Facts) -> Opinion:
        pool.opinion = Answering.opinion.__get__(pool)  # type: ignore[method-assign]
        storage.models._analyser = "2"
        storage.models.store_reanalysed(SHA256, len(RING), other)
        return agreed

    pool.opinion = opinion  # type: ignore[method-assign]
    assert not await asked.verify(SHA256)
    assert await state_of(storage) is None
    assert await asked.verify(SHA256)
    assert await state_of(storage) == "agreed"
