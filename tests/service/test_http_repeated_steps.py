"""A status that an order has already: what comes with it is kept or refused, or known already; never lost."""

from typing import Any

from tests.support.processes import Client
from tests.support.workshop import Workshop, new_key, pointers, problem, set_status


def person_price(amount: str = "80.00", reason: str = "an old friend", currency: str = "EUR") -> Any:
    return {"net": {"amount": amount, "currency": currency}, "reason": reason}


async def history(client: Client, order: Any) -> list[tuple[str, str | None]]:
    items = (await client.get(f"/v1/orders/{order['id']}/history")).json["items"]
    return [(item["kind"], item["comment"]) for item in items]


async def test_the_same_price_again_is_no_new_version_and_another_is_refused(workshop: Workshop) -> None:
    seller = workshop.seller
    order = await workshop.order("SUBMITTED")
    fields = {"price": person_price(), "comment": "as agreed"}
    priced = (await set_status(seller, order["id"], "PRICE_CALCULATED", **fields)).json
    for again in (fields, {"price": person_price("80.0")}, {}):
        reply = await set_status(seller, order["id"], "PRICE_CALCULATED", **again)
        assert (reply.status, reply.json) == (200, priced)
    for other in (person_price("81.00"), person_price(reason="another friend")):
        reply = await set_status(seller, order["id"], "PRICE_CALCULATED", price=other)
        refused = problem(reply, 409, "already_priced")
        assert refused["price"] == priced["price"]
        assert "undo" in refused["detail"]
        assert "FILE_UPLOADED" in refused["detail"]
    reply = await set_status(
        seller, order["id"], "PRICE_CALCULATED", price=person_price("81.00", currency="USD")
    )
    assert pointers(problem(reply, 422, "invalid")) == {"/price/net/currency"}
    assert (await seller.get(f"/v1/orders/{order['id']}")).json == priced


async def test_a_price_is_changed_in_the_way_that_the_refusal_names(workshop: Workshop) -> None:
    seller, order = workshop.seller, await workshop.order("SUBMITTED")
    await set_status(seller, order["id"], "PRICE_CALCULATED", price=person_price())
    for status in ("FILE_UPLOADED", "SUBMITTED"):
        assert (await set_status(seller, order["id"], status)).status == 200
    reply = await set_status(seller, order["id"], "PRICE_CALCULATED", price=person_price("81.00"))
    assert reply.json["price"]["net"]["amount"] == "81.00"


async def test_a_computed_price_is_not_replaced_by_a_persons_in_passing(workshop: Workshop) -> None:
    order = await workshop.order("PRICE_CALCULATED")
    reply = await set_status(workshop.seller, order["id"], "PRICE_CALCULATED", price=person_price())
    assert problem(reply, 409, "already_priced")["price"] == order["price"]


async def test_a_comment_on_a_status_that_is_so_already_is_kept_once(workshop: Workshop) -> None:
    order = await workshop.order("SUBMITTED")
    kept = [("comment", "please hurry")]
    for _ in range(2):
        reply = await set_status(workshop.shop, order["id"], "SUBMITTED", comment="please hurry")
        assert (reply.status, reply.json["version"]) == (200, order["version"] + 1)
        assert reply.json["status_version"] == order["status_version"]
        assert (await history(workshop.shop, order))[-1:] == kept
    other = await set_status(workshop.seller, order["id"], "SUBMITTED", comment="please hurry")
    assert other.json["version"] == order["version"] + 2
    await set_status(workshop.mes, order["id"], "PRICE_CALCULATED", comment="done")
    again = await set_status(workshop.mes, order["id"], "PRICE_CALCULATED", comment="done")
    assert again.json["version"] == order["version"] + 3


async def test_a_comment_with_ones_own_take_is_kept_and_says_what_the_database_has(
    workshop: Workshop,
) -> None:
    order, key = await workshop.order("MANUFACTURING_STARTED"), new_key()
    for _ in range(2):
        reply = await workshop.ivan.post(f"/v1/orders/{order['id']}/take", {"comment": "mine"}, headers=key)
        assert (reply.status, reply.json["version"]) == (200, order["version"] + 1)
        assert reply.headers["Durability"] == "database"
    assert (await history(workshop.ivan, order))[-1] == ("comment", "mine")


async def test_an_operator_in_vain_is_refused(workshop: Workshop) -> None:
    started = await workshop.order("MANUFACTURING_STARTED")
    reply = await workshop.ivan.post(f"/v1/orders/{started['id']}/take", {"operator": "olga"})
    problem(reply, 403, "forbidden")
    packed = await workshop.order("PACKAGING")
    reply = await set_status(workshop.mes, packed["id"], "PACKAGING", operator="olga")
    assert pointers(problem(reply, 422, "invalid")) == {"/operator"}
    reply = await set_status(workshop.admin, packed["id"], "SUBMITTED", operator="olga", comment="back")
    assert pointers(problem(reply, 422, "invalid")) == {"/operator"}


async def test_a_price_with_a_correction_counts(workshop: Workshop) -> None:
    order = await workshop.order("SHIPPED")
    reply = await set_status(
        workshop.admin, order["id"], "PRICE_CALCULATED", price=person_price(), comment="a new price"
    )
    assert (reply.json["price"]["source"], reply.json["price"]["net"]["amount"]) == ("person", "80.00")
