"""Fields of bodies as they are kept."""

from datetime import UTC, datetime

import msgspec

from storage.errors import Invalid

EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An empty body."""


def canonical(name: str, value: object) -> object:
    """A field as it is kept: hashes and ids in lower case, moments in UTC. Raises Invalid."""
    if name in ("model", "quote") and isinstance(value, str):
        return value.lower()
    return in_range(name, value)


def in_range(name: str, value: object) -> object:
    """A moment as UTC. Raises Invalid for one that no order can have."""
    if not isinstance(value, datetime):
        return value
    try:
        moment = value.astimezone(UTC)
    except OverflowError:
        moment = datetime.min.replace(tzinfo=UTC)
    if not EARLIEST <= moment < LATEST:
        raise Invalid((f"/{name}", f"must lie from {EARLIEST.year} to {LATEST.year - 1}"))
    return moment
