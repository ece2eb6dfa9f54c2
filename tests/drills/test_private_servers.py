"""The servers that tests and the demo start for themselves: real programs, killed and paused for real."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.sentinel import MasterNotFoundError, Sentinel

from server.demo.private_servers.process import poll_until, states_of
from server.demo.private_servers.programs import MOVED, enterable, find_postgres, find_valkey, may_enter
from server.demo.private_servers.servers import (
    PostgresServer,
    ServerUnavailable,
    ValkeyCluster,
    ValkeySentinel,
    ValkeyServer,
    ask,
    free_port,
)
from tests.support.engines import execute, query
from tests.support.template import ROOT


@pytest.fixture
def valkey(redis_server: ValkeyServer) -> ValkeyServer:
    redis_server.start()
    return redis_server


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> PostgresServer:
    postgres_server.start()
    return postgres_server


# --- Valkey


def test_what_was_acknowledged_survives_a_kill_and_the_port_stays(valkey: ValkeyServer) -> None:
    port, pid = valkey.port, valkey.pid
    ask(valkey.port, "SET", "order", "made")
    valkey.kill()
    with pytest.raises(ConnectionRefusedError):
        ask(port, "PING")
    valkey.start()
    assert (valkey.port, ask(port, "GET", "order")) == (port, "made")
    assert valkey.pid != pid


def test_what_was_acknowledged_survives_an_orderly_stop(valkey: ValkeyServer) -> None:
    ask(valkey.port, "SET", "order", "paid")
    valkey.stop()
    assert not valkey.running
    valkey.start()
    assert ask(valkey.port, "GET", "order") == "paid"


@pytest.mark.parametrize("kind", [ValkeyServer, PostgresServer])
def test_a_relative_directory_is_that_of_the_starter(
    kind: type[ValkeyServer | PostgresServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with kind(Path("here") / "data") as server:
        assert server.running
        assert server.directory.is_absolute()


def test_restarted_empty_it_answers_on_the_same_port_and_knows_nothing(valkey: ValkeyServer) -> None:
    port = valkey.port
    ask(port, "SET", "order", "made")
    valkey.restart_empty()
    assert valkey.port == port
    assert ask(port, "DBSIZE") == 0


def test_paused_it_accepts_connections_and_answers_none_until_it_is_resumed(valkey: ValkeyServer) -> None:
    valkey.pause()
    with pytest.raises(TimeoutError):
        ask(valkey.port, "PING", timeout_s=0.2)
    valkey.resume()
    assert ask(valkey.port, "PING") == "PONG"


def test_a_paused_server_ends_in_order_when_stopped(valkey: ValkeyServer) -> None:
    valkey.pause()
    valkey.stop()
    assert valkey.exit_code == 0


@pytest.mark.parametrize("end", [ValkeyServer.kill, ValkeyServer.restart_empty])
def test_a_paused_server_can_be_killed(valkey: ValkeyServer, end: Callable[[ValkeyServer], None]) -> None:
    pid = valkey.pid
    valkey.pause()
    end(valkey)
    assert states_of([pid]) == []


def test_its_defaults_are_durable_and_never_evict(valkey: ValkeyServer) -> None:
    wanted = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}
    for name, value in wanted.items():
        assert ask(valkey.port, "CONFIG", "GET", name) == [name, value]


def test_both_addresses_lead_to_the_same_server(valkey: ValkeyServer) -> None:
    for url in (valkey.url, valkey.unix_url):
        with redis.Redis.from_url(url) as client:
            assert client.info("server")["process_id"] == valkey.pid


def test_a_path_too_long_for_a_unix_socket_gets_a_shorter_one(tmp_path: Path) -> None:
    with (
        ValkeyServer(tmp_path / ("long" * 30)) as server,
        redis.Redis.from_url(server.unix_url) as client,
    ):
        assert client.ping()


def test_a_server_that_ends_at_its_start_is_reported_in_one_line_of_its_own_words(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path, settings={"appendonly": "perhaps"})
    with pytest.raises(ServerUnavailable, match="must be 'yes' or 'no'") as refused:
        server.start()
    assert "\n" not in str(refused.value)
    assert not server.running


def test_a_port_taken_before_the_first_start_is_given_up_for_another(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    server = ValkeyServer(tmp_path)
    server.port = valkey.port
    with server:
        assert server.port != valkey.port
        assert ask(server.port, "PING") == ask(valkey.port, "PING") == "PONG"


def test_a_port_taken_between_two_starts_is_an_error_not_somebody_elses_server(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    server = ValkeyServer(tmp_path)
    server.start()
    server.stop()
    server.port = valkey.port
    with pytest.raises(ServerUnavailable, match="Valkey ended at its start"):
        server.start()


def test_free_ports_are_never_given_out_twice() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50


# --- Cluster and Sentinel


def test_a_cluster_answers_for_keys_on_every_node(redis_cluster: ValkeyCluster) -> None:
    for node in redis_cluster.nodes:
        ask(node.port, "FLUSHALL")  # of the tests before, in whatever order they ran
    with cluster_client(redis_cluster) as client:
        for index in range(100):
            client.set(f"order-{index}", index)
        assert [client.get(f"order-{index}") for index in range(100)] == [b"%d" % i for i in range(100)]
    sizes = [ask(node.port, "DBSIZE") for node in redis_cluster.nodes]
    assert sum(sizes) == 100
    assert all(sizes)


def test_a_cluster_names_the_node_of_a_key(redis_cluster: ValkeyCluster) -> None:
    for index in range(100):
        key = f"{{group-{index}}}"
        assert ask(redis_cluster.node_of(key).port, "SET", key, "here") == "OK"


def test_a_cluster_is_whole_again_after_a_node_was_killed(redis_cluster: ValkeyCluster) -> None:
    node = redis_cluster.node_of("order")
    ask(node.port, "SET", "order", "made")
    node.kill()
    node.start()
    redis_cluster.wait_until_ok()
    with cluster_client(redis_cluster) as client:
        assert client.get("order") == b"made"


def test_a_cluster_that_was_stopped_starts_with_what_it_held(redis_cluster: ValkeyCluster) -> None:
    with cluster_client(redis_cluster) as client:
        client.set("order", "sent")
    redis_cluster.stop()
    redis_cluster.start()
    with cluster_client(redis_cluster) as client:
        assert client.get("order") == b"sent"


def cluster_client(cluster: ValkeyCluster) -> RedisCluster:
    assert cluster.url.startswith("redis+cluster://127.0.0.1:")
    ports = [int(place.rpartition(":")[2]) for place in cluster.url.split("//")[1].split(",")]
    return RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", port) for port in ports])


def test_a_sentinel_promotes_the_replica_which_stays_master_after_a_restart(
    redis_sentinel: ValkeySentinel,
) -> None:
    group = redis_sentinel
    assert group.url == f"redis+sentinel://127.0.0.1:{group.sentinel.port}/facet/0"
    assert group.master_port() == group.master.port
    ask(group.master.port, "SET", "order", "made")
    assert ask(group.master.port, "WAIT", "1", "5000") == 1
    group.master.kill()
    poll_until(lambda: group.master_port() == group.replica.port, "the promotion")
    poll_until(lambda: read_through_sentinel(group, "order") == b"made", "a client's way to the new master")
    group.replica.kill()
    group.replica.start()
    assert ask(group.replica.port, "ROLE")[0] == "master"


def read_through_sentinel(group: ValkeySentinel, key: str) -> object:
    """None also while the Sentinel does not yet vouch for the new master."""
    sentinel = Sentinel([("127.0.0.1", group.sentinel.port)])
    try:
        with sentinel.master_for("facet") as client:
            return client.get(key)
    except MasterNotFoundError:
        return None
    finally:
        for each in sentinel.sentinels:
            each.close()


# --- PostgreSQL


def test_a_committed_row_survives_a_kill_and_the_port_stays(postgres: PostgresServer) -> None:
    url = postgres.url
    execute(url, "CREATE TABLE killed (id int)")
    execute(url, "INSERT INTO killed VALUES (7)")
    postgres.kill()
    with pytest.raises(ConnectionRefusedError):
        query(url, "SELECT 1")
    postgres.start()
    assert postgres.url == url
    assert [row["id"] for row in query(url, "SELECT id FROM killed")] == [7]


def test_a_kill_and_a_stop_leave_no_process_behind(postgres: PostgresServer) -> None:
    for end in (postgres.kill, postgres.stop):
        postgres.start()
        pids = postgres.pids()
        assert len(pids) > 3
        end()
        assert states_of(pids) == []


def test_paused_every_process_of_it_stands_still(postgres: PostgresServer) -> None:
    postgres.pause()
    try:
        assert set(states_of(postgres.pids())) == {"T"}
        with pytest.raises(TimeoutError):
            query(postgres.url, "SELECT 1", deadline_s=0.2)
    finally:
        postgres.resume()
    assert query(postgres.url, "SELECT 1")


def test_a_paused_postgres_ends_in_order_when_stopped(postgres: PostgresServer) -> None:
    postgres.pause()
    postgres.stop()
    assert postgres.exit_code == 0


def test_restarted_empty_it_has_a_new_database_of_the_same_name(postgres: PostgresServer) -> None:
    execute(postgres.url, "CREATE TABLE wiped (id int)")
    postgres.restart_empty()
    assert query(postgres.url, "SELECT 1 FROM pg_tables WHERE tablename = 'wiped'") == []


def test_databases_come_and_go_though_somebody_is_connected(postgres: PostgresServer) -> None:
    url = postgres.create_database("other")
    execute(url, "CREATE TABLE here (id int)")
    with pytest.raises(ServerUnavailable, match="already exists"):
        postgres.create_database("other")
    postgres.drop_database("other")
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        query(url, "SELECT 1")


def test_it_is_durable_and_speaks_utf_8(postgres: PostgresServer) -> None:
    for name, value in {"fsync": "on", "synchronous_commit": "on", "server_encoding": "UTF8"}.items():
        assert query(postgres.url, f"SHOW {name}")[0][0] == value


async def test_a_fresh_database_is_empty_also_inside_a_running_loop(fresh_database: str) -> None:
    connection = await asyncpg.connect(fresh_database)
    try:
        assert await connection.fetch("SELECT 1 FROM pg_tables WHERE schemaname = 'public'") == []
        await connection.execute("CREATE TABLE orders (id int)")
    finally:
        await connection.close()


def test_a_postgres_that_ends_at_its_start_says_why(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path, settings={"max_connections": "none"})
    with pytest.raises(ServerUnavailable, match=r"FATAL: .*max_connections"):
        server.start()


# --- What every private server owes


SERVE_AND_SAY = """
import sys
from pathlib import Path
from server.demo.private_servers.servers import PostgresServer, ValkeyServer

servers = [ValkeyServer(Path(sys.argv[1], "valkey")), PostgresServer(Path(sys.argv[1], "postgres"))]
for server in servers:
    server.start()
print(servers[1].directory)
print(*(pid for server in servers for pid in server.pids()), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
@pytest.mark.parametrize("ended_by", [None, signal.SIGTERM, signal.SIGKILL], ids=["exit", "term", "kill"])
def test_servers_end_with_the_process_that_started_them(
    tmp_path: Path, ended_by: signal.Signals | None, paused: bool
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE_AND_SAY, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as starter:
        assert starter.stdout is not None
        folder = starter.stdout.readline().strip()
        pids = [int(word) for word in starter.stdout.readline().split()]
        assert len(pids) > 4
        if paused:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):  # some workers of PostgreSQL are short-lived
                    os.kill(pid, signal.SIGSTOP)
        if ended_by is not None:
            starter.send_signal(ended_by)
    poll_until(lambda: not states_of(pids), "their end")
    shutil.rmtree(folder, ignore_errors=True)


def test_servers_are_found_on_this_machine() -> None:
    valkey, postgres = find_valkey(), find_postgres()
    assert valkey is not None
    assert valkey.is_file()
    assert postgres is not None
    assert (postgres / "initdb").is_file()


def test_a_folder_that_a_user_may_not_enter_gets_a_stand_in(tmp_path: Path) -> None:
    stranger = os.geteuid() + 1
    tmp_path.chmod(0o700)
    directory = tmp_path / "data"
    assert not may_enter(directory.parent, stranger)
    assert enterable(directory, None, keep=False) == directory
    first = enterable(directory, stranger, keep=False)
    assert may_enter(first.parent, stranger)
    assert first != enterable(directory, stranger, keep=False)
    kept = enterable(directory, stranger, keep=True)
    assert kept == enterable(directory, stranger, keep=True)
    assert (directory / MOVED).read_text() == str(kept)
    kept.rmdir()
    assert enterable(directory, stranger, keep=False) not in (first, kept)
