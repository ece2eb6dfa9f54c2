"""Requests that are answered later: each is a job that its owner polls.

A job runs in the process that accepted it, within bounds, and is kept for a while when it has ended. It is
no record: what it does for good (quotes) is in the log like everything else. Where several processes serve,
each leaves copies of its jobs for the others, so that any of them can be asked; a copy that nobody has
renewed for a while is of a process that is gone, and says so. Alone, a process takes its jobs with it.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec
from aiohttp import web

from server.http.problems import HttpError
from storage.clock import Clock
from storage.ids import new_id
from storage.memory.lru import Lru
from storage.shared.cache import SharedCache


class JobState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class JobBounds(msgspec.Struct, frozen=True, kw_only=True):
    """`running`: jobs under way in one process; `running_per_owner`: of one token. `kept`, `kept_bytes`,
    `kept_s`: how long ended jobs can be polled. `renew_s`: how often the copies of running jobs are
    renewed; `silent_s`: a copy older than this is of a process that is gone. `drain_s`: how long a stopping
    process lets its jobs run."""

    running: int = 64
    running_per_owner: int = 16
    kept: int = 1_000
    kept_bytes: int = 32 * 2**20
    kept_s: float = 3_600.0
    renew_s: float = 1.0
    silent_s: float = 15.0
    drain_s: float = 5.0

    def __post_init__(self) -> None:
        if not self.renew_s * 3 < self.silent_s < self.kept_s or self.running_per_owner > self.running:
            raise ValueError("job bounds do not fit each other")


BOUNDS = JobBounds()


class Progress(msgspec.Struct):
    """Written by the work, read by who asks."""

    total: int = 1
    done: int = 0
    stage: str = "waiting"


class Outcome(msgspec.Struct, frozen=True):
    """How a job ended: the body of the answer, or of the problem. `shape`: what kind of answer it is."""

    status: int
    body: msgspec.Raw
    shape: str = "plain"


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A job as processes tell each other."""

    id: str
    owner: str
    state: JobState
    stage: str
    done: int
    total: int
    created_at: datetime
    updated_at: datetime
    outcome: Outcome | None = None


class JobProgress(msgspec.Struct, frozen=True):
    done: int
    total: int


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """`status`, with `result` or `problem`: what the request would have been answered at once. Kept until
    `expires_at`, at least while the process that ran it is running."""

    id: str
    state: JobState
    stage: str
    progress: JobProgress
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    status: int | None
    result: msgspec.Raw | None
    problem: msgspec.Raw | None


Work = Callable[[Progress], Coroutine[Any, Any, Outcome]]
"""Does what was asked. Raises nothing but CancelledError: its own failures are outcomes."""

ID_CHARS = 64

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(JobRecord).decode


class _Running(msgspec.Struct, eq=False):
    record: JobRecord
    progress: Progress
    scope: str | None
    task: "asyncio.Task[Outcome]"


class Jobs:
    def __init__(
        self, copies: SharedCache, gone: Callable[[str], Outcome], clock: Clock, bounds: JobBounds = BOUNDS
    ) -> None:
        """`gone`: the outcome of a job whose process did not finish it, by what became of that."""
        self._copies = copies
        self._gone = gone
        self._clock = clock
        self._bounds = bounds
        self._running: dict[str, _Running] = {}
        self._ended: Lru[str, JobRecord] = Lru(bounds.kept, bounds.kept_bytes)
        self._renewing: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._telling = asyncio.Lock()
        self._accepting = True
        self.ended: Counter[JobState] = Counter()

    @property
    def running(self) -> int:
        return len(self._running)

    def same(self, scope: str | None) -> JobRecord | None:
        """The job of an equal keyed request that is under way here."""
        found = (job for job in self._running.values() if scope is not None and job.scope == scope)
        return next((self._shown(job) for job in found), None)

    async def start(self, owner: str, scope: str | None, progress: Progress, work: Work) -> JobRecord:
        """Accept a job; others find it on return. Raises HttpError 429 or 503."""
        self._require_room(owner)
        now = self._clock.now()
        record = JobRecord(
            id=new_id(now),
            owner=owner,
            state=JobState.RUNNING,
            stage=progress.stage,
            done=0,
            total=progress.total,
            created_at=now,
            updated_at=now,
        )
        task = asyncio.create_task(work(progress), name="job")
        job = _Running(record, progress, scope, task)
        self._running[record.id] = job
        task.add_done_callback(lambda _: self._ended_as(job))
        await self._tell(record)
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew(), name="jobs")
        return record

    async def find(self, job_id: str, owner: str) -> JobRecord:
        """Raises HttpError 404, for another owner's job as well."""
        record = self._held(job_id) or await self._copied(job_id)
        if record is None or record.owner != owner:
            raise HttpError(404, "unknown_job", "There is no such job here, or it is no longer kept.")
        return record

    def expires_at(self, record: JobRecord) -> datetime | None:
        if record.state is JobState.RUNNING:
            return None
        return record.updated_at + timedelta(seconds=self._bounds.kept_s)

    def stop(self) -> None:
        """Accept no more."""
        self._accepting = False

    async def close(self) -> None:
        """Let jobs under way finish for a while; what is left then has failed, and says why."""
        self.stop()
        if tasks := [job.task for job in self._running.values()]:
            _, late = await asyncio.wait(tasks, timeout=self._bounds.drain_s)
            for task in late:
                task.cancel()
            await asyncio.wait(tasks)
        await asyncio.sleep(0)  # their callbacks
        await asyncio.gather(*self._ending)
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])

    def _require_room(self, owner: str) -> None:
        bounds = self._bounds
        if not self._accepting:
            raise HttpError(503, "busy", "This process is stopping.", {"Retry-After": "1"})
        if len(self._running) >= bounds.running:
            raise HttpError(503, "busy", f"{len(self._running)} jobs are under way.", {"Retry-After": "5"})
        own = sum(job.record.owner == owner for job in self._running.values())
        if own >= bounds.running_per_owner:
            raise HttpError(
                429, "too_many_jobs", f"{own} jobs of this token are under way.", {"Retry-After": "5"}
            )

    def _held(self, job_id: str) -> JobRecord | None:
        if (running := self._running.get(job_id)) is not None:
            return self._shown(running)
        ended = self._ended.peek(job_id)
        if not isinstance(ended, JobRecord):
            return None
        if self._clock.now() - ended.updated_at > timedelta(seconds=self._bounds.kept_s):
            self._ended.discard(job_id)
            return None
        return ended

    def _shown(self, job: _Running) -> JobRecord:
        progress = job.progress
        return msgspec.structs.replace(
            job.record,
            stage=progress.stage,
            done=progress.done,
            total=progress.total,
            updated_at=self._clock.now(),
        )

    def _ended_as(self, job: _Running) -> None:
        shown = self._shown(job)
        failed = job.task.cancelled() or job.task.exception() is not None
        outcome = self._gone("The process stopped before it was done.") if failed else job.task.result()
        state = JobState.DONE if outcome.status < 400 else JobState.FAILED
        record = msgspec.structs.replace(shown, state=state, stage=state.value, outcome=outcome)
        ending = asyncio.create_task(self._end(record, len(bytes(outcome.body))), name=f"job {record.id}")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _end(self, record: JobRecord, size: int) -> None:
        """It has ended here when it has for the others: who saw it end must not see it run again."""
        async with self._telling:
            try:
                await self._copies.keep(_key(record.id), _encode(record), self._bounds.kept_s)
            finally:
                del self._running[record.id]
                self.ended[record.state] += 1
                self._ended.put(record.id, record, size)

    async def _renew(self) -> None:
        """While jobs are under way, others see how far they are, and that this process is there."""
        while self._running:
            await asyncio.sleep(self._bounds.renew_s)
            for job in list(self._running.values()):
                await self._tell(self._shown(job))

    async def _tell(self, record: JobRecord) -> None:
        async with self._telling:  # one by one, so that what was told last is what others find
            if record.id in self._running:  # else it ended meanwhile
                await self._copies.keep(_key(record.id), _encode(record), self._bounds.kept_s)

    async def _copied(self, job_id: str) -> JobRecord | None:
        """As another process has left it."""
        value = await self._copies.get(_key(job_id)) if len(job_id) <= ID_CHARS else None
        try:
            record = None if value is None else _decode(value)
        except msgspec.DecodeError:
            return None
        if record is None or record.state is not JobState.RUNNING:
            return record
        if self._clock.now() - record.updated_at < timedelta(seconds=self._bounds.silent_s):
            return record
        outcome = self._gone("The process that ran it is gone.")
        return msgspec.structs.replace(record, state=JobState.FAILED, stage="failed", outcome=outcome)


def _key(job_id: str) -> str:
    return f"job:{job_id}"


JOBS: web.AppKey[Jobs] = web.AppKey("jobs", Jobs)
