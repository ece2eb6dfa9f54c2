"""Copies that processes make for each other: what was expensive to read or to compute, under explicit keys.

A copy may be missing at any time, and is never more than a shortcut: who takes one must be able to tell from
the copy itself whether it is of use.
"""

from typing import Protocol


class SharedCache(Protocol):
    async def get(self, key: str) -> bytes | None:
        """None when it is missing or cannot be asked for. Never waits long, never fails."""

    def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Leave a copy for others, some time soon."""

    async def keep(self, key: str, value: bytes, ttl_s: float) -> None:
        """Leave a copy that others find on return, if there is a place for it. Never waits long, never
        fails."""

    async def drop(self, key: str) -> None:
        """Leave no copy. Never waits long, never fails."""


class NoSharedCache:
    """There are no other processes."""

    async def get(self, key: str) -> bytes | None:
        return None

    def put(self, key: str, value: bytes, ttl_s: float) -> None:
        pass

    async def keep(self, key: str, value: bytes, ttl_s: float) -> None:
        pass

    async def drop(self, key: str) -> None:
        pass
