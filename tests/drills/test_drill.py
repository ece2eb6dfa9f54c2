"""A short fault drill; and that its judges would notice what must not happen."""

import json
import random
import time
from collections import deque
from pathlib import Path
from typing import Any, cast

import pytest

from tests.drills.day_history import Acknowledged, Row, State
from tests.drills.drill import drawn, run
from tests.drills.drill_clients import Floor, Violation, Walker
from tests.drills.drill_judge import Stored, Window, judge
from tests.support.processes import Client, Reply

SHORT = [
    "redis killed",
    "redis stalled",
    "redis full",
    "redis flushed",
    "redis restarted empty",
    "redis flushed over a backlog",
    "redis empty over a backlog",
    "redis without its tail",
    "postgresql stopped",
    "postgresql killed",
    "postgresql locked",
    "both killed",
    "server cut off from redis",
    "replies of writes lost",
    "poison entry",
]
ORDER = "018f0000-0000-7000-8000-000000000001"


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_or_doubled_while_redis_postgresql_and_servers_fail(
    tmp_path: Path,
) -> None:
    seed = random.SystemRandom().randrange(2**32)
    report = await run(seed, drawn(random.Random(seed), 4, SHORT), tmp_path)
    print(report)
    assert report.violations == []
    assert report.lost_by_exception == 0
    for happened in ("acknowledged", "takes", "fresh reads"):
        assert report.counts[happened] > 0, happened


@pytest.fixture
def floor() -> Floor:
    return Floor(["http://server-1"], random.Random(1))


def told(version: int, key: str = "") -> Acknowledged:
    return Acknowledged(ORDER, version, key or f"key-{version}", "shop", "INITIATED", None)


def stored(versions: int) -> Stored:
    """One order: created, then remarked on."""
    rows = [Row(ORDER, 1, "create", None, "INITIATED", "shop", "at-1", "key-1")]
    rows += [
        Row(ORDER, version, "comment", "INITIATED", "INITIATED", "shop", f"at-{version}", f"key-{version}")
        for version in range(2, versions + 1)
    ]
    return Stored(rows, {ORDER: State(ORDER, versions, "INITIATED", None, f"at-{versions}")}, 0)


def test_history_with_all_that_was_told_passes(floor: Floor) -> None:
    for version in (1, 2, 3):
        floor.told(told(version))
    assert judge(stored(3), floor, []) == ([], [])


def test_lost_change_is_a_violation_outside_the_stated_exception(floor: Floor) -> None:
    for version in (1, 2, 3):
        floor.told(told(version))
    before = time.monotonic() - 100
    verdict = judge(stored(2), floor, [Window(before, before + 1)])
    assert len(verdict.violations) == 1
    assert verdict.lost_by_exception == []


def test_change_that_was_lost_with_redis_and_its_server_is_scored_apart(floor: Floor) -> None:
    for version in (1, 2, 3):
        floor.told(told(version))
    now_s = time.monotonic()
    assert judge(stored(2), floor, [Window(now_s - 10, now_s)]) == ([], [told(3)])


def test_change_that_took_effect_twice_is_a_violation_within_the_exception_too(floor: Floor) -> None:
    found = stored(3)
    found.rows[2] = found.rows[2]._replace(key="key-2")
    for version in (1, 2):
        floor.told(told(version))
    now_s = time.monotonic()
    assert judge(found, floor, [Window(now_s - 10, now_s)]).violations


def test_effect_of_a_refused_request_is_a_violation(floor: Floor) -> None:
    floor.refused_keys.add("key-2")
    assert len(judge(stored(2), floor, []).violations) == 1


class Script:
    """Answers requests with what it was given, in turn."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = deque(replies)

    async def send(self, *_: Any, **__: Any) -> Reply:
        return self._replies.popleft()


def walker(floor: Floor, *replies: Reply) -> Walker:
    return Walker([cast(Client, Script(*replies))], "olga", floor)


def shown(version: int, position: str = "1-9", source: str = "facet; hit; detail=local") -> Reply:
    headers = {"Facet-Position": position, "Cache-Status": source, "ETag": f'"{version}"'}
    return Reply(200, headers, json.dumps({"id": ORDER, "version": version, "status_version": 1}).encode())


async def test_read_of_what_was_superseded_a_second_before_is_a_violation(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    began_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: began_s)
    floor.told(told(1))
    floor.told(told(2))
    monkeypatch.setattr(time, "monotonic", lambda: began_s + 0.9)
    await walker(floor, shown(1)).order(ORDER)
    monkeypatch.setattr(time, "monotonic", lambda: began_s + 1.1)
    await walker(floor, shown(1, source="facet; hit; detail=stale")).order(ORDER)
    with pytest.raises(Violation):
        await walker(floor, shown(1)).order(ORDER)


@pytest.mark.parametrize(
    "second", [shown(1), shown(2, position="1-8"), Reply(500, {}, b""), Reply(503, {}, b'{"code": "x"}')]
)
async def test_answer_that_contradicts_what_a_client_knows_is_a_violation(
    second: Reply, floor: Floor
) -> None:
    client = walker(floor, shown(2), second)
    await client.order(ORDER)
    with pytest.raises(Violation):
        await client.order(ORDER)
