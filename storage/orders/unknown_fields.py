"""What a later release has written: read as far as this one understands it, and carried on as it is.

Two releases run side by side while one is replaced by the next. What the next adds (kinds of entries, fields)
it writes only when every process present reads it: each says in `processes` which level of the log it reads,
and the highest that all can read is in force. So this module is for what is met all the same, by a process
that was silent for long, or was started again from an old checkout.
"""

from datetime import UTC, datetime
from typing import Any, TypeVar, get_args

import msgspec

Record = TypeVar("Record")
EPOCH = datetime.fromtimestamp(0, UTC)


def known_part(data: Any, kind: Any) -> Any:
    """`data` (of plain dicts and lists) without the fields that records of this type do not know."""
    struct = _struct_of(data, kind)
    if struct is None or not isinstance(data, dict):
        return data
    tag = struct.__struct_config__.tag_field
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    return {
        name: known_part(value, fields.get(name))
        for name, value in data.items()
        if name in fields or name == tag
    }


def _struct_of(data: Any, kind: Any) -> type[msgspec.Struct] | None:
    """The record that stands here: of a union the one with the tag, or the only one."""
    for struct in (kind, *get_args(kind)):
        if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
            continue
        config = struct.__struct_config__
        if config.tag_field is None or (isinstance(data, dict) and data.get(config.tag_field) == config.tag):
            return struct
    return None


def from_json(body: bytes | str, kind: type[Record]) -> Record:
    """A record from JSON, as far as this release knows it. Raises msgspec.ValidationError."""
    return msgspec.convert(known_part(msgspec.json.decode(body), kind), kind, str_keys=True)
