"""Price lists and metal fixes: versions that never change once published. All are held; there are few."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Generic, TypeVar

from storage.clock import Clock
from storage.database.records import StoredVersion
from storage.errors import Claimed, Conflict, Upgrading
from storage.ids import new_id
from storage.log.change_log import ChangeLog
from storage.log.entries import IdempotencyRecord, MetalFixed, Position, PriceListPublished
from storage.log.tail import AppliedEntry

logger = logging.getLogger("facet.published")

Record = TypeVar("Record")
FOR_EVER = datetime.max.replace(tzinfo=UTC)
VersionEntry = PriceListPublished | MetalFixed


class Later:
    """A version that a later release has published: kept as it is, and not understood."""


class PriceVersions(Generic[Record]):
    """The versions of one thing, decoded once; they follow the log."""

    def __init__(
        self,
        kind: type[VersionEntry],
        decode: Callable[[bytes], Record],
        change_log: ChangeLog,
        clock: Clock,
    ) -> None:
        self._kind = kind
        self._decode = decode
        self._change_log = change_log
        self._clock = clock
        self._known: dict[str, tuple[StoredVersion, Record | Later]] = {}
        self._current: tuple[datetime, datetime, Record | Later | None] | None = None
        """What is current, from one moment to another."""
        self._publishing = asyncio.Lock()

    def load(self, stored: list[StoredVersion]) -> None:
        for version in stored:
            self._add(version)

    def apply(self, followed: AppliedEntry) -> None:
        """Follow the log by one entry."""
        entry = followed.logged.entry
        if isinstance(entry, self._kind):
            self._add(_stored(entry))

    def get(self, version: str) -> tuple[StoredVersion, Record] | None:
        """None also for one that this release does not understand."""
        known = self._known.get(version)
        return None if known is None or isinstance(known[1], Later) else (known[0], known[1])

    def all(self) -> list[StoredVersion]:
        """In the order of publication."""
        return [stored for stored, _ in self._known.values()]

    def current(self, now: datetime) -> Record | None:
        """The valid version that begins last; of several that begin together, the one published last. Raises
        Upgrading when a later release has published that, and this one does not understand it."""
        known = self._current
        if known is None or not known[0] <= now < known[1]:
            known = self._current = self._current_at(now)
        if isinstance(known[2], Later):
            raise Upgrading("What is valid now was published by a later release: it can price by it.")
        return known[2]

    def _current_at(self, now: datetime) -> tuple[datetime, datetime, Record | Later | None]:
        """With the moments between which it stays current."""
        stored_versions = [stored for stored, _ in self._known.values()]
        starts = [stored.starts_at for stored in stored_versions]
        moments = [*starts, *(stored.ends_at for stored in stored_versions if stored.ends_at is not None)]
        since = max((moment for moment in moments if moment <= now), default=now)
        until = min((moment for moment in moments if moment > now), default=FOR_EVER)
        return since, until, self._newest(now)

    def _newest(self, now: datetime) -> Record | Later | None:
        newest: tuple[StoredVersion, Record | Later] | None = None
        for stored, record in self._known.values():
            valid = stored.starts_at <= now and (stored.ends_at is None or now < stored.ends_at)
            if valid and (newest is None or stored.starts_at >= newest[0].starts_at):
                newest = stored, record
        return None if newest is None else newest[1]

    async def publish(self, stored: StoredVersion, remembered: IdempotencyRecord | None = None) -> Position:
        """Raises Conflict when the version exists."""
        async with self._publishing:
            if stored.version in self._known:
                raise Conflict(f"Version {stored.version} is published: a published version never changes.")
            try:
                return await self._change_log.append(self._entry(stored, remembered))
            except Claimed:  # on another process, meanwhile
                raise Conflict(
                    f"Version {stored.version} is published: a published version never changes."
                ) from None

    def _entry(self, stored: StoredVersion, remembered: IdempotencyRecord | None) -> VersionEntry:
        now = self._clock.now()
        if self._kind is MetalFixed:
            return MetalFixed(
                id=new_id(now),
                at=now,
                version=stored.version,
                fixed_at=stored.starts_at,
                body=stored.body,
                remembered=remembered,
            )
        return PriceListPublished(
            id=new_id(now),
            at=now,
            version=stored.version,
            valid_from=stored.starts_at,
            valid_to=stored.ends_at,
            body=stored.body,
            remembered=remembered,
        )

    def _add(self, stored: StoredVersion) -> None:
        if stored.version not in self._known:
            self._known[stored.version] = (stored, self._understood(stored))
            self._current = None

    def _understood(self, stored: StoredVersion) -> Record | Later:
        """It was checked when it was published: what does not fit now is of a later release."""
        try:
            return self._decode(stored.body)
        except ValueError as error:
            logger.error("version %s cannot be read by this release: %s", stored.version, error)
            return Later()


def _stored(entry: VersionEntry) -> StoredVersion:
    if isinstance(entry, MetalFixed):
        return StoredVersion(entry.version, entry.fixed_at, None, entry.body)
    return StoredVersion(entry.version, entry.valid_from, entry.valid_to, entry.body)
