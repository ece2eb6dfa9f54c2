"""Jobs over HTTP: how far a request is that was accepted to be answered later."""

from aiohttp import web

from server.api.prices.batches import SHAPE, rendered
from server.http.request import Call
from server.http.responses import json_response
from server.http.routes import Routes
from server.jobs.respond import POLL_S, shown
from server.jobs.running import JOBS, Job, JobRecord, JobState
from storage.orders.actors import PRICING_ROLES

routes = Routes("prices")


@routes(
    "GET",
    "/v1/jobs/{id}",
    "A request that is answered later: how far it is, and its answer",
    roles=PRICING_ROLES,
    answers={200: Job},
    errors=(404, 409, 503),
)
async def get_job(call: Call) -> web.StreamResponse:
    jobs = call.request.app[JOBS]
    record = await jobs.find(call.named("id"), call.actor.token_id)
    headers = {"Retry-After": str(POLL_S)} if record.state is JobState.RUNNING else {}
    job = shown(record, await _result(call, record), jobs.expires_at(record))
    return json_response(job, headers={"Cache-Control": "no-store", **headers})


async def _result(call: Call, record: JobRecord) -> bytes | None:
    outcome = record.outcome
    if outcome is None or record.state is not JobState.DONE:
        return None
    body = bytes(outcome.body)
    return await rendered(call, body) if outcome.shape == SHAPE else body
