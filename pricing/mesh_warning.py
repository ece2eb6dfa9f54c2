"""What a person should know about a mesh."""

import msgspec


class MeshWarning(msgspec.Struct, frozen=True):
    """A stable `code`, and what was seen."""

    code: str
    detail: str
