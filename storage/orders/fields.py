"""Types of the fields that callers give, with their bounds."""

from datetime import datetime
from typing import Annotated, NamedTuple

from msgspec import Meta

NAME_CHARS = 200
NOTE_CHARS = 2_000
COMMENT_CHARS = 2_000
REFERENCE_CHARS = 200
QUANTITY_MAX = 10_000

Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARS, pattern=r"\S")]
Reference = Annotated[str, Meta(min_length=1, max_length=REFERENCE_CHARS, pattern=r"\S")]
Note = Annotated[str, Meta(max_length=NOTE_CHARS)]
Comment = Annotated[str, Meta(min_length=1, max_length=COMMENT_CHARS, pattern=r"\S")]
Quantity = Annotated[int, Meta(ge=1, le=QUANTITY_MAX)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$", max_length=64)]
Code = Annotated[str, Meta(min_length=1, max_length=40)]
QuoteId = Annotated[str, Meta(min_length=1, max_length=64)]
Moment = Annotated[datetime, Meta(tz=True)]


class Since(NamedTuple):
    """Marks a field of an order that came with this level of the log: it is set only once every process that
    is present reads that level, and entries in which it is not set are written without it."""

    level: int


class Given(NamedTuple):
    """Marks a field of an order that callers give when they open it, as this type, and may edit until it is
    approved. `edited`: False when it stays as it was given; `cleared`: False when an edit cannot empty it.

    What is stored is not held against the bounds of the type: they may have been others.
    """

    type: object
    edited: bool = True
    cleared: bool = True
