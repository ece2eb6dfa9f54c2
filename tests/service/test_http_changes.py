"""Conditions of a change over HTTP: retries, versions, durability, waiting, and taking back."""

import asyncio
from typing import Any

import pytest

from tests.support.processes import Client, Reply
from tests.support.workshop import SHA256_UNKNOWN, Workshop, case_name, new_key, pointers, problem, set_status

PRICE = {"net": {"amount": "10.00", "currency": "EUR"}, "reason": "by hand"}


async def version_of(client: Client, order_id: str) -> int:
    return int((await client.get(f"/v1/orders/{order_id}")).json["version"])


async def history_of(client: Client, order_id: str) -> Any:
    return (await client.get(f"/v1/orders/{order_id}/history")).json["items"]


# --- Idempotency-Key


async def test_a_repeated_creation_is_one_order_with_the_first_answer(workshop: Workshop) -> None:
    key, body = new_key(), {"customer": "anna", "note": "once"}
    replies = [await workshop.shop.post("/v1/orders", body, headers=key) for _ in range(3)]
    assert {reply.status for reply in replies} == {201}
    assert len({reply.raw for reply in replies}) == 1
    assert len({reply.headers["Location"] for reply in replies}) == 1
    assert len({reply.headers["ETag"] for reply in replies}) == 1


async def test_equal_keyed_requests_at_once_have_one_effect(workshop: Workshop) -> None:
    order = await workshop.order()
    key, path = new_key(), f"/v1/orders/{order['id']}/comments"
    send = [workshop.shop.post(path, {"comment": "once"}, headers=key) for _ in range(12)]
    replies = await asyncio.gather(*send)
    assert {(reply.status, reply.raw) for reply in replies} == {(201, replies[0].raw)}
    assert await version_of(workshop.shop, order["id"]) == 2


async def test_the_first_answer_comes_again_whatever_happened_since(workshop: Workshop) -> None:
    order = await workshop.order()
    key = new_key()
    first = await set_status_keyed(workshop.shop, order["id"], "FILE_UPLOADED", key)
    await workshop.step(order["id"], "SUBMITTED")
    again = await set_status_keyed(workshop.shop, order["id"], "FILE_UPLOADED", key)
    assert (again.status, again.raw) == (200, first.raw)
    assert again.json["status"] == "FILE_UPLOADED"
    assert (await workshop.shop.get(f"/v1/orders/{order['id']}/status")).json["status"] == "SUBMITTED"


async def set_status_keyed(
    client: Client, order_id: str, status: str, headers: dict[str, str], **fields: Any
) -> Reply:
    return await client.put(f"/v1/orders/{order_id}/status", {"status": status} | fields, headers=headers)


async def test_a_key_with_another_body_is_refused_and_has_no_effect(workshop: Workshop) -> None:
    order = await workshop.order()
    key = new_key()
    await set_status_keyed(workshop.shop, order["id"], "FILE_UPLOADED", key)
    reply = await set_status_keyed(workshop.shop, order["id"], "SUBMITTED", key)
    problem(reply, 422, "idempotency_key_reused")
    assert await version_of(workshop.shop, order["id"]) == 2


async def test_a_key_belongs_to_its_token_method_and_path(workshop: Workshop) -> None:
    key, body = new_key(), {"customer": "anna"}
    first = await workshop.shop.post("/v1/orders", body, headers=key)
    other_token = await workshop.seller.post("/v1/orders", body, headers=key)
    assert other_token.status == 201
    assert other_token.json["id"] != first.json["id"]
    comment = {"comment": "one key, two orders"}
    for order in (first.json, other_token.json):
        reply = await workshop.shop.post(f"/v1/orders/{order['id']}/comments", comment, headers=key)
        assert reply.json["id"] == order["id"]
    patched = await workshop.shop.patch(f"/v1/orders/{first.json['id']}", {"note": "x"}, headers=key)
    assert patched.json["note"] == "x"


async def test_a_refused_request_does_not_use_its_key_up(workshop: Workshop) -> None:
    order = await workshop.order()
    key = new_key()
    problem(await set_status_keyed(workshop.shop, order["id"], "SUBMITTED", key), 409, "illegal_transition")
    await workshop.step(order["id"], "FILE_UPLOADED")
    assert (await set_status_keyed(workshop.shop, order["id"], "SUBMITTED", key)).status == 200


async def test_the_key_is_looked_up_before_the_version_is_compared(workshop: Workshop) -> None:
    order = await workshop.order()
    conditions = {**new_key(), "If-Match": '"1"'}
    first = await set_status_keyed(workshop.shop, order["id"], "FILE_UPLOADED", conditions)
    again = await set_status_keyed(workshop.shop, order["id"], "FILE_UPLOADED", conditions)
    assert (again.status, again.raw) == (200, first.raw)


async def test_a_keyed_request_that_changed_nothing_is_remembered_too(workshop: Workshop) -> None:
    order = await workshop.order("FILE_UPLOADED")
    key = new_key()
    first = await set_status_keyed(workshop.shop, order["id"], "FILE_UPLOADED", key)
    await workshop.step(order["id"], "SUBMITTED")
    again = await set_status_keyed(workshop.shop, order["id"], "FILE_UPLOADED", key)
    assert (again.status, again.raw) == (200, first.raw)


async def test_a_repeated_take_is_answered_to_the_winner_even_after_a_release(workshop: Workshop) -> None:
    order = await workshop.order("MANUFACTURING_APPROVED")
    key, take = new_key(), f"/v1/orders/{order['id']}/take"
    first = await workshop.ivan.post(take, headers=key)
    await workshop.ivan.post(f"/v1/orders/{order['id']}/release")
    again = await workshop.ivan.post(take, headers=key)
    assert (again.status, again.raw, again.headers["Durability"]) == (200, first.raw, "database")
    assert (await workshop.mes.get(f"/v1/orders/{order['id']}")).json["operator"] is None


@pytest.mark.parametrize("key", ["", " ", "two words", "x" * 256, "ключ", "\t"])
async def test_a_key_that_cannot_be_one_is_refused(workshop: Workshop, key: str) -> None:
    reply = await workshop.shop.post("/v1/orders", {"customer": "anna"}, headers={"Idempotency-Key": key})
    problem(reply, 400, "invalid_idempotency_key")


# --- If-Match


@pytest.mark.parametrize("tag", ['"2"', 'W/"2"', '"2-gzip"', '"2;br"', '"7", "2"', '"1","2" , "3"', "*"])
async def test_a_change_under_a_version_that_holds_is_made(workshop: Workshop, tag: str) -> None:
    order = await workshop.order("FILE_UPLOADED")
    reply = await set_status_keyed(workshop.shop, order["id"], "SUBMITTED", {"If-Match": tag})
    assert (reply.status, reply.json["version"], reply.headers["ETag"]) == (200, 3, '"3"')


@pytest.mark.parametrize("tag", ['"1"', '"3"', 'W/"1"', '"1-gzip"', '"02x"', '""', '"99999999999999999999"'])
async def test_a_change_under_another_version_is_refused_with_the_present_state(
    workshop: Workshop, tag: str
) -> None:
    order = await workshop.order("FILE_UPLOADED")
    reply = await set_status_keyed(workshop.shop, order["id"], "SUBMITTED", {"If-Match": tag})
    assert problem(reply, 412, "version_mismatch")["current"] == order
    assert await version_of(workshop.shop, order["id"]) == 2


@pytest.mark.parametrize("tag", ["2", '"2', "W/2", '"2" "3"', '"2";x'])
async def test_what_is_no_list_of_tags_is_refused(workshop: Workshop, tag: str) -> None:
    order = await workshop.order("FILE_UPLOADED")
    reply = await set_status_keyed(workshop.shop, order["id"], "SUBMITTED", {"If-Match": tag})
    problem(reply, 400, "invalid_etag")


async def test_of_many_changes_under_one_version_one_is_made(workshop: Workshop) -> None:
    order = await workshop.order()
    path, condition = f"/v1/orders/{order['id']}", {"If-Match": '"1"'}
    edits = [workshop.shop.patch(path, {"note": f"{n}"}, headers=condition) for n in range(10)]
    replies = await asyncio.gather(*edits)
    assert sorted(reply.status for reply in replies) == [200, *[412] * 9]
    assert await version_of(workshop.shop, order["id"]) == 2


# --- If-None-Match


@pytest.mark.parametrize("tag", ['"2"', 'W/"2"', '"2-gzip"', '"1", "2"', "*", '"x", W/"2-br"'])
@pytest.mark.parametrize("path", ["", "/status"])
async def test_what_the_caller_has_is_not_sent_again(workshop: Workshop, tag: str, path: str) -> None:
    order = await workshop.order("FILE_UPLOADED")
    reply = await workshop.shop.get(f"/v1/orders/{order['id']}{path}", headers={"If-None-Match": tag})
    assert (reply.status, reply.raw, reply.headers["ETag"]) == (304, b"", '"2"')
    assert reply.headers["Cache-Control"] == "private, no-cache"
    assert reply.headers["Facet-Position"]


@pytest.mark.parametrize("tag", ['"1"', 'W/"1"', '"22"', '"2x"', '""'])
async def test_what_the_caller_lacks_is_sent(workshop: Workshop, tag: str) -> None:
    order = await workshop.order("FILE_UPLOADED")
    reply = await workshop.shop.get(f"/v1/orders/{order['id']}", headers={"If-None-Match": tag})
    assert (reply.status, reply.json) == (200, order)


async def test_the_tag_of_a_status_is_the_version_of_its_last_change(workshop: Workshop) -> None:
    order = await workshop.order("FILE_UPLOADED")
    await workshop.shop.patch(f"/v1/orders/{order['id']}", {"note": "a gift"})
    assert (await workshop.shop.get(f"/v1/orders/{order['id']}/status")).headers["ETag"] == '"2"'
    assert (await workshop.shop.get(f"/v1/orders/{order['id']}")).headers["ETag"] == '"3"'


# --- Durability and positions


async def test_a_change_says_how_durable_it_is_and_waits_when_asked(workshop: Workshop) -> None:
    order = await workshop.order()
    plain = await workshop.step(order["id"], "FILE_UPLOADED")
    assert plain.headers["Durability"] in ("log", "database")
    prefer = {"Prefer": "durability=database"}
    waited = await set_status_keyed(workshop.shop, order["id"], "SUBMITTED", prefer)
    assert waited.headers["Durability"] == "database"
    assert waited.headers["Preference-Applied"] == "durability=database"
    held = (await workshop.admin.get(f"/v1/cache/orders/{order['id']}")).json
    assert (held["state"], held["database"]) == ("persisted", {"version": 3, "status": "SUBMITTED"})


async def test_positions_only_grow_and_an_echoed_one_is_served(workshop: Workshop) -> None:
    order = await workshop.order()
    positions = []
    for status in ("FILE_UPLOADED", "SUBMITTED", "PRICE_CALCULATED"):
        reply = await workshop.step(order["id"], status)
        position = reply.headers["Facet-Position"]
        read = await workshop.shop.get(f"/v1/orders/{order['id']}", headers={"Facet-Position": position})
        assert (read.status, read.json["status"]) == (200, status)
        positions.append(tuple(map(int, position.split("-"))))
    assert positions == sorted(set(positions))


@pytest.mark.parametrize("path", ["/v1/orders", "/v1/orders/counts", "/v1/statuses?ids=x"])
async def test_a_position_that_is_not_reached_is_answered_later_never_older(
    workshop: Workshop, path: str
) -> None:
    reply = await workshop.shop.get(path, headers={"Facet-Position": "999-1"})
    problem(reply, 503, "behind")
    assert int(reply.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("position", ["", "1", "-", "1-", "-1-2", "1-2-3", "a-b", "١-٢", "1-" + "9" * 19])
async def test_a_position_that_the_service_never_gave_is_refused(workshop: Workshop, position: str) -> None:
    reply = await workshop.shop.get("/v1/orders", headers={"Facet-Position": position})
    problem(reply, 400, "invalid_position")


# --- Prefer: wait


async def test_a_long_poll_ends_with_the_change(workshop: Workshop) -> None:
    order = await workshop.order()
    path = f"/v1/orders/{order['id']}/status"
    headers = {"If-None-Match": '"1"', "Prefer": "wait=30"}
    polls = [asyncio.create_task(workshop.customer.get(path, headers=headers)) for _ in range(3)]
    await polls_arrived(workshop, path, polls)
    await workshop.shop.post(f"/v1/orders/{order['id']}/comments", {"comment": "does not wake"})
    await workshop.step(order["id"], "FILE_UPLOADED")
    async with asyncio.timeout(10):
        replies = await asyncio.gather(*polls)
    assert {(reply.status, reply.json["status"]) for reply in replies} == {(200, "FILE_UPLOADED")}


async def polls_arrived(workshop: Workshop, path: str, polls: list["asyncio.Task[Reply]"]) -> None:
    """Another request on the same server, answered after the polls were sent: none of them is answered."""
    await workshop.customer.get(path)
    assert not any(poll.done() for poll in polls)


async def test_a_long_poll_that_sees_no_change_ends_in_time_with_304(workshop: Workshop) -> None:
    order = await workshop.order()
    headers = {"If-None-Match": '"1"', "Prefer": "wait=1"}
    async with asyncio.timeout(10):
        reply = await workshop.shop.get(f"/v1/orders/{order['id']}", headers=headers)
    assert (reply.status, reply.headers["ETag"]) == (304, '"1"')
    assert reply.headers["Preference-Applied"] == "wait=1"


async def test_who_lacks_the_state_does_not_wait_for_another(workshop: Workshop) -> None:
    order = await workshop.order("FILE_UPLOADED")
    async with asyncio.timeout(10):
        for headers in ({"Prefer": "wait=50"}, {"Prefer": "wait=50", "If-None-Match": '"1"'}):
            reply = await workshop.shop.get(f"/v1/orders/{order['id']}", headers=headers)
            assert reply.status == 200


@pytest.mark.parametrize(
    "wait", ["wait=x", "wait=-1", "wait=", "wait=1e3", "wait=999999999999", "wait", ";;,,="]
)
async def test_a_preference_that_makes_no_sense_is_ignored(workshop: Workshop, wait: str) -> None:
    order = await workshop.order()
    async with asyncio.timeout(10):
        reply = await workshop.shop.get(
            f"/v1/orders/{order['id']}", headers={"Prefer": wait, "If-None-Match": '"1"'}
        )
    assert reply.status == 304


# --- Undo


async def test_ones_own_last_step_is_taken_back_with_all_it_did(workshop: Workshop) -> None:
    order = await workshop.order("MANUFACTURING_APPROVED")
    await workshop.ivan.post(f"/v1/orders/{order['id']}/take")
    reply = await workshop.ivan.post(f"/v1/orders/{order['id']}/undo")
    assert (reply.status, reply.json["status"], reply.json["operator"]) == (
        200,
        "MANUFACTURING_APPROVED",
        None,
    )
    assert reply.json["version"] == order["version"] + 2
    item = (await history_of(workshop.mes, order["id"]))[-1]
    assert (item["kind"], item["from"], item["to"]) == (
        "undo",
        "MANUFACTURING_STARTED",
        "MANUFACTURING_APPROVED",
    )


async def test_undoing_a_release_gives_the_order_back_to_its_operator_and_waits(workshop: Workshop) -> None:
    order = await workshop.order("MANUFACTURING_STARTED")
    await workshop.ivan.post(f"/v1/orders/{order['id']}/release")
    reply = await workshop.ivan.post(f"/v1/orders/{order['id']}/undo")
    assert (reply.json["operator"], reply.headers["Durability"]) == ("ivan", "database")


async def test_undoing_a_price_restores_what_was_before(workshop: Workshop) -> None:
    order = await workshop.order("SUBMITTED")
    await set_status(workshop.seller, order["id"], "PRICE_CALCULATED", price=PRICE)
    reply = await workshop.seller.post(f"/v1/orders/{order['id']}/undo")
    assert (reply.json["status"], reply.json["price"]) == ("SUBMITTED", None)


async def test_a_step_of_somebody_else_is_not_undone(workshop: Workshop) -> None:
    order = await workshop.order("SUBMITTED")
    problem(await workshop.seller.post(f"/v1/orders/{order['id']}/undo"), 409, "nothing_to_undo")


async def test_an_undo_is_not_undone_and_an_edit_ends_it(workshop: Workshop) -> None:
    order = await workshop.order("FILE_UPLOADED")
    undo = f"/v1/orders/{order['id']}/undo"
    assert (await workshop.shop.post(undo)).json["status"] == "INITIATED"
    problem(await workshop.shop.post(undo), 409, "nothing_to_undo")
    await workshop.step(order["id"], "FILE_UPLOADED")
    await workshop.shop.patch(f"/v1/orders/{order['id']}", {"model": SHA256_UNKNOWN})
    problem(await workshop.shop.post(undo), 409, "nothing_to_undo")


async def test_a_comment_does_not_stand_in_the_way_of_an_undo(workshop: Workshop) -> None:
    order = await workshop.order("FILE_UPLOADED")
    await workshop.seller.post(f"/v1/orders/{order['id']}/comments", {"comment": "hm"})
    assert (await workshop.shop.post(f"/v1/orders/{order['id']}/undo")).json["status"] == "INITIATED"


async def test_a_new_order_has_nothing_to_undo(workshop: Workshop) -> None:
    order = await workshop.order()
    problem(await workshop.shop.post(f"/v1/orders/{order['id']}/undo"), 409, "nothing_to_undo")


# --- Prices that people set


WRONG_PRICES: list[tuple[Any, set[str]]] = [
    ({"net": {"amount": "0.00", "currency": "EUR"}, "reason": "gift"}, {"/price/net/amount"}),
    ({"net": {"amount": "-1.00", "currency": "EUR"}, "reason": "gift"}, {"/price/net/amount"}),
    ({"net": {"amount": "1.001", "currency": "EUR"}, "reason": "gift"}, {"/price/net/amount"}),
    ({"net": {"amount": "1000000000.01", "currency": "EUR"}, "reason": "x"}, {"/price/net/amount"}),
    ({"net": {"amount": "1e999999", "currency": "EUR"}, "reason": "x"}, {"/price/net/amount"}),
    ({"net": {"amount": "1e-999999", "currency": "EUR"}, "reason": "x"}, {"/price/net/amount"}),
    ({"net": {"amount": "NaN", "currency": "EUR"}, "reason": "gift"}, {"/price/net/amount"}),
    ({"net": {"amount": "sNaN", "currency": "EUR"}, "reason": "gift"}, {"/price/net/amount"}),
    ({"net": {"amount": "Infinity", "currency": "EUR"}, "reason": "gift"}, {"/price/net/amount"}),
    ({"net": {"amount": "9" * 5000, "currency": "EUR"}, "reason": "gift"}, {"/price/net/amount"}),
    ({"net": {"amount": "1.00", "currency": "USD"}, "reason": "gift"}, {"/price/net/currency"}),
    ({"net": {"amount": "1.00", "currency": "EUR"}}, {"/price/reason"}),
    ({"net": {"amount": "1.00"}, "reason": " "}, {"/price/net/currency", "/price/reason"}),
    ({"net": "1.00 EUR", "reason": "gift"}, {"/price/net"}),
]


@pytest.mark.parametrize(("price", "wrong"), WRONG_PRICES, ids=case_name)
async def test_a_price_that_cannot_be_is_refused(workshop: Workshop, price: Any, wrong: set[str]) -> None:
    order = await workshop.order("SUBMITTED")
    reply = await set_status(workshop.seller, order["id"], "PRICE_CALCULATED", price=price)
    assert pointers(problem(reply, 422, "invalid")) == wrong


async def test_a_seller_cannot_calculate_without_a_price(workshop: Workshop) -> None:
    order = await workshop.order("SUBMITTED")
    reply = await set_status(workshop.seller, order["id"], "PRICE_CALCULATED")
    assert pointers(problem(reply, 422, "price_required")) == {"/price"}


async def test_a_price_goes_with_its_step_only(workshop: Workshop) -> None:
    order = await workshop.order("FILE_UPLOADED")
    reply = await set_status(workshop.shop, order["id"], "SUBMITTED", price=PRICE)
    assert pointers(problem(reply, 422, "invalid")) == {"/price"}
