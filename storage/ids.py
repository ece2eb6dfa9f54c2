"""UUIDv7 (RFC 9562, section 5.7): ids that sort by the time they were made."""

import os
import re
from array import array
from datetime import datetime

RANDOM_WORDS = 512
"""Asking the system for random bytes costs more than the rest of an id: it is asked for many at once."""

_CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")


def new_id(now: datetime) -> str:
    """48 bits of milliseconds, 12 bits of the millisecond's fraction, 62 random bits."""
    millis, micros = divmod(int(now.timestamp() * 1_000_000), 1000)
    return f"{millis >> 16:08x}-{millis & 0xFFFF:04x}-7{(micros << 12) // 1000:03x}-{_random_end()}"


_ends: list[str] = []
os.register_at_fork(after_in_child=_ends.clear)  # parent and child must not use the same ones


def _random_end() -> str:
    """The variant and the random bits."""
    try:
        return _ends.pop()
    except IndexError:
        words = array("Q", os.urandom(8 * RANDOM_WORDS))
        ends = [f"{word >> 2 | 1 << 63:016x}" for word in words]
        _ends.extend(f"{end[:4]}-{end[4:]}" for end in ends)
        return _ends.pop()


def is_id(text: str) -> bool:
    """Whether the text is an id in canonical form: anything else names nothing here."""
    return _CANONICAL.match(text) is not None
