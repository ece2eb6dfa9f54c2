"""UUIDv7 (RFC 9562, section 5.7): ids that sort by the time they were made."""

import functools
import os
import re
from datetime import datetime

RANDOM_ENDS = 512
"""Asking the system for random bytes costs more than the rest of an id: it is asked for many at once."""

_CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")


def new_id(now: datetime) -> str:
    """48 bits of milliseconds, 12 bits of the millisecond's fraction, 62 random bits."""
    millis, micros = divmod(int(now.timestamp() * 1_000_000), 1000)
    return f"{_begin(millis)}{(micros << 12) // 1000:03x}-{_random_end()}"


@functools.lru_cache(maxsize=4)
def _begin(millis: int) -> str:
    """Up to the version: the same for all ids of a millisecond."""
    return f"{millis >> 16:08x}-{millis & 0xFFFF:04x}-7"


_ends: list[str] = []
os.register_at_fork(after_in_child=_ends.clear)  # parent and child must not use the same ones


def _random_end() -> str:
    """The variant and the random bits."""
    try:
        return _ends.pop()
    except IndexError:
        drawn = os.urandom(8 * RANDOM_ENDS).hex()
        _ends.extend(
            f"{_VARIANT[drawn[at]]}{drawn[at + 1 : at + 4]}-{drawn[at + 4 : at + 16]}"
            for at in range(0, len(drawn), 16)
        )
        return _ends.pop()


_VARIANT = {f"{drawn:x}": "89ab"[drawn & 3] for drawn in range(16)}
"""The two bits 10 before the two last ones drawn."""


def is_id(text: str) -> bool:
    """Whether the text is an id in canonical form: anything else names nothing here."""
    return _CANONICAL.match(text) is not None
