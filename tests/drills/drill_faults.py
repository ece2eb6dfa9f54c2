"""What is done to the three servers, Redis and PostgreSQL. Each fault lasts a few seconds, is lifted, and
says when."""

import asyncio
import contextlib
import resource
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import asyncpg
import msgspec
import redis

from server.demo.private_servers.servers import CommandFailed, ask
from storage.redis.scripts import APPEND
from tests.drills.day_history import APPROVED
from tests.drills.drill_clients import Floor, People, Violation
from tests.drills.drill_world import SERVERS, World
from tests.support.meshes import binary_stl, torus

FOUND_S = 10.0


class Scene:
    """All that a fault may touch."""

    def __init__(self, world: World, people: People, floor: Floor) -> None:
        self.world = world
        self.people = people
        self.floor = floor
        self.random = floor.random
        self.lifted_s = 0.0
        self.note = ""

    def lift(self) -> None:
        """From now on the service has to recover."""
        self.lifted_s = time.monotonic()

    def some(self) -> int:
        """One of the servers."""
        return self.random.randrange(SERVERS)

    async def hold(self, least_s: float, most_s: float) -> None:
        await asyncio.sleep(self.random.uniform(least_s, most_s))

    async def ask(self, *words: str) -> None:
        """Of Redis."""
        await asyncio.to_thread(ask, self.world.redis.port, *words)

    @contextlib.asynccontextmanager
    async def database(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        connection = await asyncpg.connect(self.world.postgres.url)
        try:
            yield connection
        finally:
            connection.terminate()

    async def execute(self, *statements: str) -> None:
        async with self.database() as connection:
            for statement in statements:
                await connection.execute(statement)


Break = Callable[[Scene], Awaitable[None]]


class Fault(NamedTuple):
    name: str
    inflict: Break
    may_lose: bool = False
    """Whether contract 1's exception may apply: Redis and a server that held a change are lost at once."""


async def redis_killed(scene: Scene) -> None:
    await asyncio.to_thread(scene.world.redis.kill)
    await scene.hold(1, 3)
    scene.lift()
    await asyncio.to_thread(scene.world.redis.start)


async def redis_stalled(scene: Scene) -> None:
    await asyncio.to_thread(scene.world.redis.pause)
    await scene.hold(3, 3)
    scene.lift()
    scene.world.redis.resume()


async def redis_slow(scene: Scene) -> None:
    """Some of it within the deadline, some beyond."""
    delays = [scene.random.choice((0.05, 0.15, 0.5)) for _ in range(SERVERS)]
    scene.note = f"by {delays} s each way"
    for proxy, delay_s in zip(scene.world.proxies.each, delays, strict=True):
        proxy.delay_s = delay_s
    await scene.hold(3, 5)
    for proxy in scene.world.proxies.each:
        proxy.delay_s = 0.0
    scene.lift()


async def redis_hiccups(scene: Scene) -> None:
    for _ in range(8):
        await scene.ask("CLIENT", "PAUSE", "300", "ALL")
        await scene.hold(0.35, 0.7)
    scene.lift()


async def redis_full(scene: Scene) -> None:
    await scene.ask("CONFIG", "SET", "maxmemory", "1")
    await scene.hold(2, 4)
    await scene.ask("CONFIG", "SET", "maxmemory", "0")
    scene.lift()


async def redis_flushed(scene: Scene) -> None:
    await scene.ask("FLUSHALL")
    scene.lift()


async def redis_restarted_empty(scene: Scene) -> None:
    await asyncio.to_thread(scene.world.redis.kill)
    await scene.hold(0, 2)
    scene.lift()
    await asyncio.to_thread(scene.world.redis.restart_empty)


async def redis_flushed_over_a_backlog(scene: Scene) -> None:
    """What Redis loses only the processes have."""
    async with _backlog(scene):
        await scene.ask("FLUSHALL")
    scene.lift()


async def redis_restarted_empty_over_a_backlog(scene: Scene) -> None:
    async with _backlog(scene):
        await asyncio.to_thread(scene.world.redis.restart_empty)
    scene.lift()


async def redis_without_its_tail(scene: Scene) -> None:
    """As a replica takes over that lags behind: a copy from some seconds before comes back."""
    redis = scene.world.redis
    copy = scene.world.directory / "older-copy"
    await asyncio.to_thread(shutil.copytree, redis.directory, copy, ignore=shutil.ignore_patterns("*.sock"))
    await scene.hold(2, 4)
    await asyncio.to_thread(redis.kill)
    shutil.rmtree(redis.directory)
    shutil.move(copy, redis.directory)
    await scene.hold(0, 1)
    scene.lift()
    await asyncio.to_thread(redis.start)


async def redis_evicts(scene: Scene) -> None:
    """What the database has may go from Redis, too."""
    redis = scene.world.redis
    for _ in range(30):
        epoch = await asyncio.to_thread(ask, redis.port, "HGET", "{facet}:meta", "epoch")
        names = await asyncio.to_thread(ask, redis.port, "KEYS", f"{{facet}}:{epoch}:order:*")
        for name in names:
            if int(await asyncio.to_thread(ask, redis.port, "TTL", name)) > 0 and scene.random.random() < 0.3:
                await scene.ask("DEL", name)
    scene.lift()


async def postgres_stopped(scene: Scene) -> None:
    await asyncio.to_thread(scene.world.postgres.stop)
    await scene.hold(2, 5)
    scene.lift()
    await asyncio.to_thread(scene.world.postgres.start)


async def postgres_killed(scene: Scene) -> None:
    await asyncio.to_thread(scene.world.postgres.kill)
    await scene.hold(0, 2)
    scene.lift()
    await asyncio.to_thread(scene.world.postgres.start)


async def postgres_killed_under_commits(scene: Scene) -> None:
    """Again and again at random moments: some of them between a COMMIT and its answer."""
    for _ in range(3):
        await asyncio.to_thread(scene.world.postgres.kill)
        scene.lift()
        await asyncio.to_thread(scene.world.postgres.start)
        await scene.hold(0.5, 2)


async def postgres_locked(scene: Scene) -> None:
    table = scene.random.choice(("orders", "order_history", "log_positions"))
    scene.note = table
    async with scene.database() as connection:
        await connection.execute("BEGIN")
        await connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
        await scene.hold(3, 4)
    scene.lift()


async def postgres_stalled(scene: Scene) -> None:
    await asyncio.to_thread(scene.world.postgres.pause)
    await scene.hold(3, 6)
    scene.lift()
    scene.world.postgres.resume()


async def postgres_slow(scene: Scene) -> None:
    async with _trigger(scene, "PERFORM pg_sleep(0.3)", each="STATEMENT"):
        await scene.hold(3, 5)
    scene.lift()


async def postgres_disk_full(scene: Scene) -> None:
    """What the server says then; the file system itself is not filled."""
    full = "RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'"
    async with _trigger(scene, full, each="STATEMENT"):
        await scene.hold(2, 4)
    scene.lift()


async def both_killed(scene: Scene) -> None:
    world = scene.world
    await asyncio.gather(asyncio.to_thread(world.redis.kill), asyncio.to_thread(world.postgres.kill))
    await scene.hold(1, 3)
    scene.lift()
    await asyncio.gather(asyncio.to_thread(world.redis.start), asyncio.to_thread(world.postgres.start))


async def server_killed(scene: Scene) -> None:
    index = scene.some()
    await asyncio.to_thread(scene.world.services[index].kill)
    await scene.hold(0, 3)
    scene.note = f"started in {await scene.world.start(index):.1f} s"
    scene.lift()


async def server_stopped_for_10_s(scene: Scene) -> None:
    index = scene.some()
    scene.world.pause(index)
    await scene.hold(10, 10)
    scene.lift()
    scene.world.resume(index)


async def flusher_stopped_in_a_transaction(scene: Scene) -> None:
    index = await _flusher(scene)
    if index is None:
        scene.note = "nobody was the flusher"
        scene.lift()
        return
    inside = await _stop_inside_a_transaction(scene, index)
    scene.note = "inside" if inside else "between two"
    await scene.hold(5, 6)
    scene.lift()
    scene.world.resume(index)


async def replies_of_writes_lost(scene: Scene) -> None:
    proxy = scene.world.proxies.each[scene.some()]
    before, proxy.lose_answer_to = proxy.lost, APPEND.sha.encode()
    await scene.hold(3, 5)
    proxy.lose_answer_to = None
    scene.lift()
    scene.note = f"{proxy.lost - before} replies"


async def replies_of_commits_lost(scene: Scene) -> None:
    """PostgreSQL has done it, and nobody hears of it."""
    await _lose_commits(scene)
    scene.lift()


async def replies_of_commits_lost_without_redis(scene: Scene) -> None:
    await asyncio.to_thread(scene.world.redis.kill)
    await _lose_commits(scene)
    scene.lift()
    await asyncio.to_thread(scene.world.redis.start)


async def _lose_commits(scene: Scene) -> None:
    proxies, before = scene.world.to_postgres.each, sum(each.lost for each in scene.world.to_postgres.each)
    for _ in range(6):
        for proxy in proxies:
            proxy.lose_answer_to = b"COMMIT\0"
        await scene.hold(0.2, 0.4)
        for proxy in proxies:
            proxy.lose_answer_to = None
        await scene.hold(0.1, 0.3)
    scene.note = f"{sum(each.lost for each in proxies) - before} replies"


async def connections_harmed(scene: Scene) -> None:
    """One after the other, of each server to Redis and PostgreSQL."""
    for _ in range(40):
        proxies = scene.random.choice((scene.world.proxies, scene.world.to_postgres))
        proxies.harm(scene.some(), scene.random)
        await scene.hold(0.02, 0.15)
    scene.lift()


async def idle_connections_ended(scene: Scene) -> None:
    """Redis ends all of its connections, again and again."""
    for _ in range(5):
        await scene.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await scene.hold(0.3, 0.8)
    scene.lift()


async def redis_without_replicas(scene: Scene) -> None:
    await scene.ask("CONFIG", "SET", "min-replicas-to-write", "1")
    await scene.hold(2, 4)
    await scene.ask("CONFIG", "SET", "min-replicas-to-write", "0")
    scene.lift()


async def postgres_only_reads(scene: Scene) -> None:
    await scene.execute("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    await scene.hold(3, 5)
    await scene.execute(
        "SET default_transaction_read_only = off",
        "ALTER SYSTEM RESET default_transaction_read_only",
        "SELECT pg_reload_conf()",
    )
    scene.lift()


async def files_cannot_be_written(scene: Scene) -> None:
    """The kernel lets no file of one server grow, as on a full disk."""
    index = scene.some()
    pid, admin = scene.world.services[index].pid, scene.people.admins[index]
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    codes = set()
    for count in range(5):
        body = binary_stl(torus(9.0 + count / 100 + scene.random.random() / 200))
        reply = await admin.send("POST", "/v1/models", data=body)
        codes.add(reply.status if reply.status != 503 else reply.json["code"])
        await scene.hold(0.2, 0.5)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    scene.lift()
    scene.note = f"uploads {sorted(map(str, codes))}"
    if codes != {"disk_full"}:
        scene.floor.violated(Violation(f"uploads to a full disk were answered {codes}"))


async def entry_of_a_later_release(scene: Scene) -> None:
    """A process of the next release writes what these do not know, and later brings it to the database."""
    for _ in range(2):
        n = await asyncio.to_thread(_append_unknown, scene.world.redis.port)
        await scene.hold(0.5, 1.5)
        if not await _brought_on(scene, n):
            scene.floor.violated(Violation(f"the entry of a later release at {n} was not waited for"))
    scene.lift()


async def _brought_on(scene: Scene, n: int) -> bool:
    """The later release brings its entry to the database, once that is there. False when it never comes to
    be there, or is beyond already."""
    end_s = time.monotonic() + FOUND_S
    while time.monotonic() < end_s:
        async with scene.database() as connection:
            moved = await connection.fetchval(
                "UPDATE log_positions SET position = $1 WHERE name = 'write_behind'"
                " AND position = $1 - 1 RETURNING position",
                n,
            )
        if moved is not None:
            return True
        await scene.hold(0.02, 0.05)
    return False


def _append_unknown(port: int) -> int:
    """Its position. In one step, as the script of any release does."""
    payload = b"\x01" + msgspec.msgpack.encode({"t": "courier_called", "id": "0" * 36, "parcel": 5})
    with redis.Redis(port=port) as client:
        epoch = client.hget("{facet}:meta", "epoch")
        assert isinstance(epoch, bytes)
        n = client.eval(
            "local n = redis.call('HINCRBY', KEYS[1], 'head', 1);"
            " redis.call('XADD', KEYS[2], ARGV[1] .. '-' .. n, 'p', ARGV[2], 'o', '', 'c', '\31', 'f', '')"
            " return n",
            2,
            "{facet}:meta",
            f"{{facet}}:{epoch.decode()}:log",
            epoch,
            payload,
        )
        assert isinstance(n, int)
        return n


async def server_cut_off_from_redis(scene: Scene) -> None:
    index = scene.some()
    scene.world.proxies.cut(index)
    await scene.hold(2, 5)
    scene.world.proxies.each[index].cut = False
    scene.lift()


async def poison_entry(scene: Scene) -> None:
    """The database refuses a change of one order, until the cause is repaired and the change replayed."""
    order_id = await _approved_order(scene)
    async with _trigger(
        scene,
        f"IF NEW.order_id = '{order_id}' THEN RAISE EXCEPTION 'poisoned' USING ERRCODE = '23514'; END IF",
        each="ROW",
    ):
        await scene.hold(3, 4)
    scene.lift()
    scene.note = f"{await _replay(scene)} replayed"


async def fills_race_flushes_and_evictions(scene: Scene) -> None:
    """Slow reads of Redis, slow flushes, and everything is forgotten all the time."""
    slow = scene.world.proxies.each[scene.some()]
    slow.delay_s = 0.1
    async with _trigger(scene, "PERFORM pg_sleep(0.1)", each="STATEMENT"):
        for _ in range(60):
            admin = scene.random.choice(scene.people.admins)
            order_id = scene.random.choice(scene.floor.recent)
            await admin.delete(f"/v1/cache/orders/{order_id}")
            await asyncio.gather(*(other.get(f"/v1/orders/{order_id}") for other in scene.people.admins))
    slow.delay_s = 0.0
    scene.lift()


async def redis_and_a_server_lost(scene: Scene) -> None:
    index, world = scene.some(), scene.world
    await asyncio.gather(
        asyncio.to_thread(world.services[index].kill), asyncio.to_thread(world.redis.restart_empty)
    )
    scene.note = f"started in {await world.start(index):.1f} s"
    scene.lift()


FAULTS = (
    Fault("redis killed", redis_killed),
    Fault("server killed", server_killed),
    Fault("postgresql stopped", postgres_stopped),
    Fault("redis stalled", redis_stalled),
    Fault("redis slow", redis_slow),
    Fault("redis hiccups", redis_hiccups),
    Fault("redis full", redis_full),
    Fault("redis flushed", redis_flushed),
    Fault("redis restarted empty", redis_restarted_empty),
    Fault("redis flushed over a backlog", redis_flushed_over_a_backlog),
    Fault("redis empty over a backlog", redis_restarted_empty_over_a_backlog),
    Fault("redis without its tail", redis_without_its_tail),
    Fault("redis evicts", redis_evicts),
    Fault("postgresql killed", postgres_killed),
    Fault("postgresql killed under commits", postgres_killed_under_commits),
    Fault("postgresql locked", postgres_locked),
    Fault("postgresql stalled", postgres_stalled),
    Fault("postgresql slow", postgres_slow),
    Fault("postgresql disk full", postgres_disk_full),
    Fault("both killed", both_killed),
    Fault("server stopped for 10 s", server_stopped_for_10_s),
    Fault("flusher stopped in a transaction", flusher_stopped_in_a_transaction),
    Fault("replies of writes lost", replies_of_writes_lost),
    Fault("replies of commits lost", replies_of_commits_lost),
    Fault("replies of commits lost without redis", replies_of_commits_lost_without_redis),
    Fault("connections harmed", connections_harmed),
    Fault("idle connections ended", idle_connections_ended),
    Fault("redis without replicas", redis_without_replicas),
    Fault("postgresql only reads", postgres_only_reads),
    Fault("files cannot be written", files_cannot_be_written),
    Fault("entry of a later release", entry_of_a_later_release),
    Fault("server cut off from redis", server_cut_off_from_redis),
    Fault("poison entry", poison_entry),
    Fault("fills race flushes and evictions", fills_race_flushes_and_evictions),
    Fault("redis and a server lost", redis_and_a_server_lost, may_lose=True),
)


@contextlib.asynccontextmanager
async def _trigger(scene: Scene, body: str, *, each: str) -> AsyncIterator[None]:
    """Runs before rows are inserted into the history."""
    await scene.execute(
        f"CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NEW; END $$",
        f"CREATE TRIGGER fault BEFORE INSERT ON order_history FOR EACH {each} EXECUTE FUNCTION fault()",
    )
    try:
        yield
    finally:
        await scene.execute("DROP TRIGGER fault ON order_history", "DROP FUNCTION fault")


@contextlib.asynccontextmanager
async def _backlog(scene: Scene) -> AsyncIterator[None]:
    """The database takes nothing in, and for a while has not."""
    async with scene.database() as connection:
        await connection.execute("BEGIN")
        await connection.execute("LOCK TABLE order_history IN EXCLUSIVE MODE")
        await scene.hold(1, 2)
        yield


async def _flusher(scene: Scene) -> int | None:
    """Which server holds the lease: its process id is in the holder's name."""
    async with scene.database() as connection:
        holder = await connection.fetchval("SELECT holder FROM leases WHERE name = 'write_behind'")
    for index, service in enumerate(scene.world.services):
        if holder is not None and f"-{service.pid}-" in holder:
            return index
    return None


async def _stop_inside_a_transaction(scene: Scene, index: int) -> bool:
    """Stops the server, and looks what its writer was doing; again until it was at it."""
    end_s = time.monotonic() + FOUND_S
    async with scene.database() as connection:
        while True:
            scene.world.pause(index)
            await asyncio.sleep(0.02)  # what the server was asked before is answered
            inside = await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'facet'"
                " AND state = 'idle in transaction'"
            )
            if inside or time.monotonic() > end_s:
                return bool(inside)
            scene.world.resume(index)
            await scene.hold(0.01, 0.05)


async def _approved_order(scene: Scene) -> str:
    """The newest of those that operators reach for."""
    end_s = time.monotonic() + FOUND_S
    while time.monotonic() < end_s:
        reply = await scene.people.admins[0].get(f"/v1/orders?status={APPROVED}&limit=1")
        if reply.status == 200 and reply.json["items"]:
            return str(reply.json["items"][0]["id"])
        await asyncio.sleep(0.05)
    return scene.floor.recent[-1]


async def _replay(scene: Scene) -> int:
    """Every order that has dead letters, through any of the servers."""
    replayed = 0
    end_s = time.monotonic() + FOUND_S
    while time.monotonic() < end_s:
        admin = scene.random.choice(scene.people.admins)
        letters = await admin.get("/v1/cache/dead-letters")
        if letters.status == 200 and not letters.json["items"]:
            return replayed
        if letters.status == 200:
            letter = letters.json["items"][0]["id"]
            reply = await admin.post(f"/v1/cache/dead-letters/{letter}/replay")
            replayed += reply.status == 204
    raise CommandFailed("dead letters could not be replayed")
