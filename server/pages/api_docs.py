"""The OpenAPI document as it is served, and a page that shows it without a network."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from aiohttp import web
from jinja2 import Environment

from server.http.request import Call
from server.http.routes import Route
from server.pages.openapi import openapi
from server.pages.rendering import SAFE_PAGE
from storage.memory.single_flight import SingleFlight


class Documents:
    """Both documents, rendered at the first request: a start does not wait for them."""

    def __init__(self, routes: list[Route], templates: Environment) -> None:
        self._routes = routes
        self._templates = templates
        self._rendered: dict[str, bytes] = {}
        self._flights: SingleFlight[str, bytes] = SingleFlight()

    async def get(self, render: Callable[[], bytes]) -> bytes:
        """`render`: `json` or `page` of this object; called once."""
        name = render.__name__
        if name not in self._rendered:
            self._rendered[name] = await self._flights.do(name, lambda: asyncio.to_thread(render))
        return self._rendered[name]

    def json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(openapi(self._routes)), indent=1)

    def page(self) -> bytes:
        document = openapi(self._routes)
        template = self._templates.get_template("docs.html")
        return template.render(document=document, operations=list(_operations(document)), lang="en").encode()


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Operations as the page shows them: schemas by name."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {})
            answers = {
                status: [_schema_name(content) for content in answer.get("content", {}).values()]
                for status, answer in operation["responses"].items()
            }
            yield {
                **operation,
                "method": method.upper(),
                "path": path,
                "bodies": {kind: _schema_name(content) for kind, content in body.items()},
                "answers": answers,
            }


def _schema_name(content: dict[str, Any]) -> str:
    return str(content["schema"].get("$ref", "")).rpartition("/")[2]


def document_routes(documents: Documents) -> list[Route]:
    async def get_openapi(call: Call) -> web.StreamResponse:
        body = await documents.get(documents.json)
        return web.Response(body=body, headers={"Content-Type": "application/json"})

    async def get_docs(call: Call) -> web.StreamResponse:
        headers = {"Content-Type": "text/html; charset=utf-8", **SAFE_PAGE}
        body = await documents.get(documents.page)
        return web.Response(body=body, headers=headers)

    return [
        Route(
            method="GET",
            path="/openapi.json",
            handler=get_openapi,
            summary="This document",
            tag="documents",
            roles=None,
            answers={200: "application/json"},
        ),
        Route(
            method="GET",
            path="/docs",
            handler=get_docs,
            summary="This document, to be read",
            tag="documents",
            roles=None,
            answers={200: "text/html"},
        ),
    ]
