"""The same bytes down both ways: with the hot path and without it, every answer is the same.

`python -m tests.drills.hot_path_fuzz [--streams N] [--requests N] [--seed N]`

Requests of every role to routes that are answered from memory and to others, with the headers that change
what they mean, known and unknown; streams of them, cut anywhere, pipelined, with bodies that look like
requests, with nonsense between. Meanwhile orders change and tokens are revoked. Answers are compared but for
their dates and ids, and so is what is counted, and whether the connection has ended. Exit code 1 at the first
difference, with the stream that shows it.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from storage.orders.actors import Role
from tests.support.meshes import binary_stl, cube
from tests.support.processes import ADMIN_TOKEN
from tests.support.two_ways import Told, TwoWays, two_ways

ORDERS = 4
CHANGE_EVERY = 5
"""Streams between two changes of an order; every so many of these a token is revoked."""
REVOKE_EVERY = 60
SLOW_READERS = 0.2
FORGETS = 0.6
"""The share of changes after which something that is held is forgotten."""
RING = binary_stl(cube())
PLAIN_HEADERS = (
    b"Accept: */*",
    b"User-Agent: poller/1.0",
    b"Accept-Language: ru, en;q=0.8",
    b"Cookie: session=none",
    b"Sec-Fetch-Mode: cors",
    b"Accept-Encoding: gzip, deflate, br, zstd",
    b"Accept-Encoding: gzip",
    b"Connection: keep-alive",
)
ODD_HEADERS = (
    *(b"Connection: close", b"Connection: Upgrade\r\nUpgrade: h2c", b"Expect: 100-continue"),
    *(b"Prefer: wait=0", b"Prefer: respond-async", b"Content-Length: 0", b"X-Request-Id: not plain"),
    *(b"X-Request-Id:  spaces  ", b"If-None-Match: *", b'If-None-Match: "1", "2"'),
    *(b"If-None-Match: nonsense", b'If-None-Match: W/"1-gzip"', b"Facet-Position: nonsense"),
    *(b"Accept-Encoding: gzip;q=0", b"Accept-Encoding: identity;q=0", b"Accept-Encoding: *;q=0, zstd"),
    *(b"Facet-Position: 0-0", b"Transfer-Encoding: chunked", b"Range: bytes=0-3", b"TE: trailers"),
    *(b"Content-Encoding: gzip", b"X-Broken", b"X-Folded: a\r\n b", b"Content-Length: 5"),
    *(b'If-Match: "1"', b"X-Large: " + b"x" * 3_000, b"Repr-Digest: nonsense", b"x-request-id: lower"),
)
NONSENSE = (
    *(b"\r\n", b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/3.0\r\n\r\n", b"\x16\x03\x01\x00"),
    *(b"HELLO\r\n\r\n", b"GET /v1/me HTTP/1.1\nHost: x\n\n"),
    b"POST /v1/orders HTTP/1.1\r\nHost: f\r\nContent-Length: -1\r\n\r\n",
)


class Seen(NamedTuple):
    """What requests are made of."""

    orders: list[str]
    tokens: list[str]
    sha256: str
    tags: list[bytes]
    positions: list[bytes]


class Streams:
    """A stream follows from seed and number, and from what the service has answered before."""

    def __init__(self, seen: Seen, seed: int) -> None:
        self._seen = seen
        self._seed = seed
        self._usual = [self._headers(random.Random(f"{seed} {n}"), 0.0, seen.tokens[:8]) for n in range(4)]

    def stream(self, number: int) -> list[bytes]:
        """In chunks."""
        chance = random.Random(f"{self._seed} stream {number}")
        parts = [self._part(chance) for _ in range(chance.choice((1, 2, 2, 3, 5)))]
        if chance.random() < 0.4:
            return parts
        data = b"".join(parts)
        cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((0, 1, 2, 4))))
        return [data[a:b] for a, b in zip((0, *cuts), (*cuts, len(data)), strict=True) if a < b]

    def requests(self, number: int) -> list[bytes]:
        """One request, three times on one connection: cold, learned, warm; and changed a little."""
        chance = random.Random(f"{self._seed} request {number}")
        line, headers = self._line(chance), self._headers(chance, odd=0.2)
        other = self._headers(chance, odd=0.0) if chance.random() < 0.3 else headers
        return [_head(line, headers)] * 3 + [_head(line, other), _head(self._line(chance), headers)]

    def _part(self, chance: random.Random) -> bytes:
        kind = chance.random()
        if kind < 0.04:
            return chance.choice(NONSENSE)
        if kind < 0.16:
            return self._with_body(chance)
        headers = chance.choice(self._usual) if chance.random() < 0.8 else self._headers(chance, odd=0.3)
        return _head(self._line(chance), headers)

    def _with_body(self, chance: random.Random) -> bytes:
        """That changes nothing, and looks like a request."""
        body = _head(self._line(chance), chance.choice(self._usual))
        if chance.random() < 0.3:
            body = body[: chance.randrange(len(body))]
        token = chance.choice(self._seen.tokens).encode()
        path = chance.choice(
            (b"/v1/orders/%b/comments" % self._seen.orders[0].encode(), b"/v1/nowhere", b"/v1/me")
        )
        method = chance.choice((b"POST", b"PUT", b"GET"))
        head = b"%b %b HTTP/1.1\r\nHost: facet\r\nAuthorization: Bearer %b\r\n" % (method, path, token)
        if chance.random() < 0.3:
            half = len(body) // 2
            chunks = b"".join(
                b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:half], body[half:]) if piece
            )
            return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
        return head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def _line(self, chance: random.Random) -> bytes:
        seen = self._seen
        order_id = chance.choice(seen.orders)
        polled = (
            *(f"/v1/orders/{order_id}/status", f"/v1/orders/{order_id}", "/v1/orders", "/v1/orders?limit=3"),
            *("/v1/orders/counts", f"/v1/models/{seen.sha256}/price?material=gold-585-yellow"),
        )
        others = (
            *(f"/v1/orders/{order_id.upper()}", "/v1/orders?customer=anna&limit=2", "/v1/orders?limit=0"),
            *("/v1/orders?sort=-updated_at", "/v1/orders/counts?operator=none", "/v1/orders?operator=me"),
            *("/v1/operators", "/v1/me", "/v1/nowhere", "/v1/orders?nonsense=1", f"/v1/orders/{order_id}#f"),
            *(f"/v1/models/{seen.sha256}/price", f"/v1/models/{'0' * 64}/price?material=brass"),
            *(f"/v1/orders/{order_id}/history", "/v1/orders/nothing/status", f"/v1/statuses?ids={order_id}"),
            *(f"/v1/orders/{order_id}/status?x=1", f"http://facet/v1/orders/{order_id}/status"),
        )
        path = chance.choice(polled if chance.random() < 0.7 else others)
        method = chance.choice(("GET",) * 12 + ("HEAD", "HEAD", "DELETE", "get", "OPTIONS"))
        version = chance.choice(("HTTP/1.1",) * 16 + ("HTTP/1.0",))
        return f"{method} {path} {version}".encode()

    def _headers(self, chance: random.Random, odd: float, tokens: Sequence[str] | None = None) -> list[bytes]:
        seen = self._seen
        headers = [b"Host: facet"]
        if chance.random() < 0.95:
            word = chance.choice(("Bearer",) * 14 + ("bearer", "Basic"))
            usual = tokens or (seen.tokens[:8] if chance.random() < 0.8 else seen.tokens)
            headers.append(f"Authorization: {word} {chance.choice(usual)}".encode())
        headers += chance.sample(PLAIN_HEADERS, chance.choice((0, 1, 3)))
        if chance.random() < 0.4 and seen.tags:
            headers.append(b"If-None-Match: " + chance.choice((*seen.tags[-8:], b'"1"', b'"99"', b'W/"2"')))
        if chance.random() < 0.3 and seen.positions:
            headers.append(b"Facet-Position: " + chance.choice(seen.positions[-8:]))
        if chance.random() < 0.3:
            headers.append(
                chance.choice((b"X-Request-Id: mine-1", b"X-Request-Id: r%d" % chance.randrange(10**6)))
            )
        if chance.random() < odd:
            headers.append(chance.choice(ODD_HEADERS))
        if chance.random() < odd / 4:
            headers.append(chance.choice(headers))
        chance.shuffle(headers)
        return headers


def _head(line: bytes, headers: Sequence[bytes]) -> bytes:
    return b"\r\n".join((line, *headers)) + b"\r\n\r\n"


class Difference(Exception):
    def __init__(self, chunks: Sequence[bytes], hot: Told, cold: Told) -> None:
        super().__init__(f"sent {list(chunks)!r}\nhot path: {hot!r}\nwithout:  {cold!r}")


class Drill:
    def __init__(self, ways: TwoWays, seen: Seen, seed: int) -> None:
        self.ways = ways
        self.seen = seen
        self.random = random.Random(seed)
        self.streams = Streams(seen, seed)
        self.done = 0

    async def send(self, chunks: Sequence[bytes]) -> None:
        """Some of them by a slow reader. Raises Difference."""
        if self.done % CHANGE_EVERY == 0:
            await self._change()
        self.done += 1
        hot, cold = await self.ways.compare(chunks, slow=self.random.random() < SLOW_READERS)
        if hot != cold:
            raise Difference(chunks, hot, cold)
        for line in hot.answers.split(b"\r\n"):
            if line.startswith(b"ETag: "):
                self.seen.tags.append(line[6:])
            elif line.startswith(b"Facet-Position: "):
                self.seen.positions.append(line[16:])
        del self.seen.tags[:-50], self.seen.positions[:-50]

    async def _change(self) -> None:
        order_id = self.random.choice(self.seen.orders)
        body = b'{"comment":"another"}'
        told = await self.ways.tell(self.ways.cold, [_post(f"/v1/orders/{order_id}/comments", body)])
        assert b" 201 " in told.answers, told
        if self.random.random() < FORGETS:
            what = self.random.choice(("lists", f"orders/{order_id}", f"models/{self.seen.sha256}"))
            forgetting = f"DELETE /v1/cache/{what} HTTP/1.1".encode()
            headers = [b"Host: facet", f"Authorization: Bearer {ADMIN_TOKEN}".encode()]
            told = await self.ways.tell(self.ways.cold, [_head(forgetting, headers)])
            assert b" 204 " in told.answers, told
        if self.done % (CHANGE_EVERY * REVOKE_EVERY) == CHANGE_EVERY:
            await self._replace_token()

    async def _replace_token(self) -> None:
        """One of the last ones is revoked, and stays in use; another takes its place."""
        tokens = self.ways.storage.tokens
        await tokens.revoke(self.random.choice(tokens.list()[2:]).id)
        role = self.random.choice((Role.SHOP, Role.OPERATOR, Role.MES))
        _, secret, _ = await tokens.issue(role, "another", None)
        self.seen.tokens[self.random.randrange(3, len(self.seen.tokens))] = secret


def _post(path: str, body: bytes, kind: str = "application/json") -> bytes:
    headers = ("Host: facet", f"Authorization: Bearer {ADMIN_TOKEN}", f"Content-Type: {kind}")
    length = f"Content-Length: {len(body)}".encode()
    return _head(f"POST {path} HTTP/1.1".encode(), [*(header.encode() for header in headers), length]) + body


async def prepared(ways: TwoWays, seed: int) -> Drill:
    """Orders of two customers, a known model, tokens of every role and some that are none."""
    tokens = [ADMIN_TOKEN]
    for role, customer in (
        *((Role.CUSTOMER, "anna"), (Role.CUSTOMER, "bob"), (Role.PARTNER, "anna"), (Role.SHOP, None)),
        *((Role.OPERATOR, None), (Role.MES, None), (Role.SELLER, None)),
    ):
        tokens.append((await ways.storage.tokens.issue(role, "somebody", customer))[1])
    tokens += ["facet_unknown", "nonsense"]
    for n in range(ORDERS):
        body = b'{"customer":"%b"}' % (b"anna" if n % 2 else b"bob")
        told = await ways.tell(ways.cold, [_post("/v1/orders", body)])
        assert b" 201 " in told.answers, told
    told = await ways.tell(ways.cold, [_post("/v1/models", RING, "application/octet-stream")])
    assert b" 201 " in told.answers, told
    sha256 = told.answers.partition(b"Location: /v1/models/")[2][:64].decode()
    ids = list(ways.storage.reads.local.lru)
    return Drill(ways, Seen(ids, tokens, sha256, [], []), seed)


async def run(folder: Path, seed: int, requests: int, streams: int) -> int:
    """How many answers came from memory. Raises Difference."""
    async with two_ways(folder) as ways:
        drill = await prepared(ways, seed)
        for number in range(requests):
            await drill.send(drill.streams.requests(number))
        for number in range(streams):
            await drill.send(drill.streams.stream(number))
        return ways.hot_path.answered


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills.hot_path_fuzz", description="Both ways.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=20_000)
    chosen = parser.parse_args(arguments)
    print(f"seed {chosen.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="facet-ways-") as folder:
        try:
            hot = asyncio.run(run(Path(folder) / "data", chosen.seed, chosen.requests, chosen.streams))
        except Difference as difference:
            print(difference)
            return 1
    print(f"{chosen.requests} requests, {chosen.streams} streams: equal; {hot} answers from memory")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
