"""`facet demo`: a workshop with weeks of history, made through the same code that serves it."""

import asyncio
import contextlib
import functools
import json
import os
import random
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import uvloop
from aiohttp import web

from pricing.price.options import Options
from pricing.sample_ring import ring_stl
from server.app import build
from server.config import ConfigError, Settings, hand_on
from server.demo.private_servers.servers import ServerUnavailable
from server.demo.servers import DemoServers, kept_in
from server.http.keys import STORAGE
from server.observability.logs import configure
from server.prices.model_uploads import MODEL_UPLOADS, ModelUploads
from server.prices.order_prices import price_of_quote
from server.prices.quotes import decode_quote
from server.prices.quoting import QUOTING, Quoting
from server.process import serve, workers
from server.process.listening import runner_of
from server.uploads.receiving import Upload
from storage.clock import SystemClock
from storage.data_directory import DataDirectory
from storage.orders.actors import Actor, Role
from storage.orders.new_order import NewOrder
from storage.orders.order import Change, Order, OrderPrice, PriceSource
from storage.orders.rules import StatusRequest, advance, comment
from storage.orders.workflow import Status
from storage.services.orders import ChangeRequest
from storage.services.stack import Storage

MARK = "demo.json"
ORDERS = 600
WEEKS = 6
SEED = 585
AT_ONCE = 64
DRAIN_S = 5.0
MATERIALS = ("gold-585-yellow", "gold-750-white-pd", "gold-585-red", "silver-925", "platinum-950-ru")
CUSTOMERS = ("anna", "boris", "clara", "dmitri", "elena", "felix", "galina", "hugo", "irina", "jakob")
PARTNER = "aurora"
REMARKS = ("engraving inside: А + М", "size 17.5, please check", "gift wrapping", "call before shipping")
LOGINS: tuple[tuple[Role, str, str | None], ...] = (
    (Role.ADMIN, "admin", None),
    (Role.SHOP, "shop", None),
    (Role.SELLER, "maria", None),
    (Role.MES, "mes", None),
    (Role.OPERATOR, "ivan", None),
    (Role.OPERATOR, "olga", None),
    (Role.PARTNER, "aurora jewels", PARTNER),
    (Role.CUSTOMER, "anna", "anna"),
)
HOURS: dict[Status, float] = {
    Status.FILE_UPLOADED: 8.0,
    Status.SUBMITTED: 4.0,
    Status.PRICE_CALCULATED: 2.0,
    Status.MANUFACTURING_APPROVED: 20.0,
    Status.MANUFACTURING_STARTED: 30.0,
    Status.MANUFACTURING_COMPLETED: 70.0,
    Status.PACKAGING: 20.0,
    Status.SHIPPED: 24.0,
    Status.CLOSED: 100.0,
}
"""About how long an order takes to reach each status from the one before."""


def run(settings: Settings, *, embedded: bool) -> int:
    """Fill the directory on first use, then serve. Raises ConfigError for anybody else's directory."""
    configure(settings)
    directory = DataDirectory(settings.data_dir)
    if is_new := not (settings.data_dir / MARK).exists():
        _require_unused(directory)
    elif embedded and kept_in(directory.path):
        raise ConfigError(f"the demo in {directory.path} keeps its data in PostgreSQL: leave out --embedded")
    if (holder := directory.holder()) is not None:
        raise ConfigError(f"{directory.path} is in use by process {holder.pid}")
    with contextlib.ExitStack() as stack:
        if not (embedded or settings.uses_redis or settings.uses_postgresql or directory.database.exists()):
            settings = _with_servers(settings, stack, is_new)
        return _serve(settings, is_new)


def _with_servers(settings: Settings, stack: contextlib.ExitStack, is_new: bool) -> Settings:
    """With a Valkey and a PostgreSQL of the demo's own, and two processes; without, where there are none."""
    servers = DemoServers(settings.data_dir, empty=is_new)
    try:
        stack.enter_context(servers)
    except ServerUnavailable as error:
        if not is_new:
            raise ConfigError(f"the demo's servers cannot be started: {error}") from None
        print(f"One process, without Redis and PostgreSQL: {error}", flush=True)
        shutil.rmtree(settings.data_dir / "postgres", ignore_errors=True)
        return settings
    settings = msgspec.structs.replace(
        settings,
        redis_url=servers.valkey.url,
        database_url=servers.postgres.url,
        workers=max(2, settings.workers),
        drain_s=min(DRAIN_S, settings.drain_s),
    )
    hand_on(settings, "redis_url", "database_url", "workers", "drain_s")
    return settings


def _serve(settings: Settings, is_new: bool) -> int:
    mark = settings.data_dir / MARK
    if is_new:
        print(f"Filling {settings.data_dir} with a workshop ...", flush=True)
        with serve.prepared_directory(settings) as held:
            uvloop.run(_fill(settings, held, mark))
    tokens: dict[str, str] = json.loads(mark.read_text())
    if settings.workers > 1:
        return workers.run(settings, lambda url: _greet(url, tokens, settings))

    async def started(app: web.Application, url: str) -> None:
        _greet(url, tokens, settings)

    return serve.run(settings, started)


def _require_unused(directory: DataDirectory) -> None:
    """What an interrupted first start left behind may be filled again; anybody else's data may not."""
    unfinished = directory.path / "demo.unfinished"
    if directory.path.exists() and any(directory.path.iterdir()) and not unfinished.exists():
        raise ConfigError(f"{directory.path} is not empty and not a demo: choose another with --data-dir")
    if unfinished.exists():
        for file in (directory.database, directory.log):
            for suffix in ("", "-wal", "-shm"):
                file.with_name(file.name + suffix).unlink(missing_ok=True)
    directory.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished.touch()


class WorkshopClock(SystemClock):
    """Tells the time of the workshop's past while it is being made up."""

    def __init__(self) -> None:
        self.moment: datetime | None = None

    def now(self) -> datetime:
        return self.moment or super().now()


async def _fill(settings: Settings, directory: DataDirectory, mark: Path) -> None:
    clock = WorkshopClock()

    def failed(name: str, error: BaseException) -> None:
        raise error

    app = build(settings, directory, failed, clock)
    runner = runner_of(app, settings)
    await runner.setup()
    try:
        workshop = Workshop(app[STORAGE], app[MODEL_UPLOADS], app[QUOTING], clock)
        tokens = await workshop.issue_tokens()
        await workshop.open_orders()
        await workshop.move_orders()
    finally:
        await runner.cleanup()
    descriptor = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(tokens, file, indent=1)
    (directory.path / "demo.unfinished").unlink()


class Workshop:
    """Orders opened over six weeks, each as far along as its age makes likely."""

    def __init__(
        self, storage: Storage, uploads: ModelUploads, quoting: Quoting, clock: WorkshopClock
    ) -> None:
        self._storage = storage
        self._uploads = uploads
        self._quoting = quoting
        self._clock = clock
        self._random = random.Random(SEED)
        self._today = clock.now()
        self._orders: list[Order] = []
        self._actors = {
            name: Actor(token_id=name, name=name, role=role, customer=customer)
            for role, name, customer in LOGINS
        }

    async def issue_tokens(self) -> dict[str, str]:
        """The secrets by the name they log in."""
        self._clock.moment = self._today - timedelta(weeks=WEEKS)
        issued = {}
        for role, name, customer in LOGINS:
            token, secret, _ = await self._storage.tokens.issue(role, name, customer)
            issued[f"{role.value} {name}"] = secret
            self._actors[name] = Actor(token_id=token.id, name=name, role=role, customer=customer)
        return issued

    async def open_orders(self) -> None:
        models = [await self._model(index) for index in range(12)]
        moments = sorted(self._random.random() for _ in range(ORDERS))
        for share in moments:
            self._clock.moment = self._today - timedelta(weeks=WEEKS) * (1 - share) + timedelta(seconds=1)
            draft = self._draft(models)
            opener = self._actors["aurora jewels" if draft.customer == PARTNER else "shop"]
            outcome = await self._storage.orders.create(
                functools.partial(_ready, draft), ChangeRequest(actor=opener)
            )
            self._orders.append(outcome.order)
        self._clock.moment = None

    async def move_orders(self) -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        fates = [(order, random.Random(f"{SEED} {order.number}")) for order in self._orders]

        async def live(order: Order, chance: random.Random) -> None:
            async with gate:
                await self._live(order, chance)

        await asyncio.gather(*(live(order, chance) for order, chance in fates))

    async def _model(self, index: int) -> str:
        body = ring_stl(7.5 + 0.25 * index, 1.4 + 0.1 * (index % 5), index % 7 * 3, 0.1 * (index % 4))
        upload = Upload.of(body)
        model, _ = await self._uploads.receive(upload, None, self._actors["mes"])
        return model.sha256

    def _draft(self, models: list[str]) -> NewOrder:
        chance = self._random
        customer = PARTNER if chance.random() < 0.15 else chance.choice(CUSTOMERS)
        now = self._clock.now()
        return NewOrder(
            customer=customer,
            model=chance.choice(models) if chance.random() < 0.75 else None,
            units="mm",
            material=chance.choice(MATERIALS),
            quantity=2 if chance.random() < 0.2 else 1,
            due_at=now + timedelta(days=chance.randrange(10, 30)) if chance.random() < 0.6 else None,
            note=chance.choice(REMARKS) if chance.random() < 0.25 else None,
            reference=f"WEB-{len(self._orders) + 5001}" if customer != PARTNER else None,
        )

    async def _live(self, order: Order, chance: random.Random) -> None:
        """Step by step, until a step would lie in the future or the order's luck runs out."""
        at = order.created_at
        steps = list(HOURS.items())[1 if order.model else 0 :]
        for status, hours in steps:
            at += timedelta(hours=hours * chance.uniform(0.4, 1.8))
            if at > self._today - timedelta(minutes=1) or chance.random() < 0.012:
                break
            if chance.random() < 0.01 and status is not Status.CLOSED:
                await self._step(
                    order, StatusRequest(status=Status.CANCELLED, comment="customer changed their mind"), at
                )
                return
            await self._advance(order, status, at, chance)
        if chance.random() < 0.2:
            await self._remark(order, chance.choice(REMARKS), at)

    async def _advance(self, order: Order, status: Status, at: datetime, chance: random.Random) -> None:
        price = await self._price(order) if status is Status.PRICE_CALCULATED else None
        await self._step(
            order, StatusRequest(status=status, price=price), at, chance.choice(("ivan", "olga"))
        )

    async def _price(self, order: Order) -> OrderPrice | None:
        if order.model is None:
            return None
        if (found := await self._storage.models.find(order.model)) is None:
            return None
        options = Options(material=order.material or "silver-925", quantity=order.quantity)
        asker = Actor(token_id="", name="", role=Role.PARTNER, customer=order.customer)
        stored = (await self._quoting.quote(found[0], options, asker)).stored
        return price_of_quote(decode_quote(stored.body), PriceSource.COMPUTED)

    async def _step(self, order: Order, wish: StatusRequest, at: datetime, operator: str = "ivan") -> None:
        actor = self._actors[_STEP_ACTORS.get(wish.status, "maria")]
        if wish.status in (Status.MANUFACTURING_STARTED, Status.MANUFACTURING_COMPLETED):
            actor = self._actors["mes"]
        if wish.status is Status.MANUFACTURING_STARTED:
            wish = msgspec.structs.replace(wish, operator=operator)

        async def decide(newest: Order) -> Change | None:
            return advance(newest, wish, actor, at)

        await self._storage.orders.change(order.id, decide, ChangeRequest(actor=actor))

    async def _remark(self, order: Order, text: str, at: datetime) -> None:
        actor = self._actors["maria"]

        async def decide(newest: Order) -> Change:
            return comment(newest, text, actor, at)

        await self._storage.orders.change(order.id, decide, ChangeRequest(actor=actor))


_STEP_ACTORS = {
    Status.FILE_UPLOADED: "maria",
    Status.SUBMITTED: "maria",
    Status.PRICE_CALCULATED: "mes",
    Status.PACKAGING: "mes",
    Status.SHIPPED: "mes",
}


async def _ready(draft: NewOrder) -> NewOrder:
    return draft


def _greet(url: str, tokens: dict[str, str], settings: Settings) -> None:
    width = max(map(len, tokens))
    logins = "\n".join(f"  {who:{width}}  {secret}" for who, secret in tokens.items())
    token = tokens["operator ivan"]
    directory = "" if str(settings.data_dir) == "demo-data" else f" --data-dir {settings.data_dir}"
    engines = f"{settings.workers} processes, Redis and PostgreSQL"
    if not settings.uses_redis:
        engines = f"one process, {'PostgreSQL' if settings.uses_postgresql else 'SQLite'}"
    print(
        f"""
Facet is serving a workshop of {ORDERS} orders at {url} ({engines})

One login per role (paste one into the page, or send it as Authorization: Bearer ...):
{logins}

Try next:
  {url}/                     the newest orders and a price form
  {url}/docs                 the API
  ./facet tour{directory}                    every promise, shown (in another terminal)
  curl -i -H 'Authorization: Bearer {token}' \\
       '{url}/v1/orders?status=MANUFACTURING_APPROVED&limit=3'

Stop with Ctrl-C; the next start takes seconds. Start over: remove {settings.data_dir}
""",
        flush=True,
    )
