"""Keyed requests that are answered once: of two equal ones the second gets the first one's answer."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

from server.calls import Call, json_response
from storage.book import Keyed
from storage.entries import Answer, AnyEntry
from storage.errors import AlreadyAnswered, OutcomeUnknown
from storage.log import Position

ATTEMPTS = 2
"""Another process may answer the same request between the look for its answer and ours."""


class Reply(NamedTuple):
    """An answer, and how it is kept: `kept` is enough to answer the same again. `final`: False when the same
    request may end better later, so that nothing is remembered."""

    response: web.Response
    kept: Answer
    final: bool = True


Act = Callable[[], Awaitable[Reply]]
Again = Callable[[Answer], Awaitable[web.Response]]


async def once(call: Call, keyed: Keyed | None, act: Act, again: Again) -> Reply:
    """Answer, and remember the answer under the request's key; or answer again from what is remembered."""
    if keyed is None:
        return await act()
    for _ in range(ATTEMPTS):
        async with call.storage.book.keyed_once(keyed) as found:
            if found is not None:
                return await _repeated(*found, again)
            reply = await act()
            if not reply.final:
                return reply
            try:
                await call.storage.remember(keyed, reply.kept)
            except AlreadyAnswered:
                continue
            return reply
    raise OutcomeUnknown


async def _repeated(position: Position, entry: AnyEntry, again: Again) -> Reply:
    assert entry.remembered is not None
    answer = entry.remembered.answer
    response = await again(answer)
    response.headers["Facet-Position"] = str(position)
    return Reply(response, answer)


async def as_kept(answer: Answer) -> web.Response:
    """The remembered body as it is."""
    return json_response(answer.body or b"", answer.status)
