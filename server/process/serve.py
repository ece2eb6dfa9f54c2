"""Running the service: the sockets, the signals, and an orderly end."""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator

import uvloop
from aiohttp import web

from server.app import build
from server.config import ConfigError, Settings
from server.http.keys import STORAGE
from server.observability.readiness import READINESS, Phase
from server.process.listening import Stopping, bound_socket, listen, listen_locally, runner_of
from storage.data_directory import DataDirectory, Holder
from storage.errors import DataDirectoryInUse
from storage.orders.actors import Role

logger = logging.getLogger("facet")

Started = Callable[[web.Application, str], Awaitable[None]]


def run(settings: Settings, started: Started | None = None) -> int:
    """Serve until a signal comes. `started` is called once ready. Raises ConfigError."""
    raise_file_limit()
    with prepared_directory(settings) as directory:
        return uvloop.run(_serve_alone(settings, directory, started))


@contextlib.contextmanager
def directory_of_parent(settings: Settings) -> Iterator[None]:
    """The data directory, made if need be, for a process that serves through others. Raises ConfigError."""
    directory = DataDirectory(settings.data_dir, shared=True)
    with contextlib.ExitStack() as stack:
        try:
            directory.create()
            stack.enter_context(directory.held_by_parent())
        except OSError as error:
            raise _no_directory(settings, error) from None
        yield


def _no_directory(settings: Settings, error: OSError) -> ConfigError:
    reason = error.strerror or error
    return ConfigError(f"the data directory {settings.data_dir} cannot be used: {reason}")


@contextlib.contextmanager
def prepared_directory(settings: Settings) -> Iterator[DataDirectory]:
    """The data directory, made if need be and locked. Raises ConfigError when it cannot be used."""
    directory = DataDirectory(settings.data_dir, shared=settings.lets_many_serve)
    if directory.own_postgres.exists() and not settings.uses_postgresql:
        raise ConfigError(
            f"the demo in {settings.data_dir} keeps its data in a PostgreSQL of its own: start it with"
            " ./facet demo"
        )
    try:
        directory.create()
        directory.__enter__()
    except DataDirectoryInUse as error:
        raise ConfigError(error.detail) from None
    except OSError as error:
        raise _no_directory(settings, error) from None
    try:
        yield directory
    finally:
        directory.__exit__(None, None, None)


async def _serve_alone(settings: Settings, directory: DataDirectory, started: Started | None) -> int:
    stopping = Stopping()
    stops = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        stops.append(signal.SIGHUP)
    for number in stops:
        asyncio.get_running_loop().add_signal_handler(number, stopping.asked.set)
    listener = bound_socket(settings.host, settings.port)
    return await serve(settings, directory, listener, stopping, started)


async def serve(
    settings: Settings,
    directory: DataDirectory,
    listener: socket.socket,
    stopping: Stopping,
    started: Started | None = None,
    parent: int | None = None,
) -> int:
    """Serve until it is to stop. `parent`: the process that owns the socket, on which others listen too."""
    failures = []

    def failed(name: str, error: BaseException) -> None:
        logger.critical("the %s task died: the service stops", name, exc_info=error)
        failures.append(name)
        stopping.asked.set()

    app = build(settings, directory, failed)
    runner = runner_of(app, settings)
    try:
        await runner.setup()
        control = await listen_locally(runner, directory)
        site, url = await listen(runner, listener)
        await _first_admin_token(app, directory)
        directory.announce(Holder(os.getpid(), str(control), url, parent))
        logger.info("serving on %s", url)
        if started is not None:
            await started(app, url)
        await stopping.asked.wait()
        logger.info("stopping")
        if settings.lets_many_serve:
            app[READINESS].phase = Phase.DRAINING
            directory.announce(Holder(os.getpid(), parent=parent))
            if parent is not None:
                await site.stop()  # the others accept what comes now
            await runner.take_leave(settings.grace_s, stopping)
    finally:
        await runner.cleanup()
        listener.close()
    return 1 if failures else 0


async def _first_admin_token(app: web.Application, directory: DataDirectory) -> None:
    """The first administrator's token: to a terminal, else to a file that only its owner reads."""
    storage = app[STORAGE]
    tokens = storage.tokens
    if tokens.has_configured or any(token.role is Role.ADMIN for token in tokens.list()):
        return
    async with storage.setting_up():
        if any(token.role is Role.ADMIN for token in await storage.database.load_tokens()):
            return
        _, secret, _ = await tokens.issue(Role.ADMIN, "admin", None)
    if sys.stdout.isatty():
        print(f"First admin token (shown once): {secret}", flush=True)
        return
    descriptor = os.open(directory.admin_token, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
    logger.info("the first admin token is in %s", directory.admin_token)


def raise_file_limit() -> None:
    """As many connections as the system allows this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
