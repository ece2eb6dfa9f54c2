"""Many prices in one call: several models, materials and quantities, each answered or refused by itself."""

import asyncio
import contextlib
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from server.api.prices.prices import Choices, Explain
from server.http.idempotency import Reply, once
from server.http.problems import Problem
from server.http.request import LIST_BYTES_MAX, Call
from server.http.responses import json_response
from server.http.routes import Routes
from server.jobs.respond import refusal, respond_later
from server.jobs.running import Job, Progress
from server.prices.model_uploads import MODEL_UPLOADS
from server.prices.quotes import NotExplainable, QuoteView
from server.prices.quoting import QUOTING, Quoted
from storage.log.entries import Answer, Position
from storage.orders.actors import PRICING_ROLES
from storage.orders.fields import Sha256

ITEMS_MAX = 200
"""As many as a list shows at once."""
STONES_TEXT_MAX = 900
"""Characters: so that as many rows fit into one body, with every field."""
SHAPE = "price_batch"
NO_PROBLEM = msgspec.Raw(b"null")


class BatchItem(Choices, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question: a known model and what a price depends on beside it."""

    model: Sha256
    stones: Annotated[str, Meta(max_length=STONES_TEXT_MAX)] = ""


class PriceBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    items: Annotated[list[BatchItem], Meta(min_length=1, max_length=ITEMS_MAX)]


class BatchRow(msgspec.Struct, frozen=True, kw_only=True):
    """`status`: what the question alone would have been answered, with `price` or `problem`."""

    status: int
    price: QuoteView | UnsetType = UNSET
    problem: Problem | UnsetType = UNSET


class PricedBatch(msgspec.Struct, frozen=True):
    """Rows in the order of the questions."""

    items: list[BatchRow]


class _Row(msgspec.Struct, frozen=True, array_like=True):
    """An answered question as it is kept: a quote is found by its id."""

    status: int
    quote: str | None
    problem: msgspec.Raw


class _KeptBatch(msgspec.Struct, frozen=True):
    explain: bool
    rows: list[_Row]


_decode = msgspec.json.Decoder(_KeptBatch).decode


routes = Routes("prices")


@routes(
    "POST",
    "/v1/price-batches",
    "Price many known models and choices in one call",
    roles=PRICING_ROLES,
    query=Explain,
    body=PriceBatch,
    body_bytes_max=LIST_BYTES_MAX,
    answers={200: PricedBatch, 202: Job},
    errors=(409, 429, 503),
    changes=True,
    prefers=True,
)
async def post_price_batch(call: Call) -> web.StreamResponse:
    explain = call.query(Explain).explain
    batch = await call.body(PriceBatch)
    keyed = call.keyed(call.raw)

    async def work(progress: Progress) -> Reply:
        if keyed is None:
            return await _priced(call, batch.items, explain, progress)
        return await once(
            call,
            keyed,
            lambda: _priced(call, batch.items, explain, progress),
            lambda kept: _again(call, kept),
        )

    progress = Progress(total=len(batch.items))
    if not call.preferences.respond_async:
        return (await work(progress)).response
    async with contextlib.AsyncExitStack() as nothing:
        return await respond_later(call, keyed, work, nothing, progress, SHAPE)


async def rendered(call: Call, kept: bytes) -> bytes:
    """The answer, from what is kept of it: every quote as it was issued."""
    record = _decode(kept)
    return _body([await _shown(call, row, record.explain) for row in record.rows])


async def _again(call: Call, answer: Answer) -> web.Response:
    return json_response(await rendered(call, answer.body or b""), answer.status)


async def _priced(call: Call, items: list[BatchItem], explain: bool, progress: Progress) -> Reply:
    progress.stage = "pricing"
    async with asyncio.TaskGroup() as group:
        tasks = []
        for item in items:
            tasks.append(group.create_task(_answered(call, item, progress)))
            await asyncio.sleep(0)  # one price at a time: other requests come in between
    rows = [task.result()[0] for task in tasks]
    as_of = max(task.result()[1] for task in tasks)  # so that every quote is found by who echoes it
    kept = msgspec.json.encode(_KeptBatch(explain, rows))
    response = json_response(await rendered(call, kept), headers={"Facet-Position": str(as_of)})
    return Reply(response, Answer(status=200, body=kept), final=all(row.status < 500 for row in rows))


async def _answered(call: Call, item: BatchItem, progress: Progress) -> tuple[_Row, Position]:
    """New quotes of a batch wait for the log together: it writes them as one group."""
    as_of = call.storage.reads.stands
    try:
        quoted = await _quote(call, item)
        return _Row(200, quoted.stored.id, NO_PROBLEM), quoted.as_of
    except Exception as error:
        refused = refusal(error, call.request_id)
        return _Row(refused.status, None, refused.body), as_of
    finally:
        progress.done += 1


async def _quote(call: Call, item: BatchItem) -> Quoted:
    app = call.request.app
    options = item.options()
    model, _ = await app[MODEL_UPLOADS].known_model(item.model.lower(), call.actor)
    call.storage.models.count(model)
    return await app[QUOTING].quote(model, options, call.actor)


async def _shown(call: Call, row: _Row, explain: bool) -> bytes:
    if row.quote is None:
        return b'{"status":%d,"problem":%b}' % (row.status, bytes(row.problem))
    stored = await call.storage.quotes.get(row.quote)
    if not explain:
        return b'{"status":%d,"price":%b}' % (row.status, stored.body)
    await asyncio.sleep(0)
    try:
        return b'{"status":%d,"price":%b}' % (row.status, call.request.app[QUOTING].explain(stored))
    except NotExplainable as error:
        refused = refusal(error, call.request_id)
        return await _shown(call, _Row(refused.status, None, refused.body), explain)


def _body(rows: list[bytes]) -> bytes:
    return b'{"items":[%b]}' % b",".join(rows)
