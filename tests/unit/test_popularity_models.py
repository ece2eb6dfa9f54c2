"""Facts of models: computed once, kept by how much they are asked for, carried to the database."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from storage.memory.lru import MISS
from storage.memory.popularity import Popularity
from storage.models.backlog import ModelBacklog
from storage.models.cache import PopularModels
from storage.models.shared import Model
from storage.services.models import Models
from storage.services.stack import Storage
from storage.tasks import end
from tests.support.changes import START
from tests.support.computations import FACTS, Computation
from tests.support.gates import execute, locked, turns, until
from tests.support.small_bounds import smaller
from tests.support.stacks import opened

WEEK_S = 7 * 86_400.0


@pytest.fixture
def models(storage: Storage) -> Models:
    return storage.models


def popularity(entries_max: int = 100) -> Popularity:
    return Popularity(entries_max, WEEK_S, START)


def model(sha256: str) -> Model:
    return Model(sha256, 1, FACTS, frozenset(), "1")


def test_a_score_counts_requests_and_halves_with_time() -> None:
    scores = popularity()
    assert scores.count("a", START) == 1
    assert scores.count("a", START) == 2
    assert scores.score("a", START + timedelta(days=7)) == pytest.approx(1)
    assert scores.count("a", START + timedelta(days=14)) == pytest.approx(1.5)
    assert scores.score("unknown", START) == 0


def test_what_was_asked_for_lately_beats_what_was_asked_for_long_ago() -> None:
    scores = popularity()
    for _ in range(3):
        scores.count("old", START)
    scores.count("new", START + timedelta(days=7))
    assert scores.beats("old", "new")
    scores.count("new", START + timedelta(days=14))
    assert scores.beats("new", "old")
    assert scores.top(1) == ["new"]


def test_scores_survive_years() -> None:
    scores = popularity()
    moment = START
    for years in range(60):
        moment = START + timedelta(days=365 * years)
        scores.count("a", moment)
        scores.count("b", moment)
        scores.count("a", moment)
    assert scores.score("a", moment) == pytest.approx(2)
    assert scores.beats("a", "b")
    assert not scores.beats("b", "a")


def test_a_restored_score_is_as_old_as_it_is_and_never_lowers_a_newer_one() -> None:
    scores = popularity()
    scores.restore("a", 4.0, START - timedelta(days=7))
    assert scores.score("a", START) == pytest.approx(2)
    scores.count("a", START)
    scores.restore("a", 4.0, START - timedelta(days=7))
    assert scores.score("a", START) == pytest.approx(3)


def test_scores_are_bounded_and_the_least_are_forgotten() -> None:
    scores = popularity(entries_max=10)
    for key in "abc":
        for _ in range(5):
            scores.count(key, START)
    for n in range(1_000):
        scores.count(str(n), START)
    assert len(scores) <= 10
    assert set(scores.top(3)) == {"a", "b", "c"}


def test_a_flood_of_models_asked_for_once_pushes_out_none_that_is_asked_for_every_day() -> None:
    scores = popularity(entries_max=10_000)
    cache = PopularModels(20, scores)
    popular = [f"popular {n}" for n in range(18)]
    for name in popular * 3:
        scores.count(name, START)
    for name in [*popular, "a", "b"]:
        cache.put(model(name))
    for n in range(500):
        scores.count(str(n), START)
        cache.put(model(str(n)))
    assert all(cache.get(name) is not MISS for name in popular)
    assert cache.get("499") is not MISS
    assert cache.get("0") is MISS
    assert len(cache) == 20
    assert cache.evictions >= 490


def test_a_model_that_becomes_popular_takes_the_place_of_one_that_is_not() -> None:
    scores = popularity()
    cache = PopularModels(10, scores)
    for n in range(10):
        scores.count(str(n), START)
        cache.put(model(str(n)))
    for _ in range(5):
        scores.count("ring", START)
    cache.put(model("ring"))
    cache.put(model("next"))
    assert cache.get("ring") is not MISS
    assert cache.get("0") is MISS
    assert cache.discard("ring")
    assert not cache.discard("ring")


async def test_a_model_is_computed_once_for_a_thousand_callers(models: Models) -> None:
    compute = Computation()
    async with compute.gate.closed():
        callers = [asyncio.create_task(models.facts("a", 1, f"t{n}", compute)) for n in range(1_000)]
        await compute.gate.reached()
        await turns()
    found = await asyncio.gather(*callers)
    assert compute.count == 1
    assert {origin for _, origin in found} == {"computed"}
    assert found[-1][0].facts == FACTS
    assert (await models.facts("a", 1, "t", compute))[1] == "local"
    known = await models.find("a")
    assert known is not None
    assert known[0].tenants == {"t", *(f"t{n}" for n in range(1_000))}


async def test_a_failed_computation_is_not_kept(models: Models) -> None:
    with pytest.raises(ValueError, match="no mesh"):
        await models.facts("a", 1, "t", Computation(fails=ValueError("no mesh")))
    assert await models.find("a") is None
    assert (await models.facts("a", 1, "t", Computation()))[1] == "computed"


async def test_facts_and_popularity_survive_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as storage:
        for _ in range(3):
            await storage.models.facts("a", 7, "t", Computation())
    async with opened(tmp_path) as storage:
        found = await storage.models.find("a")
        assert found == (Model("a", 7, FACTS, frozenset({"t"}), "1"), "database")
        assert storage.models.popularity.score("a", storage.clock.now()) == pytest.approx(3)
    async with opened(tmp_path) as storage:
        assert await storage.models.warm(10) == 1
        found = await storage.models.find("a")
        assert found is not None
        assert found[1] == "local"
        assert storage.models.loads == 0


async def test_facts_of_an_earlier_analyser_serve_until_the_file_is_here(tmp_path: Path) -> None:
    async with opened(tmp_path / "data") as storage:
        await storage.models.facts("a", 1, "t", Computation())
    execute(tmp_path / "data" / "facet.db", "UPDATE models SET analyser = '0'")
    async with opened(tmp_path / "data") as storage:
        await storage.models.warm(10)
        found = await storage.models.find("a")
        assert found is not None
        assert storage.models.is_outdated(found[0])
        assert (await storage.models.facts("a", 1, "t", Computation()))[1] == "computed"
        found = await storage.models.find("a")
        assert found is not None
        assert not storage.models.is_outdated(found[0])


async def test_kept_files_are_read_anew_the_most_popular_first(tmp_path: Path) -> None:
    async with opened(tmp_path / "data") as storage:
        for name, requests in (("a", 1), ("b", 3), ("c", 2)):
            for _ in range(requests):
                await storage.models.facts(name, 1, "t", Computation())
    execute(tmp_path / "data" / "facet.db", "UPDATE models SET analyser = '0'")
    async with opened(tmp_path / "data") as storage:
        read: list[str] = []

        async def read_anew(sha256: str) -> bool:
            read.append(sha256)
            storage.models.store_reanalysed(sha256, 1, FACTS)
            return True

        storage.models.outdated.work = read_anew
        await storage.models.warm(10)
        await until(lambda: len(read) == 3 and not len(storage.models.outdated))
        assert read == ["b", "c", "a"]


async def test_a_file_that_cannot_be_read_now_keeps_no_other_waiting_and_a_settled_one_is_not_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PAUSE_S", "RETRY_S"):
        monkeypatch.setattr(f"storage.models.backlog.{name}", 0.0)
    scores = popularity()
    for name in ("failing", "failing", "other"):
        scores.count(name, START)
    backlog = ModelBacklog(10, scores, once=True)
    read: list[str] = []

    async def read_anew(sha256: str) -> bool:
        read.append(sha256)
        return sha256 != "failing" or read.count("failing") == 3

    backlog.work = read_anew
    for name in ("other", "failing"):
        backlog.add(name)
    task = asyncio.create_task(backlog.run())
    await until(lambda: not len(backlog))
    assert read == ["failing", "other", "failing", "failing"]
    backlog.add("failing")
    backlog.add("new")
    await until(lambda: not len(backlog))
    assert read[4:] == ["new"]
    await end(task)


async def test_a_model_that_somebody_waits_for_comes_next_and_without_a_rest() -> None:
    now_s = 0.0
    backlog = ModelBacklog(2, popularity(), once=False, rest_s=60.0, clock_s=lambda: now_s)
    done: list[str] = []

    async def work(sha256: str) -> bool:
        done.append(sha256)
        return sha256 != "later" or done.count("later") > 1

    backlog.work = work
    for name in ("a", "b", "beyond the bound"):
        backlog.add(name)
    task = asyncio.create_task(backlog.run())
    backlog.hurry("b")
    await until(lambda: done == ["b"])
    now_s = 7.0
    backlog.hurry("later")  # however many wait
    await until(lambda: done == ["b", "later"])
    assert (backlog.lag_s, backlog.waited_s("a"), backlog.waited_s("later")) == (7.0, 7.0, 0.0)
    backlog.hurry("later")
    await until(lambda: done == ["b", "later", "later"])
    await until(lambda: len(backlog) == 1)  # nobody waits for the other: it rests
    backlog.add("b")  # it is taken again
    backlog.hurry("b")
    await until(lambda: done == ["b", "later", "later", "b"])
    await end(task)


async def test_an_error_about_one_model_leaves_the_others_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAUSE_S", "RETRY_S"):
        monkeypatch.setattr(f"storage.models.backlog.{name}", 0.0)
    backlog = ModelBacklog(10, popularity(), once=False)
    done: list[str] = []

    async def work(sha256: str) -> bool:
        done.append(sha256)
        if sha256 == "bad" and done.count("bad") < 3:
            raise RuntimeError("what nobody expects")
        return True

    backlog.work = work
    for name in ("bad", "good"):
        backlog.add(name)
    task = asyncio.create_task(backlog.run())
    await until(lambda: not len(backlog))
    assert (done.count("bad"), done.count("good")) == (3, 1)
    await end(task)


async def test_facts_wait_for_a_locked_database_and_the_oldest_are_dropped_beyond_the_bound(
    tmp_path: Path,
) -> None:
    bounds = smaller(model_queue_entries=3, busy_timeout_s=0.01)
    async with opened(tmp_path / "data", bounds=bounds) as storage:
        with locked(tmp_path / "data" / "facet.db"):
            for name in "abcde":
                await storage.models.facts(name, 1, "t", Computation())
            assert (len(storage.models.records), storage.models.records.dropped) == (3, 2)
            found = await storage.models.find("e")
            assert found is not None
        await until(lambda: len(storage.models.records) == 0)
        stored = await storage.database.load_popular_models(10, WEEK_S)
        assert {item.sha256 for item in stored} == {"c", "d", "e"}


async def test_an_invalidated_model_is_read_again(models: Models, storage: Storage, tmp_path: Path) -> None:
    await models.facts("a", 1, "t", Computation())
    await until(lambda: len(models.records) == 0)
    execute(tmp_path / "data" / "facet.db", "UPDATE models SET facts = 'mended'")
    assert await models.invalidate("a")
    found = await models.find("a")
    assert found is not None
    assert found[0].facts == b"mended"
    assert not await models.invalidate("unknown")
