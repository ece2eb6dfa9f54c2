"""Requests that nobody means to send, to every documented route: odd JSON, forms, headers and addresses.

`python -m tests.drills.request_fuzz URL [--seed N] [--requests N]` sends them to a running service that has
the token of the tests. No answer may be a failure of the service (5xx), and every refusal is a problem
document, or a page. A request follows from seed and number.
"""

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from server.app import served_routes
from tests.support import raw_http
from tests.support.meshes import binary_stl, cube

AT_ONCE = 8
ROUTES = [route for route in served_routes() if route.path not in ("/v1/backups", "/v1/cache/warm")]
"""Two that do much are left out."""
RING = binary_stl(cube())
TEXTS = (
    *(
        "",
        " ",
        "x",
        "ф" * 30,
        "🙂",
        "\u202e",
        "%00",
        "null",
        "NaN",
        "-1",
        "1e400",
        "9" * 20,
        "true",
        "a,b",
        ",",
    ),
    *("*", '"*"', "W/", "SUBMITTED", "me", "none", "2027-01-01T00:00:00Z", "x" * 3_000, "../..", "#"),
)
HEADERS = (
    "If-Match",
    "If-None-Match",
    "Prefer",
    "Facet-Position",
    "Idempotency-Key",
    "Content-Encoding",
    "Repr-Digest",
    "Content-Digest",
    "Range",
    "If-Range",
    "Accept",
    "Accept-Language",
    "Cookie",
    "Origin",
    "X-Request-Id",
    "Content-Type",
)
HEADER_VALUES = (
    *("", "*", '"*"', 'W/"*"', '"1"', '"1-gzip"', '"a", , "b"', "wait=1", "wait=-1", "durability=database"),
    *("1-1", "identity", "gzip", "identity, identity", "sha-256=:AAAA:", "sha-256=:", "bytes=0-1", "bytes=-"),
    *(
        "text/html",
        "application/json",
        "application/json; charset=utf-16",
        "multipart/form-data",
        "multipart/x",
    ),
    *("multipart/form-data; boundary=edge", "application/x-www-form-urlencoded", "model/x-stl", "ru", "é"),
)


class Failure(NamedTuple):
    number: int
    sent: bytes
    answer: str


def request_of(seed: int, number: int) -> bytes:
    chance = random.Random(f"{seed} {number}")
    route = chance.choice(ROUTES)
    path = "".join(
        chance.choice(("x", "ABC", "%00", "%ff", "01a221da-d7ce-79b6-a437-e9797eeffb5b", "ab" * 32, "q_1"))
        if piece.startswith("{")
        else piece
        for piece in _pieces(route.path)
    )
    query = "&".join(_parameter(chance, route) for _ in range(chance.choice((0, 0, 1, 1, 2, 30))))
    headers = [
        f"{chance.choice(HEADERS)}: {chance.choice(HEADER_VALUES)}"
        for _ in range(chance.choice((0, 0, 1, 2)))
    ]
    body = _body(chance, route, headers)
    method = chance.choice((route.method, route.method, route.method, "PUT", "HEAD", "OPTIONS"))
    if body or chance.random() < 0.3:
        headers.append(f"Content-Length: {len(body)}")
    head = "".join(f"{header}\r\n" for header in headers).encode()
    line = f"{method} {path}{'?' if query else ''}{query}".encode()
    return raw_http.request(line.replace(b" ", b"\x20"), head, body)


def _pieces(path: str) -> list[str]:
    return path.replace("{", "\0{").replace("}", "}\0").split("\0")


def _parameter(chance: random.Random, route: Any) -> str:
    names = list(route.query.__struct_encode_fields__) if route.query is not None else []
    name = chance.choice([*names, "unheard_of", ""])
    value = chance.choice(TEXTS)
    return f"{name}={''.join(_quoted(character) for character in value)}"


def _quoted(character: str) -> str:
    plain = character.isascii() and (character.isalnum() or character in "-_.,*%")
    return character if plain else "".join(f"%{byte:02x}" for byte in character.encode("utf-8", "replace"))


def _body(chance: random.Random, route: Any, headers: list[str]) -> bytes:
    makers: list[Callable[[random.Random, Any, list[str]], bytes]] = [_nothing]
    if route.body is not None:
        makers += [_json] * 6
    if route.form is not None or route.uploads:
        makers += [_form] * 6
    return chance.choice([*makers, _json, _form])(chance, route, headers)


def _nothing(chance: random.Random, route: Any, headers: list[str]) -> bytes:
    return b""


def _json(chance: random.Random, route: Any, headers: list[str]) -> bytes:
    headers.append("Content-Type: application/json")
    names = list(route.body.__struct_encode_fields__) if route.body is not None else ["a"]
    value = {chance.choice([*names, "unheard_of"]): _value(chance, 0) for _ in range(chance.randrange(4))}
    raw = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    if chance.random() < 0.2:
        raw = b"\xef\xbb\xbf" + raw
    if chance.random() < 0.2:
        at = chance.randrange(len(raw))
        raw = raw[:at] + bytes([chance.randrange(256)]) + raw[at + chance.randrange(2) :]
    return raw


def _value(chance: random.Random, depth: int) -> Any:
    kind = chance.randrange(9 if depth < 4 else 7)
    if kind == 0:
        return chance.choice((None, True, False, 0, -1, 1, 2**63, 1e308, 0.1))
    if kind == 7:
        return [_value(chance, depth + 1) for _ in range(chance.choice((0, 1, 3, 250)))]
    if kind == 8:
        return {chance.choice(("net", "amount", "currency", "x", "")): _value(chance, depth + 1)}
    return chance.choice(TEXTS)


def _form(chance: random.Random, route: Any, headers: list[str]) -> bytes:
    headers.append("Content-Type: multipart/form-data; boundary=edge")
    names = [*(route.form.__struct_encode_fields__ if route.form is not None else ()), "model", "unheard_of"]
    body = b"".join(_part(chance, names) for _ in range(chance.choice((0, 1, 2, 3, 25))))
    body += chance.choice((b"--edge--\r\n", b"--edge--", b"", b"--edge--\r\nmore"))
    return body[: chance.choice((len(body), len(body), len(body), max(len(body) // 2, 1)))]


def _part(chance: random.Random, names: list[str]) -> bytes:
    name = chance.choice(names)
    head = f'Content-Disposition: form-data; name="{name}"\r\n'.encode()
    head += chance.choice(
        (b"", b"", b"Content-Type: model/stl\r\n", b"X: a\r\n b\r\n", head, b"X: " + b"x" * 5_000)
    )
    value = RING if name == "model" else chance.choice(TEXTS).encode()
    return b"--edge\r\n" + head + b"\r\n" + value + b"\r\n"


async def send_all(url: str, seed: int, count: int) -> tuple[Counter[int], list[Failure]]:
    """How often each status was answered, and what must not be."""
    statuses: Counter[int] = Counter()
    failures: list[Failure] = []
    numbers = iter(range(count))

    async def send_some() -> None:
        for number in numbers:
            sent = request_of(seed, number)
            reply = await _answer(url, sent)
            statuses[0 if reply is None else reply.status] += 1
            if (wrong := wrong_with(reply, sent)) is not None:
                failures.append(Failure(number, sent[:2_000], wrong))

    await asyncio.gather(*(send_some() for _ in range(AT_ONCE)))
    return statuses, failures


async def _answer(url: str, sent: bytes) -> raw_http.RawReply | None:
    """The whole answer; None when there is none, or not all of it."""
    try:
        head, reader, writer = await raw_http.answered_before(url, sent)
    except (ConnectionError, asyncio.IncompleteReadError):
        return None
    try:
        status, headers = raw_http.parsed(head)
        length = 0 if sent.startswith(b"HEAD ") else int(headers.get("Content-Length", 0))
        async with asyncio.timeout(raw_http.DEADLINE_S):
            return raw_http.RawReply(status, headers, await reader.readexactly(length))
    except (ConnectionError, asyncio.IncompleteReadError):
        return None
    finally:
        writer.close()


def wrong_with(reply: raw_http.RawReply | None, sent: bytes) -> str | None:
    if reply is None:
        return "no answer"
    if reply.status >= 500:
        return f"{reply.status} {reply.body[:500]!r}"
    kind = reply.headers.get("Content-Type", "").partition(";")[0]
    bodiless = sent.startswith(b"HEAD ") or reply.status in (204, 303, 304)
    if reply.status >= 400 and not bodiless and kind not in ("application/problem+json", "text/html"):
        return f"{reply.status} as {kind}"
    return None


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills.request_fuzz")
    parser.add_argument("url")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--requests", type=int, default=20_000)
    options = parser.parse_args(arguments)
    statuses, failures = asyncio.run(send_all(options.url, options.seed, options.requests))
    for failure in failures:
        print(f"{failure.number}: {failure.answer}\n  {failure.sent[:300]!r}")
    print(f"{sum(statuses.values())} requests, {len(failures)} failures: {dict(sorted(statuses.items()))}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
