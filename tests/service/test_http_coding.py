"""Content codings over HTTP: what comes is the same in every coding, and only what is worth it comes so."""

import gzip
from collections.abc import Callable
from uuid import uuid4

import pytest
import zstandard

from tests.support.processes import Client, Reply
from tests.support.workshop import Workshop, problem

BROWSER = "gzip, deflate, br, zstd"
DECODE: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "zstd": zstandard.decompress}


async def get(client: Client, path: str, accepted: str, **headers: str) -> Reply:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.get(path, headers={"Accept-Encoding": accepted, **names})


def plain(reply: Reply) -> bytes:
    coding = reply.headers.get("Content-Encoding")
    return reply.raw if coding is None else DECODE[coding](reply.raw)


@pytest.fixture
async def path(workshop: Workshop) -> str:
    """Of a list of several KiB."""
    name = str(uuid4())
    for _ in range(6):
        await workshop.order(customer=name)
    return f"/v1/orders?customer={name}"


@pytest.mark.parametrize(
    ("accepted", "coding"), [(BROWSER, "zstd"), ("gzip", "gzip"), ("zstd;q=0, *", "gzip")]
)
async def test_a_page_is_encoded_at_its_second_serving_under_a_tag_of_its_own(
    workshop: Workshop, path: str, accepted: str, coding: str
) -> None:
    known = await get(workshop.admin, path, "identity")
    first = await get(workshop.admin, path, accepted)
    assert first.raw == known.raw
    for reply in (known, first):
        assert "Content-Encoding" not in reply.headers
        assert reply.headers["Vary"] == "Accept-Encoding"
    for _ in range(6):  # on the normal path, then ahead of the parser
        reply = await get(workshop.admin, path, accepted)
        assert (reply.status, reply.headers["Content-Encoding"]) == (200, coding)
        assert plain(reply) == known.raw
        assert len(reply.raw) < len(known.raw) / 2
        assert reply.headers["ETag"] == f'{known.headers["ETag"][:-1]}-{coding}"'
        assert reply.headers["Vary"] == "Accept-Encoding"
        head = await workshop.admin.send("HEAD", path, headers={"Accept-Encoding": accepted})
        assert head.headers["Content-Length"] == str(len(reply.raw))
        assert head.headers["ETag"] == reply.headers["ETag"]


async def test_a_tag_of_any_coding_is_the_tag_of_what_there_is(workshop: Workshop, path: str) -> None:
    await get(workshop.admin, path, "gzip")
    tags = {
        accepted: (await get(workshop.admin, path, accepted)).headers["ETag"]
        for accepted in ("identity", "gzip", "zstd")
    }
    assert len(set(tags.values())) == 3
    for tag in tags.values():
        for accepted in tags:
            for _ in range(3):
                reply = await get(workshop.admin, path, accepted, If_None_Match=tag)
                assert (reply.status, reply.headers["ETag"], reply.raw) == (304, tag, b"")
                assert reply.headers["Vary"] == "Accept-Encoding"
    order = (await get(workshop.admin, path, "identity")).json["items"][0]
    changed = await workshop.admin.patch(
        f"/v1/orders/{order['id']}", {"note": "x" * 2_000}, headers={"If-Match": f'"{order["version"]}-gzip"'}
    )
    assert changed.status == 200
    for _ in range(2):
        reply = await get(workshop.admin, path, "gzip", If_None_Match=tags["gzip"])
        assert reply.status == 200
        assert reply.headers["ETag"] not in tags.values()
    large = await get(workshop.admin, f"/v1/orders/{order['id']}", "gzip")
    large = await get(workshop.admin, f"/v1/orders/{order['id']}", "gzip")
    assert large.headers["ETag"] == f'"{order["version"] + 1}-gzip"'


async def test_what_is_small_or_no_text_is_never_encoded(workshop: Workshop, path: str) -> None:
    order = (await get(workshop.admin, path, "identity")).json["items"][0]
    for small in (f"/v1/orders/{order['id']}", f"/v1/orders/{order['id']}/status", "/v1/me"):
        for _ in range(4):
            reply = await get(workshop.admin, small, BROWSER)
            assert "Content-Encoding" not in reply.headers, small
            assert "Vary" not in reply.headers, small
            assert len(reply.raw) < 1024, small
    forced = await get(workshop.admin, "/v1/me", "gzip, identity;q=0")
    assert (forced.headers["Content-Encoding"], plain(forced)[:1]) == ("gzip", b"{")


async def test_what_would_take_long_is_encoded_only_for_who_takes_nothing_else(workshop: Workshop) -> None:
    name = str(uuid4())
    for _ in range(130):
        await workshop.order(customer=name, note="x" * 2_000)
    path = f"/v1/orders?customer={name}&limit=130"
    for _ in range(4):
        reply = await get(workshop.admin, path, BROWSER)
        assert len(reply.raw) > 256 * 1024
        assert "Content-Encoding" not in reply.headers
        assert "Vary" not in reply.headers
    forced = await get(workshop.admin, path, "gzip, identity;q=0")
    assert plain(forced) == reply.raw


@pytest.mark.parametrize("accepted", ["identity;q=0", "*;q=0", "br, identity;q=0"])
async def test_who_takes_no_coding_that_there_is_is_told_which_there_are(
    workshop: Workshop, path: str, accepted: str
) -> None:
    for _ in range(3):
        problem(await get(workshop.admin, path, accepted), 406, "not_acceptable")
    assert (await get(workshop.admin, path, "br")).status == 200


@pytest.mark.parametrize("path", ["/", "/openapi.json", "/docs", "/v1/price-lists/current"])
async def test_pages_and_documents_are_encoded_too(workshop: Workshop, path: str) -> None:
    who = workshop.admin if path.startswith("/v1") else workshop.nobody
    known = await get(who, path, "identity")
    if len(known.raw) < 1024:
        return
    for _ in range(2):
        reply = await get(who, path, BROWSER)
        assert (reply.status, reply.headers["Content-Encoding"]) == (known.status, "zstd")
        assert plain(reply)[:200] == known.raw[:200]
