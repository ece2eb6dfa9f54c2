"""The formats that are read, and the content types that name them."""

from pricing.errors import Refused

FORMATS = ("stl-binary", "stl-ascii", "obj", "ply", "off", "glb", "3mf")

_CONTENT_TYPES: dict[str, tuple[str, ...]] = {
    "stl": ("stl-binary", "stl-ascii"),
    "stl-binary": ("stl-binary",),
    "stl-ascii": ("stl-ascii",),
    "obj": ("obj",),
    "ply": ("ply",),
    "off": ("off",),
    "gltf-binary": ("glb",),
    "glb": ("glb",),
    "3mf": ("3mf",),
}
"""What stands behind `model/`, or behind `model/x-` and `model/x.` from before a name was registered."""


def check_content_type(content_type: str | None, found: str) -> None:
    """Refused `content_type_mismatch` when a `model/*` content type names another format than the content
    has."""
    stated = (content_type or "").split(";")[0].strip().lower()
    name = stated.removeprefix("model/").removeprefix("x-").removeprefix("x.")
    if stated.startswith("model/") and found not in _CONTENT_TYPES.get(name, ()):
        raise Refused(
            "content_type_mismatch",
            f"The content type says {stated}, the content is {found}.",
            "Correct the content type, or leave it out.",
        )
