"""The composition root: everything concrete meets here, once."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from pricing.pool import OPINIONS, FactsPool, Limits
from pricing.price.price_list import default_metal_fix, default_price_list, read_metal_fix, read_price_list
from server.api.access import tokens
from server.api.operations import backups, cache, health
from server.api.orders import lists, orders
from server.api.prices import batches, jobs, models, prices, verifications, versions
from server.config import ConfigError, Settings
from server.engines import engines_of
from server.garbage_collector import keep_collected, keep_trimmed, tune_gc
from server.http.body import BODIES, Bodies
from server.http.coding import CODED_BODIES, CodedBodies
from server.http.hot_path import AIOHTTP_VERSION, HOT_PATH, HotPath, is_tested
from server.http.keys import DIRECTORY, SETTINGS, STORAGE
from server.http.routes import Route, add_routes
from server.jobs import respond
from server.jobs.running import JOBS, Jobs
from server.links import LINKS, Links
from server.observability.disk_check import DISK_CHECK, DiskCheck
from server.observability.loop_monitor import LOOP_MONITOR, LoopMonitor
from server.observability.metrics import METRICS, Metrics
from server.observability.readiness import READINESS, Phase, Readiness
from server.observability.worker_metrics import WORKER_METRICS, WorkerMetrics
from server.pages.api_docs import Documents, document_routes
from server.pages.pages import Pages, page_routes
from server.pages.rendering import templates
from server.prices.model_uploads import MODEL_UPLOADS, ModelUploads
from server.prices.order_prices import ORDER_PRICES, OrderPrices
from server.prices.previews import KEPT_BYTES_MAX, PREVIEWS, Previews
from server.prices.quoting import QUOTING, Quoting
from server.prices.verification import VERIFICATIONS, Verifications
from server.uploads.receiving import RESERVED_BYTES_TOTAL, UPLOADS, Uploads
from storage.clock import Clock, SharedClock, SystemClock
from storage.data_directory import DataDirectory
from storage.database.records import StoredVersion
from storage.log.change_log import Reload
from storage.log.entries import MetalFixed, PriceListPublished
from storage.models.files import ModelFiles
from storage.services.price_versions import PriceVersions
from storage.services.stack import Storage
from storage.services.warming import warm
from storage.tasks import end

logger = logging.getLogger("facet")

DAY_S = 86_400.0

MODEL_WORKERS_PAUSE_S = 30.0
"""From a start to that of the model workers, when no model wants them before."""


Failed = Callable[[str, BaseException], None]


def all_routes() -> list[Route]:
    """Every route but those of documents and pages, which need something rendered."""
    return [
        *lists.routes,
        *orders.routes,
        *prices.routes,
        *versions.routes,
        *batches.routes,
        *jobs.routes,
        *models.routes,
        *verifications.routes,
        *tokens.routes,
        *cache.routes,
        *health.routes,
        *backups.routes,
    ]


def served_routes() -> list[Route]:
    """Every route, documents and pages as well."""
    environment = templates()
    routes = [*all_routes(), *page_routes(Pages(environment))]
    return [*routes, *document_routes(Documents(routes, environment))]


def build(
    settings: Settings, directory: DataDirectory, failed: Failed, clock: Clock | None = None
) -> web.Application:
    """The application; it opens and closes with its runner. `failed` is told when a background task dies."""
    clock = clock or SharedClock(SystemClock())
    storage, open_engines = engines_of(settings, directory, clock)
    pool = FactsPool(Limits(workers=settings.model_workers))
    opinions = FactsPool(OPINIONS)

    app = web.Application()
    app[SETTINGS] = settings
    app[DIRECTORY] = directory
    app[STORAGE] = storage
    add_pricing(app, pool, opinions, clock)
    add_hot_path(app)
    app[BODIES] = Bodies()
    app[UPLOADS] = Uploads(directory.uploads, settings.upload_bytes_max)
    app[JOBS] = Jobs(storage.change_log.shared_cache, respond.gone, clock)
    app[DISK_CHECK] = DiskCheck(directory.path)
    app[READINESS] = Readiness(storage, app[DISK_CHECK], settings)
    app[LOOP_MONITOR] = LoopMonitor()
    app[METRICS] = metrics_of(app, pool)
    app[WORKER_METRICS] = WorkerMetrics(directory)
    app[LINKS] = Links(directory.link_key)
    add_routes(app, served_routes(), app[METRICS].observer)

    async def open_everything(app: web.Application) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(pool.close)  # whatever becomes of the start, no worker is left
            stack.push_async_callback(opinions.close)
            await open_engines()
            stack.push_async_callback(storage.close)
            await app[LINKS].open(storage.database)
            if settings.admin_token:
                storage.tokens.add_configured(settings.admin_token)
            await storage.open(failed)
            stack.push_async_callback(drain, app)
            await publish_defaults(storage, app[QUOTING].price_lists, app[QUOTING].metal_fixes)
            stack.push_async_callback(pool.close)
            stack.push_async_callback(opinions.close)
            stack.push_async_callback(app[JOBS].close)
            app[READINESS].phase = Phase.WARMING
            warmed = await warm(storage)
            logger.info("warm: %d orders, %d lists, %d models", warmed.orders, warmed.lists, warmed.models)
            tune_gc(RESERVED_BYTES_TOTAL)
            for watch in (app[DISK_CHECK].run(), keep_trimmed(), keep_collected(), prepare(pool)):
                stack.push_async_callback(end, asyncio.create_task(watch))
            app[LOOP_MONITOR].start()  # what a start does at once delays no request
            stack.callback(app[LOOP_MONITOR].stop)
            app[READINESS].phase = Phase.READY
            yield

    async def before_connections_close(app: web.Application) -> None:
        app[READINESS].phase = Phase.DRAINING
        storage.reads.stop_waiting()
        app[JOBS].stop()

    app.cleanup_ctx.append(open_everything)
    app.on_shutdown.append(before_connections_close)
    return app


def metrics_of(app: web.Application, pool: FactsPool) -> Metrics:
    monitor, disk = app[LOOP_MONITOR], app[DISK_CHECK]
    return Metrics(app[STORAGE], pool, app[VERIFICATIONS], app[JOBS], monitor, disk, app[HOT_PATH])


def add_hot_path(app: web.Application) -> None:
    """What answers from memory, and in which codings. Raises ConfigError with an aiohttp that the former was
    not tested against."""
    app[CODED_BODIES] = CodedBodies()
    settings = app[SETTINGS]
    if not settings.hot_path or settings.access_log:  # each request is a line then
        app[HOT_PATH] = None
        return
    if not is_tested():
        raise ConfigError(
            f"this release answers from memory with aiohttp {AIOHTTP_VERSION} only: install that,"
            " or set FACET_HOT_PATH=0"
        )
    app[HOT_PATH] = HotPath(app[STORAGE], app[CODED_BODIES])


def add_pricing(app: web.Application, pool: FactsPool, opinions: FactsPool, clock: Clock) -> None:
    """Before `storage.open`: price lists and metal fixes follow the log."""
    settings, directory, storage = app[SETTINGS], app[DIRECTORY], app[STORAGE]
    database = storage.database
    price_lists = PriceVersions(PriceListPublished, read_price_list, storage.change_log, clock)
    metal_fixes = PriceVersions(MetalFixed, read_metal_fix, storage.change_log, clock)
    storage.follow(price_lists.apply, reload_of(price_lists, database.load_price_lists))
    storage.follow(metal_fixes.apply, reload_of(metal_fixes, database.load_metal_fixes))
    age_s_max = settings.model_files_days * DAY_S
    files = ModelFiles(directory.models, settings.model_files_bytes, age_s_max)
    previews = ModelFiles(directory.previews, KEPT_BYTES_MAX, age_s_max)
    app[MODEL_UPLOADS] = uploads = ModelUploads(storage.models, pool, files)
    app[QUOTING] = quoting = Quoting(storage, uploads, price_lists, metal_fixes, clock)
    app[VERIFICATIONS] = asked = Verifications(storage, opinions, files, clock)
    app[ORDER_PRICES] = OrderPrices(storage, quoting, asked, clock)
    app[PREVIEWS] = Previews(pool, files, previews)
    storage.models.outdated.work = uploads.read_anew
    storage.models.unverified.work = asked.verify


def reload_of(published: PriceVersions[Any], load: Callable[[], Awaitable[list[StoredVersion]]]) -> Reload:
    async def reload() -> Callable[[], None]:
        stored = await load()
        return lambda: published.load(stored)

    return reload


async def prepare(pool: FactsPool) -> None:
    """So that the first model need not wait for workers. What waited for this server comes first: they take
    as much of the processor as all the rest of its start."""
    await asyncio.sleep(MODEL_WORKERS_PAUSE_S)
    try:
        await pool.start()
    except Exception:
        logger.exception("the model workers do not start: the next model tries it again")


async def drain(app: web.Application) -> None:
    app[READINESS].phase = Phase.DRAINING
    storage = app[STORAGE]
    if not await storage.drain(storage.bounds.drain_deadline_s):
        logger.warning("stopped with %d entries that the database lacks: the log has them", len(storage.tail))


async def publish_defaults(
    storage: Storage, price_lists: PriceVersions[Any], metal_fixes: PriceVersions[Any]
) -> None:
    """A new installation has the delivered price list and metal fix, until it publishes its own."""
    if price_lists.all() and metal_fixes.all():
        return
    async with storage.setting_up():
        if not price_lists.all() and not await storage.database.load_price_lists():
            record = default_price_list()
            body = msgspec.json.encode(record)
            await price_lists.publish(StoredVersion(record.version, record.valid_from, record.valid_to, body))
        if not metal_fixes.all() and not await storage.database.load_metal_fixes():
            fix = default_metal_fix()
            await metal_fixes.publish(
                StoredVersion(fix.version, fix.fixed_at, None, msgspec.json.encode(fix))
            )
