"""Prices over HTTP: by upload, by hash, by quote; what a price list changes, and what it leaves alone."""

import asyncio
import base64
import hashlib
from decimal import Decimal
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
import pytest

from pricing.facts import Facts
from pricing.price import formula
from pricing.price.options import Options
from pricing.price.price_list import default_metal_fix, parse_metal_fix, parse_price_list, read_metal_fix
from storage.database.records import StoredVersion
from storage.errors import Conflict
from storage.log.entries import MetalFixed
from storage.services.price_versions import PriceVersions
from storage.services.stack import Storage
from tests.support import raw_http
from tests.support.meshes import binary_stl, cube, obj, torus
from tests.support.processes import Client, Reply, Service
from tests.support.stacks import ManualClock
from tests.support.workshop import Workshop, new_key, pointers, problem, set_status

ASK = {"material": "gold-585-yellow"}


def a_ring() -> bytes:
    """A ring that no other test has sent."""
    return binary_stl(torus(9.0 + np.random.default_rng().random()))


def sha256_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


async def price(client: Client, body: bytes, headers: Any = None, **query: str) -> Reply:
    return await client.send("POST", "/v1/prices", data=body, params=ASK | query, headers=headers)


def amount(money: Any) -> Decimal:
    assert money["currency"] == "EUR"
    return Decimal(money["amount"])


async def test_a_ring_is_priced_to_the_last_line(workshop: Workshop) -> None:
    body = a_ring()
    reply = await price(workshop.partner, body, quantity="3", finish="satin")
    assert reply.status == 200
    model, priced = reply.json["model"], reply.json["price"]
    assert model["sha256"] == sha256_of(body)
    assert (model["format"], model["bytes"], model["facets"]) == ("stl-binary", len(body), 576)
    assert (model["closed"], model["oriented"], model["bodies"], model["repaired"]) == (True, True, 1, False)
    assert (priced["priceable"], priced["finish"], priced["plating"]) == ("auto", "satin", "none")
    assert (priced["quantity"], priced["units"]) == (3, "mm")
    assert sum(amount(line["amount"]) for line in priced["lines"]) == amount(priced["net"])
    assert amount(priced["net"]) + amount(priced["vat"]) == amount(priced["gross"])
    assert abs(amount(priced["vat"]) - amount(priced["net"]) * Decimal("0.2")) <= Decimal("0.005")
    assert abs(priced["mass_g"] - model["volume_mm3"] / 1000 * 13.07) < 0.001
    assert priced["price_list"]
    assert priced["metal_fix"]
    assert priced["valid_until"] > priced["issued_at"]


async def test_the_same_model_is_computed_once(workshop: Workshop) -> None:
    body = a_ring()

    async def computed() -> int:
        lines = (await workshop.nobody.get("/metrics")).raw.decode().splitlines()
        (line,) = [line for line in lines if line.startswith("facet_model_computations_total ")]
        return int(float(line.split()[1]))

    before = await computed()
    replies = await asyncio.gather(*(price(workshop.partner, body) for _ in range(20)))
    assert len({reply.raw for reply in replies}) == 1
    assert await computed() == before + 1
    again = await price(workshop.partner, body)
    assert again.headers["Cache-Status"] == "facet; hit; detail=local"
    assert again.raw == replies[0].raw


async def test_a_form_is_as_good_as_the_raw_bytes(workshop: Workshop) -> None:
    body = a_ring()
    raw = await price(workshop.partner, body)
    form = multipart(body)
    reply = await workshop.partner.send("POST", "/v1/prices", params=ASK, **form)
    assert (reply.status, reply.json) == (200, raw.json)


def multipart(body: bytes, name: str = "model", more: str = "") -> dict[str, Any]:
    """A body of one field, as browsers send it."""
    head = f'--edge\r\nContent-Disposition: form-data; name="{name}"; filename="ring.stl"\r\n{more}\r\n'
    return {
        "data": head.encode() + body + b"\r\n--edge--\r\n",
        "headers": {"Content-Type": "multipart/form-data; boundary=edge"},
    }


async def test_a_quote_is_shown_as_it_was_issued_and_belongs_to_its_tenant(workshop: Workshop) -> None:
    quote = (await price(workshop.partner, a_ring())).json["price"]
    assert (await workshop.partner.get(f"/v1/prices/{quote['id']}")).json == quote
    assert (await workshop.mes.get(f"/v1/prices/{quote['id']}")).json == quote
    other = await workshop.clients.of("partner", "rival", "rival")
    problem(await other.get(f"/v1/prices/{quote['id']}"), 404, "not_found")


async def test_the_same_question_on_one_day_is_one_quote(workshop: Workshop) -> None:
    body = a_ring()
    same: tuple[dict[str, str], ...] = ({}, {}, {"units": "mm"}, {"finish": "polished"})
    asked = [await price(workshop.partner, body, **more) for more in same]
    assert len({reply.json["price"]["id"] for reply in asked}) == 1
    other = [
        await price(workshop.partner, body, **more)
        for more in ({"quantity": "2"}, {"plating": "rhodium"}, {"rush": "true"}, {"material": "brass"})
    ]
    assert len({reply.json["price"]["id"] for reply in asked + other}) == 5


async def test_a_known_model_is_priced_by_its_hash(workshop: Workshop) -> None:
    body = a_ring()
    path = f"/v1/models/{sha256_of(body)}/price"
    problem(await workshop.partner.get(path, params=ASK), 404, "unknown_model")
    uploaded = (await price(workshop.partner, body)).json
    assert (await workshop.partner.get(path, params=ASK)).json == uploaded


async def test_units_scale_the_model_and_are_never_guessed(workshop: Workshop) -> None:
    body = binary_stl(torus(0.9 + np.random.default_rng().random() / 10, 0.15))
    mm, cm = [(await price(workshop.partner, body, units=units)).json for units in ("mm", "cm")]
    assert cm["model"]["volume_mm3"] == pytest.approx(1000 * mm["model"]["volume_mm3"])
    assert (mm["price"]["priceable"], cm["price"]["priceable"]) == ("manual", "auto")
    warnings = mm["price"]["warnings"]
    assert "implausible_size" in {warning["code"] for warning in warnings}
    assert "units=cm" in {warning.get("query") for warning in warnings}


async def test_an_open_mesh_is_priced_by_a_person(workshop: Workshop) -> None:
    body = binary_stl(torus(9.0 + np.random.default_rng().random())[:-1])
    priced = (await price(workshop.partner, body)).json["price"]
    assert (priced["priceable"], priced["lines"]) == ("manual", [])
    assert [priced[name] for name in ("unit_price", "net", "vat", "gross")] == [None] * 4


WRONG_CHOICES: list[tuple[dict[str, str], int, str]] = [
    ({"material": "kryptonite"}, 422, "unknown_material"),
    ({"finish": "x"}, 422, "unknown_finish"),
    ({"plating": "x"}, 422, "unknown_plating"),
    ({"units": "ell"}, 422, "unknown_unit"),
    ({"quantity": "10001"}, 422, "quantity_out_of_range"),
    ({"quantity": "0"}, 422, "invalid"),
    ({"quantity": "1e3"}, 422, "invalid"),
    ({"colour": "red"}, 422, "invalid"),
]


@pytest.mark.parametrize(("choice", "status", "code"), WRONG_CHOICES)
async def test_a_choice_that_does_not_exist_is_refused_before_the_body_is_read(
    workshop: Workshop, choice: dict[str, str], status: int, code: str
) -> None:
    problem(await price(workshop.partner, b"never looked at", **choice), status, code)


async def test_a_material_is_required(workshop: Workshop) -> None:
    reply = await workshop.partner.send("POST", "/v1/prices", data=a_ring())
    assert pointers(problem(reply, 422, "invalid")) == {"/material"}


async def test_a_repeated_keyed_price_is_the_first_answer_and_another_body_is_refused(
    workshop: Workshop,
) -> None:
    key, body = new_key(), a_ring()
    first = await price(workshop.partner, body, key)
    again = await price(workshop.partner, body, key)
    assert (again.status, again.raw) == (200, first.raw)
    problem(await price(workshop.partner, a_ring(), key), 422, "idempotency_key_reused")
    problem(await price(workshop.partner, body, key, quantity="2"), 422, "idempotency_key_reused")


async def test_a_known_model_is_priced_before_its_body_is_sent(service: Service, workshop: Workshop) -> None:
    body = a_ring()
    digest = base64.b64encode(hashlib.sha256(body).digest())
    headers = b"Content-Length: %d\r\nExpect: 100-continue\r\nRepr-Digest: sha-256=:%b:\r\n" % (
        len(body),
        digest,
    )
    asked = raw_http.request(b"POST /v1/prices?material=gold-585-yellow", headers)
    answer, _, writer = await raw_http.answered_before(service.url, asked)
    assert answer == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.close()
    uploaded = await price(workshop.admin, body)
    reply = await raw_http.sent(service.url, asked)
    assert reply is not None
    assert (reply.status, reply.json) == (200, uploaded.json)
    assert reply.headers["Connection"] == "close"


async def test_that_another_tenant_has_sent_a_model_is_not_revealed(workshop: Workshop) -> None:
    body = a_ring()
    await price(workshop.partner, body)
    rival = await workshop.clients.of("partner", "rival", "rival")
    path = f"/v1/models/{sha256_of(body)}"
    for address in (path, f"{path}/price?material=brass", f"{path}/file"):
        problem(await rival.get(address), 404, "unknown_model")
    assert (await price(rival, body)).status == 200
    assert (await rival.get(path)).status == 200


# --- Orders and their prices


async def test_an_order_is_priced_from_its_model(workshop: Workshop) -> None:
    body = a_ring()
    quote = (await price(workshop.mes, body)).json["price"]
    order = await workshop.order("SUBMITTED", model=sha256_of(body), material="gold-585-yellow")
    priced = (await workshop.step(order["id"], "PRICE_CALCULATED")).json["price"]
    assert priced["source"] == "computed"
    assert [priced[name] for name in ("net", "vat", "gross")] == [
        quote[name] for name in ("net", "vat", "gross")
    ]


async def test_an_order_keeps_the_quote_it_was_made_from(workshop: Workshop) -> None:
    quote = (await price(workshop.shop, a_ring(), quantity="2")).json["price"]
    order = await workshop.order("SUBMITTED", quote=quote["id"])
    assert (order["model"], order["material"], order["quantity"]) == (quote["model"], "gold-585-yellow", 2)
    priced = (await workshop.step(order["id"], "PRICE_CALCULATED")).json["price"]
    assert (priced["source"], priced["quote"], priced["gross"]) == ("quote", quote["id"], quote["gross"])


async def test_an_order_that_contradicts_its_quote_is_refused(workshop: Workshop) -> None:
    quote = (await price(workshop.shop, a_ring())).json["price"]
    body = {"customer": "anna", "quote": quote["id"], "material": "brass", "quantity": 2}
    refused = problem(await workshop.shop.post("/v1/orders", body), 422, "quote_mismatch")
    assert pointers(refused) == {"/material", "/quantity"}


async def test_a_model_without_a_firm_price_needs_a_person(workshop: Workshop) -> None:
    body = binary_stl(torus(9.0 + np.random.default_rng().random())[:-1])
    await price(workshop.mes, body)
    order = await workshop.order("SUBMITTED", model=sha256_of(body), material="gold-585-yellow")
    refused = problem(await workshop.step(order["id"], "PRICE_CALCULATED"), 409, "not_priceable")
    assert refused["priceable"] == "manual"
    by_hand = {"net": {"amount": "250.00", "currency": "EUR"}, "reason": "has a hole"}
    reply = await set_status(workshop.mes, order["id"], "PRICE_CALCULATED", price=by_hand)
    assert (reply.json["price"]["source"], reply.json["price"]["reason"]) == ("person", "has a hole")


async def test_an_order_whose_files_are_elsewhere_needs_no_price(workshop: Workshop) -> None:
    order = await workshop.order("PRICE_CALCULATED")
    assert order["price"] is None


# --- Price lists and metal fixes


async def test_materials_name_the_codes_and_the_versions(workshop: Workshop) -> None:
    shown = (await workshop.customer.get("/v1/materials")).json
    assert {row["code"] for row in shown["materials"]} >= {"gold-585-yellow", "platinum-950-ru", "bronze"}
    assert len(shown["materials"]) == 14
    assert all(row["density_source"] for row in shown["materials"])
    assert shown["units"] == ["mm", "cm", "m", "in"]


async def test_a_new_price_list_changes_new_prices_and_no_issued_quote(workshop: Workshop) -> None:
    body = a_ring()
    before = (await price(workshop.partner, body)).json["price"]
    current = (await workshop.admin.get("/v1/price-lists/current")).json
    version = f"test {uuid4()}"
    dearer = current | {"version": version, "rates": current["rates"] | {"markup": "0.50"}}
    published = await workshop.admin.post("/v1/price-lists", dearer)
    assert (published.status, published.json) == (201, dearer)
    after = (await price(workshop.partner, body)).json["price"]
    assert (after["price_list"], after["id"] == before["id"]) == (version, False)
    assert amount(after["net"]) > amount(before["net"])
    assert (await workshop.partner.get(f"/v1/prices/{before['id']}")).json == before
    listed = (await workshop.admin.get("/v1/price-lists")).json["items"]
    assert version in {item["version"] for item in listed}
    order = await workshop.order("SUBMITTED", customer="acme", quote=before["id"])
    assert (await workshop.step(order["id"], "PRICE_CALCULATED")).json["price"]["gross"] == before["gross"]


async def test_a_metal_fix_changes_new_prices(workshop: Workshop) -> None:
    body = a_ring()
    before = (await price(workshop.partner, body)).json["price"]
    fix = (await workshop.admin.get("/v1/metal-fixes/current")).json
    dearer = fix | {"version": f"test {uuid4()}", "gold_per_oz": "4000.00"}
    assert (await workshop.admin.post("/v1/metal-fixes", dearer)).status == 201
    after = (await price(workshop.partner, body)).json["price"]
    assert after["metal_fix"] == dearer["version"]
    assert amount(after["net"]) > amount(before["net"])


@pytest.mark.parametrize("kind", ["price-lists", "metal-fixes"])
async def test_a_published_version_never_changes(workshop: Workshop, kind: str) -> None:
    current = (await workshop.admin.get(f"/v1/{kind}/current")).json
    problem(await workshop.admin.post(f"/v1/{kind}", current), 409, "conflict")
    new = current | {"version": f"test {uuid4()}"}
    key = new_key()
    first = await workshop.admin.post(f"/v1/{kind}", new, headers=key)
    again = await workshop.admin.post(f"/v1/{kind}", new, headers=key)
    assert (first.status, again.status, again.raw) == (201, 201, first.raw)
    problem(await workshop.admin.post(f"/v1/{kind}", new), 409, "conflict")


async def test_equal_versions_at_once_are_published_once(workshop: Workshop) -> None:
    fix = (await workshop.admin.get("/v1/metal-fixes/current")).json | {"version": f"test {uuid4()}"}
    replies = await asyncio.gather(*(workshop.admin.post("/v1/metal-fixes", fix) for _ in range(6)))
    assert sorted(reply.status for reply in replies) == [201, *[409] * 5]


async def test_of_equal_versions_at_once_the_log_has_one(storage: Storage, clock: ManualClock) -> None:
    fixes = PriceVersions(MetalFixed, read_metal_fix, storage.change_log, clock)
    storage.change_log.follow(fixes.apply)
    default = default_metal_fix()
    stored = StoredVersion(default.version, default.fixed_at, None, msgspec.json.encode(default))
    results = await asyncio.gather(*(fixes.publish(stored) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results[1:]] == [Conflict] * 4
    assert storage.tail.head == 1


async def test_every_error_of_a_price_list_is_named(workshop: Workshop) -> None:
    current = (await workshop.admin.get("/v1/price-lists/current")).json
    wrong = current | {
        "version": " ",
        "valid_from": "2026-01-01",
        "colour": "red",
        "rates": current["rates"] | {"vat": 0.2},
    }
    refused = problem(await workshop.admin.post("/v1/price-lists", wrong), 422, "invalid")
    assert pointers(refused) >= {"/valid_from", "/colour", "/rates/vat"}
    rules = current | {"version": "x", "default_finish": "x", "rates": current["rates"] | {"vat": "2"}}
    refused = problem(await workshop.admin.post("/v1/price-lists", rules), 422, "invalid")
    assert pointers(refused) == {"/default_finish", "/rates/vat"}


async def test_the_same_mesh_in_two_formats_has_one_price(workshop: Workshop) -> None:
    stl, text = binary_stl(cube(10)), obj(cube(10))
    one, two = (await price(workshop.shop, stl)).json, (await price(workshop.shop, text)).json
    assert one["price"]["gross"] == two["price"]["gross"]
    assert one["model"]["volume_mm3"] == two["model"]["volume_mm3"] == 1000


# --- Explained and recomputed


async def test_every_line_is_explained_down_to_the_numbers_it_was_made_from(workshop: Workshop) -> None:
    body = a_ring()
    plain = (await price(workshop.partner, body, quantity="3")).json["price"]
    explained = (await price(workshop.partner, body, quantity="3", explain="1")).json["price"]
    assert without_workings(explained) == plain
    for line in explained["lines"]:
        assert line["formula"]
        assert all(variable["source"] for variable in line["variables"])
    totals = {working["code"]: working["result"] for working in explained["explanation"]["totals"]}
    for name in ("unit_price", "net", "vat", "gross"):
        assert totals[name] == plain[name]["amount"]


def without_workings(quote: Any) -> Any:
    lines = [{name: line[name] for name in ("code", "basis", "amount")} for line in quote["lines"]]
    return {name: value for name, value in quote.items() if name != "explanation"} | {"lines": lines}


async def test_the_explanation_is_the_same_wherever_it_is_asked_for(workshop: Workshop) -> None:
    body = a_ring()
    posted = (await price(workshop.partner, body, explain="1")).json
    by_hash = f"/v1/models/{sha256_of(body)}/price"
    assert (await workshop.partner.get(by_hash, params=ASK | {"explain": "1"})).json == posted
    by_id = f"/v1/prices/{posted['price']['id']}"
    assert (await workshop.partner.get(f"{by_id}?explain=1")).json == posted["price"]
    tags = {(await workshop.partner.get(path)).headers["ETag"] for path in (by_id, f"{by_id}?explain=1")}
    assert len(tags) == 2


async def test_a_quote_is_recomputed_from_its_own_record_when_everything_else_has_changed(
    workshop: Workshop,
) -> None:
    body = a_ring()
    issued = (await price(workshop.partner, body, quantity="3", rush="true")).json["price"]
    price_list = (await workshop.admin.get("/v1/price-lists/current")).json
    metal_fix = (await workshop.admin.get("/v1/metal-fixes/current")).json
    dearer = price_list["rates"] | {"markup": "0.60", "vat": "0.21"}
    published = price_list | {"version": f"test {uuid4()}", "rates": dearer}
    assert (await workshop.admin.post("/v1/price-lists", published)).status == 201
    fix = metal_fix | {"version": f"test {uuid4()}", "gold_per_oz": "9000.00"}
    assert (await workshop.admin.post("/v1/metal-fixes", fix)).status == 201
    path = f"/v1/prices/{issued['id']}"
    stored = (await workshop.partner.get(path)).json
    assert stored == issued
    source = stored["made_from"]
    recomputed = formula.price(
        msgspec.convert(source["facts"], Facts),
        msgspec.convert(source["options"], Options),
        parse_price_list(msgspec.json.encode(price_list)),
        parse_metal_fix(msgspec.json.encode(metal_fix)),
    )
    assert (stored["price_list"], stored["metal_fix"]) == (price_list["version"], metal_fix["version"])
    for name in ("unit_price", "net", "vat", "gross"):
        assert amount(stored[name]) == getattr(recomputed, name)
    assert [amount(line["amount"]) for line in stored["lines"]] == [line.amount for line in recomputed.lines]
    explained = (await workshop.partner.get(f"{path}?explain=1")).json
    assert without_workings(explained) == issued


async def test_a_price_that_has_not_changed_is_not_sent_again(workshop: Workshop) -> None:
    body = a_ring()
    quote = (await price(workshop.partner, body)).json["price"]
    by_hash = f"/v1/models/{sha256_of(body)}/price?material=gold-585-yellow"
    for path in (f"/v1/prices/{quote['id']}", by_hash, f"/v1/models/{sha256_of(body)}"):
        first = await workshop.partner.get(path)
        again = await workshop.partner.get(path, headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status, again.raw, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
        assert (await workshop.partner.get(path, headers={"If-None-Match": '"x"'})).raw == first.raw


async def test_who_has_published_sees_the_new_price_at_once(workshop: Workshop) -> None:
    body = a_ring()
    path = f"/v1/models/{sha256_of(body)}/price?material=gold-585-yellow"
    before = (await price(workshop.partner, body)).json["price"]
    tag = (await workshop.partner.get(path)).headers["ETag"]
    fix = (await workshop.admin.get("/v1/metal-fixes/current")).json
    dearer = fix | {"version": f"test {uuid4()}", "gold_per_oz": "5000.00"}
    published = await workshop.admin.post("/v1/metal-fixes", dearer)
    position = {"Facet-Position": published.headers["Facet-Position"], "If-None-Match": tag}
    after = await workshop.partner.get(path, headers=position)
    assert (after.status, after.json["price"]["metal_fix"]) == (200, dearer["version"])
    assert after.json["price"]["id"] != before["id"]
