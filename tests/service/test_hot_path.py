"""Answers ahead of aiohttp's parser are those of the normal path, byte for byte, or are not given."""

import ast
import asyncio
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

import server.app
from server.app import build
from server.config import ConfigError, load
from server.http import hot_path
from server.http.hot_path import HOT_PATH, MEANINGFUL, VARYING_NAMES, shape_of
from server.observability.metrics import METRICS
from server.prices.quoting import QUOTING
from server.process import connections
from storage.cache.list_views import Page
from storage.cache.read_through import ReadThrough
from storage.data_directory import DataDirectory
from storage.orders.actors import Role
from storage.orders.encoded import EncodedOrder
from tests.drills.hot_path_fuzz import Drill, _post, prepared
from tests.support.gates import until
from tests.support.processes import ADMIN_TOKEN
from tests.support.template import ROOT
from tests.support.two_ways import TwoWays, Wire, settled, two_ways

REQUESTS, STREAMS = 120, 250
"""A taste: `python -m tests.drills.hot_path_fuzz` sends 10,000 and 20,000."""
READ_ELSEWHERE = {
    "accept": "a page or a document: what shows refusals of pages",
    "accept-language": "pages",
    "authorization": "of the block",
    "idempotency-key": "of changes",
    "origin": "of forms",
}
"""Headers that no answer from memory depends on, or that never vary within a block."""


@pytest.fixture
async def drill(tmp_path: Path) -> AsyncIterator[Drill]:
    async with two_ways(tmp_path / "data") as ways:
        yield await prepared(ways, seed=1)


@pytest.fixture
def ways(drill: Drill) -> TwoWays:
    return drill.ways


def asking(path: str, *headers: str, token: str = ADMIN_TOKEN, method: str = "GET") -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "Host: facet", f"Authorization: Bearer {token}", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def status_of(drill: Drill) -> str:
    return f"/v1/orders/{drill.seen.orders[0]}/status"


async def learned(ways: TwoWays, request: bytes) -> None:
    """From now on it is answered from memory."""
    for _ in range(2):
        await ways.tell(ways.hot, [request])
    answered = ways.hot_path.answered
    await ways.tell(ways.hot, [request])
    assert ways.hot_path.answered == answered + 1, request


async def answers_of(ways: TwoWays, *chunks: bytes) -> list[bytes]:
    """The status lines."""
    told = await ways.tell(ways.hot, chunks)
    return re.findall(rb"HTTP/1\.[01] (\d+)", told.answers)


async def test_both_ways_answer_the_same(drill: Drill) -> None:
    for number in range(REQUESTS):
        await drill.send(drill.streams.requests(number))
    for number in range(STREAMS):
        await drill.send(drill.streams.stream(number))
    assert drill.ways.hot_path.answered > REQUESTS / 3


@pytest.mark.parametrize("path", ["status", "order", "list", "counts", "price"])
async def test_what_is_polled_is_answered_from_memory(drill: Drill, path: str) -> None:
    order = f"/v1/orders/{drill.seen.orders[0]}"
    price = f"/v1/models/{drill.seen.sha256}/price?material=brass"
    paths = {"status": f"{order}/status", "order": order, "list": "/v1/orders?limit=3", "price": price}
    asked = paths.get(path, "/v1/orders/counts")
    await learned(drill.ways, asking(asked))
    before = drill.ways.hot_path.answered
    for more in ((), ("X-Request-Id: another",), ("Facet-Position: 1-1",)):
        hot, cold = await drill.ways.compare([asking(asked, *more)])
        assert hot == cold
    assert drill.ways.hot_path.answered > before


async def test_a_request_may_be_cut_anywhere(drill: Drill) -> None:
    request = asking(status_of(drill), "X-Request-Id: mine")
    await learned(drill.ways, request)
    two = request + asking(status_of(drill))
    whole = await drill.ways.tell(drill.ways.cold, [two])
    for at in range(1, len(two)):
        assert await drill.ways.tell(drill.ways.hot, [two[:at], two[at:]]) == whole


async def test_nothing_is_learned_from_the_middle_of_a_header(drill: Drill) -> None:
    """Else a request without a token would be answered as the administrator's."""
    begun = asking(status_of(drill), "X-Comment: ").replace(b"Host: facet\r\n", b"")
    begun = begun.removesuffix(b"\r\n\r\n")
    rest = f"GET {status_of(drill)} HTTP/1.1\r\nHost: facet\r\n\r\n".encode()
    for _ in range(4):
        assert await answers_of(drill.ways, begun, rest) == [b"200"]
    assert await answers_of(drill.ways, rest, rest) == [b"401", b"401"]


async def test_nothing_is_learned_from_a_body(drill: Drill) -> None:
    """A body that looks like a request, sent apart from its head."""
    forged = f"GET {status_of(drill)} HTTP/1.1\r\nHost: facet\r\n\r\n".encode()
    for before in (b"", b"\r\n\r\n", b"\r\n"):
        head = asking("/v1/nowhere", f"Content-Length: {len(forged) + len(before)}", method="POST")
        for _ in range(3):
            assert await answers_of(drill.ways, before + head, before, forged) == [b"404"]
    assert await answers_of(drill.ways, forged) == [b"401"]


async def test_what_follows_a_body_is_answered_from_memory_again(drill: Drill) -> None:
    request = asking(status_of(drill))
    await learned(drill.ways, request)
    comment = b'{"comment":"one more"}'
    head = asking(
        f"/v1/orders/{drill.seen.orders[0]}/comments",
        *("Content-Type: application/json", f"Content-Length: {len(comment)}"),
        method="POST",
    )
    before = drill.ways.hot_path.answered
    for chunks in (
        [head + comment, request],
        [head, comment, request],
        [head, comment[:5], comment[5:], request],
    ):
        assert await answers_of(drill.ways, *chunks) == [b"201", b"200"]
    assert drill.ways.hot_path.answered == before + 3


async def test_a_revoked_token_is_refused_at_once(drill: Drill) -> None:
    tokens = drill.ways.storage.tokens
    token, secret, _ = await tokens.issue(Role.SHOP, "web", None)
    request = asking(status_of(drill), token=secret)
    await learned(drill.ways, request)
    # Revoked by a request in the same chunk as the next one of its own.
    revoking = asking(f"/v1/tokens/{token.id}", method="DELETE")
    assert await answers_of(drill.ways, request + revoking + request) == [b"200", b"204", b"401"]
    assert await answers_of(drill.ways, request) == [b"401"]


async def test_what_an_order_became_is_shown_and_a_version_to_come_is_waited_for(drill: Drill) -> None:
    order_id = drill.seen.orders[0]
    request = asking(f"/v1/orders/{order_id}")
    await learned(drill.ways, request)
    seen = asking(f"/v1/orders/{order_id}", 'If-None-Match: "1"')
    assert await answers_of(drill.ways, request, seen) == [b"200", b"304"]
    await drill._change()
    await drill._change()
    hot, cold = await drill.ways.compare(
        [request, seen, asking(f"/v1/orders/{order_id}", 'If-None-Match: "99"')]
    )
    assert hot == cold


@pytest.mark.parametrize("path", ["/v1/orders?limit=2", "/v1/orders/counts", "/v1/orders/{}"])
async def test_what_was_forgotten_before_the_first_answer_is_not_answered(drill: Drill, path: str) -> None:
    request = asking(path.format(drill.seen.orders[0]))
    for _ in range(2):  # learned, and never answered from memory yet
        await drill.ways.tell(drill.ways.hot, [request])
    reads = drill.ways.storage.reads
    reads.views.clear()
    reads.local.start_over()
    before = drill.ways.hot_path.answered
    hot, cold = await drill.ways.compare([request])
    assert hot == cold
    assert b"\r\n\r\n{" in hot.answers
    assert drill.ways.hot_path.answered > before


async def test_a_position_to_come_is_not_answered_from_memory(drill: Drill) -> None:
    path = status_of(drill)
    await learned(drill.ways, asking(path, "Facet-Position: 1-1"))
    assert await answers_of(drill.ways, asking(path, "Facet-Position: 1-999999")) == [b"503"]
    assert await answers_of(drill.ways, asking(path, "Facet-Position: 2-0")) == [b"503"]


async def test_a_process_that_may_be_behind_answers_nothing_from_memory(drill: Drill) -> None:
    request = asking(status_of(drill))
    await learned(drill.ways, request)
    line, _, headers = request.partition(b"\r\n")
    assert drill.ways.hot_path.answer(line, b"\r\n" + headers) is not None
    drill.ways.storage.change_log.freshness.until_s = -1.0
    assert drill.ways.hot_path.answer(line, b"\r\n" + headers) is None


async def test_a_leaving_process_says_so(drill: Drill) -> None:
    request = asking(status_of(drill))
    await learned(drill.ways, request)
    drill.ways.hot.leaving = True
    told = await drill.ways.tell(drill.ways.hot, [request, request])
    assert told.closed
    assert told.answers.count(b"Connection: close") == 1


async def test_what_is_known_is_bounded(drill: Drill, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_path, "BLOCKS_MAX", 20)
    monkeypatch.setattr(hot_path, "LINES_MAX", 30)
    monkeypatch.setattr(hot_path, "SEEN_MAX", 40)
    known = drill.ways.hot_path
    path = status_of(drill)
    for n in range(100):
        for request in (asking(path, f"X-Block: {n}"), asking(f"/v1/orders?limit={n % 200 + 1}")):
            for _ in range(2):
                await drill.ways.tell(drill.ways.hot, [request])
        tagged = asking(path, f'If-None-Match: "x{n}"')
        for _ in range(3):
            await drill.ways.tell(drill.ways.hot, [tagged])
        assert len(known._blocks) <= 20
        assert len(known._shapes) <= 20
        assert len(known._filled) <= 20
        assert len(known._lengths) <= hot_path.LENGTHS_MAX
        assert all(len(shapes) <= hot_path.SHAPES_MAX for shapes in known._shapes.values())
        assert len(known._seen) <= 40
        assert sum(map(len, known._by_caller.values())) <= 30
    assert known.answered > 0


async def test_nobody_can_make_others_be_forgotten(drill: Drill, monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many lines, blocks and layouts as there is room for, and more."""
    monkeypatch.setattr(hot_path, "LINES_MAX", 40)
    quiet, loud = drill.seen.tokens[4], drill.seen.tokens[5]
    polled = asking(status_of(drill), token=quiet)
    await learned(drill.ways, polled)
    for n in range(60):
        for _ in range(2):
            layout = (f"User-Agent: {'x' * n}", "X-Request-Id: a")
            await drill.ways.tell(drill.ways.hot, [asking(f"/v1/orders?limit={n + 1}", *layout, token=loud)])
    known = drill.ways.hot_path
    assert len(known._lengths) == hot_path.LENGTHS_MAX
    assert known._lines == sum(map(len, known._by_caller.values())) <= 40
    before = known.answered
    await drill.ways.tell(drill.ways.hot, [polled])
    assert known.answered == before + 1


async def test_without_a_valid_price_list_the_normal_path_says_so(
    drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    price = asking(f"/v1/models/{drill.seen.sha256}/price?material=brass")
    await learned(drill.ways, asking(status_of(drill)))
    await learned(drill.ways, price)
    monkeypatch.setattr(drill.ways.app[QUOTING].price_lists, "current", lambda now: None)
    assert await answers_of(drill.ways, price) == [b"503"]
    before = drill.ways.hot_path.answered
    assert await answers_of(drill.ways, asking(status_of(drill))) == [b"200"]
    assert drill.ways.hot_path.answered == before + 1


async def test_who_has_sent_everything_gets_all_of_a_large_answer(drill: Drill) -> None:
    """More than the system takes at once, to a reader that takes its time."""
    for _ in range(60):
        body = b'{"customer":"anna","note":"%b"}' % (b"x" * 1_900)
        told = await drill.ways.tell(drill.ways.cold, [_post("/v1/orders", body)])
        assert b" 201 " in told.answers
    request = asking("/v1/orders?limit=200")
    await learned(drill.ways, request)
    whole = await drill.ways.tell(drill.ways.cold, [request])
    loop = asyncio.get_running_loop()
    with socket.socket() as listener, socket.socket() as connection:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        serving = await loop.create_server(drill.ways.hot, sock=listener)
        await loop.sock_connect(connection, listener.getsockname())
        before, received = drill.ways.hot_path.answered, 0
        await loop.sock_sendall(connection, request)
        await until(lambda: drill.ways.hot_path.answered > before)
        connection.shutdown(socket.SHUT_WR)
        while read := await loop.sock_recv(connection, 4096):
            received += len(read)
        serving.close()
    assert received > 100_000
    assert received >= len(whole.answers)


async def test_what_was_learned_keeps_no_page(drill: Drill) -> None:
    """Ten thousand lists that somebody asked for once more must not be held by it."""
    for path in ("/v1/orders?limit=3", "/v1/orders/counts", status_of(drill)):
        await learned(drill.ways, asking(path))
    lines = [line for lines in drill.ways.hot_path._by_caller.values() for line in lines.values()]
    assert len(lines) >= 3
    for line in lines:
        kept = [cell.cell_contents for cell in getattr(line.peek, "__closure__", None) or ()]
        assert not [each for each in kept if isinstance(each, bytes | Page | EncodedOrder | web.Request)]


async def opened(drill: Drill) -> tuple[connections.Connection, Wire]:
    wire, connection = Wire(), drill.ways.hot()
    assert isinstance(connection, connections.Connection)
    wire.protocol = connection
    connection.connection_made(wire)
    await asyncio.sleep(0)
    return connection, wire


async def test_an_idle_connection_keeps_no_request(drill: Drill) -> None:
    connection, wire = await opened(drill)
    for request in (asking("/v1/me"), asking("/v1/nowhere"), asking("/v1/me", token="nonsense")):
        connection.data_received(request)
        await settled(connection, wire)
        assert connection._plain is None
    wire.close()
    await until(lambda: connection._manager is None)


async def test_nothing_is_written_to_a_connection_that_is_closing(drill: Drill) -> None:
    request = asking(status_of(drill))
    await learned(drill.ways, request)
    connection, wire = await opened(drill)
    wire.closed = True  # its end is not known here yet
    before = drill.ways.hot_path.answered
    connection._parse(request)
    assert drill.ways.hot_path.answered == before
    assert not wire.written
    connection.connection_lost(None)
    await until(lambda: connection._manager is None)


async def test_one_task_waits_for_a_reader(drill: Drill) -> None:
    request = asking(status_of(drill))
    await learned(drill.ways, request)
    connection, wire = await opened(drill)
    tasks = len(asyncio.all_tasks())
    wire.write = lambda data: connection.pause_writing()  # type: ignore[method-assign]
    for _ in range(50):
        connection.data_received(request)
        connection.resume_writing()
    assert len(asyncio.all_tasks()) <= tasks + 1
    wire.close()
    await until(lambda: connection._manager is None)


async def test_a_failure_is_answered_by_the_normal_path(
    drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asking(status_of(drill))
    await learned(drill.ways, request)

    def fails(*_: object) -> bytes:
        raise RuntimeError("planned")

    monkeypatch.setattr(drill.ways.hot_path, "answer", fails)
    assert await answers_of(drill.ways, request) == [b"200"]


async def test_who_does_not_read_what_came_from_memory_is_cut_off(
    drill: Drill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "READ_WINDOW_S", 0.05)
    request = asking("/v1/orders")
    await learned(drill.ways, request)
    server, loop = drill.ways.hot, asyncio.get_running_loop()
    with socket.socket() as listener, socket.socket() as connection:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        serving = await loop.create_server(server, sock=listener)
        await loop.sock_connect(connection, listener.getsockname())
        await until(lambda: bool(server.connections))
        (served,) = server.connections
        assert isinstance(served, connections.Connection)
        while not served._paused:  # one after the other: nothing waits behind the last
            drill.ways.hot_path.answered = 0
            await loop.sock_sendall(connection, request)
            await until(lambda: drill.ways.hot_path.answered > 0)
        await until(lambda: not server.connections)
        serving.close()


async def test_an_order_is_shown_to_those_who_may_see_it(drill: Drill) -> None:
    reads, anna = drill.ways.storage.reads, drill.seen.tokens[1]
    (order_id, *_) = [order_id for order_id in drill.seen.orders if _held(reads, order_id).customer == "anna"]
    request = asking(f"/v1/orders/{order_id}", token=anna)
    await learned(drill.ways, request)
    reads.local.lru.put(order_id, msgspec.structs.replace(_held(reads, order_id), customer="bob"), 1_000)
    assert await answers_of(drill.ways, request) == [b"404"]


def _held(reads: ReadThrough, order_id: str) -> EncodedOrder:
    held = reads.local.get(order_id)
    assert isinstance(held, EncodedOrder)
    return held


@pytest.mark.parametrize(
    "odd",
    [
        *('If-None-Match: "1"\r\nIf-None-Match: "2"', 'If-None-Match: "1"\r\nif-none-match: "1", "9"'),
        *("X-Request-Id: a\r\nX-Request-Id: b", "Facet-Position: 1-1\r\nFacet-Position: 1-999999"),
        *("Accept: a\r\nAccept: b", "X-Request-Id:  two", "Prefer: wait=0", "Expect: 100-continue"),
        *("Connection: close", "Upgrade: h2c", "Content-Length: 0", "Range: bytes=0-1", "If-Match: *"),
    ],
)
async def test_what_is_not_plain_is_never_learned(drill: Drill, odd: str) -> None:
    request, before = asking(status_of(drill), odd), drill.ways.hot_path.answered
    for _ in range(4):
        hot, cold = await drill.ways.compare([request])
        assert hot == cold
    assert drill.ways.hot_path.answered == before
    assert not drill.ways.hot_path._blocks
    assert not drill.ways.hot_path._shapes


async def test_it_counts_what_it_answers(drill: Drill) -> None:
    await learned(drill.ways, asking(status_of(drill)))
    shown = drill.ways.app[METRICS].render().decode()
    assert f"facet_http_hot_answers_total {float(drill.ways.hot_path.answered)}" in shown


def test_values_that_vary_are_cut_out() -> None:
    block = b'\r\nHost: f\r\nx-request-ID: a.1\r\nIf-None-Match: W/"ab"\r\nFacet-Position: 3-14\r\n\r\n'
    shape, values = shape_of(block)
    assert values == [b"a.1", b'W/"ab"', b"3-14"]
    assert shape.first == b"\r\nHost: f\r\nx-request-ID: "
    behind = [varying.behind for varying in shape.varying]
    assert behind == [b"\r\nIf-None-Match: ", b"\r\nFacet-Position: ", b"\r\n\r\n"]
    assert shape.values_of(block.replace(b"3-14", b"4-0")) == [b"a.1", b'W/"ab"', b"4-0"]
    for odd in (b"a b", b"a\r\nX: y", b"", b"x" * 65, b"a.1 "):
        assert shape.values_of(block.replace(b"a.1", odd)) is None
    for odd in (b"X-Request-Id: a b", b'If-None-Match: "1", "2"', b"Facet-Position: 3", b"X-Request-Id:a"):
        assert shape_of(b"\r\n" + odd + b"\r\n\r\n")[0].varying == ()


def test_every_header_that_anything_reads_is_looked_at() -> None:
    """A header that a handler begins to read must not be passed over here."""
    read = {name.lower() for file in (ROOT / "server").rglob("*.py") for name in _headers_read(file)}
    assert {"facet-position", "if-none-match", "prefer", "content-encoding"} <= read
    assert read <= MEANINGFUL | set(VARYING_NAMES) | READ_ELSEWHERE.keys()


def _headers_read(file: Path) -> set[str]:
    """Of requests: `request.headers.get("X")`, `"X" in request.headers` and the like."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        text = ast.unparse(node) if isinstance(node, ast.Call | ast.Compare | ast.Subscript) else ""
        names |= set(re.findall(r"request\.headers(?:\.get|\.getall)?[(\[]'([A-Za-z-]+)'", text))
        names |= set(re.findall(r"'([A-Za-z-]+)' (?:not )?in [a-z.]*request\.headers", text))
        names |= set(re.findall(r"_tags\(request, '([A-Za-z-]+)'\)", text))
    return names


def test_it_can_be_switched_off_and_wants_the_aiohttp_it_was_tested_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = DataDirectory(tmp_path)

    def hot(**given: str) -> bool:
        settings = load({"FACET_DATA_DIR": str(tmp_path), **given})
        settings = msgspec.structs.replace(settings, model_workers=0)
        return build(settings, directory, lambda name, error: None)[HOT_PATH] is not None

    assert hot()
    assert not hot(FACET_HOT_PATH="0")
    assert not hot(FACET_ACCESS_LOG="1")
    monkeypatch.setattr(server.app, "is_tested", lambda: False)
    assert not hot(FACET_HOT_PATH="0")
    with pytest.raises(ConfigError, match="FACET_HOT_PATH=0"):
        hot()
