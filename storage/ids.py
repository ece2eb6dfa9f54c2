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
    micros_total = int(now.timestamp() * 1_000_000)
    millis, micros = divmod(micros_total, 1000)
    fraction = micros * 4096 // 1000
    value = (millis & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62
    value |= _random_word() & 0x3FFF_FFFF_FFFF_FFFF
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


_words: list[int] = []
os.register_at_fork(after_in_child=_words.clear)  # parent and child must not use the same ones


def _random_word() -> int:
    try:
        return _words.pop()
    except IndexError:
        words = array("Q", os.urandom(8 * RANDOM_WORDS)).tolist()
        word = words.pop()
        _words.extend(words)
        return word


def is_id(text: str) -> bool:
    """Whether the text is an id in canonical form: anything else names nothing here."""
    return _CANONICAL.match(text) is not None
