"""The OpenAPI document, made from the routes and the records they use, and a page that shows it off-line."""

import re
from typing import Any

import msgspec

from server import VERSION
from server.http.problems import TITLES, Problem
from server.http.routes import EVERYBODY, Route

_REF = "#/components/schemas/{name}"

_HEADERS: dict[str, tuple[str, str]] = {
    "If-None-Match": ("Answer 304 when this is still the ETag.", r"."),
    "If-Match": ("Answer 412 when this is not the ETag any more.", r"."),
    "Idempotency-Key": (
        "Repeat the request with the same key and its effect happens once.",
        r"^[\x21-\x7e]{1,255}$",
    ),
    "Prefer": (
        "durability=database waits for the commit; wait=N for a change, N seconds; respond-async answers 202"
        " at once, with a job to poll. What is not understood is ignored.",
        r"^",
    ),
    "Facet-Position": ("As received: the answer is not older than this.", r"."),
}
"""What each means, and the pattern of its values."""


def openapi(routes: list[Route]) -> dict[str, Any]:
    _, components = msgspec.json.schema_components(_records(routes), ref_template=_REF)
    _relax(components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Facet",
            "version": VERSION,
            "description": "Order statuses and prices of a made-to-order jewelry maker.",
        },
        "paths": _paths(routes),
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _records(routes: list[Route]) -> list[Any]:
    """Every record a route names, each once."""
    found: dict[Any, None] = {Problem: None}
    for route in routes:
        for record in (route.body, *route.answers.values()):
            if isinstance(record, type):
                found[record] = None
    return list(found)


def _paths(routes: list[Route]) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return paths


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": _parameters(route),
        "responses": _responses(route),
    }
    if route.roles is not None:
        operation["security"] = [{"token": []}]
        who = "any role" if route.roles == EVERYBODY else ", ".join(sorted(route.roles))
        operation["description"] = f"Roles: {who}."
    if route.uploads:
        file = {"type": "string", "format": "binary"}
        content = {"multipart/form-data": {"schema": _form(route, {"model": file}, ["model"])}}
        if not route.is_page:
            content["application/octet-stream"] = {"schema": file}
        operation["requestBody"] = {"required": True, "content": content}
    elif route.form is not None:
        form = {"schema": _form(route, {}, [])}
        operation["requestBody"] = {
            "required": False,
            "content": {"application/x-www-form-urlencoded": form},
        }
    elif route.body is not None:
        operation["requestBody"] = {
            "required": not route.body_optional,
            "content": {"application/json": {"schema": _reference(route.body)}},
        }
    return operation


def _form(route: Route, file: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """Its fields are as the parameters of a query, and may be there instead."""
    fields = [] if route.form is None else _query_parameters(route.form)
    return {
        "type": "object",
        "properties": {**file, **{field["name"]: field["schema"] for field in fields}},
        "required": required,
        "additionalProperties": False,
    }


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    if route.query is not None:
        parameters += _query_parameters(route.query)
    for name in _header_names(route):
        description, pattern = _HEADERS[name]
        parameters.append(
            {
                "name": name,
                "in": "header",
                "description": description,
                "required": False,
                "schema": {"type": "string", "pattern": pattern},
            }
        )
    return parameters


def _query_parameters(record: type[msgspec.Struct]) -> list[dict[str, Any]]:
    schema = msgspec.json.schema(record)
    properties = schema["$defs"][record.__name__] if "$defs" in schema else schema
    required = set(properties.get("required", ()))
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "allowEmptyValue": name not in required,
            "schema": _query_schema(kind),
        }
        for name, kind in properties["properties"].items()
    ]


def _query_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """An empty text counts as an absent one."""
    shown = _without_null(schema)
    shown.pop("minLength", None)
    if "pattern" in shown:
        shown["pattern"] = f"^$|{shown['pattern']}"
    return {"anyOf": [shown, {"const": ""}]} if "format" in shown else shown


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter is absent, never null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    shown = {
        name: value for name, value in schema.items() if name not in ("anyOf", "default") or value is not None
    }
    if len(kinds) == 1:
        shown.pop("anyOf")
        return {**kinds[0], **shown}
    return shown


def _header_names(route: Route) -> list[str]:
    names = []
    if route.conditional:
        names += ["If-None-Match", "Facet-Position"]
    if route.changes:
        names += ["Idempotency-Key"]
        if route.path.startswith("/v1/orders"):
            names += ["If-Match", "Prefer"]
    if route.prefers:
        names += ["Prefer"]
    return names


def _responses(route: Route) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, record in route.answers.items():
        answer: dict[str, Any] = {"description": "Done." if status < 400 else TITLES.get(status, "Error")}
        if isinstance(record, str):
            answer["content"] = {record: {"schema": {"type": "string"}}}
        elif record is not None:
            answer["content"] = {"application/json": {"schema": _reference(record)}}
        responses[str(status)] = answer
    if route.conditional:
        responses["304"] = {"description": "Not modified."}
    for status in sorted(_refusals(route) - route.answers.keys()):
        responses[str(status)] = {
            "description": TITLES[status],
            "content": {"application/problem+json": {"schema": _reference(Problem)}},
        }
    return responses


def _refusals(route: Route) -> set[int]:
    statuses = {*route.errors, 400, 415, 422} | ({406} if route.method == "GET" else set())
    if route.roles is not None:
        statuses |= {401}
    if route.roles not in (None, EVERYBODY) or route.path == "/metrics":
        statuses |= {401, 403}
    if route.body is not None or route.form is not None:
        statuses |= {403, 408, 413, 503}
    return statuses


def _reference(record: Any) -> dict[str, str]:
    return {"$ref": _REF.format(name=record.__name__)}


def _operation_id(route: Route) -> str:
    words = re.sub(r"[^a-z0-9]+", "_", route.path.lower()).strip("_")
    return f"{route.method.lower()}_{words or 'root'}"


def _relax(components: dict[str, Any]) -> None:
    """Problems have members that depend on their code. Records that are only answered with will have more
    fields in later releases, though here they are strict about what they are read from."""
    components["Problem"]["additionalProperties"] = True
    for name in ("Order", "OrderPrice", "Was"):
        if name in components:
            del components[name]["additionalProperties"]
