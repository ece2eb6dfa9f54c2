"""The pages: logging in, the newest orders, the price form, a customer's page."""

import html
import re
from typing import Any, get_args

import pytest

from pricing.price.formula import LineCode
from server.api.orders.lists import Filters
from server.pages.rendering import FILTER_NAMES, LANGUAGES, LINE_NAMES, TEXTS
from tests.support import raw_http
from tests.support.meshes import binary_stl, torus
from tests.support.processes import ADMIN_TOKEN, Client, Reply
from tests.support.workshop import Workshop, problem, set_status

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
    priced = (await set_status(workshop.seller, order["id"], "PRICE_CALCULATED", price=price)).json
    shown = page(await workshop.nobody.get("/?status=PRICE_CALCULATED", headers=cookie()))
    assert f"{priced['price']['gross']['amount']} EUR" in shown


@pytest.mark.parametrize(
    "query", ["status=DONE", "cursor=x", "status=%00", "status=%ff", "cursor=" + "x" * 500]
)
async def test_a_wrong_address_of_the_page_is_told_on_the_page(workshop: Workshop, query: str) -> None:
    reply = await workshop.nobody.get(f"/?{query}", headers={**cookie(), "Accept": "text/html"})
    assert "This did not work" in page(reply, 422)
    problem(await workshop.nobody.get(f"/?{query}", headers=cookie()), 422, "invalid")


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
    ((("material", "x" * 9_000), RING), "may have at most"),
]


@pytest.mark.parametrize(("fields", "said"), WRONG_FORMS, ids=lambda value: str(value)[:40])
async def test_a_wrong_form_is_told_on_the_page(workshop: Workshop, fields: Any, said: str) -> None:
    reply = await workshop.nobody.send("POST", "/price", **form(*fields))
    shown = page(reply, 413 if said == "may have at most" else 422)
    assert "This did not work" in shown
    assert said in shown


async def test_the_form_prices_stones(workshop: Workshop) -> None:
    codes = {row["code"] for row in (await workshop.admin.get("/v1/materials")).json["stones"]}
    code = min(codes)
    sent = form(RING, BRASS, ("stones", f"{code}:3"))
    shown = page(await workshop.nobody.send("POST", "/price", **sent))
    assert "Setting stones" in shown
    sent["headers"]["Accept-Language"] = "ru"
    assert "Закрепка камней" in page(await workshop.nobody.send("POST", "/price", **sent))


def test_every_line_of_a_price_has_a_name_in_every_language() -> None:
    for lang in LANGUAGES:
        assert set(LINE_NAMES[lang]) == set(get_args(LineCode))
        assert set(FILTER_NAMES[lang]) == {*Filters.__struct_fields__} - {"status"}
        assert TEXTS[lang].keys() == TEXTS["en"].keys()


async def test_the_language_changes_after_a_form_and_the_price_stays(workshop: Workshop) -> None:
    shown = page(await workshop.nobody.send("POST", "/price", **form(RING, BRASS)))
    amount = re.search(r'class="big">([\d.]+ EUR)', shown)
    assert amount is not None
    link = re.search(r'href="([^"]*)">Русский', shown)
    assert link is not None
    address = html.unescape(link[1])
    russian = page(await workshop.nobody.get(address, headers=cookie()))
    assert "Новые заказы" in russian
    assert amount[1] in russian
    for path in ("/price", "/login"):
        back = await workshop.nobody.get(f"{path}?lang=ru", headers=cookie(), allow_redirects=False)
        assert (back.status, back.headers["Location"]) == (303, "/?lang=ru")


async def test_a_quote_is_shown_to_whom_it_was_given(workshop: Workshop) -> None:
    priced = await workshop.partner.send("POST", "/v1/prices?material=brass", data=RING[1])
    quote = priced.json["price"]["id"]
    own = await workshop.nobody.get(f"/?quote={quote}", headers=cookie(workshop.partner.token or ""))
    assert 'class="big"' in page(own)
    other = await workshop.clients.of("partner", "rival", "rival")
    for reader, address, status in (
        (other, quote, 404),
        (workshop.customer, quote, 200),
        (workshop.partner, "q_unknown", 404),
    ):
        reply = await workshop.nobody.get(f"/?quote={address}", headers=cookie(reader.token or ""))
        assert 'class="big"' not in page(reply, status)


async def test_the_language_is_kept_through_the_forms(workshop: Workshop) -> None:
    shown = page(await workshop.nobody.get("/?lang=ru"))
    assert 'action="/login?lang=ru"' in shown
    reply = await workshop.nobody.send(
        "POST", "/login?lang=ru", data={"token": ADMIN_TOKEN}, allow_redirects=False
    )
    assert reply.headers["Location"] == "/?lang=ru"
    wrong = page(await workshop.nobody.send("POST", "/login?lang=ru", data={"token": "x"}), 401)
    assert 'href="/?lang=en"' in wrong


async def test_a_price_without_a_mass_names_none(workshop: Workshop) -> None:
    open_mesh = binary_stl(torus()[:-4])
    shown = page(await workshop.nobody.send("POST", "/price", **form(("model", open_mesh), BRASS)))
    assert "A person has to price this model" in shown
    assert "None" not in shown


async def test_the_home_page_is_narrowed_as_the_list_of_orders_is(workshop: Workshop) -> None:
    mine = await workshop.order("MANUFACTURING_STARTED", customer="Needle & Co")
    other = await workshop.order(customer="Haystack")
    for query in ("q=needle", "operator=ivan", f"number={mine['number']}", "customer=Needle%20%26%20Co"):
        shown = page(await workshop.nobody.get(f"/?{query}", headers=cookie()))
        assert f"<td>{mine['number']}</td>" in shown, query
        assert f"<td>{other['number']}</td>" not in shown, query
        kept = html.unescape("".join(re.findall(r'href="(/\?[^"]*)"', shown)))
        assert query.replace("%20", "+") in kept
    assert 'value="needle"' in page(await workshop.nobody.get("/?q=needle", headers=cookie()))


async def test_a_parameter_that_the_page_does_not_know_is_told(workshop: Workshop) -> None:
    headers = {**cookie(), "Accept": "text/html"}
    shown = page(await workshop.nobody.get("/?colour=red", headers=headers), 422)
    assert "This did not work" in shown
    assert "/colour" in shown


async def test_what_messengers_add_to_an_address_is_passed_over(workshop: Workshop) -> None:
    path = await link_of(workshop, await workshop.order())
    for added in ("fbclid=x", "utm_source=mail&utm_medium=x", "yclid=1&lang=ru"):
        page(await workshop.nobody.get(f"{path}?{added}"))
        page(await workshop.nobody.get(f"/?{added}", headers=cookie()))


@pytest.mark.parametrize("host", ["x:99999999", "evil.example/x?", "a b", '"'])
async def test_a_host_that_is_none_begins_no_link(workshop: Workshop, host: str) -> None:
    order = await workshop.order()
    request = raw_http.request(
        f"POST /v1/orders/{order['id']}/links".encode(), b"Content-Length: 0\r\n"
    ).replace(b"Host: facet", f"Host: {host}".encode())
    reply = await raw_http.sent(workshop.nobody.url, request)
    assert reply is not None
    assert reply.status == 400


@pytest.mark.parametrize(("language", "said"), [("en", "To the start page"), ("ru", "На главную")])
async def test_a_refusal_is_a_page_to_a_person_and_a_document_to_a_program(
    workshop: Workshop, language: str, said: str
) -> None:
    headers = {"Accept": "text/html,*/*;q=0.8", "Accept-Language": language}
    for method, path, status in (("GET", "/c/x?colour=red", 422), ("POST", "/login?colour=red", 422)):
        reply = await workshop.nobody.send(method, path, headers=headers)
        assert said in page(reply, status)
        problem(await workshop.nobody.send(method, path), status, "invalid")


@pytest.mark.parametrize("path", ["/login", "/logout"])
async def test_a_form_has_the_fields_it_is_documented_with(workshop: Workshop, path: str) -> None:
    reply = await workshop.nobody.send("POST", path, data={"colour": "red"}, allow_redirects=False)
    problem(reply, 422, "unknown_field")
    reply = await workshop.nobody.send("POST", path, json={"token": ADMIN_TOKEN}, allow_redirects=False)
    problem(reply, 415, "unsupported_media_type")


async def test_a_form_that_is_no_form_is_told_on_the_page(workshop: Workshop) -> None:
    for data, content_type in ((b"x", "text/plain"), (b"--edge\r\n", "multipart/form-data; boundary=edge")):
        headers = {**cookie(), "Content-Type": content_type}
        reply = await workshop.nobody.send("POST", "/price", data=data, headers=headers)
        assert "This did not work" in page(reply, 415 if content_type == "text/plain" else 400)


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
