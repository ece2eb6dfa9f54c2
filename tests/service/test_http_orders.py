"""The life of an order over HTTP: who brings it where, who is refused, and what its history says."""

import asyncio
import re
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest

from tests.support.processes import Client
from tests.support.workshop import LINE, SHA256_UNKNOWN, Workshop, pointers, problem, set_status

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")
ORDER_FIELDS = {
    *("id", "number", "version", "status", "status_since", "customer", "operator", "model", "units"),
    *("material", "finish", "plating", "quantity", "price", "note", "reference", "due_at"),
    *("created_at", "updated_at"),
}
NOBODY_HAS_IT = "0190a1b2-0000-7000-8000-000000000000"


async def test_a_new_order_has_every_field_and_its_address(workshop: Workshop) -> None:
    reply = await workshop.shop.post(
        "/v1/orders",
        {"customer": "anna", "note": "кольцо", "due_at": "2027-05-01T12:00:00+03:00", "quantity": 2},
    )
    order = reply.json
    assert reply.status == 201
    assert order.keys() >= ORDER_FIELDS
    assert UUID7.match(order["id"])
    assert (order["status"], order["version"], order["quantity"], order["note"]) == (
        "INITIATED",
        1,
        2,
        "кольцо",
    )
    assert order["due_at"] == "2027-05-01T09:00:00Z"
    assert reply.headers["Location"] == f"/v1/orders/{order['id']}"
    assert reply.headers["ETag"] == '"1"'
    assert (await workshop.shop.get(reply.headers["Location"])).json == order


async def test_an_order_goes_all_the_way_and_its_history_keeps_every_step(workshop: Workshop) -> None:
    order = await workshop.order("CLOSED")
    history = (await workshop.seller.get(f"/v1/orders/{order['id']}/history")).json
    assert [item["to"] for item in history["items"]] == list(LINE)
    assert [item["from"] for item in history["items"]] == [None, *LINE[:-1]]
    assert [item["version"] for item in history["items"]] == list(range(1, 11))
    assert [item["kind"] for item in history["items"]] == ["create", *["status"] * 4, "take", *["status"] * 4]
    assert [item["actor"] for item in history["items"]] == [
        *("shop", "shop", "shop", "mes", "seller", "ivan", "mes", "mes", "mes", "seller")
    ]
    moments = [datetime.fromisoformat(item["at"]) for item in history["items"]]
    assert moments == sorted(moments)
    assert (order["version"], order["operator"]) == (10, "ivan")


async def test_numbers_rise_and_never_repeat(workshop: Workshop) -> None:
    numbers = [(await workshop.order())["number"] for _ in range(5)]
    assert numbers == sorted(set(numbers))


async def test_an_order_with_a_model_begins_as_file_uploaded(workshop: Workshop) -> None:
    order = await workshop.order("FILE_UPLOADED", model=SHA256_UNKNOWN)
    assert (order["status"], order["version"], order["model"]) == ("FILE_UPLOADED", 1, SHA256_UNKNOWN)


MAKERS = {
    "FILE_UPLOADED": {"partner", "shop", "seller", "admin"},
    "SUBMITTED": {"partner", "shop", "seller", "admin"},
    "PRICE_CALCULATED": {"mes", "seller", "admin"},
    "MANUFACTURING_APPROVED": {"seller", "admin"},
    "MANUFACTURING_STARTED": {"operator", "mes", "admin"},
    "MANUFACTURING_COMPLETED": {"operator", "mes", "admin"},
    "PACKAGING": {"operator", "mes", "admin"},
    "SHIPPED": {"operator", "mes", "admin"},
    "CLOSED": {"seller", "admin"},
    "CANCELLED": {"shop", "seller", "admin"},
}


@pytest.mark.parametrize("status", MAKERS)
async def test_a_step_is_made_by_its_roles_and_by_nobody_else(workshop: Workshop, status: str) -> None:
    before = "INITIATED" if status == "CANCELLED" else LINE[LINE.index(status) - 1]
    made = set()
    for role, client in workshop.everybody().items():
        order = await workshop.order(before, customer="acme" if role == "partner" else "anna")
        reply = await set_status(client, order["id"], status, **details(status, role))
        if reply.status == 200:
            assert reply.json["status"] == status
            made.add(role)
        else:
            problem(reply, 403, "forbidden")
    assert made == MAKERS[status]


def details(status: str, role: str) -> dict[str, Any]:
    """What else this step needs from this role."""
    if status == "MANUFACTURING_STARTED" and role in ("mes", "admin"):
        return {"operator": "ivan"}
    if status == "PRICE_CALCULATED" and role == "seller":
        return {"price": {"net": {"amount": "100.00", "currency": "EUR"}, "reason": "by hand"}}
    return {"comment": "changed their mind"} if status == "CANCELLED" else {}


async def test_an_illegal_step_names_the_legal_ones(workshop: Workshop) -> None:
    order = await workshop.order("SUBMITTED")
    members = problem(await set_status(workshop.mes, order["id"], "SHIPPED"), 409, "illegal_transition")
    assert members["legal"] == ["PRICE_CALCULATED", "FILE_UPLOADED", "CANCELLED"]
    assert (members["from"], members["to"]) == ("SUBMITTED", "SHIPPED")
    assert (await workshop.mes.get(f"/v1/orders/{order['id']}")).json == order


async def test_the_loser_of_a_race_for_an_order_learns_who_has_it_and_since_when(workshop: Workshop) -> None:
    order = await workshop.order("MANUFACTURING_APPROVED")
    path = f"/v1/orders/{order['id']}/take"
    replies = await asyncio.gather(*(c.post(path) for c in (workshop.ivan, workshop.olga) for _ in range(5)))
    winners = {reply.json["operator"] for reply in replies if reply.status == 200}
    losers = [problem(reply, 409, "already_taken") for reply in replies if reply.status != 200]
    taken = (await workshop.mes.get(f"/v1/orders/{order['id']}")).json
    assert winners == {taken["operator"]}
    assert len(losers) == 5
    assert {loser["operator"] for loser in losers} == winners
    assert {loser["since"] for loser in losers} == {taken["status_since"]}
    assert taken["version"] == order["version"] + 1


@pytest.mark.parametrize("by_put", [False, True])
async def test_taking_is_one_operation_whichever_address_it_comes_to(
    workshop: Workshop, by_put: bool
) -> None:
    order = await workshop.order("MANUFACTURING_APPROVED")

    async def take(client: Client) -> Any:
        if by_put:
            return await set_status(client, order["id"], "MANUFACTURING_STARTED")
        return await client.post(f"/v1/orders/{order['id']}/take")

    first = await take(workshop.ivan)
    assert (first.status, first.json["operator"], first.headers["Durability"]) == (200, "ivan", "database")
    again = await take(workshop.ivan)
    assert (again.status, again.raw) == (200, first.raw)
    problem(await take(workshop.olga), 409, "already_taken")


async def test_a_take_still_says_who_has_it_when_the_piece_is_made(workshop: Workshop) -> None:
    order = await workshop.order("PACKAGING")
    members = problem(await workshop.olga.post(f"/v1/orders/{order['id']}/take"), 409, "already_taken")
    assert members["operator"] == "ivan"


async def test_an_operator_takes_for_themselves_and_a_mes_for_somebody(workshop: Workshop) -> None:
    order = await workshop.order("MANUFACTURING_APPROVED")
    take = f"/v1/orders/{order['id']}/take"
    problem(await workshop.ivan.post(take, {"operator": "olga"}), 403, "forbidden")
    assert pointers(problem(await workshop.mes.post(take), 422, "operator_required")) == {"/operator"}
    assert (await workshop.mes.post(take, {"operator": "olga"})).json["operator"] == "olga"


async def test_only_the_orders_operator_completes_or_releases_it(workshop: Workshop) -> None:
    order = await workshop.order("MANUFACTURING_STARTED")
    problem(await set_status(workshop.olga, order["id"], "MANUFACTURING_COMPLETED"), 403, "forbidden")
    problem(await workshop.olga.post(f"/v1/orders/{order['id']}/release"), 403, "forbidden")
    released = await workshop.ivan.post(f"/v1/orders/{order['id']}/release")
    assert (released.json["status"], released.json["operator"]) == ("MANUFACTURING_APPROVED", None)
    assert (await workshop.olga.post(f"/v1/orders/{order['id']}/take")).json["operator"] == "olga"


async def test_a_seller_releases_with_a_reason_and_a_shop_never(workshop: Workshop) -> None:
    order = await workshop.order("MANUFACTURING_STARTED")
    release = f"/v1/orders/{order['id']}/release"
    problem(await workshop.shop.post(release, {"comment": "give it back"}), 403, "forbidden")
    problem(await workshop.seller.post(release), 422, "comment_required")
    assert (await workshop.seller.post(release, {"comment": "ivan is ill"})).json["operator"] is None
    item = (await workshop.seller.get(f"/v1/orders/{order['id']}/history")).json["items"][-1]
    assert (item["kind"], item["comment"]) == ("release", "ivan is ill")


async def test_only_an_order_in_work_is_released(workshop: Workshop) -> None:
    order = await workshop.order("PRICE_CALCULATED")
    problem(await workshop.mes.post(f"/v1/orders/{order['id']}/release"), 409, "conflict")


async def test_cancelling_needs_a_reason_and_ends_when_the_order_ships(workshop: Workshop) -> None:
    order = await workshop.order("PACKAGING")
    problem(await set_status(workshop.shop, order["id"], "CANCELLED"), 422, "comment_required")
    assert (await set_status(workshop.shop, order["id"], "CANCELLED", comment="too late")).status == 200
    shipped = await workshop.order("SHIPPED")
    reply = await set_status(workshop.shop, shipped["id"], "CANCELLED", comment="too late")
    problem(reply, 409, "illegal_transition")


async def test_setting_the_status_an_order_has_makes_no_new_version(workshop: Workshop) -> None:
    order = await workshop.order("SUBMITTED")
    reply = await set_status(workshop.shop, order["id"], "SUBMITTED")
    assert (reply.status, reply.json) == (200, order)


async def test_an_admin_corrects_with_a_comment_only(workshop: Workshop) -> None:
    order = await workshop.order("SHIPPED")
    problem(await set_status(workshop.admin, order["id"], "SUBMITTED"), 409, "illegal_transition")
    reply = await set_status(workshop.admin, order["id"], "SUBMITTED", comment="wrong box")
    assert (reply.json["status"], reply.json["operator"]) == ("SUBMITTED", None)
    item = (await workshop.admin.get(f"/v1/orders/{order['id']}/history")).json["items"][-1]
    assert (item["kind"], item["from"], item["to"]) == ("correct", "SHIPPED", "SUBMITTED")


async def test_an_edit_of_what_the_price_depends_on_drops_the_price(workshop: Workshop) -> None:
    order = await workshop.order("SUBMITTED")
    price = {"net": {"amount": "80.00", "currency": "EUR"}, "reason": "an old friend"}
    priced = (await set_status(workshop.seller, order["id"], "PRICE_CALCULATED", price=price)).json
    assert priced["price"]["source"] == "person"
    assert priced["price"]["gross"] == {"amount": "96.00", "currency": "EUR"}
    noted = (await workshop.shop.patch(f"/v1/orders/{order['id']}", {"note": "a gift"})).json
    assert (noted["status"], noted["price"]) == ("PRICE_CALCULATED", priced["price"])
    edited = (await workshop.shop.patch(f"/v1/orders/{order['id']}", {"quantity": 3})).json
    assert (edited["status"], edited["price"], edited["quantity"]) == ("SUBMITTED", None, 3)
    model = (await workshop.shop.patch(f"/v1/orders/{order['id']}", {"model": SHA256_UNKNOWN})).json
    assert (model["status"], model["model"]) == ("FILE_UPLOADED", SHA256_UNKNOWN)


async def test_an_edit_that_changes_nothing_makes_no_new_version(workshop: Workshop) -> None:
    order = await workshop.order(note="engrave: A+B")
    reply = await workshop.shop.patch(f"/v1/orders/{order['id']}", {"note": "engrave: A+B"})
    assert (reply.status, reply.json["version"]) == (200, 1)


async def test_null_clears_a_field_and_what_is_left_out_stays(workshop: Workshop) -> None:
    order = await workshop.order(note="a gift", material="silver-925")
    edited = (await workshop.shop.patch(f"/v1/orders/{order['id']}", {"note": None})).json
    assert (edited["note"], edited["material"]) == (None, "silver-925")


async def test_an_approved_order_is_not_edited(workshop: Workshop) -> None:
    order = await workshop.order("MANUFACTURING_APPROVED")
    reply = await workshop.shop.patch(f"/v1/orders/{order['id']}", {"note": "wider"})
    problem(reply, 409, "not_editable")


async def test_comments_are_kept_at_any_time_and_wake_no_poller(workshop: Workshop) -> None:
    order = await workshop.order("CLOSED")
    before = await workshop.customer.get(f"/v1/orders/{order['id']}/status")
    reply = await workshop.customer.post(f"/v1/orders/{order['id']}/comments", {"comment": "Спасибо!"})
    assert (reply.status, reply.json["version"]) == (201, order["version"] + 1)
    after = await workshop.customer.get(f"/v1/orders/{order['id']}/status")
    assert (after.raw, after.headers["ETag"]) == (before.raw, before.headers["ETag"])
    item = (await workshop.customer.get(f"/v1/orders/{order['id']}/history")).json["items"][-1]
    assert (item["kind"], item["comment"], item["actor"]) == ("comment", "Спасибо!", "anna")


async def test_a_history_is_read_page_by_page(workshop: Workshop) -> None:
    order = await workshop.order("SHIPPED")
    path, versions = f"/v1/orders/{order['id']}/history", []
    cursor: str | None = "0"
    while cursor is not None:
        page = (await workshop.shop.get(path, params={"limit": "4", "cursor": cursor})).json
        versions += [item["version"] for item in page["items"]]
        cursor = page["next"]
    assert versions == list(range(1, 10))


async def test_a_reference_is_used_once_by_a_token(workshop: Workshop) -> None:
    reference = f"cart-{uuid4()}"
    order = await workshop.order(reference=reference)
    again = await workshop.shop.post("/v1/orders", {"customer": "anna", "reference": reference})
    assert problem(again, 409, "duplicate_reference")["order"] == order["id"]
    other = await workshop.seller.post("/v1/orders", {"customer": "anna", "reference": reference})
    assert other.status == 201
    loose = await workshop.order()
    edit = await workshop.shop.patch(f"/v1/orders/{loose['id']}", {"reference": reference})
    problem(edit, 409, "duplicate_reference")


async def test_equal_references_at_once_make_one_order(workshop: Workshop) -> None:
    body = {"customer": "anna", "reference": f"cart-{uuid4()}"}
    replies = await asyncio.gather(*(workshop.shop.post("/v1/orders", body) for _ in range(8)))
    assert sorted(reply.status for reply in replies) == [201, *[409] * 7]


@pytest.mark.parametrize("path", ["", "/status", "/history"])
async def test_an_order_that_nobody_has_is_not_found(workshop: Workshop, path: str) -> None:
    problem(await workshop.admin.get(f"/v1/orders/{NOBODY_HAS_IT}{path}"), 404, "not_found")


@pytest.mark.parametrize("action", ["take", "release", "undo"])
async def test_an_action_on_an_order_that_nobody_has_is_not_found(workshop: Workshop, action: str) -> None:
    problem(await workshop.mes.post(f"/v1/orders/{NOBODY_HAS_IT}/{action}", {}), 404, "not_found")


async def test_operators_are_listed_with_what_each_has_in_work(workshop: Workshop) -> None:
    first = await workshop.order("MANUFACTURING_STARTED")
    second = await workshop.order("MANUFACTURING_STARTED")
    items = (await workshop.seller.get("/v1/operators")).json["items"]
    in_work = {item["name"]: [order["id"] for order in item["in_work"]] for item in items}
    assert in_work.keys() >= {"ivan", "olga"}
    assert [order for order in in_work["ivan"] if order in (first["id"], second["id"])] == [
        first["id"],
        second["id"],
    ]
    await workshop.ivan.post(f"/v1/orders/{first['id']}/release")
    items = (await workshop.seller.get("/v1/operators")).json["items"]
    assert first["id"] not in str(items)
