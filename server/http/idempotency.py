"""Keyed requests that are answered once: of two equal ones the second gets the first one's answer."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

from server.http.request import Call
from server.http.responses import json_response
from storage.log.entries import Answer, AnyEntry, Position
from storage.services.idempotency import IdempotencyKey


class Reply(NamedTuple):
    """An answer, and how it is kept: `kept` is enough to answer the same again. `final`: False when the same
    request may end better later, so that nothing is remembered."""

    response: web.Response
    kept: Answer
    final: bool = True


Act = Callable[[], Awaitable[Reply]]
Again = Callable[[Answer], Awaitable[web.Response]]


async def once(call: Call, keyed: IdempotencyKey, act: Act, again: Again) -> Reply:
    """Answer, and remember the answer under the request's key; or answer again from what is remembered."""
    idempotency = call.storage.idempotency

    async def answer() -> Reply:
        reply = await act()
        if reply.final:
            await idempotency.remember(keyed, reply.kept)
        return reply

    async def repeat(position: Position, entry: AnyEntry) -> Reply:
        kept = answer_of(entry)
        response = await again(kept)
        response.headers["Facet-Position"] = str(position)
        return Reply(response, kept)

    return await idempotency.once(keyed, answer, repeat)


def answer_of(entry: AnyEntry) -> Answer:
    """What a keyed request was answered with."""
    assert entry.remembered is not None
    return entry.remembered.answer


async def as_kept(answer: Answer) -> web.Response:
    """The remembered body as it is."""
    return json_response(answer.body or b"", answer.status)
