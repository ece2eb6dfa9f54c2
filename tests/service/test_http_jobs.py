"""Answers that come later: accepted at once, asked after, the same as they would have been."""

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from server.http.problems import HttpError
from server.jobs.respond import gone
from server.jobs.running import JobBounds, JobRecord, Jobs, JobState, Outcome, Progress
from tests.support.gates import DEADLINE_S, Gate, until
from tests.support.meshes import binary_stl, torus
from tests.support.processes import Client, Clients, Reply, Service, clients_of, served
from tests.support.stacks import ManualClock
from tests.support.workshop import SHA256_UNKNOWN, Workshop, new_key, problem

ASK = {"material": "gold-585-yellow"}
LATER = {"Prefer": "respond-async"}
SMALL = JobBounds(running=4, running_per_owner=3, kept=5, drain_s=0.2)


def a_ring(around: int = 24) -> bytes:
    return binary_stl(torus(9.0 + np.random.default_rng().random(), around=around))


async def price(client: Client, body: bytes, headers: Any = None, **query: str) -> Reply:
    return await client.send("POST", "/v1/prices", data=BytesIO(body), params=ASK | query, headers=headers)


def accepted(reply: Reply) -> str:
    """Where to ask after it."""
    assert (reply.status, reply.headers["Preference-Applied"]) == (202, "respond-async"), reply
    assert reply.headers["Location"] == f"/v1/jobs/{reply.json['id']}"
    assert int(reply.headers["Retry-After"]) >= 1
    return reply.headers["Location"]


async def ended(client: Client, path: str) -> Any:
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        reply = await client.get(path)
        assert reply.status == 200, reply
        if reply.json["state"] != "running":
            assert reply.json["expires_at"] > reply.json["updated_at"]
            return reply.json
        assert reply.headers["Retry-After"]
    raise AssertionError("it did not end")


async def test_a_price_that_comes_later_is_the_one_that_would_have_come_at_once(workshop: Workshop) -> None:
    body = a_ring()
    path = accepted(await price(workshop.partner, body, LATER, quantity="3"))
    job = await ended(workshop.partner, path)
    assert (job["state"], job["status"], job["problem"]) == ("done", 200, None)
    assert job["progress"] == {"done": 1, "total": 1}
    assert job["result"] == (await price(workshop.partner, body, quantity="3")).json


async def test_metrics_count_files_and_jobs_by_what_came_of_them(workshop: Workshop) -> None:
    async def counts() -> dict[str, float]:
        lines = (await workshop.nobody.get("/metrics")).raw.decode().splitlines()
        named = (line.rpartition(" ") for line in lines if line.startswith(("facet_files", "facet_jobs")))
        return {name: float(value) for name, _, value in named}

    before = await counts()
    for body in (a_ring(), a_ring(), b"no mesh at all"):
        await ended(workshop.partner, accepted(await price(workshop.partner, body, LATER)))
    after = await counts()
    assert {name: value - before[name] for name, value in after.items()} == {
        "facet_files_outstanding": 0,
        'facet_files_total{outcome="read"}': 2,
        'facet_files_total{outcome="refused"}': 1,
        'facet_files_total{outcome="stopped"}': 0,
        'facet_files_total{outcome="busy"}': 0,
        "facet_jobs_running": 0,
        'facet_jobs_total{state="done"}': 2,
        'facet_jobs_total{state="failed"}': 1,
    }


async def test_a_large_upload_outlives_its_request(service: Service, workshop: Workshop) -> None:
    body = a_ring(around=1000)
    assert len(body) > 1 << 20
    job = await ended(workshop.partner, accepted(await price(workshop.partner, body, LATER)))
    assert job["result"]["model"]["sha256"] == hashlib.sha256(body).hexdigest()
    await until(lambda: not list((service.data_dir / "uploads").iterdir()))


async def test_a_batch_that_comes_later_says_how_far_it_is(workshop: Workshop) -> None:
    body = a_ring()
    await price(workshop.partner, body)
    model = hashlib.sha256(body).hexdigest()
    items = [{"model": model, "quantity": n} | ASK for n in range(1, 200)] + [{"model": SHA256_UNKNOWN} | ASK]
    reply = await workshop.partner.post("/v1/price-batches", {"items": items}, headers=LATER)
    assert reply.json["progress"]["total"] == 200
    job = await ended(workshop.partner, accepted(reply))
    assert job["progress"] == {"done": 200, "total": 200}
    at_once = (await workshop.partner.post("/v1/price-batches", {"items": items})).json
    assert job["result"]["items"][:-1] == at_once["items"][:-1]
    assert job["result"]["items"][-1]["problem"]["code"] == "unknown_model"


async def test_a_job_that_fails_has_the_problem_of_the_request(workshop: Workshop) -> None:
    path = accepted(await price(workshop.partner, b"no model at all", LATER))
    job = await ended(workshop.partner, path)
    assert (job["state"], job["status"], job["result"]) == ("failed", 422, None)
    assert job["problem"]["code"] == "not_a_mesh"
    assert job["problem"]["remedy"]


async def test_what_can_be_refused_at_once_is(workshop: Workshop) -> None:
    problem(await price(workshop.partner, a_ring(), LATER, material="x"), 422, "unknown_material")
    problem(await workshop.partner.post("/v1/price-batches", {"items": []}, headers=LATER), 422, "invalid")


async def test_a_job_is_its_owners_only(workshop: Workshop) -> None:
    path = accepted(await price(workshop.partner, a_ring(), LATER))
    other = await workshop.clients.of("partner", "acme too", "acme")
    for client in (other, workshop.mes, workshop.admin):
        problem(await client.get(path), 404, "unknown_job")
    problem(await workshop.partner.get("/v1/jobs/none"), 404, "unknown_job")
    problem(await workshop.customer.get(path), 403, "forbidden")


async def test_a_keyed_request_that_comes_later_happens_once(workshop: Workshop) -> None:
    key, body = new_key(), a_ring()
    first = await price(workshop.partner, body, LATER | key)
    again = await price(workshop.partner, body, LATER | key)
    jobs = [await ended(workshop.partner, accepted(reply)) for reply in (first, again)]
    at_once = await price(workshop.partner, body, key)
    assert jobs[0]["result"] == jobs[1]["result"] == at_once.json
    other = await ended(workshop.partner, accepted(await price(workshop.partner, a_ring(), LATER | key)))
    assert (other["status"], other["problem"]["code"]) == (422, "idempotency_key_reused")


# --- Bounds, ends, and other processes


class Board:
    """Copies that two processes see."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    async def get(self, key: str) -> bytes | None:
        return self.held.get(key)

    def put(self, key: str, value: bytes, ttl_s: float) -> None:
        self.held[key] = value

    async def keep(self, key: str, value: bytes, ttl_s: float) -> None:
        assert ttl_s > 0
        self.held[key] = value

    async def drop(self, key: str) -> None:
        self.held.pop(key, None)


class Here:
    """The jobs of one process, and work that waits at a gate."""

    def __init__(self, board: Board, clock: ManualClock, bounds: JobBounds = SMALL) -> None:
        self.jobs = Jobs(board, gone, clock, bounds)
        self.gate = Gate()
        self.gate.close()

    async def start(self, owner: str = "owner", scope: str | None = None) -> JobRecord:
        return await self.jobs.start(owner, scope, Progress(total=2), self._work)

    async def _work(self, progress: Progress) -> Outcome:
        progress.done, progress.stage = 1, "half"
        await self.gate.enter()
        return Outcome(200, msgspec.Raw(b'{"a":1}'))


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
async def here(board: Board, clock: ManualClock) -> AsyncIterator[Here]:
    here = Here(board, clock)
    yield here
    here.gate.open()
    await here.jobs.close()


async def refused(start: Any) -> HttpError:
    with pytest.raises(HttpError) as error:
        await start
    return error.value


async def test_jobs_under_way_are_bounded(here: Here) -> None:
    for _ in range(3):
        await here.start()
    own = await refused(here.start())
    assert (own.status, own.code) == (429, "too_many_jobs")
    assert own.headers["Retry-After"]
    await here.start("another")
    full = await refused(here.start("a third"))
    assert (full.status, full.code) == (503, "busy")
    assert full.headers["Retry-After"]
    here.gate.open()
    await until(lambda: here.jobs.running == 0)
    assert (await here.start()).state is JobState.RUNNING


async def test_ended_jobs_are_kept_for_a_while_and_not_without_end(here: Here, clock: ManualClock) -> None:
    here.gate.open()
    records = []
    for _ in range(SMALL.kept + 2):
        records.append(await here.start())
        await until(lambda: here.jobs.running == 0)
    here.jobs._copies = Board()  # nobody else has one
    assert (await refused(here.jobs.find(records[0].id, "owner"))).code == "unknown_job"
    newest = await here.jobs.find(records[-1].id, "owner")
    assert (newest.state, newest.done) == (JobState.DONE, 1)
    clock.move(SMALL.kept_s + 1)
    assert (await refused(here.jobs.find(records[-1].id, "owner"))).code == "unknown_job"


async def test_another_process_finds_the_job_and_its_result(
    here: Here, board: Board, clock: ManualClock
) -> None:
    there = Here(board, clock)
    record = await here.start()
    seen = await there.jobs.find(record.id, "owner")
    assert (seen.state, seen.total) == (JobState.RUNNING, 2)
    assert (await refused(there.jobs.find(record.id, "somebody"))).code == "unknown_job"
    here.gate.open()
    await until(lambda: not here.jobs._ending and here.jobs.running == 0)
    done = await there.jobs.find(record.id, "owner")
    assert done.state is JobState.DONE
    assert done.outcome is not None
    assert bytes(done.outcome.body) == b'{"a":1}'


class SlowBoard(Board):
    """A board on which an ended job arrives when the gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()
        self.gate.close()

    async def keep(self, key: str, value: bytes, ttl_s: float) -> None:
        if b'"running"' not in value:
            await self.gate.enter()
        await super().keep(key, value, ttl_s)


async def test_a_job_has_not_ended_here_before_it_has_elsewhere(clock: ManualClock) -> None:
    """Who is told the result must not be told by another process that it is under way still."""
    board = SlowBoard()
    here, there = Here(board, clock), Here(board, clock)
    record = await here.start()
    here.gate.open()
    await board.gate.reached()
    assert (await here.jobs.find(record.id, "owner")).state is JobState.RUNNING
    board.gate.open()
    await until(lambda: here.jobs.running == 0)
    for process in (here, there):
        assert (await process.jobs.find(record.id, "owner")).state is JobState.DONE
    await here.jobs.close()


async def test_the_job_of_a_process_that_is_gone_has_failed(
    here: Here, board: Board, clock: ManualClock
) -> None:
    there = Here(board, clock)
    record = await here.start()
    clock.move(SMALL.silent_s + 1)
    lost = await there.jobs.find(record.id, "owner")
    assert (lost.state, lost.stage) == (JobState.FAILED, "failed")
    assert code_of(lost) == "job_interrupted"
    assert (await here.jobs.find(record.id, "owner")).state is JobState.RUNNING


def code_of(record: JobRecord) -> Any:
    assert record.outcome is not None
    return msgspec.json.decode(record.outcome.body)["code"]


async def test_a_stopping_process_finishes_its_jobs_or_says_that_it_did_not(
    board: Board, clock: ManualClock
) -> None:
    quick, slow, there = Here(board, clock), Here(board, clock), Here(board, clock)
    finished, unfinished = await quick.start(), await slow.start()
    quick.gate.open()
    await quick.jobs.close()
    await slow.jobs.close()
    assert (await there.jobs.find(finished.id, "owner")).state is JobState.DONE
    lost = await there.jobs.find(unfinished.id, "owner")
    assert (lost.state, code_of(lost)) == (JobState.FAILED, "job_interrupted")
    assert (await refused(slow.start())).status == 503


async def test_an_equal_request_under_way_is_the_same_job(here: Here) -> None:
    record = await here.start(scope="key")
    same = here.jobs.same("key")
    assert same is not None
    assert same.id == record.id
    assert here.jobs.same("other") is None
    await here.start(scope=None)
    assert here.jobs.same(None) is None


@pytest.fixture
def two_workers(tmp_path: Path, engines: dict[str, str]) -> Iterator[Service]:
    with served(tmp_path / "data", FACET_WORKERS="2", **engines) as service:
        yield service


async def from_every_worker(service: Service, ask: Callable[[Clients], Any]) -> list[Any]:
    """Each connection may lead to another process: so many that both are met."""
    answers = []
    for _ in range(12):
        async with clients_of(service.url) as clients:
            answers.append(await ask(clients))
    return answers


async def test_every_process_knows_the_job(two_workers: Service) -> None:
    async with clients_of(two_workers.url) as clients:
        path = accepted(await price(clients.admin, a_ring(), LATER))
        job = await ended(clients.admin, path)
    shown = await from_every_worker(two_workers, lambda clients: clients.admin.get(path))
    assert [reply.json["result"] for reply in shown] == [job["result"]] * len(shown)
