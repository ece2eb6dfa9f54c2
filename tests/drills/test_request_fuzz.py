"""Thousands of odd requests: none is a failure of the service, none is answered in silence."""

import json

import pytest

from tests.drills.request_fuzz import request_of, send_all
from tests.support.processes import Service

SEED, REQUESTS = 11, 3_000


@pytest.mark.slow
async def test_odd_requests_are_answered_or_refused(service: Service) -> None:
    statuses, failures = await send_all(service.url, SEED, REQUESTS)
    assert failures == []
    assert len(statuses) > 8  # or the generator has grown dull
    lines = [json.loads(line) for line in service.log_text().splitlines()]
    assert [line for line in lines if line["level"] in ("error", "critical")] == []


def test_a_request_follows_from_seed_and_number() -> None:
    assert [request_of(1, n) for n in range(50)] == [request_of(1, n) for n in range(50)]
    assert request_of(1, 0) != request_of(2, 0)
