"""Reader of ASCII STL: one pass of a compiled state machine over the bytes, which are not copied.

    solid [name to the end of the line]
      facet normal n n n outer loop vertex x y z vertex x y z vertex x y z endloop endfacet
    endsolid [name to the end of the line]

Words are read in any case and any blanks stand between them; only `solid` and `endsolid` must begin a line,
because names may hold every other word. Behind `endloop` and `endfacet` other words may end the line. The
three tokens of a normal are not looked at: exporters write `nan` and worse there, and facets are measured
from their corners. The work is linear in the bytes, whatever the number of solids, and stops at the first
thing that is wrong.

Numbers come out as the nearest double. Up to 19 digits are collected as an integer; small ones are scaled in
double arithmetic, which is exact there (Clinger, "How to Read Floating Point Numbers Accurately", PLDI 1990),
others by a 128-bit product (Lemire, "Number Parsing at a Gigabyte per Second", Software: Practice and
Experience 51, 2021). What neither can decide (ties, overflow, denormals) is left for Python's own `float`.

All compiled code of the reader is in this file: what is kept on disk is dated by the file of the function
called, not by those it calls.
"""

import math
import re

import numpy as np
from numpy.typing import NDArray

from pricing.errors import Refused
from pricing.jit import compiled

FACET_BYTES_MIN = 86
"""The shortest text of a facet: 65 characters of words and numbers, and a blank after each of 21 tokens."""

NUMBER_BYTES_MAX = 2048
"""A longer coordinate is refused; every double can be written out exactly within 1,100 characters."""

UNDECIDED_MAX = 4096
"""Numbers left for `float` before the compiled code pauses for them."""

EXPORT_AGAIN = "Export the model again as binary STL."

_SHOWN_BYTES = 40
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# --- Tables of the compiled code

_WORD_TEXTS = (
    b"facet",
    b"normal",
    b"outer",
    b"loop",
    b"vertex",
    b"endloop",
    b"endfacet",
    b"solid",
    b"endsolid",
)
_WORD_LENGTHS = np.array([len(word) for word in _WORD_TEXTS])
_WORDS = np.array([list(word.ljust(8)) for word in _WORD_TEXTS], np.uint8)
_END_LOOP, _END_FACET, _SOLID, _END_SOLID = 5, 6, 7, 8

# What the tokens of a facet are: the index of a word, or one of these two.
_COORDINATE, _ANYTHING = -1, -2
_COORDINATES = 9
_FACET_TOKENS = np.array(
    [0, 1, _ANYTHING, _ANYTHING, _ANYTHING, 2, 3] + [4, _COORDINATE, _COORDINATE, _COORDINATE] * 3 + [5, 6]
)

# 10^-342 times 19 digits is the least that can be a normal double, 10^308 the largest power below infinity.
_POWER_MIN, _POWER_MAX = -342, 308


def _leading_bits(power: int) -> int:
    """The first 128 bits of 10 to the `power`, cut off and not rounded."""
    five: int = 5 ** abs(power)
    bits = five.bit_length()
    if power < 0:
        return (1 << (127 + bits)) // five
    return five << (128 - bits) if bits <= 128 else five >> (bits - 128)


def _power_table() -> NDArray[np.uint64]:
    """Shape (powers, 2): the upper and the lower 64 bits."""
    leading = [_leading_bits(power) for power in range(_POWER_MIN, _POWER_MAX + 1)]
    return np.array([(bits >> 64, bits & (1 << 64) - 1) for bits in leading], np.uint64)


_POWERS = _power_table()
_EXACT_POWERS = np.array([10.0**power for power in range(23)])
_EXACT_POWER_MAX = 22
_EXACT_DIGITS_MAX = np.uint64(1 << 53)

# An integer below this takes one more digit within 64 bits.
_ROOM_FOR_DIGIT = np.uint64(10**18)
_EXPONENT_MAX = 100_000
"""Exponents are counted up to here only: far beyond all doubles, and far below where a sum would wrap."""

# --- How the compiled code ends; from _EXPECTED on, the index of the word that was expected is added.
_DONE, _OPENED, _PAUSED, _CUT_SHORT, _OUTSIDE, _UNPAIRED, _BAD_NUMBER, _EXPECTED = range(8)

_TAB, _LINE_FEED, _RETURN, _SPACE, _END_OF_TEXT = 9, 10, 13, 32, 26
_PLUS, _COMMA, _MINUS, _POINT, _ZERO, _NINE, _LETTER_E = 43, 44, 45, 46, 48, 57, 101
_LOWER_CASE = 32

_ONE = np.uint64(1)
_TEN = np.uint64(10)
_BITS_32 = np.uint64(32)
_LOW_32 = np.uint64(0xFFFFFFFF)
_TOP_BIT = np.uint64(63)
_TOP = np.uint64(1 << 63)
_BELOW_54 = np.uint64(0x1FF)
_FRACTION = np.uint64((1 << 52) - 1)

Text = NDArray[np.uint8]


# --- Tokens


@compiled
def _is_blank(byte: int) -> bool:
    return byte == _SPACE or _TAB <= byte <= _RETURN


@compiled
def _is_line_blank(byte: int) -> bool:
    """The blanks of STL proper: not the vertical tab and the form feed."""
    return byte in (_SPACE, _TAB, _LINE_FEED, _RETURN)


@compiled
def _is_filler(byte: int) -> bool:
    """NUL, which some exporters pad with, and control-Z, the end of text in DOS."""
    return byte == 0 or byte == _END_OF_TEXT


@compiled
def _after_blanks(text: Text, at: int) -> int:
    while at < len(text) and _is_blank(text[at]):
        at += 1
    return at


@compiled
def _after_token(text: Text, at: int) -> int:
    while at < len(text) and not _is_blank(text[at]):
        at += 1
    return at


@compiled
def _after_line(text: Text, at: int) -> int:
    """Where the line's end is: a name may hold any bytes but these."""
    while at < len(text) and text[at] != _LINE_FEED and text[at] != _RETURN:
        at += 1
    return at


@compiled
def _after_word(text: Text, at: int, word: int) -> int:
    """The position after the word, or -1 where another token stands."""
    end: int = at + _WORD_LENGTHS[word]
    if end > len(text):
        return -1
    # Fillers may follow the last word of a file at once.
    closed = end == len(text) or _is_blank(text[end]) or (word == _END_SOLID and _is_filler(text[end]))
    if not closed:
        return -1
    for i in range(_WORD_LENGTHS[word]):
        if text[at + i] | _LOWER_CASE != _WORDS[word, i]:
            return -1
    return end


@compiled
def _after_remark(text: Text, at: int) -> int:
    """Skip words that are none of the format, to the end of the line."""
    while True:
        while at < len(text) and (text[at] == _SPACE or text[at] == _TAB):
            at += 1
        if at == len(text) or _is_blank(text[at]) or _is_filler(text[at]):
            return at
        for word in range(len(_WORD_LENGTHS)):
            if _after_word(text, at, word) >= 0:
                return at
        at = _after_token(text, at)


@compiled
def _begins_line(text: Text, at: int, first: int) -> bool:
    """Whether only spaces and tabs stand before this position in its line; `first` is where the text begins.

    Looks back over no more than was skipped to come here.
    """
    while at > first and (text[at - 1] == _SPACE or text[at - 1] == _TAB):
        at -= 1
    return at == first or text[at - 1] == _LINE_FEED or text[at - 1] == _RETURN


@compiled
def _line_word(text: Text, at: int, first: int) -> int:
    """The word _SOLID or _END_SOLID where a line begins with it, otherwise -1."""
    for word in (_SOLID, _END_SOLID):
        if _after_word(text, at, word) >= 0 and _begins_line(text, at, first):
            return word
    return -1


# --- Numbers


@compiled
def _digits(text: Text, at: int, mantissa: np.uint64) -> tuple[int, np.uint64, int, bool]:
    """Append the digits at hand to `mantissa`: its end, the mantissa, how many digits had no room in it, and
    whether one of those was not zero."""
    dropped, lossy = 0, False
    while at < len(text) and _ZERO <= text[at] <= _NINE:
        digit = np.uint64(text[at] - _ZERO)
        if mantissa < _ROOM_FOR_DIGIT:
            mantissa = mantissa * _TEN + digit
        else:
            dropped += 1
            lossy = lossy or digit != 0
        at += 1
    return at, mantissa, dropped, lossy


@compiled
def _exponent(text: Text, at: int) -> tuple[int, int]:
    """The end and the value of what follows the letter e; the end is -1 when that has no digits."""
    negative = at < len(text) and text[at] == _MINUS
    if negative or (at < len(text) and text[at] == _PLUS):
        at += 1
    first = at
    value = 0
    while at < len(text) and _ZERO <= text[at] <= _NINE:
        value = min(value * 10 + text[at] - _ZERO, _EXPONENT_MAX)
        at += 1
    return (at if at > first else -1), (-value if negative else value)


@compiled
def _number(text: Text, at: int) -> tuple[int, np.uint64, int, bool]:
    """A decimal number as mantissa times a power of ten: its end, both, and whether more digits followed
    than the mantissa holds. The end is -1 where the token is no number."""
    start = at
    if text[at] == _MINUS or text[at] == _PLUS:
        at += 1
    first = at
    at, mantissa, exponent, lossy = _digits(text, at, np.uint64(0))
    seen = at - first
    if at < len(text) and text[at] == _POINT:
        first = at + 1
        at, mantissa, dropped, lossy_too = _digits(text, first, mantissa)
        seen += at - first
        exponent -= at - first - dropped
        lossy = lossy or lossy_too
    if seen and at < len(text) and text[at] | _LOWER_CASE == _LETTER_E:
        at, scale = _exponent(text, at + 1)
        exponent += scale
    ends = at == len(text) or (at > 0 and _is_blank(text[at]))
    if not seen or not ends or at - start > NUMBER_BYTES_MAX:
        at = -1
    return at, mantissa, exponent, lossy


@compiled
def _product(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The upper and the lower 64 bits of a product."""
    a_high, a_low = a >> _BITS_32, a & _LOW_32
    b_high, b_low = b >> _BITS_32, b & _LOW_32
    low = a_low * b_low
    middle = a_high * b_low + (low >> _BITS_32)
    other = a_low * b_high + (middle & _LOW_32)
    return a_high * b_high + (middle >> _BITS_32) + (other >> _BITS_32), a * b


@compiled
def _leading_zeros(value: np.uint64) -> int:
    zeros = 0
    step = 32
    while step:
        if value >> np.uint64(64 - step) == 0:
            value <<= np.uint64(step)
            zeros += step
        step >>= 1
    return zeros


@compiled
def _scaled_bits(mantissa: np.uint64, power: np.uint64, rest: np.uint64) -> tuple[bool, np.uint64, np.uint64]:
    """The first 128 bits of `mantissa` times a power of ten, cut off: whether the upper 55 are certain, and
    both halves.

    The power is known to 64 bits, and with `rest` to 128. Cut off, it is too small by less than one unit, so
    the product is too small by less than one `mantissa`: that matters only when adding it would carry
    through the lower half and all bits below the 55.
    """
    high, low = _product(mantissa, power)
    if high & _BELOW_54 != _BELOW_54 or low + mantissa >= mantissa:
        return True, high, low
    carried, lowest = _product(mantissa, rest)
    low += carried
    if low < carried:
        high += _ONE
    ambiguous = high & _BELOW_54 == _BELOW_54 and low + _ONE == 0 and lowest + mantissa < mantissa
    return not ambiguous, high, low


@compiled
def _nearest(mantissa: np.uint64, exponent: int) -> tuple[bool, float]:
    """The double nearest to `mantissa` > 0 times a power of ten, or False where that cannot be decided."""
    if exponent < _POWER_MIN or exponent > _POWER_MAX:
        return False, 0.0
    zeros = _leading_zeros(mantissa)
    mantissa <<= np.uint64(zeros)
    row = exponent - _POWER_MIN
    certain, high, low = _scaled_bits(mantissa, _POWERS[row, 0], _POWERS[row, 1])
    top = high >> _TOP_BIT
    # 54 bits: those of a double, and one to round by.
    kept = high >> (top + np.uint64(9))
    if low == 0 and high & _BELOW_54 == 0 and kept & np.uint64(3) == 1:
        return False, 0.0  # perhaps exactly between two doubles
    kept = (kept + (kept & _ONE)) >> _ONE
    # floor(exponent * log2(10)) is exact with this fraction over the whole table.
    binary = ((217706 * exponent) >> 16) + 1086 - zeros + np.int64(top)
    if kept >> np.uint64(53):
        kept >>= _ONE
        binary += 1
    if not certain or binary < 1 or binary > 2046:
        return False, 0.0
    bits = np.uint64((np.uint64(binary) << np.uint64(52)) | (kept & _FRACTION))
    return True, bits.view(np.float64)


@compiled
def _value(mantissa: np.uint64, exponent: int, lossy: bool) -> tuple[bool, float]:
    """The double nearest to a number as `_number` gives it, without its sign; False where undecided.

    A mantissa that lost digits has 19, more than are exact in a double.
    """
    if mantissa == 0:
        return True, 0.0
    if mantissa <= _EXACT_DIGITS_MAX and abs(exponent) <= _EXACT_POWER_MAX:
        if exponent < 0:
            return True, np.float64(mantissa) / _EXACT_POWERS[-exponent]
        return True, np.float64(mantissa) * _EXACT_POWERS[exponent]
    decided, value = _nearest(mantissa, exponent)
    if decided and lossy:
        # The number lies between the mantissa and the next one.
        decided, above = _nearest(mantissa + _ONE, exponent)
        decided = decided and above == value
    return decided, value


@compiled
def _read_coordinate(
    text: Text, at: int, corners: NDArray[np.float64], place: int, undecided: NDArray[np.int64], waiting: int
) -> tuple[int, int]:
    """Store a coordinate: the position after it, -1 when it is no number, and how many are undecided."""
    end, mantissa, exponent, lossy = _number(text, at)
    if end >= 0:
        decided, value = _value(mantissa, exponent, lossy)
        corners[place] = -value if text[at] == _MINUS else value
        if not decided:
            undecided[waiting, 0] = at
            undecided[waiting, 1] = place
            waiting += 1
    return end, waiting


# --- Facets and solids


@compiled
def _read_facet(
    text: Text, at: int, corners: NDArray[np.float64], facet: int, undecided: NDArray[np.int64], waiting: int
) -> tuple[int, int, int]:
    """Read one facet: _DONE or what is wrong, the position, and how many numbers are undecided."""
    place = _COORDINATES * facet
    for kind in _FACET_TOKENS:
        at = _after_blanks(text, at)
        if at == len(text):
            return _CUT_SHORT, at, waiting
        if kind == _COORDINATE:
            end, waiting = _read_coordinate(text, at, corners, place, undecided, waiting)
            place += 1
            if end < 0:
                return _BAD_NUMBER, at, waiting
        elif kind == _ANYTHING:
            end = _after_token(text, at)
            if _line_word(text, at, 0) >= 0:
                return _UNPAIRED, at, waiting
        else:
            end = _after_word(text, at, kind)
            if end < 0:
                return _EXPECTED + kind, at, waiting
            if kind in (_END_LOOP, _END_FACET):
                end = _after_remark(text, end)
        at = end
    return _DONE, at, waiting


@compiled
def _after_fillers(text: Text, at: int) -> int:
    """Skip what may stand outside of solids."""
    while at < len(text) and (_is_line_blank(text[at]) or _is_filler(text[at])):
        at += 1
    return at


@compiled
def _after_opening(text: Text, at: int, first: int) -> tuple[int, int]:
    """Outside of solids: _OPENED at the end of a `solid` line, _DONE at that of the text, or what is wrong
    and where."""
    at = _after_fillers(text, at)
    if at == len(text):
        return _DONE, at
    word = _line_word(text, at, first)
    if word == _SOLID:
        return _OPENED, _after_line(text, at)
    return (_UNPAIRED if word == _END_SOLID else _OUTSIDE), at


@compiled
def _parse(
    text: Text, at: int, inside: bool, corners: NDArray[np.float64], facets: int, undecided: NDArray[np.int64]
) -> tuple[int, int, int, int]:
    """Read on at `at`, `inside` of a solid or not, after so many `facets`.

    Returns how it ended, the position, the facets read, and how many numbers wait in `undecided`, rows of
    (position, place in `corners`). It pauses only inside a solid, between two facets.
    """
    first = 0 if inside else at
    waiting = 0
    while True:
        if not inside:
            outcome, at = _after_opening(text, at, first)
            if outcome != _OPENED:
                return outcome, at, facets, waiting
            inside = True
        at = _after_blanks(text, at)
        word = _line_word(text, at, first)
        if word == _END_SOLID:
            at = _after_line(text, at)
            inside = False
        elif word == _SOLID:
            return _UNPAIRED, at, facets, waiting
        elif waiting + _COORDINATES > len(undecided):
            return _PAUSED, at, facets, waiting
        else:
            outcome, at, waiting = _read_facet(text, at, corners, facets, undecided, waiting)
            if outcome != _DONE:
                return outcome, at, facets, waiting
            facets += 1


# --- From here on Python


def read_corners(body: memoryview) -> NDArray[np.float64]:
    """The corners of all solids of an ASCII STL, shape (n, 3 vertices, 3 axes).

    Refused `malformed_stl`, `comma_decimal` or `not_finite`, naming the facet and the byte. Memory beyond
    the body: 72 bytes for each facet read. Room for one facet in FACET_BYTES_MIN is reserved first, 0.84
    times the size of the body, but the system gives memory only to what is written.
    """
    # Read-only, whatever the caller has: of other arrays the code would be compiled again.
    text = np.frombuffer(body.toreadonly(), np.uint8)
    corners = np.empty(_COORDINATES * (len(text) // FACET_BYTES_MIN + 1))
    undecided = np.empty((UNDECIDED_MAX, 2), np.int64)
    at = len(_BYTE_ORDER_MARK) if bytes(body[:3]) == _BYTE_ORDER_MARK else 0
    outcome, facets, inside = _PAUSED, 0, False
    while outcome == _PAUSED:
        outcome, at, facets, waiting = _parse(text, at, inside, corners, facets, undecided)
        _decide(body, corners, undecided[:waiting])
        inside = True
    if outcome != _DONE:
        raise _refusal(body, outcome, at, facets)
    corners.resize(_COORDINATES * facets, refcheck=False)
    return corners.reshape(facets, 3, 3)


def _decide(body: memoryview, corners: NDArray[np.float64], undecided: NDArray[np.int64]) -> None:
    """Fill in the numbers the compiled code left; Refused `not_finite` for one beyond the doubles."""
    for at, place in undecided.tolist():
        token = _token(body, at)
        corners[place] = float(token)
        if not math.isfinite(corners[place]):
            raise _not_finite(_coordinate(token, at, place // _COORDINATES))


def _token(body: memoryview, at: int) -> bytes:
    """The token at this position, no more of it than tells that it is too long; empty at the end."""
    return next(iter(bytes(body[at : at + NUMBER_BYTES_MAX + 1]).split(maxsplit=1)), b"")


def _shown(token: bytes) -> str:
    return repr(token[:_SHOWN_BYTES].decode("latin-1"))


def _coordinate(token: bytes, at: int, facet: int) -> str:
    return f"Facet {facet + 1}: the coordinate {_shown(token)} at byte {at}"


def _malformed(detail: str) -> Refused:
    return Refused("malformed_stl", detail, EXPORT_AGAIN)


def _not_finite(where: str) -> Refused:
    return Refused("not_finite", f"{where} is not a finite number.", "Repair the model and export it again.")


def _refusal(body: memoryview, outcome: int, at: int, facet: int) -> Refused:
    """What `_parse` found wrong at this position, in this facet (counted from 0)."""
    token = _token(body, at)
    if outcome == _OUTSIDE:
        return _malformed(f"There is text outside of any solid at byte {at}: {_shown(token)}.")
    if outcome == _UNPAIRED:
        return _malformed(f"{_shown(token.lower())} at byte {at} does not follow its counterpart.")
    if at + len(token) == len(body):
        # Whatever the last token is, the rest of it may be missing.
        return _malformed(f"The last solid has no 'endsolid': the file is cut short after {facet} facets.")
    if outcome == _BAD_NUMBER:
        return _bad_number(token.lower(), _coordinate(token, at, facet))
    word = _WORD_TEXTS[outcome - _EXPECTED].decode()
    return _malformed(f"Facet {facet + 1}: expected '{word}' at byte {at}, found {_shown(token)}.")


def _bad_number(token: bytes, where: str) -> Refused:
    if len(token) > NUMBER_BYTES_MAX:
        return _malformed(f"{where} has more than {NUMBER_BYTES_MAX} characters.")
    if re.fullmatch(rb"[+-]?\d*,\d+(e[+-]?\d+)?", token):
        return Refused(
            "comma_decimal",
            f"{where} has a decimal comma.",
            "Export the model again with a decimal point, or as binary STL.",
        )
    if re.fullmatch(rb"[+-]?(nan|inf|infinity|1\.#[a-z]+\d*)(\(.*\))?", token):
        return _not_finite(where)
    return _malformed(f"{where} is not a number.")
