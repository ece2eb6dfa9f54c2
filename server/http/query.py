"""Query parameters and fields of forms as records. What is not understood is an error; all are named."""

from collections.abc import Mapping
from datetime import datetime
from typing import TypeVar

import msgspec

from storage.errors import Invalid

Record = TypeVar("Record", bound=msgspec.Struct)


def convert_query(given: Mapping[str, str], record: type[Record]) -> Record:
    """Texts to a record; what is empty counts as absent, but for its name."""
    known = record.__struct_encode_fields__
    texts = {name: value for name, value in given.items() if value or name not in known}
    try:
        converted = msgspec.convert(texts, record, strict=False)
    except msgspec.ValidationError:
        raise Invalid(*_query_errors(given, record)) from None
    misread = [
        (f"/{name}", "not a value")
        for name, text in texts.items()
        if _misread(text, getattr(converted, name))
    ]
    if misread:
        raise Invalid(*misread)
    return converted


def _misread(text: str, value: object) -> bool:
    """msgspec reads "null" as no value where a number may be absent, 1e3 as a whole number, and any number as
    seconds since 1970."""
    if isinstance(value, datetime):
        return ":" not in text
    return value is None or (type(value) is int and not text.removeprefix("-").isdigit())


def _query_errors(given: Mapping[str, str], record: type[Record]) -> list[tuple[str, str]]:
    errors: list[tuple[str, str]] = []
    fields = {field.encode_name: field for field in msgspec.structs.fields(record)}
    errors += [(f"/{name}", "unknown parameter") for name in given if name not in fields]
    for name, field in fields.items():
        if given.get(name):
            try:
                msgspec.convert(given[name], field.type, strict=False)
            except msgspec.ValidationError as error:
                errors.append((f"/{name}", str(error)))
        elif field.required:
            errors.append((f"/{name}", "required"))
    return errors
