"""Where Redis is: one server, whatever stands in front of it.

All keys share one hash tag, so that with Sentinel or Cluster, too, one server answers for all of them. Which
one that is, is asked anew for every connection.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

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
from redis.exceptions import RedisError
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


class Node(NamedTuple):
    host: str
    port: int


def endpoint_of(url: str, prefix: str, deadline_s: float) -> Endpoint:
    """`redis://`, `rediss://`, `unix://`, `redis+sentinel://h:p,h:p/service/db`, `redis+cluster://h:p,h:p`;
    an `s` after `redis` asks for TLS, on every connection: to sentinels and all nodes as well. Options of it
    follow after `?`, see TLS_OPTIONS. Raises ValueError."""
    scheme, _, rest = url.partition("://")
    address, _, query = rest.partition("?")
    tls = _tls_of(scheme, query)
    if scheme in ("redis", "rediss", "unix"):
        return StandaloneEndpoint(_options({**parse_url(url), **tls}, deadline_s))
    if scheme in ("redis+sentinel", "rediss+sentinel"):
        return SentinelEndpoint(tls, address, deadline_s)
    if scheme in ("redis+cluster", "rediss+cluster"):
        return ClusterEndpoint(tls, address, prefix, deadline_s)
    raise ValueError("must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")


class StandaloneEndpoint:
    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options

    async def options(self) -> dict[str, Any]:
        return dict(self._options)


class SentinelEndpoint:
    """Asks the sentinels, in turn, for the master."""

    def __init__(self, tls: Mapping[str, Any], address: str, deadline_s: float) -> None:
        authority, _, path = address.partition("/")
        service, _, database = path.partition("/")
        if not service:
            raise ValueError("names no service: redis+sentinel://host:port/service/0")
        user, self._sentinels = _nodes(authority, SENTINEL_PORT)
        self._service = service
        self._deadline_s = deadline_s
        self._tls = tls
        self._options = _options({**tls, **user, "db": int(database or 0)}, deadline_s)

    async def options(self) -> dict[str, Any]:
        failure = "no sentinel answers"
        for sentinel in self._sentinels:
            try:
                reply = await _ask(
                    _options({**self._tls, **sentinel._asdict()}, self._deadline_s),
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


class ClusterEndpoint:
    """Asks any node which one serves the slot of our hash tag."""

    def __init__(self, tls: Mapping[str, Any], address: str, prefix: str, deadline_s: float) -> None:
        user, self._nodes = _nodes(address.partition("/")[0], PORT)
        self._slot = key_slot(f"{{{prefix}}}".encode())
        self._options = _options({**tls, **user}, deadline_s)

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


def _tls_of(scheme: str, query: str) -> dict[str, Any]:
    """What makes connections speak TLS. Raises ValueError for an option there is not, or a file that cannot
    be read: reported now, not at the first connection."""
    given = dict(parse_qsl(query, keep_blank_values=True))
    secure = scheme.startswith("rediss")
    known = TLS_OPTIONS if secure else {}
    other = PLAIN_OPTIONS if scheme in ("redis", "rediss", "unix") else frozenset()
    if unknown := sorted(given.keys() - known.keys() - other):
        hint = f"; there are {', '.join(sorted(known.keys() | other))}" if known or other else ""
        raise ValueError(f"has an unknown option: {', '.join(unknown)}{hint}")
    if not secure:
        return {}
    options = {name: known[name](name, value) for name, value in given.items() if name in known}
    options["connection_class"] = SSLConnection
    try:
        connection_of(_options({**options, "host": "localhost"}, 1.0)).ssl_context.get()  # type: ignore[attr-defined]
    except (OSError, ValueError, RedisError) as error:
        raise ValueError(f"its certificates cannot be used: {error}") from None
    return options


def _file(name: str, value: str) -> str:
    try:
        Path(value).open("rb").close()
    except OSError as error:
        raise ValueError(f"{name}: {value}: {error.strerror}") from None
    return value


def _folder(name: str, value: str) -> str:
    if not Path(value).is_dir():
        raise ValueError(f"{name}: {value} is not a directory")
    return value


def _one_of(*choices: str) -> "Callable[[str, str], str]":
    def check(name: str, value: str) -> str:
        if value not in choices:
            raise ValueError(f"{name}: one of {', '.join(choices)}")
        return value

    return check


def _truth(name: str, value: str) -> bool:
    return _one_of("true", "false")(name, value.lower()) == "true"


TLS_OPTIONS: dict[str, Callable[[str, str], Any]] = {
    "ssl_ca_certs": _file,
    "ssl_ca_path": _folder,
    "ssl_certfile": _file,
    "ssl_keyfile": _file,
    "ssl_cert_reqs": _one_of("required", "optional", "none"),
    "ssl_check_hostname": _truth,
}
"""As redis-py calls them: whom to trust, who we are, and how strict to be."""
PLAIN_OPTIONS = frozenset({"db"})


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
    """A connection, not yet open. Its user keeps the deadline: one that has a timeout of its own sends
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
