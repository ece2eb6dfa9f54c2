"""Stones to be set in a piece, as callers write them: `zirconia-small:12,own-large:1`."""

import re

import msgspec

from pricing.errors import Refused

STONE_KINDS_MAX = 50
"""Kinds of stones in one piece: a pavé ring has three or four."""

STONES_PER_KIND_MAX = 10_000
"""Stones of one kind in one piece."""

_ASKED = re.compile(r"([^:,\s]{1,40}):([0-9]{1,9})", re.ASCII)


class StoneCount(msgspec.Struct, frozen=True, order=True):
    """So many stones of a kind of the price list, in one piece."""

    code: str
    count: int


def parse_stones(text: str) -> tuple[StoneCount, ...]:
    """`CODE:COUNT,...` in the order of the codes, so that equal wishes are equal; empty text is no stones.

    Refused `malformed_stones`, `stones_out_of_range`. Whether a code exists is known by the price list.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    stones = tuple(sorted(_stone(part) for part in parts))
    codes = [stone.code for stone in stones]
    if len(set(codes)) < len(codes):
        raise _malformed("A kind of stone is named twice.")
    check_counts(stones)
    return stones


def check_counts(stones: tuple[StoneCount, ...]) -> None:
    """Refused `stones_out_of_range`."""
    if len(stones) > STONE_KINDS_MAX:
        raise _out_of_range(f"{len(stones)} kinds of stones are asked for.")
    for stone in stones:
        if not 1 <= stone.count <= STONES_PER_KIND_MAX:
            raise _out_of_range(f"{stone.count} stones {stone.code!r} are asked for.")


def _stone(part: str) -> StoneCount:
    if (found := _ASKED.fullmatch(part)) is None:
        raise _malformed(f"{part[:80]!r} is not a kind of stone and a number.")
    return StoneCount(found[1], int(found[2]))


def _malformed(detail: str) -> Refused:
    return Refused(
        "malformed_stones", detail, "Write CODE:COUNT, separated by commas: own-small:12,own-large:1."
    )


def _out_of_range(detail: str) -> Refused:
    return Refused(
        "stones_out_of_range",
        detail,
        f"Ask for at most {STONE_KINDS_MAX} kinds and 1 to {STONES_PER_KIND_MAX} stones of each.",
    )
