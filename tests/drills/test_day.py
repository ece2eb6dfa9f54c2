"""A short scripted day with kills; and that the evening's check would notice what must not happen."""

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drills.day import Plan, run
from tests.drills.day_history import Acknowledged, violations


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_or_doubled_when_the_service_is_killed_during_the_day(
    tmp_path: Path,
) -> None:
    plan = Plan(seed=random.SystemRandom().randrange(2**32), orders=100, kills=3)
    report = await run(plan, tmp_path / "data")
    print(report)
    assert report.violations == []
    assert report.counts["kills"] == plan.kills
    for happened in ("changes acknowledged", "reads", "takes lost to another", "releases"):
        assert report.counts[happened] > 0, happened


ORDER = "order-1"
STEPS = (
    ("create", None, "INITIATED", "shop"),
    ("status", "INITIATED", "FILE_UPLOADED", "shop"),
    ("status", "FILE_UPLOADED", "SUBMITTED", "shop"),
    ("comment", "SUBMITTED", "SUBMITTED", "shop"),
    ("status", "SUBMITTED", "PRICE_CALCULATED", "mes"),
    ("status", "PRICE_CALCULATED", "MANUFACTURING_APPROVED", "seller"),
    ("take", "MANUFACTURING_APPROVED", "MANUFACTURING_STARTED", "ivan"),
    ("release", "MANUFACTURING_STARTED", "MANUFACTURING_APPROVED", "ivan"),
    ("take", "MANUFACTURING_APPROVED", "MANUFACTURING_STARTED", "olga"),
)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The rows that one order without any fault leaves."""
    path = tmp_path / "facet.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "CREATE TABLE orders (id, version, status, operator, updated_at);"
            "CREATE TABLE order_history (order_id, version, kind, from_status, to_status, actor, at,"
            " idempotency_key);"
            "CREATE TABLE dead_letters (id);"
        )
        for version, (kind, before, after, actor) in enumerate(STEPS, 1):
            row = (ORDER, version, kind, before, after, actor, f"at-{version}", f"key-{version}")
            connection.execute("INSERT INTO order_history VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        last = (ORDER, len(STEPS), "MANUFACTURING_STARTED", "olga", f"at-{len(STEPS)}")
        connection.execute("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", last)
    return path


@pytest.fixture
def told() -> list[Acknowledged]:
    return [
        Acknowledged(
            ORDER,
            version,
            f"key-{version}",
            actor,
            after,
            actor if after == "MANUFACTURING_STARTED" else None,
        )
        for version, (_, _, after, actor) in enumerate(STEPS, 1)
    ]


def test_history_without_fault_passes_the_check(database: Path, told: list[Acknowledged]) -> None:
    assert violations(database, told) == []


@pytest.mark.parametrize(
    "fault",
    [
        "DELETE FROM order_history WHERE version = 4",
        "DELETE FROM order_history WHERE version = 9",
        "UPDATE order_history SET version = 10 WHERE version = 9",
        "UPDATE order_history SET idempotency_key = 'key-3' WHERE version = 2",
        "UPDATE order_history SET kind = 'comment', to_status = from_status WHERE version = 8",
        "UPDATE order_history SET from_status = 'SUBMITTED' WHERE version = 6",
        "UPDATE order_history SET to_status = 'PACKAGING' WHERE version = 9",
        "UPDATE order_history SET actor = 'ivan' WHERE version = 9",
        "UPDATE orders SET version = 8",
        "UPDATE orders SET status = 'MANUFACTURING_APPROVED'",
        "UPDATE orders SET operator = 'ivan'",
        "UPDATE orders SET updated_at = 'at-8'",
        "DELETE FROM orders",
        "INSERT INTO orders VALUES ('order-2', 1, 'INITIATED', NULL, 'at-1')",
        "INSERT INTO dead_letters VALUES ('letter')",
        "INSERT INTO order_history SELECT 'order-2', 1, 'create', NULL, 'INITIATED', 'shop', 'at-1', 'key-1'",
    ],
)
def test_fault_in_the_database_is_noticed(fault: str, database: Path, told: list[Acknowledged]) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute(fault)
    assert violations(database, told) != []


@pytest.mark.parametrize(
    "tell",
    [
        lambda last: last._replace(key="key-1"),
        lambda last: last._replace(version=10, key="key-10"),
        lambda last: last._replace(actor="ivan", operator="ivan", key="key-10"),
        lambda last: last,
    ],
)
def test_client_that_was_told_something_else_is_noticed(
    tell: Callable[[Acknowledged], Acknowledged], database: Path, told: list[Acknowledged]
) -> None:
    assert violations(database, [*told, tell(told[-1])]) != []
