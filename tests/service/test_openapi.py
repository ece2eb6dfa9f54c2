"""The OpenAPI document: complete, consistent, and readable off-line."""

import re
from typing import Any

from server.app import all_routes
from server.http.routes import EVERYBODY
from server.pages.openapi import openapi
from tests.support.processes import Clients

PROBLEM = {"$ref": "#/components/schemas/Problem"}


def document() -> Any:
    return openapi(all_routes())


def operations() -> list[tuple[str, str, Any]]:
    return [
        (method, path, operation)
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    ]


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(item) for item in value.values()))
    if isinstance(value, list):
        return set[str]().union(*(references(item) for item in value))
    return set()


def test_every_route_is_documented_once() -> None:
    routes = {(route.method.lower(), route.path) for route in all_routes()}
    assert {(method, path) for method, path, _ in operations()} == routes
    assert len(routes) == len(all_routes())


def test_operations_have_unique_names_and_say_what_they_do() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(set(names)) == len(names)
    for method, path, operation in operations():
        assert operation["summary"], (method, path)
        assert operation["tags"], (method, path)


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    whole = document()
    prefix = "#/components/schemas/"
    assert {reference.removeprefix(prefix) for reference in references(whole)} == whole["components"][
        "schemas"
    ].keys()


def test_every_variable_of_a_path_is_a_parameter() -> None:
    for _, path, operation in operations():
        named = {item["name"] for item in operation["parameters"] if item["in"] == "path"}
        assert named == set(re.findall(r"\{(\w+)\}", path))


def test_every_refusal_is_a_problem() -> None:
    for method, path, operation in operations():
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and "application/problem+json" in answer.get("content", {}):
                assert answer["content"]["application/problem+json"]["schema"] == PROBLEM, (method, path)
        assert any(int(status) < 400 for status in operation["responses"]), (method, path)


def test_what_needs_a_token_says_so_and_what_a_role_does_says_which() -> None:
    for route in all_routes():
        operation = document()["paths"][route.path][route.method.lower()]
        assert ("security" in operation) == (route.roles is not None)
        if route.roles is not None:
            assert "401" in operation["responses"]
            assert ("403" in operation["responses"]) or route.roles == EVERYBODY
            assert operation["description"]


async def test_the_running_service_shows_this_document_and_a_page_of_it(clients: Clients) -> None:
    shown = (await clients.nobody.get("/openapi.json")).json
    for path, methods in document()["paths"].items():
        assert shown["paths"][path] == methods
    page = (await clients.nobody.get("/docs")).raw.decode()
    for path in shown["paths"]:
        assert path in page
    assert "https://" not in page
    assert "<script" not in page


def test_records_that_gain_fields_in_later_releases_are_open() -> None:
    schemas = document()["components"]["schemas"]
    for name in ("Order", "OrderPrice", "Was", "Problem"):
        assert schemas[name].get("additionalProperties", True) is True, name
    for name in ("NewOrder", "OrderEdit"):
        assert schemas[name]["additionalProperties"] is False, name
