"""`facet tour`: each promise of the system on a running demo, as request, answer headers and one sentence."""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from pricing.sample_ring import ring_stl
from server.config import ConfigError
from server.demo.demo import MARK
from server.demo.servers import redis_pid
from storage.data_directory import DataDirectory

SHOWN_HEADERS = (
    "ETag",
    "Location",
    "Cache-Status",
    "Durability",
    "Facet-Position",
    "Preference-Applied",
    "Retry-After",
    "WWW-Authenticate",
)
TIMEOUT_S = 30.0
BOTH_DEADLINE_S = 30.0
"""How long a tour that comes early waits for the other process."""
BACK_DEADLINE_S = 30.0
RETRY_S = 0.1


class Broken(Exception):
    """A promise that did not hold."""


class TourAnswer:
    def __init__(self, status: int, headers: Any, raw: bytes) -> None:
        self.status = status
        self.headers = headers
        self.raw = raw

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


class Guide:
    """Sends requests as a role, and prints what passes."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        beside: aiohttp.ClientSession,
        url: str,
        tokens: dict[str, str],
        redis_pid: int | None,
    ) -> None:
        """`beside`: a second connection. In a demo of two processes it leads to the other one, and
        `redis_pid` is their Redis."""
        self._session = session
        self._beside = beside
        self.redis_pid = redis_pid
        self._url = url
        self._tokens = {who.partition(" ")[2]: secret for who, secret in tokens.items()}
        self.shown = 0

    def title(self, text: str) -> None:
        self.shown += 1
        print(f"\n{self.shown}. {text}")

    def say(self, sentence: str) -> None:
        print(f"   {sentence}")

    @contextlib.contextmanager
    def from_beside(self) -> Iterator[None]:
        """What is sent in here goes through the second connection."""
        self._session, self._beside = self._beside, self._session
        try:
            yield
        finally:
            self._session, self._beside = self._beside, self._session

    async def quietly(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> TourAnswer:
        """A request that is not part of the story."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named["Authorization"] = f"Bearer {self._tokens[who]}"
        options: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {}
        if body is not None and not options:
            options = {"json": body}
        async with self._session.request(method, self._url + path, headers=named, **options) as response:
            return TourAnswer(response.status, response.headers, await response.read())

    async def show(self, who: str, method: str, path: str, body: Any = None, **headers: str) -> TourAnswer:
        answer = await self.quietly(who, method, path, body, **headers)
        sent = "".join(f"  {name.replace('_', '-')}: {value}" for name, value in headers.items())
        shown_body = (
            f"  ({len(body)} bytes)" if isinstance(body, bytes) else f"  {json.dumps(body)}" if body else ""
        )
        print(f"   > {who}: {method} {path}{sent}{shown_body}")
        received = "  ".join(
            f"{name}: {answer.headers[name]}" for name in SHOWN_HEADERS if name in answer.headers
        )
        print(f"   < {answer.status}  {received}".rstrip())
        return answer


def expect(holds: bool, promise: str) -> None:
    if not holds:
        raise Broken(promise)


async def run(url: str | None, data_dir: Path) -> int:
    """0 when every promise held. Raises ConfigError when no demo is running."""
    tokens, found = _demo(data_dir)
    pid = redis_pid(data_dir)
    async with _guide(url or found, tokens, pid) as guide:
        for chapter in CHAPTERS if pid is None else CHAPTERS + SHARED_CHAPTERS:
            try:
                await chapter(guide)
            except Broken as broken:
                print(f"\nNOT KEPT: {broken}")
                return 1
    print(f"\n{guide.shown} promises kept.")
    return 0


def _demo(data_dir: Path) -> tuple[dict[str, str], str]:
    try:
        tokens: dict[str, str] = json.loads((data_dir / MARK).read_text())
    except FileNotFoundError:
        raise ConfigError(f"there is no demo in {data_dir}: start ./facet demo in another terminal") from None
    holder = DataDirectory(data_dir).holder()
    if holder is None or holder.url is None:
        raise ConfigError(f"the demo in {data_dir} is not running: start ./facet demo in another terminal")
    return tokens, holder.url


@contextlib.asynccontextmanager
async def _guide(url: str, tokens: dict[str, str], redis_pid: int | None) -> AsyncIterator[Guide]:
    async with contextlib.AsyncExitStack() as stack:
        try:
            session, process = await _connected(stack, url)
            beside, other = await _connected(stack, url)
            until_s = time.monotonic() + (BOTH_DEADLINE_S if redis_pid is not None else 0.0)
            while other == process and time.monotonic() < until_s:
                await beside.close()
                await asyncio.sleep(RETRY_S)
                beside, other = await _connected(stack, url)
            yield Guide(session, beside, url, tokens, redis_pid)
        except aiohttp.ClientConnectionError as error:
            raise ConfigError(f"nothing answers at {url}: {error}") from None


async def _connected(stack: contextlib.AsyncExitStack, url: str) -> tuple[aiohttp.ClientSession, str]:
    """One connection, and which process is behind it."""
    session = aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        connector=aiohttp.TCPConnector(limit=1, keepalive_timeout=TIMEOUT_S),
    )
    await stack.enter_async_context(session)
    async with session.get(f"{url}/livez") as response:
        return session, response.headers["X-Request-Id"].partition("-")[0]


async def _loads(guide: Guide) -> int:
    return sum((await guide.quietly("admin", "GET", "/v1/cache")).json["loads"].values())


async def _new_order(guide: Guide, **fields: Any) -> str:
    answer = await guide.quietly("shop", "POST", "/v1/orders", {"customer": "anna", **fields})
    return str(answer.json["id"])


async def _approved_order(guide: Guide) -> str:
    order_id = await _new_order(guide)
    for who, status in (
        ("shop", "FILE_UPLOADED"),
        ("shop", "SUBMITTED"),
        ("mes", "PRICE_CALCULATED"),
        ("maria", "MANUFACTURING_APPROVED"),
    ):
        answer = await guide.quietly(who, "PUT", f"/v1/orders/{order_id}/status", {"status": status})
        expect(answer.status == 200, f"{status} is accepted")
    return order_id


async def list_miss_then_hit(guide: Guide) -> None:
    guide.title("A list is loaded once, then served from memory")
    await guide.quietly("admin", "DELETE", "/v1/cache/lists")
    path = "/v1/orders?status=MANUFACTURING_APPROVED"
    first = await guide.show("ivan", "GET", path)
    second = await guide.show("ivan", "GET", path)
    expect("fwd=miss" in first.headers["Cache-Status"], "the first request misses")
    expect("hit" in second.headers["Cache-Status"], "the second hits")
    guide.say("The first caller waits for one database read, those that follow get ready bytes.")


async def change_in_next_page(guide: Guide) -> None:
    guide.title("A new order is in the next page, without a database read")
    await guide.quietly("ivan", "GET", "/v1/orders?limit=3")
    before = await _loads(guide)
    created = await guide.show("shop", "POST", "/v1/orders", {"customer": "anna", "note": "for the tour"})
    page = await guide.show("ivan", "GET", "/v1/orders?limit=3")
    expect(page.json["items"][0]["id"] == created.json["id"], "the order is first in the list")
    expect(await _loads(guide) == before, "nothing was loaded")
    guide.say("The list follows the log: no time to live, nothing emptied, 0 loads from the database.")


async def acknowledged_then_persisted(guide: Guide) -> None:
    guide.title("A status change is acknowledged from the log and persisted behind")
    order_id = await _new_order(guide)
    changed = await guide.show("shop", "PUT", f"/v1/orders/{order_id}/status", {"status": "FILE_UPLOADED"})
    expect(changed.headers["Durability"] in ("log", "database"), "the level is named")
    seen = await guide.show("anna", "GET", f"/v1/orders/{order_id}/status")
    expect(seen.json["status"] == "FILE_UPLOADED", "the change is visible at once")
    waited = await guide.show(
        "shop", "PUT", f"/v1/orders/{order_id}/status", {"status": "SUBMITTED"}, Prefer="durability=database"
    )
    expect(waited.headers["Durability"] == "database", "the caller may wait for the database")
    held = await guide.show("admin", "GET", f"/v1/cache/orders/{order_id}")
    expect(held.json["state"] == "persisted", "the database has it")
    guide.say("`log` survives SIGKILL and power loss; `Prefer: durability=database` waits for the commit.")


async def polling_costs_nothing(guide: Guide) -> None:
    guide.title("Polling an unchanged status is a 304")
    order_id = await _new_order(guide)
    first = await guide.show("anna", "GET", f"/v1/orders/{order_id}/status")
    again = await guide.show(
        "anna", "GET", f"/v1/orders/{order_id}/status", If_None_Match=first.headers["ETag"]
    )
    expect(again.status == 304, "not modified")
    noted = await guide.show("maria", "POST", f"/v1/orders/{order_id}/comments", {"comment": "size checked"})
    expect(noted.status == 201, "the remark is kept")
    still = await guide.show(
        "anna", "GET", f"/v1/orders/{order_id}/status", If_None_Match=first.headers["ETag"]
    )
    expect(still.status == 304, "a remark does not wake pollers")
    guide.say(
        "The status has an ETag of its own, so a remark on the order does not wake who polls its status."
    )


async def happens_once(guide: Guide) -> None:
    guide.title("A repeated request takes effect once")
    key = f"tour-{secrets.token_hex(4)}"
    first = await guide.show("shop", "POST", "/v1/orders", {"customer": "anna"}, Idempotency_Key=key)
    again = await guide.show("shop", "POST", "/v1/orders", {"customer": "anna"}, Idempotency_Key=key)
    expect(first.raw == again.raw, "the first answer again")
    other = await guide.show("shop", "POST", "/v1/orders", {"customer": "boris"}, Idempotency_Key=key)
    expect(other.json["code"] == "idempotency_key_reused", "another body is refused")
    guide.say("After a timeout, retry with the same key: one order, the same answer. Another body is a 422.")


async def two_operators_one_order(guide: Guide) -> None:
    guide.title("Two operators reach for one order: one gets it")
    order_id = await _approved_order(guide)
    read = await guide.quietly("ivan", "GET", f"/v1/orders/{order_id}")
    with guide.from_beside():  # both see it before they reach for it
        await guide.quietly(
            "olga", "GET", f"/v1/orders/{order_id}", Facet_Position=read.headers["Facet-Position"]
        )
    path = f"/v1/orders/{order_id}/take"
    ivan = asyncio.create_task(guide.show("ivan", "POST", path))
    await asyncio.sleep(0)  # he has begun, through the first connection
    with guide.from_beside():
        olga = await guide.show("olga", "POST", path)
    won, lost = sorted((await ivan, olga), key=lambda answer: answer.status)
    expect((won.status, lost.status) == (200, 409), "one 200 and one 409")
    expect(won.headers["Durability"] == "database", "confirmed by the database")
    expect(lost.json["operator"] == won.json["operator"], "the loser is told who")
    guide.say(
        f"{won.json['operator']} got it, confirmed by the database; the other is told who and since when."
    )


async def undo_and_stale_change(guide: Guide) -> None:
    guide.title("A slip is undone; a change of something stale is refused")
    order_id = await _new_order(guide)
    path = f"/v1/orders/{order_id}/status"
    await guide.show("shop", "PUT", path, {"status": "FILE_UPLOADED"})
    undone = await guide.show("shop", "POST", f"/v1/orders/{order_id}/undo")
    expect(undone.json["status"] == "INITIATED", "the step is taken back")
    stale = await guide.show("shop", "PUT", path, {"status": "FILE_UPLOADED"}, If_Match='"1"')
    expect(stale.status == 412, "version 1 is no more")
    illegal = await guide.show("shop", "PUT", path, {"status": "SUBMITTED"})
    expect(illegal.json["code"] == "illegal_transition", "no step is skipped")
    guide.say(
        f"412 carries the present state; 409 names the legal steps: {', '.join(illegal.json['legal'])}."
    )


async def ring_priced_once(guide: Guide) -> None:
    guide.title("A ring is priced once")
    ring = ring_stl(8.0, 1.5, 5, 0.1 + secrets.randbelow(10_000) / 1e6)
    path = "/v1/prices?material=gold-585-yellow"
    first = await guide.show("mes", "POST", path, ring)
    again = await guide.show("aurora jewels", "POST", path, ring)
    expect("computed" in first.headers["Cache-Status"], "computed the first time")
    expect("hit" in again.headers["Cache-Status"], "known the second time")
    sha256 = first.json["model"]["sha256"]
    by_hash = await guide.show("mes", "GET", f"/v1/models/{sha256}/price?material=platinum-950-ru&quantity=3")
    expect(by_hash.json["price"]["priceable"] == "auto", "a firm price")
    price = first.json["price"]
    guide.say(
        f"{first.json['model']['volume_mm3']:.2f} mm3, {price['mass_g']} g, {price['gross']['amount']} EUR."
        " The geometry is computed once per hash; another metal or quantity needs no upload."
    )


async def order_priced(guide: Guide) -> None:
    guide.title("A quote is honoured on the order")
    ring = ring_stl(8.5, 1.6, 0, 0.0)
    # Nothing is sold before another program has read the model alike: told here, an order would wait for it.
    answer = await guide.show("mes", "POST", "/v1/prices?material=silver-925", ring, Prefer="wait=60")
    expect(answer.json["model"]["verification"]["state"] == "agreed", "another program agrees")
    quote = answer.json["price"]
    order_id = await _new_order(guide, quote=quote["id"])
    await guide.quietly("shop", "PUT", f"/v1/orders/{order_id}/status", {"status": "SUBMITTED"})
    priced = await guide.show("mes", "PUT", f"/v1/orders/{order_id}/status", {"status": "PRICE_CALCULATED"})
    expect(priced.json["price"]["gross"] == quote["gross"], "the quote's price")
    expect(priced.json["price"]["source"] == "quote", "named as such")
    guide.say(f"The order costs what was promised: {quote['gross']['amount']} EUR, source `quote`.")


async def invalidated_by_key(guide: Guide) -> None:
    guide.title("One order is refreshed by key; nothing pending is lost")
    order_id = await _new_order(guide)
    deleted = await guide.show("admin", "DELETE", f"/v1/cache/orders/{order_id}")
    expect(deleted.status == 204, "forgotten and read again")
    found = await guide.show("maria", "GET", f"/v1/orders/{order_id}")
    expect(found.status == 200, "and still there")
    guide.say("After a row was changed by SQL: the next read shows the database, or what is newer than it.")


async def others_do_not_exist(guide: Guide) -> None:
    guide.title("Another customer's order does not exist")
    answer = await guide.quietly("shop", "POST", "/v1/orders", {"customer": "boris"})
    hidden = await guide.show("anna", "GET", f"/v1/orders/{answer.json['id']}")
    expect(hidden.status == 404, "not found, not forbidden")
    refused = await guide.show("anna", "POST", "/v1/orders", {"customer": "anna"})
    expect(refused.status == 403, "a customer cannot open orders")
    guide.say("404 for what is another's, 403 for what the role does not allow.")


async def bad_input_is_explained(guide: Guide) -> None:
    guide.title("Bad input is explained, all of it at once")
    body = {"customer": "", "quantity": 0, "materail": "gold", "model": "x"}
    refused = await guide.show("shop", "POST", "/v1/orders", body)
    expect(refused.status == 422, "refused")
    expect(len(refused.json["errors"]) == 4, "with every error")
    for error in refused.json["errors"]:
        guide.say(f"  {error['pointer']}: {error['detail']}")
    mesh = await guide.show("mes", "POST", "/v1/prices?material=brass", ring_stl(8, 1.5, 0, 0)[:-7])
    expect(mesh.json["code"] == "stl_size_mismatch", "a truncated model is refused")
    guide.say(f"{mesh.json['detail']} {mesh.json['remedy']}")


async def seen_on_the_other_process(guide: Guide) -> None:
    guide.title("A change made by one process is seen by the other")
    order_id = await _new_order(guide)
    path = f"/v1/orders/{order_id}"
    with guide.from_beside():
        await guide.quietly("maria", "GET", path)  # it holds the order now
    changed = await guide.show("shop", "PUT", f"{path}/status", {"status": "FILE_UPLOADED"})
    began_s = time.monotonic()
    with guide.from_beside():
        while (await guide.quietly("maria", "GET", path)).json["status"] != "FILE_UPLOADED":
            expect(time.monotonic() - began_s < 1.0, "the change is visible within a second")
        took_ms = (time.monotonic() - began_s) * 1000
        seen = await guide.show("maria", "GET", path, Facet_Position=changed.headers["Facet-Position"])
    expect(seen.headers["ETag"] == changed.headers["ETag"], "the same version")
    processes = {answer.headers["X-Request-Id"].partition("-")[0] for answer in (changed, seen)}
    expect(len(processes) == 2, "two processes answered")
    guide.say(f"Process {' and process '.join(sorted(processes))}, one order; seen after {took_ms:.1f} ms.")


async def redis_killed_and_back(guide: Guide) -> None:
    guide.title("Redis is killed and comes back: nothing acknowledged is lost")
    kept = await _approved_order(guide)
    before = (await guide.quietly("maria", "GET", f"/v1/orders/{kept}")).headers["ETag"]
    assert guide.redis_pid is not None
    os.kill(guide.redis_pid, signal.SIGKILL)
    guide.say(f"kill -9 {guide.redis_pid}")
    read = await guide.show("maria", "GET", f"/v1/orders/{kept}")
    expect((read.status, read.headers["ETag"]) == (200, before), "reads continue")
    began_s, key = time.monotonic(), f"tour-{secrets.token_hex(4)}"
    order = {"customer": "anna", "note": "while Redis was away"}
    refused = await guide.show("shop", "POST", "/v1/orders", order, Idempotency_Key=key)
    expect((refused.status, "Retry-After" in refused.headers) == (503, True), "changes are refused at once")
    guide.say(f"refused after {(time.monotonic() - began_s) * 1000:.0f} ms; the demo starts Redis again ...")
    while (
        answer := await guide.quietly("shop", "POST", "/v1/orders", order, Idempotency_Key=key)
    ).status == 503:
        expect(time.monotonic() - began_s < BACK_DEADLINE_S, "changes are accepted again")
        await asyncio.sleep(RETRY_S)
    expect(answer.status == 201, "the retry is accepted")
    still = await guide.show("maria", "GET", f"/v1/orders/{kept}")
    expect(still.headers["ETag"] == before, "no version went backwards")
    created = await guide.show("maria", "GET", f"/v1/orders/{answer.json['id']}")
    expect(created.status == 200, "the retried order exists")
    guide.say(
        f"Full service {time.monotonic() - began_s:.1f} s after the kill; a new epoch of the log has begun."
    )


SHARED_CHAPTERS = (seen_on_the_other_process, redis_killed_and_back)
"""What takes two processes and a Redis that may be killed."""
CHAPTERS: tuple[Callable[[Guide], Awaitable[None]], ...] = (
    list_miss_then_hit,
    change_in_next_page,
    acknowledged_then_persisted,
    polling_costs_nothing,
    happens_once,
    two_operators_one_order,
    undo_and_stale_change,
    ring_priced_once,
    order_priced,
    invalidated_by_key,
    others_do_not_exist,
    bad_input_is_explained,
)
