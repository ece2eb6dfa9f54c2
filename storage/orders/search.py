"""What a search looks through: one meaning, for memory here and, as texts and tokens, for the databases.

Case, accents and the forms in which Unicode writes the same character make no difference: texts are folded,
those that are looked through and that which is looked for.
"""

import unicodedata

from storage.orders.order import Order

WHOLE_TEXT_CHARS_MIN = 3
"""A shorter text is looked for in numbers and references only: elsewhere it would be found in most orders."""
TOKEN_CHARS = 3
NEEDLE_TOKENS_MAX = 12
"""Of a long text some tokens narrow the candidates enough."""

FOLDED_MARK = "\x1f"
"""Stands behind the folded text of an order, where it is not all that is stored. Behind it follows the text
that a release before looks through, which knew of case only."""
_LINE = "\n"
_LINES = 5
_SHORT = "\x1e"
"""Begins the tokens of numbers and references, by which short texts are found."""

_BLANKS = (_LINE, FOLDED_MARK)
FOLDED_CHARS_MAX = 20_000
_WORD_CHARS = {code: 0xE000 + code for code in range(128) if not chr(code).isalnum()}
"""Tokens are words to the indexes of both engines: what separates words there stands for something else."""
_LINE_WORD = _LINE.translate(_WORD_CHARS)
_BEFORE_TWO = _SHORT.translate(_WORD_CHARS)
_BEFORE_ONE = _BEFORE_TWO * 2


class _Folding(dict[int, str]):
    """Character by character: of what a character consists of, without case and accents."""

    def __missing__(self, code: int) -> str:
        text = chr(code)
        for _ in range(2):  # some characters have a case only once they are taken apart
            text = unicodedata.normalize("NFKD", text.casefold())
        folded = "".join(char for char in text if unicodedata.category(char) != "Mn")
        if len(self) < FOLDED_CHARS_MAX:
            self[code] = folded
        return folded


_FOLDING = _Folding({ord(char): " " for char in _BLANKS})


def fold(text: str) -> str:
    """In one line. Folding again changes nothing."""
    return text.lower() if _is_plain(text) else text.translate(_FOLDING)


def _is_plain(text: str) -> bool:
    return text.isascii() and not any(blank in text for blank in _BLANKS)


def searched_text(order: Order) -> str:
    """Number, customer, reference, note and operator, a line each."""
    return _folded(_parts(order.number, order.customer, order.reference, order.note, order.operator))


def finds(needle: str, order: Order) -> bool:
    """Whether a search for this text, which is folded, finds the order."""
    if len(needle) >= WHOLE_TEXT_CHARS_MIN:
        return needle in searched_text(order)
    return needle in str(order.number) or needle in fold(order.reference or "")


def stored_text(order: Order) -> str:
    """What is stored beside the order."""
    return stored_text_of(order.number, order.customer, order.reference, order.note, order.operator)


def stored_text_of(
    number: int, customer: str, reference: str | None, note: str | None, operator: str | None
) -> str:
    parts = _parts(number, customer, reference, note, operator)
    folded = _folded(parts)
    cased = _LINE.join(parts).casefold()
    if folded == cased:
        return folded if folded.isascii() else folded + FOLDED_MARK
    return folded + FOLDED_MARK + cased


def tokens_of(stored: str) -> str:
    """The tokens of a text as it is stored, separated by blanks: every three characters of a line that follow
    each other, and every one and two of the number and the reference."""
    words = stored.partition(FOLDED_MARK)[0].translate(_WORD_CHARS).split(_LINE_WORD)
    tokens = {word[at : at + TOKEN_CHARS] for word in words for at in range(len(word) - TOKEN_CHARS + 1)}
    for short in (words[0], *words[2:3]):
        tokens.update([_BEFORE_ONE + char for char in short])
        tokens.update([_BEFORE_TWO + short[at : at + 2] for at in range(len(short) - 1)])
    return " ".join(tokens)


def needle_tokens(needle: str) -> str:
    """Tokens that every order has in which this text, which is folded, is found; separated by blanks."""
    word = needle.translate(_WORD_CHARS)
    if len(word) < WHOLE_TEXT_CHARS_MIN:
        return (_BEFORE_ONE if len(word) == 1 else _BEFORE_TWO) + word
    starts = range(len(word) - TOKEN_CHARS + 1)
    step = -(-len(starts) // NEEDLE_TOKENS_MAX)
    return " ".join(dict.fromkeys(word[at : at + TOKEN_CHARS] for at in starts[::step]))


def _parts(number: int, *others: str | None) -> list[str]:
    return [str(number), *(part or "" for part in others)]


def _folded(parts: list[str]) -> str:
    whole = _LINE.join(parts)
    if whole.isascii() and whole.count(_LINE) == _LINES - 1 and FOLDED_MARK not in whole:
        return whole.lower()
    return _LINE.join(map(fold, parts))
