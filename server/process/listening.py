"""The sockets of the service, and how it takes leave of those who are connected."""

import asyncio
import errno
import logging
import os
import socket
import stat
import tempfile
from pathlib import Path

from aiohttp import web

from server.config import ConfigError, Settings
from server.http.hot_path import HOT_PATH
from server.process.connections import Connections
from server.uploads.receiving import READ_AHEAD_BYTES
from storage.data_directory import DataDirectory

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
        self._answering = Connections(await super()._make_server(), self._app[HOT_PATH])
        return self._answering

    async def take_leave(self, grace_s: float, stopping: Stopping) -> None:
        """Let the clients go one by one: closing a kept-alive connection at any moment would meet some of
        them just as they send. Returns when no client is connected, or after the grace."""
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


def bound_socket(host: str, port: int) -> socket.socket:
    """The address, taken before anything else is begun; connections are accepted once the service is ready.

    Raises ConfigError when it is not available.
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


async def listen(runner: Runner, listener: socket.socket) -> tuple[web.SockSite, str]:
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
