"""Fields of bodies and queries that several resources have, with their bounds."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from storage.errors import Invalid
from storage.orders.order import COMMENT_CHARS, NAME_CHARS, NOTE_CHARS, QUANTITY_MAX, REFERENCE_CHARS

Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS, pattern=r"\S")]

Reference = Annotated[str, Meta(min_length=1, max_length=REFERENCE_CHARS, pattern=r"\S")]

Note = Annotated[str, Meta(max_length=NOTE_CHARS)]

Comment = Annotated[str, Meta(min_length=1, max_length=COMMENT_CHARS, pattern=r"\S")]

Quantity = Annotated[int, Meta(ge=1, le=QUANTITY_MAX)]

Sha256 = Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$", max_length=64)]

Code = Annotated[str, Meta(min_length=1, max_length=40)]

QuoteId = Annotated[str, Meta(min_length=1, max_length=64)]

Moment = Annotated[datetime, Meta(tz=True)]

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
