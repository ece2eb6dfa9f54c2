"""What slicers say of parts of a 3MF beside the format: which are metal, which only tell a program something.

PrusaSlicer and its ancestors name ranges of an object's facets, Bambu Studio and OrcaSlicer the components of
an object, Cura whole objects, in the object's own metadata.
"""

from typing import NamedTuple

from pricing.readers.common import unsupported
from pricing.readers.xml_stream import Attributes, ElementStream
from pricing.readers.zip_package import Package

_SETTINGS = ("metadata/slic3r_pe_model.config", "metadata/slic3r.config", "metadata/model_settings.config")

_METAL = frozenset({"modelpart", "normal_part"})
_LEFT_OUT = {
    "parametermodifier": "modifiers",
    "modifier_part": "modifiers",
    "supportenforcer": "supports",
    "supportblocker": "supports",
    "support_enforcer": "supports",
    "support_blocker": "supports",
}

CURA_ROLES = {
    "cura:infill_mesh": "modifiers",
    "cura:cutting_mesh": "modifiers",
    "cura:support_mesh": "supports",
    "cura:anti_overhang_mesh": "supports",
}
"""Metadata of an object that is true for one that is no metal."""


class FacetRange(NamedTuple):
    """Facets of an object, counted from 0, both ends included."""

    first: int
    last: int
    role: str


class Roles:
    """Of the objects of the root part, by their ids; those of no metal alone."""

    def __init__(self, package: Package) -> None:
        """Refused `unsupported_feature` for what takes metal out, or has a role that is not known here."""
        self.ranges: dict[str, list[FacetRange]] = {}
        self.components: dict[tuple[str, str], str] = {}
        self._object = ""
        self._range: tuple[int, int] | None = None
        for name in _SETTINGS:
            if package.has(name):
                package.read(name, ElementStream(self._start, lambda: None).read)

    def _start(self, name: str, attributes: Attributes) -> None:
        if name == "object":
            self._object, self._range = attributes.get("id", ""), None
        elif name == "volume":
            self._range = int(attributes["firstid"]), int(attributes["lastid"])
        elif name == "part" and (role := _role(attributes.get("subtype", "normal_part"))):
            self.components[self._object, attributes.get("id", "")] = role
        elif name == "metadata" and self._range is not None:
            value = attributes.get("value", "")
            if attributes.get("key") == "modifier" and value == "1":
                value = "parametermodifier"
            elif attributes.get("key") != "volume_type":
                return
            if role := _role(value):
                self.ranges.setdefault(self._object, []).append(FacetRange(*self._range, role))


def _role(said: str) -> str | None:
    """None for metal."""
    if said.lower() in _METAL:
        return None
    if (role := _LEFT_OUT.get(said.lower())) is None:
        raise unsupported(
            f"A part has the role {said[:40]!r}: apply it in the program that made it, and export the result."
        )
    return role
