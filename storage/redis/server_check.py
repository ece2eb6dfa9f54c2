"""What the Redis server promises: its version, what it keeps, and whether it forgets on its own.

Managed services often forbid CONFIG; what only that tells is then unknown, and called so.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from storage.log.entries import Position
from storage.redis.connection import CommandRefused, RedisConnection
from storage.redis.keys import Keys

OLDEST = {"Redis": (7, 0), "Valkey": (7, 2)}
_SETTINGS = ("appendonly", "appendfsync", "save")
_FSYNC = {
    "always": "survives a kill of Redis and power loss (appendfsync always)",
    "everysec": "survives a kill of Redis; power loss may take the last two seconds (appendfsync everysec)",
    "no": "survives a kill of Redis; power loss may take the last half minute (appendfsync no)",
}
_APPENDED = "appended to a file (how often it is brought to the disk is unknown: CONFIG is forbidden)"
_UNKNOWN = "unknown (CONFIG is forbidden)"
_MEMORY = "in memory only: whatever ends Redis takes all of it (no appendonly, no save)"
_HELD = "live processes hold what is not in the database yet"


class RedisServer(NamedTuple):
    """`unfit`: why the log must not be kept here. `evicts`: what has an expiry may go before its time."""

    name: str
    durability: str
    policy: str
    evicts: bool
    unfit: str | None


class RedisMeta(NamedTuple):
    """What the log in Redis says of itself; epoch 0 when there is none."""

    installation: str
    head: Position
    flushed: Position


async def read_meta(link: RedisConnection, prefix: str) -> RedisMeta:
    """Raises LogUnavailable, CommandRefused."""
    installation, *numbers = await link.call(
        "HMGET", Keys(prefix, 0).meta, "installation", "epoch", "head", "flushed"
    )
    epoch, head, flushed = (int(number or 0) for number in numbers)
    return RedisMeta((installation or b"").decode(), Position(epoch, head), Position(epoch, flushed))


async def examine(link: RedisConnection) -> RedisServer:
    """Raises LogUnavailable, CommandRefused."""
    said = _fields((await link.call("INFO")).decode())
    return judged(said, await _settings(link))


def judged(said: Mapping[str, str], settings: Mapping[str, str]) -> RedisServer:
    """From the fields of INFO, and from the settings as far as they may be read."""
    kind = "Valkey" if said.get("server_name") == "valkey" else "Redis"
    version = said.get("valkey_version") or said.get("redis_version", "")
    policy, limited = said.get("maxmemory_policy", "noeviction"), said.get("maxmemory", "0") != "0"
    unfit = None
    if _numbers(version) < OLDEST[kind]:
        oldest = ".".join(map(str, OLDEST[kind]))
        unfit = f"This is {kind} {version}: {kind} {oldest} or newer is needed."
    elif limited and policy.startswith("allkeys-"):
        unfit = f"This {kind} evicts entries of the log (maxmemory-policy {policy}): set noeviction."
    return RedisServer(
        name=f"{kind} {version}",
        durability=f"{_durability(said, settings)}; {_HELD}",
        policy=policy,
        evicts=limited and policy.startswith("volatile-"),
        unfit=unfit,
    )


def _durability(said: Mapping[str, str], settings: Mapping[str, str]) -> str:
    kept = _kept(said, settings)
    replicas = said.get("connected_slaves", "0")
    return kept if replicas == "0" else f"{kept}; a failover may lose what its replica lacks"


def _kept(said: Mapping[str, str], settings: Mapping[str, str]) -> str:
    if settings.get("appendonly", said.get("aof_enabled")) in ("yes", "1"):
        return _FSYNC.get(settings.get("appendfsync", ""), _APPENDED)
    if not settings:
        return _UNKNOWN
    if settings.get("save"):
        return f"may lose everything since the last snapshot (save {settings['save']})"
    return _MEMORY


async def _settings(link: RedisConnection) -> dict[str, str]:
    """Empty where they may not be read."""
    try:
        reply = await link.call("CONFIG", "GET", *_SETTINGS)
    except CommandRefused:
        return {}
    words = [word.decode() for word in reply]
    return dict(zip(words[::2], words[1::2], strict=True))


def _fields(text: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", version)[:2])
