"""Where Redis is: one server, whatever stands in front of it.

All keys share one hash tag, so that with Sentinel or Cluster, too, one server answers for all of them. Which
one that is, is asked anew for every connection.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.maint_notifications import MaintNotificationsConfig

from storage.errors import LogUnavailable

PORT = 6379
SENTINEL_PORT = 26379


async def _end(connection: AbstractConnection, leave: Callable[..., Awaitable[None]]) -> None:
    """At once, however it ends: a peer that is slow or silent in taking leave, as TLS does, holds up nobody,
    and whatever is raised then is not."""
    writer: asyncio.StreamWriter | None = connection._writer
    with contextlib.suppress(Exception):
        if writer is not None:
            writer.transport.abort()
        await leave(nowait=True)


class AbruptConnection(Connection):
    async def disconnect(self, *_: Any, **__: Any) -> None:
        await _end(self, super().disconnect)


class AbruptTlsConnection(SSLConnection):
    async def disconnect(self, *_: Any, **__: Any) -> None:
        await _end(self, super().disconnect)


class AbruptUnixConnection(UnixDomainSocketConnection):
    async def disconnect(self, *_: Any, **__: Any) -> None:
        await _end(self, super().disconnect)


_ABRUPT: dict[type[AbstractConnection], type[AbstractConnection]] = {
    Connection: AbruptConnection,
    SSLConnection: AbruptTlsConnection,
    UnixDomainSocketConnection: AbruptUnixConnection,
}


class Endpoint(Protocol):
    async def options(self) -> dict[str, Any]:
        """What a connection to the server that has our keys is made of. Raises LogUnavailable."""
        ...


class Node(NamedTuple):
    host: str
    port: int


def endpoint_of(url: str, prefix: str, deadline_s: float) -> Endpoint:
    """`redis://`, `rediss://`, `unix://`, `redis+sentinel://h:p,h:p/service/db`, `redis+cluster://h:p,h:p`;
    an `s` after `redis` asks for TLS. Raises ValueError."""
    scheme, _, rest = url.partition("://")
    if scheme in ("redis", "rediss", "unix"):
        return Standalone(_options(parse_url(url), deadline_s))
    if scheme in ("redis+sentinel", "rediss+sentinel"):
        return Sentinel(scheme, rest, deadline_s)
    if scheme in ("redis+cluster", "rediss+cluster"):
        return Cluster(scheme, rest, prefix, deadline_s)
    raise ValueError("must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")


class Standalone:
    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options

    async def options(self) -> dict[str, Any]:
        return dict(self._options)


class Sentinel:
    """Asks the sentinels, in turn, for the master."""

    def __init__(self, scheme: str, rest: str, deadline_s: float) -> None:
        authority, _, path = rest.partition("/")
        service, _, database = path.partition("/")
        if not service:
            raise ValueError("names no service: redis+sentinel://host:port/service/0")
        user, self._sentinels = _nodes(authority, SENTINEL_PORT)
        self._service = service
        self._deadline_s = deadline_s
        self._options = _options({**_kind(scheme), **user, "db": int(database or 0)}, deadline_s)

    async def options(self) -> dict[str, Any]:
        failure = "no sentinel answers"
        for sentinel in self._sentinels:
            try:
                reply = await _ask(
                    _options(sentinel._asdict(), self._deadline_s),
                    "SENTINEL",
                    "GET-MASTER-ADDR-BY-NAME",
                    self._service,
                )
            except Exception as error:
                failure = f"sentinel {sentinel.host}:{sentinel.port}: {error}"
                continue
            if reply:
                host, port = reply
                return {**self._options, "host": host.decode(), "port": int(port)}
            failure = f"the sentinels know no master called {self._service}"
        raise LogUnavailable(f"Redis cannot be found: {failure}.")


class Cluster:
    """Asks any node which one serves the slot of our hash tag."""

    def __init__(self, scheme: str, rest: str, prefix: str, deadline_s: float) -> None:
        user, self._nodes = _nodes(rest.partition("/")[0], PORT)
        self._slot = key_slot(f"{{{prefix}}}".encode())
        self._options = _options({**_kind(scheme), **user}, deadline_s)

    async def options(self) -> dict[str, Any]:
        failure = "no node answers"
        for node in self._nodes:
            try:
                slots = await _ask({**self._options, **node._asdict()}, "CLUSTER", "SLOTS")
            except Exception as error:
                failure = f"node {node.host}:{node.port}: {error}"
                continue
            for first, last, master, *_ in slots:
                if first <= self._slot <= last:
                    host = master[0].decode() or node.host
                    return {**self._options, "host": host, "port": int(master[1])}
            failure = f"no node serves slot {self._slot}"
        raise LogUnavailable(f"Redis cannot be found: {failure}.")


def _nodes(authority: str, port: int) -> tuple[dict[str, str], list[Node]]:
    user, _, hosts = authority.rpartition("@")
    name, _, password = user.partition(":")
    login = {"username": unquote(name), "password": unquote(password)}
    nodes = []
    for text in hosts.split(","):
        parts = urlsplit(f"//{text}")
        if not parts.hostname:
            raise ValueError("names no host")
        nodes.append(Node(parts.hostname, parts.port or port))
    return {key: value for key, value in login.items() if value}, nodes


def _kind(scheme: str) -> dict[str, Any]:
    return {"connection_class": SSLConnection} if scheme.startswith("rediss") else {}


def _options(given: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
    """No retries anywhere: a write that is sent twice may happen twice."""
    kind = given.get("connection_class", Connection)
    return {
        **given,
        "connection_class": _ABRUPT.get(kind, kind),
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "socket_connect_timeout": deadline_s,
        "socket_timeout": deadline_s,
        "health_check_interval": 0,
        "protocol": 2,
        "client_name": "facet",
        "driver_info": None,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


def connection_of(options: Mapping[str, Any]) -> AbstractConnection:
    """A connection, not yet open. Whoever uses it watches the time: one that has a timeout of its own sends
    inside `asyncio.wait_for`, which loses a cancellation that comes as it ends (Python 3.11)."""
    arguments = {**options, "socket_timeout": None}
    kind: type[AbstractConnection] = arguments.pop("connection_class")
    return kind(**arguments)


async def _ask(options: Mapping[str, Any], *command: str) -> Any:
    connection = connection_of(options)
    try:
        async with asyncio.timeout(options["socket_timeout"]):
            await connection.connect()
            await connection.send_command(*command)
            return await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)
