"""What is remembered of models: facts, refusals and absences; what a restart and a flood leave of it."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from storage.database.records import StoredModel
from storage.memory.popularity import added, rank
from storage.memory.ttl import TtlCache
from storage.models.shared import Refusal
from storage.services.models import ModelRefused, Models
from storage.services.stack import Storage
from tests.support.changes import START
from tests.support.computations import FACTS, Computation
from tests.support.floods import answered_from_memory, make_popular, stored, upload_all
from tests.support.gates import execute, locked, turns, until
from tests.support.small_bounds import smaller
from tests.support.stacks import ManualClock, opened

WEEK_S = 7 * 86_400.0
NOT_CLOSED = Refusal("no_facets", "The file has no facets.", "Export it again.")


@pytest.fixture
def models(storage: Storage) -> Models:
    return storage.models


def test_what_is_remembered_briefly_is_bounded_in_age_and_in_entries(clock: ManualClock) -> None:
    brief: TtlCache[str, int] = TtlCache(2, 10.0, clock)
    brief.put("a", 1)
    clock.move(9.0)
    brief.put("b", 2)
    assert (brief.get("a"), brief.get("b")) == (1, 2)
    clock.move(1.0)
    assert (brief.get("a"), brief.get("b")) == (None, 2)
    brief.put("c", 3)
    brief.put("d", 4)
    assert (brief.get("b"), brief.get("c"), brief.get("d")) == (None, 3, 4)
    brief.discard("c")
    assert (brief.get("c"), len(brief), brief.hits) == (None, 1, 5)


async def test_a_refused_file_is_refused_again_without_a_look_for_a_minute(
    models: Models, clock: ManualClock
) -> None:
    look = Computation(NOT_CLOSED)
    for _ in range(3):
        with pytest.raises(ModelRefused) as refused:
            await models.facts("a", 1, "t", look)
        assert refused.value.refusal == NOT_CLOSED
    loads = models.loads
    assert (look.count, models.refusals.hits) == (1, 2)
    clock.move(60.0)
    with pytest.raises(ModelRefused):
        await models.facts("a", 1, "t", look)
    assert look.count == 2
    assert models.loads == loads + 1
    assert await models.find("a") is None


async def test_a_thousand_callers_are_refused_by_one_look(models: Models) -> None:
    look = Computation(NOT_CLOSED)
    async with look.gate.closed():
        callers = [asyncio.create_task(models.facts("a", 1, "t", look)) for _ in range(1_000)]
        await look.gate.reached()
        await turns()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ModelRefused}
    assert look.count == 1


async def test_an_invalidation_forgets_a_refusal(models: Models) -> None:
    with pytest.raises(ModelRefused):
        await models.facts("a", 1, "t", Computation(NOT_CLOSED))
    await models.invalidate("a")
    assert (await models.facts("a", 1, "t", Computation()))[1] == "computed"


async def test_an_unknown_hash_asks_the_database_once_in_a_while(models: Models, clock: ManualClock) -> None:
    for _ in range(5):
        assert await models.find_for("a", "t") is None
    assert (models.loads, models.absences.hits) == (1, 4)
    clock.move(10.0)
    assert await models.find_for("a", "t") is None
    assert models.loads == 2


async def test_an_upload_makes_an_unknown_hash_known_at_once(models: Models) -> None:
    assert await models.find_for("a", "t") is None
    await models.facts("a", 1, "t", Computation())
    found = await models.find_for("a", "t")
    assert found is not None
    assert found[1] == "local"


async def test_a_tenant_learns_nothing_of_a_model_that_another_has_uploaded(models: Models) -> None:
    await models.facts("a", 1, "owner", Computation())
    for _ in range(5):
        assert await models.find_for("a", "stranger") is None
    assert models.loads == 2  # the upload, and once for the stranger
    await models.facts("a", 1, "stranger", Computation())
    for tenant in ("owner", "stranger"):
        found = await models.find_for("a", tenant)
        assert found is not None
        assert found[0].tenants == {"owner", "stranger"}


async def test_tenants_that_upload_at_the_same_time_are_all_known(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        await storage.models.facts("a", 1, "first", Computation())
    tenants = {f"t{n}" for n in range(50)}
    async with opened(tmp_path) as storage:
        await asyncio.gather(*(storage.models.facts("a", 1, tenant, Computation()) for tenant in tenants))
        found = await storage.models.find("a")
        assert found is not None
        assert found[0].tenants == {"first", *tenants}
        assert storage.models.loads == 1
    async with opened(tmp_path) as storage:
        found = await storage.models.find("a")
        assert found is not None
        assert found[0].tenants == {"first", *tenants}


async def test_a_caller_that_goes_away_takes_the_computation_from_nobody(models: Models) -> None:
    computation = Computation()
    async with computation.gate.closed():
        callers = [asyncio.create_task(models.facts("a", 1, f"t{n}", computation)) for n in range(5)]
        await computation.gate.reached()
        callers[0].cancel()
        callers[3].cancel()
        await turns()
        assert computation.held == 1
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert (computation.count, computation.held) == (1, 0)


async def test_everybody_hears_of_a_failure_that_passes_and_the_next_tries_again(models: Models) -> None:
    failing = Computation(fails=ConnectionError("busy"))
    async with failing.gate.closed():
        callers = [asyncio.create_task(models.facts("a", 1, "t", failing)) for _ in range(10)]
        await failing.gate.reached()
        await turns()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ConnectionError}
    assert failing.count == 1
    assert (await models.facts("a", 1, "t", Computation()))[1] == "computed"


# --- Popularity


def test_scores_of_two_moments_add_up_as_of_the_later_one() -> None:
    later = START + timedelta(seconds=WEEK_S)
    assert added((4.0, START), (1.0, later), WEEK_S) == (3.0, later)
    assert added((1.0, later), (4.0, START), WEEK_S) == (3.0, later)
    assert added((4.0, START), (1.0, START + timedelta(days=365 * 60)), WEEK_S)[0] == pytest.approx(1.0)


def test_a_rank_counts_a_half_life_like_a_doubling() -> None:
    later = START + timedelta(seconds=WEEK_S)
    assert rank(2.0, START, WEEK_S) == pytest.approx(rank(1.0, later, WEEK_S))
    assert rank(2.1, START, WEEK_S) > rank(1.0, later, WEEK_S) > rank(1.9, START, WEEK_S)
    assert rank(0.0, START, WEEK_S) < rank(1e-200, START, WEEK_S)


async def test_requests_while_the_database_is_away_are_counted_once(tmp_path: Path) -> None:
    bounds = smaller(busy_timeout_s=0.01)
    async with opened(tmp_path / "data", bounds=bounds) as storage:
        models = storage.models
        await models.facts("a", 1, "t", Computation())
        await stored(storage)
        with locked(tmp_path / "data" / "facet.db"):
            await models.facts("a", 1, "t", Computation())
            await until(lambda: models.records._storing)
            await models.facts("a", 1, "u", Computation())
            await until(lambda: not models.records._storing)
            await until(lambda: models.records._storing)
        await stored(storage)
        loaded = await storage.database.load_model("a")
        assert loaded is not None
        assert (loaded.score, sorted(loaded.tenants)) == (3.0, ["t", "u"])


async def test_what_was_popular_last_year_is_not_loaded_before_what_is_popular_now(storage: Storage) -> None:
    def model(name: str, score: float, days_ago: float) -> StoredModel:
        moment = START - timedelta(days=days_ago)
        return StoredModel(
            sha256=name,
            analyser="1",
            byte_count=1,
            facts=FACTS,
            first_seen_at=moment,
            score=score,
            requested_at=moment,
        )

    await storage.database.store_models([model("old", 500.0, 365), model("new", 2.0, 0)], WEEK_S)
    first, second = await storage.database.load_popular_models(2, WEEK_S)
    assert (first.sha256, second.sha256) == ("new", "old")


@pytest.mark.slow
async def test_after_a_restart_and_ten_thousand_others_the_popular_models_answer_from_memory(
    tmp_path: Path,
) -> None:
    """The flood comes before the restart, so that the database must tell them apart, and again after it, so
    that memory must."""
    bounds = smaller(model_queue_entries=20_000)
    async with opened(tmp_path / "data", bounds=bounds) as storage:
        await make_popular(storage.models)
        await upload_all(storage.models, (f"once-{n}" for n in range(10_000)))
        await stored(storage)
    assert execute(tmp_path / "data" / "facet.db", "SELECT count(*) FROM models") == [(10_100,)]
    async with opened(tmp_path / "data") as storage:
        assert await storage.models.warm(storage.bounds.warm_models) == storage.bounds.warm_models
        assert storage.models.loads == 0
        assert await answered_from_memory(storage.models)
        await upload_all(storage.models, (f"again-{n}" for n in range(10_000)))
        assert await answered_from_memory(storage.models)
        assert len(storage.models.cache) <= storage.bounds.models_entries
