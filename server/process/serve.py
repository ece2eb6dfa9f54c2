"""Running the service: the sockets, the signals, and an orderly end."""

import asyncio
import contextlib
import errno
import logging
import os
import resource
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import uvloop
from aiohttp import web

from server.app import build
from server.config import ConfigError, Settings
from server.http.keys import STORAGE
from server.observability.readiness import READINESS, Phase
from server.process.connections import Connections
from server.uploads.receiving import READ_AHEAD_BYTES
from storage.data_directory import DataDirectory, Holder
from storage.errors import DataDirectoryInUse
from storage.orders.actors import Role

logger = logging.getLogger("facet")

CONTROL_PATH_MAX = 100
"""A Unix socket's path must fit about 104 bytes; a longer one moves to a private temporary directory."""
SHUTDOWN_S = 15.0
"""How long requests under way may take to finish at a stop."""
HURRIED_S = 0.2
"""The same when it is hurried."""
LINGERING_S = 1.0
"""How long the rest of a refused body is read and thrown away, so that its sender gets to read the answer."""
LEAVING_LOOK_S = 0.02
"""How often a leaving process looks whether anybody is still connected."""
BACKLOG_CONNECTIONS = 1024


class Stopping:
    """When to end, and whether to wait for others at that."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()

    def hurry(self) -> None:
        self.asked.set()
        self.hurried.set()


class Runner(web.AppRunner):
    async def _make_server(self) -> web.Server:
        self._answering = Connections(await super()._make_server())
        return self._answering

    async def take_leave(self, grace_s: float, stopping: Stopping) -> None:
        """Let the clients go one by one: closing a kept-alive connection at any moment would meet some of
        them just as they send. Returns when nobody is connected, or after the grace."""
        self._answering.leaving = True
        try:
            async with asyncio.timeout(grace_s):
                while not stopping.hurried.is_set():
                    if not self._answering.connections:
                        break
                    await asyncio.sleep(LEAVING_LOOK_S)
        except TimeoutError:
            pass
        if stopping.hurried.is_set():
            self._shutdown_timeout = HURRIED_S


def runner_of(app: web.Application, settings: Settings) -> Runner:
    access_log = logging.getLogger("facet.access") if settings.access_log else None
    return Runner(
        app,
        access_log=access_log,
        keepalive_timeout=settings.keepalive_s,
        shutdown_timeout=SHUTDOWN_S,
        auto_decompress=False,
        read_bufsize=READ_AHEAD_BYTES,
        lingering_time=LINGERING_S,
    )


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
        site, url = await _listen(runner, listener)
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


def bound_socket(host: str, port: int) -> socket.socket:
    """The address, taken before anything else is begun; connections are accepted once the service is ready.

    Raises ConfigError when it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise _unusable(host, port, error) from None
    return listener


def _unusable(host: str, port: int, error: OSError) -> ConfigError:
    reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
    return ConfigError(f"port {port} on {host} {reason}: choose another with --port")


async def _listen(runner: Runner, listener: socket.socket) -> tuple[web.SockSite, str]:
    site = web.SockSite(runner, listener, backlog=BACKLOG_CONNECTIONS)
    try:
        await site.start()
    except OSError as error:  # another process took the same address while this one was starting
        host, port = listener.getsockname()[:2]
        raise _unusable(host, port, error) from None
    return site, url_of(listener)


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in str(host) else host
    return f"http://{shown}:{port}"


async def listen_locally(runner: Runner, directory: DataDirectory) -> Path:
    """The socket through which commands on this machine talk to the service, as administrators."""
    path = directory.control.absolute()
    if len(os.fsencode(path)) > CONTROL_PATH_MAX:
        path = Path(tempfile.mkdtemp(prefix="facet-")) / "control.sock"
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        await web.UnixSite(runner, path).start()
    finally:
        os.umask(before)
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    return path


async def _first_admin_token(app: web.Application, directory: DataDirectory) -> None:
    """Somebody must be able to get in: to a terminal, else to a file that only its owner reads."""
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
