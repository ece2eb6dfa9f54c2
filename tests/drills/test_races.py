"""Short randomised races; and that the judge of the races finds each fault that is planted for it."""

import random
from pathlib import Path

import pytest

from tests.drills.race_faults import Fault
from tests.drills.races import Plan, Report, run


def _seed() -> int:
    return random.SystemRandom().randrange(2**32)


async def _raced(plan: Plan, redis_url: str, database_url: str, tmp_path: Path) -> Report:
    report = await run(plan, redis_url, database_url, tmp_path / "race")
    print(report)
    return report


@pytest.mark.slow
async def test_three_processes_that_race_for_the_same_orders_end_in_agreement(
    fresh_redis: str, fresh_database: str, tmp_path: Path
) -> None:
    plan = Plan(seed=_seed(), operations=25_000, restart_every_s=1.0)
    report = await _raced(plan, fresh_redis, fresh_database, tmp_path)
    assert report.wrong == []
    for happened in (
        *("acknowledged", "reads", "repeated", "invalidations", "already_taken", "duplicate_reference"),
        *(
            "evictions",
            "evicted from Redis",
            "fills refused",
            "pages",
            "histories",
            "batches",
            "hedges refused",
        ),
    ):
        assert report.counts[happened] > 0, happened
    assert report.counts["kills"] + report.counts["restarts"] > 0


FINDS: dict[Fault, set[str]] = {
    Fault.UNGUARDED_FILL: {"stale", "regressions"},
    Fault.UNCHECKED_VERSION: {"lost", "dead letters"},
    Fault.LOOSE_POSITION: {"lost", "regressions", "dead letters"},
    Fault.BLIND_RETRY: {"doubled"},
    Fault.FINAL_REFUSAL: {"hedged"},
    Fault.OWN_CLOCK: {"clocks"},
    Fault.LATE_POSITION: {"regressions"},
}
"""By which of these each fault shows."""


@pytest.mark.slow
@pytest.mark.parametrize("fault", FINDS, ids=str)
async def test_a_planted_fault_is_found(
    fault: Fault, fresh_redis: str, fresh_database: str, tmp_path: Path
) -> None:
    loses = 0.03 if fault is Fault.BLIND_RETRY else 0.002
    operations = (
        15_000 if fault is Fault.UNGUARDED_FILL else 6_000
    )  # a slow load must meet a change of its order
    plan = Plan(seed=_seed(), operations=operations, fault=fault, loses=loses, restart_every_s=2.0)
    report = await _raced(plan, fresh_redis, fresh_database, tmp_path)
    assert {wrong.kind for wrong in report.wrong} & FINDS[fault]


def test_every_fault_is_planted_once() -> None:
    assert (
        set(Fault) - {Fault.NONE, Fault.UNGUARDED_LOCAL_FILL} == FINDS.keys()
    )  # that shows in long races only
