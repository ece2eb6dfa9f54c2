"""Strict JSON: what two parsers could read differently is an error, and every error of a body is named."""

import codecs
import itertools
import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta

from storage.errors import Invalid

Record = TypeVar("Record", bound=msgspec.Struct)

ERRORS_MAX = 100
"""Errors of one request that are named."""
DEPTH_MAX = 32
VALUES_MAX = 12_288
"""Values in one body; those who read it hold the event loop for as long as there are any. A list of 200 rows
with every field has 11,800, each a comma or a bracket."""
INTEGER_MAX: Final = 2**63 - 1


class MalformedJson(Exception):
    """Not JSON, or JSON that two readers would understand differently."""


def parse_json(raw: bytes) -> Any:
    """Any JSON value; a byte order mark before it is passed over. Raises MalformedJson: bad UTF-8, syntax,
    NaN, duplicate keys, numbers out of range, nesting deeper than DEPTH_MAX, surrogates without their
    pair, NUL characters; Invalid: more than VALUES_MAX values."""
    raw = raw.removeprefix(codecs.BOM_UTF8)
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > VALUES_MAX:
        raise Invalid(("", f"has more than {VALUES_MAX} values"))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedJson(f"The body is not UTF-8: byte {error.start}.") from None
    try:
        value = _decode(text)
    except RecursionError:
        raise MalformedJson(f"The body is nested deeper than {DEPTH_MAX} levels.") from None
    except json.JSONDecodeError as error:
        raise MalformedJson(f"The body is not JSON: {error.msg} at character {error.pos}.") from None
    _check(value, 0)
    return value


def convert(value: Any, record: type[Record]) -> Record:
    """The record. Raises Invalid with every error and its JSON pointer, up to one more than are named."""
    try:
        return msgspec.convert(value, record)
    except msgspec.ValidationError:
        errors = list(itertools.islice(_errors(value, record, ""), ERRORS_MAX + 1))
    raise Invalid(*errors)


def _errors(value: Any, kind: Any, pointer: str) -> Iterator[tuple[str, str]]:
    """msgspec stops at the first error; here records are walked so that all are found."""
    record = _record_in(kind)
    if record is not None and isinstance(value, dict):
        yield from _record_errors(value, record, pointer)
        return
    plain, bounds = (kind.__origin__, kind.__metadata__) if get_origin(kind) is Annotated else (kind, ())
    found = False
    # A list that is too long is refused as such: its elements are not looked at.
    if get_origin(plain) is list and isinstance(value, list) and _has_length(value, bounds):
        inner = get_args(plain)[0]
        for index, item in enumerate(value):
            for error in _errors(item, inner, f"{pointer}/{index}"):
                found = True
                yield error
    if not found:
        yield from _own_errors(value, kind, pointer)


def _has_length(value: list[Any], bounds: tuple[Any, ...]) -> bool:
    for bound in bounds:
        if isinstance(bound, Meta) and len(value) < (bound.min_length or 0):
            return False
        if isinstance(bound, Meta) and bound.max_length is not None and len(value) > bound.max_length:
            return False
    return True


def _own_errors(value: Any, kind: Any, pointer: str) -> Iterator[tuple[str, str]]:
    """What is wrong with a value as a whole: one error, or none."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        yield pointer, str(error).partition(" - at")[0]


def _record_errors(
    value: dict[str, Any], record: type[msgspec.Struct], pointer: str
) -> Iterator[tuple[str, str]]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(record)}
    found = False
    for error in _field_errors(value, fields, pointer):
        found = True
        yield error
    if not found:
        yield from _own_errors(value, record, pointer)


def _field_errors(value: dict[str, Any], fields: dict[str, Any], pointer: str) -> Iterator[tuple[str, str]]:
    for name in value:
        if name not in fields:
            yield f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}", "unknown field"
    for name, field in fields.items():
        if name in value:
            yield from _errors(value[name], field.type, f"{pointer}/{name}")
        elif field.required:
            yield f"{pointer}/{name}", "required"


def _record_in(kind: Any) -> type[msgspec.Struct] | None:
    candidates = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
            return candidate
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise MalformedJson(f"The key {twice[:100]!r} occurs twice in one object.")
    return value


def _no_constant(name: str) -> Any:
    raise MalformedJson(f"{name} is not JSON.")


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -INTEGER_MAX - 1 <= (value := int(digits)) <= INTEGER_MAX:
        raise MalformedJson(f"The integer {digits[:24]} does not fit 64 bits.")
    return value


def _float(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise MalformedJson(f"The number {digits[:24]} is too large.")
    return value


_decode = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_integer, parse_float=_float
).decode


def _check(value: Any, depth: int) -> None:
    if isinstance(value, str):
        _check_text(value)
    elif depth >= DEPTH_MAX and isinstance(value, (dict, list)):
        raise MalformedJson(f"The body is nested deeper than {DEPTH_MAX} levels.")
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_text(name)
            _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise MalformedJson("A text contains the character U+0000.")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise MalformedJson("A text contains half of a surrogate pair.") from None
