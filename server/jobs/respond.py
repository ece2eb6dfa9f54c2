"""Answer now or later: `Prefer: respond-async` (RFC 7240) turns a request into a job."""

import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime

import msgspec
from aiohttp import web

from server.http.idempotency import Reply
from server.http.problems import HttpError, problem_response
from server.http.request import Call
from server.http.responses import json_response
from server.jobs.running import JOBS, Job, JobProgress, JobRecord, JobState, Outcome, Progress
from storage.services.idempotency import IdempotencyKey

POLL_S = 1
"""What a caller that waits for a job is told to wait between two looks."""
PLAIN = "plain"

Work = Callable[[Progress], Awaitable[Reply]]


async def respond_later(
    call: Call,
    keyed: IdempotencyKey | None,
    work: Work,
    resources: contextlib.AsyncExitStack,
    progress: Progress | None = None,
    shape: str = PLAIN,
) -> web.StreamResponse:
    """202, and a job that works on with the resources. An equal keyed request that is under way here already
    is the same job."""
    progress = progress or Progress()
    jobs = call.request.app[JOBS]
    scope = None if keyed is None else f"{keyed.scope} {keyed.body_hash}"
    if (record := jobs.same(scope)) is None:
        held = resources.pop_all()

        async def run(progress: Progress) -> Outcome:
            async with held:
                return await _outcome(call, work, progress, shape)

        try:
            record = await jobs.start(call.actor.token_id, scope, progress, run)
        except HttpError:
            await held.aclose()
            raise
    headers = {"Location": f"/v1/jobs/{record.id}", "Preference-Applied": "respond-async"}
    return json_response(shown(record, None, None), 202, {**headers, "Retry-After": str(POLL_S)})


async def _outcome(call: Call, work: Work, progress: Progress, shape: str) -> Outcome:
    try:
        kept = (await work(progress)).kept
    except Exception as error:
        return refusal(error, call.request_id)
    progress.done = progress.total
    return Outcome(kept.status, msgspec.Raw(kept.body or b"null"), shape)


def refusal(error: Exception, request_id: str) -> Outcome:
    """What the caller would have been told at once."""
    response = problem_response(error, request_id)
    assert isinstance(response.body, bytes)
    return Outcome(response.status, msgspec.Raw(response.body))


def gone(why: str) -> Outcome:
    """Of a job that its process did not finish."""
    error = HttpError(503, "job_interrupted", f"{why} What it had done stays done: send the request again.")
    return refusal(error, "")


def shown(record: JobRecord, result: bytes | None, expires_at: datetime | None) -> Job:
    outcome = record.outcome
    failed = record.state is JobState.FAILED
    return Job(
        id=record.id,
        state=record.state,
        stage=record.stage,
        progress=JobProgress(record.done, record.total),
        created_at=record.created_at,
        updated_at=record.updated_at,
        expires_at=expires_at,
        status=None if outcome is None else outcome.status,
        result=None if result is None else msgspec.Raw(result),
        problem=outcome.body if outcome is not None and failed else None,
    )
