"""Uploads over HTTP: facts by hash, files, and everything that is not a model."""

import asyncio
import hashlib
import json
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.http.body import Bodies, Pace, PaceBounds, read_whole
from server.http.problems import HttpError
from server.uploads.receiving import Uploads
from tests.support import raw_http
from tests.support.meshes import ALL_FORMATS, binary_stl, cube, torus
from tests.support.processes import Client, Clients, Reply, Service, clients_of, served
from tests.support.workshop import Workshop, new_key, pointers, problem

SMALL_BYTES = 4096
MULTIPART = {"Content-Type": "multipart/form-data; boundary=edge"}


def a_ring() -> bytes:
    return binary_stl(torus(9.0 + np.random.default_rng().random()))


def sha256_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


async def upload(client: Client, body: bytes, **headers: str) -> Reply:
    return await client.send("POST", "/v1/models", data=BytesIO(body), headers=headers)


@pytest.mark.parametrize("name", ALL_FORMATS)
async def test_every_format_is_read(workshop: Workshop, name: str) -> None:
    size = 10 + np.random.default_rng().integers(1, 1000) / 64
    own_unit_mm = 1000 if name == "glb" else 1  # the format says: metres
    reply = await upload(workshop.partner, ALL_FORMATS[name](cube(size / own_unit_mm)))
    model = reply.json["model"]
    assert (reply.status, model["format"], model["facets"]) == (201, name, 12)
    assert model["volume_mm3"] == pytest.approx(size**3)
    assert model["bbox_mm"] == pytest.approx([size] * 3)
    assert reply.headers["Location"] == f"/v1/models/{model['sha256']}"
    again = await workshop.partner.get(reply.headers["Location"])
    assert again.json == reply.json


async def test_facts_are_shown_in_the_unit_asked(workshop: Workshop) -> None:
    body = a_ring()
    mm = (await upload(workshop.partner, body)).json["model"]
    cm = (await workshop.partner.get(f"/v1/models/{mm['sha256']}?units=cm")).json["model"]
    assert cm["volume_mm3"] == pytest.approx(1000 * mm["volume_mm3"])
    assert cm["area_mm2"] == pytest.approx(100 * mm["area_mm2"])
    problem(await workshop.partner.get(f"/v1/models/{mm['sha256']}?units=ell"), 422, "unknown_unit")


async def test_the_file_comes_back_byte_for_byte_to_those_who_may_have_it(workshop: Workshop) -> None:
    body = a_ring()
    path = f"/v1/models/{sha256_of(body)}/file"
    await upload(workshop.partner, body)
    for client in (workshop.partner, workshop.ivan, workshop.mes):
        reply = await client.get(path)
        assert (reply.status, reply.raw) == (200, body)
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Content-Disposition"].startswith("attachment;")
    for client in (workshop.customer, workshop.shop, workshop.seller):
        problem(await client.get(path), 403, "forbidden")


async def test_an_archive_of_one_model_comes_back_as_an_archive(workshop: Workshop) -> None:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("ring.stl", a_ring())
    body = packed.getvalue()
    model = (await upload(workshop.partner, body)).json["model"]
    assert (model["format"], model["closed"]) == ("stl-binary", True)
    reply = await workshop.partner.get(f"/v1/models/{sha256_of(body)}/file")
    assert reply.raw == body
    assert reply.headers["Content-Disposition"].endswith('.zip"')


@pytest.mark.parametrize("name", ["obj", "glb", "stl-ascii"])
async def test_a_downloaded_file_is_named_after_its_format(workshop: Workshop, name: str) -> None:
    body = ALL_FORMATS[name](cube(10 + np.random.default_rng().random()))
    await upload(workshop.partner, body)
    reply = await workshop.partner.get(f"/v1/models/{sha256_of(body)}/file")
    suffix = {"stl-ascii": "stl"}.get(name, name)
    assert reply.headers["Content-Disposition"] == f'attachment; filename="{sha256_of(body)[:12]}.{suffix}"'
    assert (reply.raw, reply.headers["Content-Length"]) == (body, str(len(body)))


RANGES: list[tuple[str, slice | None]] = [
    ("bytes=0-99", slice(0, 100)),
    ("bytes=84-", slice(84, None)),
    ("bytes=-50", slice(-50, None)),
    ("bytes=100-99999999", slice(100, None)),
    ("bytes=0-", slice(0, None)),
    ("bytes=-99999999", slice(0, None)),
    ("bytes=9-8", None),
    ("bytes=0-1,5-6", None),
    ("lines=0-1", None),
    ("bytes=-", None),
    ("bytes=x", None),
]


@pytest.mark.parametrize(("asked", "given"), RANGES)
async def test_a_range_of_the_file_is_sent_or_all_of_it(
    workshop: Workshop, asked: str, given: slice | None
) -> None:
    body = ALL_FORMATS["stl-binary"](cube(11))
    await upload(workshop.partner, body)
    path = f"/v1/models/{sha256_of(body)}/file"
    reply = await workshop.partner.get(path, headers={"Range": asked})
    assert reply.headers["Accept-Ranges"] == "bytes"
    if given is None:
        assert (reply.status, reply.raw) == (200, body)
        return
    first, end, _ = given.indices(len(body))
    assert (reply.status, reply.raw) == (206, body[given])
    assert reply.headers["Content-Range"] == f"bytes {first}-{end - 1}/{len(body)}"


async def test_a_range_past_the_end_is_refused_and_an_old_one_gives_the_whole_file(
    workshop: Workshop,
) -> None:
    body = a_ring()
    await upload(workshop.partner, body)
    path = f"/v1/models/{sha256_of(body)}/file"
    for asked in (f"bytes={len(body)}-", "bytes=-0"):
        reply = await workshop.partner.get(path, headers={"Range": asked})
        problem(reply, 416, "range_not_satisfiable")
        assert reply.headers["Content-Range"] == f"bytes */{len(body)}"
    tag = (await workshop.partner.get(path)).headers["ETag"]
    for known, status in ((tag, 206), ('"another"', 200)):
        reply = await workshop.partner.get(path, headers={"Range": "bytes=0-9", "If-Range": known})
        assert reply.status == status


async def test_a_file_under_its_hash_is_not_sent_again_and_says_its_size_first(workshop: Workshop) -> None:
    body = a_ring()
    await upload(workshop.partner, body)
    path = f"/v1/models/{sha256_of(body)}/file"
    head = await workshop.partner.send("HEAD", path)
    assert (head.status, head.raw, head.headers["Content-Length"]) == (200, b"", str(len(body)))
    assert head.headers["ETag"] == f'"{sha256_of(body)}"'
    again = await workshop.partner.get(path, headers={"If-None-Match": head.headers["ETag"]})
    assert (again.status, again.raw) == (304, b"")
    assert again.headers["Cache-Control"].startswith("private, max-age=")


async def test_a_file_that_is_gone_is_there_again_after_an_upload(
    service: Service, workshop: Workshop
) -> None:
    body = a_ring()
    path = f"/v1/models/{sha256_of(body)}/file"
    await upload(workshop.partner, body)
    (service.data_dir / "models" / sha256_of(body)[:2] / sha256_of(body)).unlink()
    problem(await workshop.partner.get(path), 404, "file_gone")
    assert (await upload(workshop.partner, body)).headers["Cache-Status"].startswith("facet; hit")
    assert (await workshop.partner.get(path)).raw == body


@pytest.mark.parametrize("digest", ["x", "AB" * 32, "ab" * 31, "ab" * 33, "ab" * 32, "%C3%A9" * 64])
async def test_a_hash_that_is_none_or_unknown_is_an_unknown_model(workshop: Workshop, digest: str) -> None:
    problem(await workshop.mes.get(f"/v1/models/{digest}"), 404, "unknown_model")


async def test_an_uploaded_key_notices_another_body(workshop: Workshop) -> None:
    key, body = new_key(), a_ring()
    first = await upload(workshop.partner, body, **key)
    again = await upload(workshop.partner, body, **key)
    assert (first.status, again.status, again.json) == (201, 201, first.json)
    problem(await upload(workshop.partner, a_ring(), **key), 422, "idempotency_key_reused")


async def test_a_large_upload_goes_through_the_disk_and_leaves_nothing_there(
    service: Service, workshop: Workshop
) -> None:
    body = binary_stl(torus(9.0, 1.5, 160, 80))
    assert len(body) > 1 << 20
    reply = await upload(workshop.partner, body)
    assert (reply.status, reply.json["model"]["facets"]) == (201, 25_600)
    assert list((service.data_dir / "uploads").iterdir()) == []


# --- What is not a model


def with_count(body: bytes, count: int) -> bytes:
    return body[:80] + count.to_bytes(4, "little") + body[84:]


def with_value(value: float) -> bytes:
    triangles = cube(10)
    triangles[3, 1, 2] = value
    return binary_stl(triangles)


RING = binary_stl(torus())
NOT_MODELS: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 422, "empty_file"),
    "text": (b"Dear Sirs, please find the ring attached.", 422, "not_a_mesh"),
    "JSON": (b'{"model": "ring"}', 422, "not_a_mesh"),
    "noise": (bytes(range(256)) * 20, 422, "not_a_mesh"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, 422, "unsupported_format"),
    "a STEP file": (b"ISO-10303-21;\nHEADER;\n", 422, "unsupported_format"),
    "one byte short": (RING[:-1], 422, "stl_size_mismatch"),
    "one byte long": (RING + b"\0", 422, "stl_size_mismatch"),
    "half": (RING[: len(RING) // 2], 422, "stl_size_mismatch"),
    "one facet too many announced": (with_count(RING, 577), 422, "stl_size_mismatch"),
    "no facets": (with_count(RING[:84], 0), 422, "no_facets"),
    "an empty solid": (b"solid ring\nendsolid ring\n", 422, "no_facets"),
    "NaN": (with_value(float("nan")), 422, "not_finite"),
    "infinity": (with_value(float("inf")), 422, "not_finite"),
    "half an ASCII facet": (b"solid x\nfacet normal 0 0 0\nouter loop\nvertex 0 0 0\n", 422, "malformed_stl"),
    "an archive of nothing": (b"PK\x03\x04" + b"\0" * 50, 422, ""),
    "half a GLB": (ALL_FORMATS["glb"](cube(10))[:100], 422, ""),
    "half a PLY": (ALL_FORMATS["ply"](cube(10))[:200], 422, ""),
    "half an OFF": (ALL_FORMATS["off"](cube(10))[:60], 422, ""),
}


@pytest.mark.parametrize("name", NOT_MODELS)
async def test_what_is_no_model_is_refused_with_a_remedy(workshop: Workshop, name: str) -> None:
    body, status, code = NOT_MODELS[name]
    for path in ("/v1/models", "/v1/prices?material=brass"):
        reply = await workshop.partner.send("POST", path, data=BytesIO(body))
        members = problem(reply, status, code or reply.json["code"])
        assert members["remedy"]
    problem(await workshop.partner.get(f"/v1/models/{sha256_of(body)}"), 404, "unknown_model")


async def test_a_flat_mesh_encloses_nothing_and_has_no_price(workshop: Workshop) -> None:
    flat = cube(10)
    flat[:, :, 2] = 0
    reply = await workshop.partner.send("POST", "/v1/prices?material=brass", data=binary_stl(flat))
    assert problem(reply, 422, "zero_volume")["remedy"]


async def test_a_content_type_may_be_vague_but_not_wrong(workshop: Workshop) -> None:
    for content_type in ("model/stl", "application/octet-stream", "text/plain", "image/png", "nonsense"):
        assert (await upload(workshop.partner, RING, **{"Content-Type": content_type})).status == 201
    for content_type in ("model/obj", "model/3mf; charset=x", "MODEL/GLTF-BINARY", "model/unheard-of"):
        reply = await upload(workshop.partner, RING, **{"Content-Type": content_type})
        assert problem(reply, 415, "content_type_mismatch")["remedy"]


# --- Multipart


def part(name: str = "model", more: bytes = b"", body: bytes = RING) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="ring.stl"\r\n'.encode()
    return b"--edge\r\n" + disposition + more + b"\r\n" + body + b"\r\n"


END = b"--edge--\r\n"
NO_FILE = b"--edge\r\nContent-Type: text/plain\r\n\r\nhello\r\n"
NESTED = (
    b'--edge\r\nContent-Disposition: form-data; name="model"\r\n'
    b"Content-Type: multipart/mixed; boundary=in\r\n\r\n"
)
BROKEN_FORMS: dict[str, tuple[bytes, str, int, str]] = {
    "no boundary named": (part() + END, "multipart/form-data", 400, "malformed_multipart"),
    "an empty boundary": (part() + END, "multipart/form-data; boundary=", 400, "malformed_multipart"),
    "a long boundary": (
        part() + END,
        f"multipart/form-data; boundary={'x' * 71}",
        400,
        "malformed_multipart",
    ),
    "a boundary that is no ASCII": (
        part() + END,
        "multipart/form-data; boundary=\u00e9dge",
        400,
        "malformed_multipart",
    ),
    "another boundary": (part() + END, "multipart/form-data; boundary=cliff", 400, "malformed_multipart"),
    "nothing": (b"", MULTIPART["Content-Type"], 400, "malformed_multipart"),
    "no parts": (END, MULTIPART["Content-Type"], 422, "no_model"),
    "no last boundary": (part(), MULTIPART["Content-Type"], 400, "malformed_multipart"),
    "cut in the file": (part()[:2000], MULTIPART["Content-Type"], 400, "malformed_multipart"),
    "cut in the headers": (part()[:30], MULTIPART["Content-Type"], 400, "malformed_multipart"),
    "another field": (part("file") + END, MULTIPART["Content-Type"], 422, "unknown_field"),
    "another field first": (part("note") + part() + END, MULTIPART["Content-Type"], 422, "unknown_field"),
    "a part without a name": (NO_FILE + END, MULTIPART["Content-Type"], 400, "malformed_multipart"),
    "parts in a part": (NESTED + b"--in--\r\n" + END, MULTIPART["Content-Type"], 422, "not_a_mesh"),
    "base64": (
        part(more=b"Content-Transfer-Encoding: base64\r\n") + END,
        MULTIPART["Content-Type"],
        415,
        "content_encoding_unsupported",
    ),
    "gzip": (
        part(more=b"Content-Encoding: gzip\r\n") + END,
        MULTIPART["Content-Type"],
        415,
        "content_encoding_unsupported",
    ),
    "a wrong header": (
        part(more=b"X\x01Y: 1\r\n") + END,
        MULTIPART["Content-Type"],
        400,
        "malformed_multipart",
    ),
    "a long header": (
        part(more=b"X: " + b"x" * 20_000 + b"\r\n") + END,
        MULTIPART["Content-Type"],
        400,
        "malformed_multipart",
    ),
    "many headers": (
        part(more=b"X: 1\r\n" * 5_000) + END,
        MULTIPART["Content-Type"],
        400,
        "malformed_multipart",
    ),
    "an empty file": (part(body=b"") + END, MULTIPART["Content-Type"], 422, "empty_file"),
    "a wrong type": (
        part(more=b"Content-Type: model/obj\r\n") + END,
        MULTIPART["Content-Type"],
        415,
        "content_type_mismatch",
    ),
}


@pytest.mark.parametrize("name", BROKEN_FORMS)
async def test_a_broken_form_is_refused(workshop: Workshop, name: str) -> None:
    body, content_type, status, code = BROKEN_FORMS[name]
    reply = await upload(workshop.partner, body, **{"Content-Type": content_type})
    problem(reply, status, code)


@pytest.mark.parametrize("name", ["note", "", "Model", "units\u00a0", "x" * 300])
async def test_a_field_that_is_not_documented_is_refused_wherever_it_stands(
    workshop: Workshop, name: str
) -> None:
    other = part(name, body=b"x")
    for body in (part() + other + END, other + part() + END, other + END):
        problem(await upload(workshop.partner, body, **MULTIPART), 422, "unknown_field")


QUANTITY = b'Content-Disposition: form-data; name="units"\r\n\r\ncm\r\n'
ODD_FORMS = {
    "a part behind the last boundary": part() + END + b"--edge\r\n" + QUANTITY + b"--edge--\r\n",
    "a part before the first boundary": b"--other\r\n" + QUANTITY + part() + END,
    "a preamble": b"hello\r\n" + part() + END,
    "an epilogue": part() + END + b"hello",
    "a folded header": part(more=b"X: a\r\n b\r\n") + END,
    "two dispositions": part("units", more=b'Content-Disposition: form-data; name="model"\r\n') + END,
    "two types": part(more=b"Content-Type: a/b\r\nContent-Type: c/d\r\n") + END,
    "two names": part('units"; name="model') + END,
}


@pytest.mark.parametrize("name", ODD_FORMS)
async def test_a_form_of_which_something_would_be_passed_over_is_refused(
    workshop: Workshop, name: str
) -> None:
    body = ODD_FORMS[name]
    problem(await upload(workshop.partner, body, **MULTIPART), 400, "malformed_multipart")
    for size in (1, 7, 64):
        chunks = [body[at : at + size] for at in range(0, min(len(body), 600), size)] + [body[600:]]

        async def sent(chunks: list[bytes] = chunks) -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        reply = await workshop.partner.send("POST", "/v1/models", data=sent(), headers=MULTIPART)
        problem(reply, 400, "malformed_multipart")


async def test_blank_lines_around_a_form_are_nothing(workshop: Workshop) -> None:
    for body in (b"\r\n" + part() + END, part() + END + b"\r\n\r\n", part() + END.rstrip()):
        assert (await upload(workshop.partner, body, **MULTIPART)).status == 201
    quoted = part(more=b"").replace(b'name="model"', b'name="model"; filename="a; name=b.stl"')
    assert (await upload(workshop.partner, quoted + END, **MULTIPART)).status == 201


@pytest.mark.parametrize(
    "more", [b"Content-Transfer-Encoding: base64\r\n", b"Content-Type: text/plain; charset=utf-16\r\n"]
)
async def test_an_encoded_field_is_refused(workshop: Workshop, more: bytes) -> None:
    reply = await upload(workshop.partner, part() + part("units", more, b"mm") + END, **MULTIPART)
    problem(reply, 415, "content_encoding_unsupported")


async def test_a_field_is_given_once(workshop: Workshop) -> None:
    twice = part("units", body=b"mm")
    for body in (part() + part() + END, twice + part() + twice + END):
        problem(await upload(workshop.partner, body, **MULTIPART), 422, "invalid")
    reply = await workshop.partner.send(
        "POST", "/v1/models?units=mm", data=part() + twice + END, headers=MULTIPART
    )
    assert pointers(problem(reply, 422, "invalid")) == {"/units"}


@pytest.mark.parametrize(
    "written", ["===123===", "----=_Part_0_1.2", "a:b/c", '"with a blank"', "edge; charset=utf-8"]
)
async def test_a_boundary_is_read_as_clients_write_it(workshop: Workshop, written: str) -> None:
    boundary = written.partition(";")[0].strip('"').encode()
    body = (part() + END).replace(b"--edge", b"--" + boundary)
    for content_type in (
        f"multipart/form-data; boundary={written}",
        f"multipart/form-data;\tboundary={written}",
    ):
        reply = await upload(workshop.partner, body, **{"Content-Type": content_type})
        assert reply.status == 201, (content_type, reply)


async def test_a_field_counts_wherever_it_stands(workshop: Workshop) -> None:
    metres = part("units", body=b"cm")
    for body in (part() + metres + END, metres + part() + END):
        reply = await upload(workshop.partner, body, **MULTIPART)
        assert (reply.status, reply.json["model"]["sha256"]) == (201, sha256_of(RING))
        in_mm = (await upload(workshop.partner, part() + END, **MULTIPART)).json["model"]
        assert reply.json["model"]["bbox_mm"] == [pytest.approx(10 * side) for side in in_mm["bbox_mm"]]


# --- Limits


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that takes small models only."""
    with served(
        tmp_path_factory.mktemp("small") / "data", FACET_UPLOAD_BYTES_MAX=str(SMALL_BYTES)
    ) as service:
        yield service


def too_large_bodies() -> dict[str, bytes]:
    chunk = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    form = b'--edge\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + b"x" * 5_000
    length, chunked = b"Content-Length: %d\r\n", b"Transfer-Encoding: chunked\r\n"
    kind = b"Content-Type: multipart/form-data; boundary=edge\r\n"
    line = b"POST /v1/models"
    return {
        "announced": raw_http.request(line, length % 10**12),
        "raw": raw_http.request(line, length % 9_000, b"x" * 9_000),
        "chunked": raw_http.request(line, chunked, chunk * 2 + b"0\r\n\r\n"),
        "endless": raw_http.request(line, chunked, chunk * 2),
        "a form": raw_http.request(line, kind + length % 50_000, form + b"x" * (50_000 - len(form))),
        "expected": raw_http.request(line, length % 10**12 + b"Expect: 100-continue\r\n"),
    }


@pytest.mark.parametrize("name", too_large_bodies())
async def test_a_model_past_the_limit_is_refused_without_waiting_for_its_end(
    small: Service, name: str
) -> None:
    reply = await raw_http.sent(small.url, too_large_bodies()[name])
    assert reply is not None
    assert (reply.status, reply.json["code"]) == (413, "too_large")
    assert reply.json["remedy"]
    assert reply.headers["Connection"] == "close"
    assert list((small.data_dir / "uploads").iterdir()) == []


async def test_a_model_just_within_the_limit_is_read(small: Service) -> None:
    body = binary_stl(torus()[: (SMALL_BYTES - 84) // 50])
    async with clients_of(small.url) as clients:
        assert (await upload(clients.admin, body)).status == 201
        problem(await upload(clients.admin, body + b"\0" * (SMALL_BYTES - len(body) + 1)), 413, "too_large")


# --- Slow bodies


class Given:
    """A body of which the test says what comes."""

    def __init__(self, *chunks: bytes, then: "Callable[[], Awaitable[bytes]] | None" = None) -> None:
        self._chunks = list(chunks)
        self._then = then

    async def read_chunk(self) -> bytes:
        if self._chunks:
            return self._chunks.pop(0)
        return await self._then() if self._then is not None else b""


async def never() -> bytes:
    await asyncio.Event().wait()
    return b""


async def read_all(pace: Pace, source: Given) -> bytes:
    whole = b""
    while chunk := await pace.next(source.read_chunk):
        whole += chunk
    return whole


async def test_a_body_that_stalls_is_cut_off() -> None:
    with pytest.raises(HttpError) as refused:
        await read_all(Pace(PaceBounds(idle_s_max=0.01)), Given(b"solid", then=never))
    assert (refused.value.status, refused.value.code) == (408, "body_too_slow")


async def test_of_too_many_that_are_waited_for_the_most_silent_makes_room() -> None:
    bodies = Bodies(most=2)

    async def begun() -> "asyncio.Task[bytes]":
        task = asyncio.create_task(Pace(bodies=bodies).next(never))
        await asyncio.sleep(0)
        return task

    first, second = await begun(), await begun()
    with pytest.raises(HttpError) as refused:
        await (await begun())
    assert (refused.value.status, refused.value.code) == (503, "busy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.http.body.SILENT_S_MIN", 0.0)
        third = await begun()
    with pytest.raises(HttpError) as cut_off:
        await first
    assert cut_off.value.code == "body_too_slow"
    assert len(bodies) == 2
    for task in (second, third):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(bodies) == 0


async def test_what_is_read_whole_is_bounded_for_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.http.body.HELD_BYTES_TOTAL", 10_000)
    monkeypatch.setattr("server.http.body.HELD_BYTES_FREE", 100)
    bodies = Bodies()
    first = asyncio.create_task(read_whole(Given(b"x" * 9_000, then=never), 20_000, bodies))
    await asyncio.sleep(0)
    assert bodies.held_bytes == 8_900
    with pytest.raises(HttpError) as refused:
        await read_whole(Given(b"x" * 1_500), 20_000, bodies)
    assert (refused.value.status, refused.value.code) == (503, "busy")
    assert len(await read_whole(Given(b"x" * 1_000, b"x" * 200), 20_000, bodies)) == 1_200
    assert bodies.held_bytes == 8_900
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert bodies.held_bytes == 0


@pytest.mark.parametrize(("bytes_each", "arrives"), [(16 * 1024, True), (16 * 1024 - 1, False)])
async def test_a_body_that_trickles_is_cut_off(bytes_each: int, arrives: bool) -> None:
    seconds = iter(range(1000))
    pace = Pace(PaceBounds(), now_s=lambda: float(next(seconds)))
    source = Given(*[b"x" * bytes_each] * 60)
    if arrives:
        assert len(await read_all(pace, source)) == 60 * bytes_each
        return
    with pytest.raises(HttpError) as refused:
        await read_all(pace, source)
    assert refused.value.code == "body_too_slow"
    assert next(seconds) == 21  # after the first window


def test_the_pace_is_the_published_one() -> None:
    assert PaceBounds() == PaceBounds(idle_s_max=20.0, window_s=20.0, rate_bytes_min=16 * 1024)


async def test_uploads_under_way_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.uploads.receiving.UPLOADS_MAX", 1)
    uploads = Uploads(tmp_path, 1 << 20)
    async with uploads.receive(Given(b"solid")) as first:
        assert first.data == b"solid"
        with pytest.raises(HttpError) as refused:
            await uploads.receive(Given(b"solid")).__aenter__()
        assert (refused.value.status, refused.value.code) == (503, "busy")
        assert refused.value.headers["Retry-After"]
    async with uploads.receive(Given(b"again")) as second:
        assert second.sha256 == sha256_of(b"again")
    assert uploads.under_way == 0


async def test_a_large_upload_is_the_same_on_disk(tmp_path: Path) -> None:
    chunks = [bytes([n]) * 100_000 for n in range(30)]
    uploads = Uploads(tmp_path, 1 << 24)
    async with uploads.receive(Given(*chunks)) as received:
        assert received.path is not None
        assert received.path.read_bytes() == b"".join(chunks)
        assert received.sha256 == sha256_of(b"".join(chunks))
    assert list(tmp_path.iterdir()) == []


async def test_the_service_never_failed_here(service: Service, clients: Clients) -> None:
    assert (await clients.nobody.get("/livez")).status == 200
    lines: list[Any] = [json.loads(line) for line in service.log_text().splitlines()]
    assert [line for line in lines if line["level"] in ("error", "critical")] == []
