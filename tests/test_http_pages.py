"""The pages: logging in, the newest orders, the price form, a customer's page."""

import re
from typing import Any

import pytest

from tests.meshes import binary_stl, torus
from tests.processes import ADMIN_TOKEN, Client, Reply
from tests.workshop import Workshop, problem, set_status

HTML = "text/html; charset=utf-8"


async def login(client: Client, token: str, **headers: str) -> Reply:
    return await client.send("POST", "/login", data={"token": token}, headers=headers, allow_redirects=False)


def cookie(token: str = ADMIN_TOKEN) -> dict[str, str]:
    return {"Cookie": f"facet_token={token}"}


def page(reply: Reply, status: int = 200) -> str:
    assert (reply.status, reply.headers["Content-Type"]) == (status, HTML), reply
    policy = reply.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script" not in policy
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert "<script" not in reply.raw.decode()
    return reply.raw.decode()


async def test_a_login_gives_a_cookie_that_scripts_and_other_sites_cannot_use(workshop: Workshop) -> None:
    reply = await login(workshop.nobody, ADMIN_TOKEN)
    assert (reply.status, reply.headers["Location"]) == (303, "/")
    given = reply.headers["Set-Cookie"]
    assert f"facet_token={ADMIN_TOKEN}" in given
    for attribute in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="):
        assert attribute in given


@pytest.mark.parametrize("token", ["", "wrong", "\x00", "ключ"])
async def test_a_wrong_token_is_told_so(workshop: Workshop, token: str) -> None:
    reply = await login(workshop.nobody, token)
    assert "not known here" in page(reply, 401)
    assert "Set-Cookie" not in reply.headers


async def test_a_logout_takes_the_cookie_away(workshop: Workshop) -> None:
    reply = await workshop.nobody.send("POST", "/logout", headers=cookie(), allow_redirects=False)
    assert reply.status == 303
    assert "Max-Age=0" in reply.headers["Set-Cookie"]


@pytest.mark.parametrize("path", ["/login", "/logout", "/price"])
async def test_a_form_of_another_site_is_refused(workshop: Workshop, path: str) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        reply = await workshop.nobody.send(
            "POST", path, headers={**cookie(), "Origin": origin}, data={"token": "x"}
        )
        problem(reply, 403, "cross_origin")


async def test_who_is_not_logged_in_sees_no_orders(workshop: Workshop) -> None:
    await workshop.order(customer="Secret Client")
    for headers in ({}, cookie("wrong"), {"Authorization": "x"}):
        shown = page(await workshop.nobody.get("/", headers=headers))
        assert "Secret Client" not in shown
        assert 'action="/login"' in shown


async def test_the_newest_orders_are_shown_and_nothing_in_them_is_markup(workshop: Workshop) -> None:
    order = await workshop.order("SUBMITTED", customer="<b>Anna & Co</b>")
    shown = page(await workshop.nobody.get("/?status=SUBMITTED", headers=cookie()))
    assert "&lt;b&gt;Anna &amp; Co&lt;/b&gt;" in shown
    assert str(order["number"]) in shown
    assert "<b>Anna" not in shown


async def test_the_price_of_an_order_is_shown(workshop: Workshop) -> None:
    order = await workshop.order("SUBMITTED")
    price = {"net": {"amount": "1234.50", "currency": "EUR"}, "reason": "by hand"}
    await set_status(workshop.seller, order["id"], "PRICE_CALCULATED", price=price)
    assert "1481.40 EUR" in page(await workshop.nobody.get("/?status=PRICE_CALCULATED", headers=cookie()))


@pytest.mark.parametrize(
    "query", ["status=DONE", "cursor=x", "status=%00", "status=%ff", "cursor=" + "x" * 500]
)
async def test_a_wrong_address_of_the_page_is_told_on_the_page(workshop: Workshop, query: str) -> None:
    assert "This did not work" in page(await workshop.nobody.get(f"/?{query}", headers=cookie()))


async def test_the_page_speaks_russian_to_those_who_do(workshop: Workshop) -> None:
    for headers in ({"Accept-Language": "ru-RU,ru;q=0.9,en;q=0.8"}, {"Accept-Language": "de, ru"}):
        assert "Новые заказы" in page(await workshop.nobody.get("/", headers={**cookie(), **headers}))
    assert "Newest orders" in page(await workshop.nobody.get("/?lang=en", headers={**cookie(), **headers}))
    assert "Newest orders" in page(await workshop.nobody.get("/?lang=xx", headers=cookie()))


def form(*fields: tuple[str, Any]) -> dict[str, Any]:
    body = b""
    for name, value in fields:
        raw = value if isinstance(value, bytes) else str(value).encode()
        body += f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + raw + b"\r\n"
    content_type = {"Content-Type": "multipart/form-data; boundary=edge"}
    return {"data": body + b"--edge--\r\n", "headers": {**cookie(), **content_type}}


RING = ("model", binary_stl(torus()))
BRASS = ("material", "brass")


@pytest.mark.parametrize("fields", [(RING, BRASS, ("units", "mm"), ("quantity", 2)), (BRASS, RING)])
async def test_the_form_prices_a_file_wherever_it_stands_in_it(workshop: Workshop, fields: Any) -> None:
    shown = page(await workshop.nobody.send("POST", "/price", **form(*fields)))
    assert re.search(r'class="big">\d+\.\d\d EUR', shown)


WRONG_FORMS = [
    ((BRASS,), "Choose a file"),
    ((RING,), "/material"),
    ((RING, ("material", "kryptonite")), "kryptonite"),
    ((RING, BRASS, ("quantity", "many")), "/quantity"),
    ((RING, BRASS, ("colour", "red")), "/colour"),
    ((("model", b""), BRASS), "no bytes"),
    ((("model", b"hello"), BRASS), "no mesh"),
    ((("material", "x" * 300), RING), "too large"),
]


@pytest.mark.parametrize(("fields", "said"), WRONG_FORMS, ids=lambda value: str(value)[:40])
async def test_a_wrong_form_is_told_on_the_page(workshop: Workshop, fields: Any, said: str) -> None:
    shown = page(await workshop.nobody.send("POST", "/price", **form(*fields)))
    assert "This did not work" in shown
    assert said in shown


async def test_a_form_that_is_no_form_is_told_on_the_page(workshop: Workshop) -> None:
    for data, content_type in ((b"x", "text/plain"), (b"--edge\r\n", "multipart/form-data; boundary=edge")):
        headers = {**cookie(), "Content-Type": content_type}
        shown = page(await workshop.nobody.send("POST", "/price", data=data, headers=headers))
        assert "This did not work" in shown


async def test_a_login_form_is_small(workshop: Workshop) -> None:
    problem(await login(workshop.nobody, "x" * 20_000), 413, "too_large")
    many = {f"field{n}": "x" for n in range(20)}
    reply = await workshop.nobody.send("POST", "/login", data=many, allow_redirects=False)
    problem(reply, 422, "too_many_fields")


# --- A customer's page


async def link_of(workshop: Workshop, order: Any) -> str:
    reply = await workshop.seller.post(f"/v1/orders/{order['id']}/links")
    assert (reply.status, reply.json.keys()) == (201, {"url", "expires_at"})
    url: str = reply.json["url"]
    assert url.startswith(f"{workshop.nobody.url}/c/")
    return url.removeprefix(workshop.nobody.url)


async def test_who_has_the_link_sees_the_status_and_nothing_else(workshop: Workshop) -> None:
    order = await workshop.order("MANUFACTURING_STARTED", customer="Secret Client", note="a surprise")
    path = await link_of(workshop, order)
    shown = page(await workshop.nobody.get(path))
    assert str(order["number"]) in shown
    assert "Manufacturing started" in shown
    for hidden in ("Secret Client", "a surprise", "ivan"):
        assert hidden not in shown
    assert "В работе" in page(await workshop.nobody.get(f"{path}?lang=ru"))
    await workshop.step(order["id"], "MANUFACTURING_COMPLETED")
    assert "Manufacturing completed" in page(await workshop.nobody.get(path))


async def test_a_changed_link_shows_nothing(workshop: Workshop) -> None:
    order, other = await workshop.order(), await workshop.order()
    path = await link_of(workshop, order)
    payload, _, signature = path.rpartition(".")
    moment = int(payload.rpartition(".")[2])
    for wrong in (
        path[:-1],
        path + "x",
        path.replace(order["id"], other["id"]),
        f"{payload.rpartition('.')[0]}.{moment + 1}.{signature}",
        "/c/x",
        f"/c/{order['id']}.{moment}.",
        "/c/%00.%ff.x",
    ):
        reply = await workshop.nobody.get(wrong)
        assert reply.status == 404, wrong
        assert str(order["number"]) not in reply.raw.decode().replace(wrong, "")


async def test_links_are_given_by_sellers_for_orders_that_exist(workshop: Workshop) -> None:
    missing = await workshop.seller.post("/v1/orders/0190a1b2-0000-7000-8000-000000000000/links")
    problem(missing, 404, "not_found")
    order = await workshop.order()
    for client in (workshop.shop, workshop.customer, workshop.ivan):
        problem(await client.post(f"/v1/orders/{order['id']}/links"), 403, "forbidden")
