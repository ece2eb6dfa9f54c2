"""3MF (3MF Consortium, core specification 1.3): the triangles of the build, in the unit the model states.

The archive and its XML come from strangers: members, sizes and ratios are bounded before anything is
inflated, a DTD is refused, and only the one model part the package's root relationship names is handed to
trimesh, alone in a new archive. Everything that would change the volume and is not understood here
(production paths, beam lattices, support objects) is refused.
"""

import re
import struct
import zipfile
import zlib
from io import BytesIO
from typing import NamedTuple

from lxml import etree

from pricing.errors import Refused
from pricing.facets import FACETS_MAX, ArrayFacets
from pricing.loading import load_triangles, malformed, unsupported
from pricing.obj import coordinate

MEMBERS_MAX = 1_000
MEMBER_BYTES_MAX = 512 << 20
TOTAL_BYTES_MAX = 768 << 20
RATIO_MAX = 200
"""Inflated over compressed bytes; model XML reaches some 20."""

_RATIO_BYTES_MIN = 1 << 20
_DEPTH_MAX = 50

_CORE = "{http://schemas.microsoft.com/3dmanufacturing/core/2015/02}"
_MATERIALS = "http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
_TRIANGLE_SETS = "{http://schemas.microsoft.com/3dmanufacturing/trianglesets/2021/07}trianglesets"
_RELATIONSHIP = "{http://schemas.openxmlformats.org/package/2006/relationships}Relationship"
_MODEL_TYPE = "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"
_UNITS = {"micron": "um", "millimeter": "mm", "centimeter": "cm", "inch": "in", "foot": "ft", "meter": "m"}


# What zipfile raises for archives with wrong offsets, sizes, names or checksums.
_ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


class _Object(NamedTuple):
    """What an object adds: triangles of its own, and the ids of its components."""

    kind: str
    triangles: int
    components: list[str]


class _Model(NamedTuple):
    unit: str
    objects: dict[str, _Object]
    items: list[str]


def read_three_mf(body: memoryview) -> tuple[ArrayFacets, str]:
    """The triangles of all build items, and the unit of the model.

    Refused `malformed_3mf`, `archive_limit`, `dtd_forbidden`, `unsupported_feature`, `too_many_facets`,
    `no_facets`.
    """
    try:
        with zipfile.ZipFile(BytesIO(body)) as archive:
            text = _model_part(archive)
    except _ARCHIVE_ERRORS as error:
        raise malformed("3mf", f"The archive cannot be read ({error}).") from error
    try:
        model = _model(text)
    except etree.XMLSyntaxError as error:
        raise malformed("3mf", f"The model part is not XML ({error.msg}).") from error
    except (KeyError, ValueError) as error:
        raise malformed(
            "3mf", f"The model part is not understood ({type(error).__name__}: {error})."
        ) from error
    triangles = _expected_triangles(model)
    return load_triangles(_archive_of(text), "3mf", triangles), model.unit


def _model_part(archive: zipfile.ZipFile) -> bytes:
    """The model the root relationship names, inflated within the limits."""
    _check_archive(archive)
    names = {member.filename.lower(): member for member in archive.infolist()}
    if len(names) != len(archive.infolist()):
        raise malformed("3mf", "Two members have the same name.")
    if "_rels/.rels" not in names:
        raise malformed("3mf", "The package has no root relationships.")
    relations = _parsed(_inflated(archive, names["_rels/.rels"]))
    targets = [
        relation.get("Target", "")
        for relation in relations.iter(_RELATIONSHIP)
        if relation.get("Type") == _MODEL_TYPE and relation.get("TargetMode", "Internal") == "Internal"
    ]
    if len(targets) != 1:
        raise malformed("3mf", f"The root relationships name {len(targets)} model parts instead of one.")
    part = names.get(targets[0].lstrip("/").lower())
    if part is None:
        raise malformed("3mf", f"The model part {targets[0][:80]!r} does not exist.")
    return _inflated(archive, part)


def _limit(detail: str) -> Refused:
    return Refused("archive_limit", detail, "Export the model alone, as 3MF or binary STL.")


def _check_archive(archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    if len(members) > MEMBERS_MAX:
        raise _limit(f"The archive has {len(members)} members; at most {MEMBERS_MAX} are read.")
    total = sum(member.file_size for member in members)
    if total > TOTAL_BYTES_MAX:
        raise _limit(f"The archive holds {total} bytes; at most {TOTAL_BYTES_MAX} are read.")
    for member in members:
        if member.flag_bits & 1:
            raise unsupported("The archive is encrypted.")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise unsupported(f"The archive is compressed by method {member.compress_type}.")
        if member.file_size > MEMBER_BYTES_MAX:
            raise _limit(
                f"{member.filename[:80]!r} has {member.file_size} bytes; at most {MEMBER_BYTES_MAX} are read."
            )
        if member.file_size > max(_RATIO_BYTES_MIN, RATIO_MAX * member.compress_size):
            raise _limit(f"{member.filename[:80]!r} inflates more than {RATIO_MAX} times.")


def _inflated(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    # The stated size is the sender's claim: reading stops one byte behind it.
    with archive.open(member) as stream:
        data = stream.read(member.file_size + 1)
    if len(data) != member.file_size:
        raise malformed("3mf", f"{member.filename[:80]!r} has not the size the archive states.")
    return data


def _check_plain_xml(text: bytes) -> None:
    """No DTD, and no encoding behind which one could hide."""
    declared = re.match(rb"\s*(?:\xef\xbb\xbf)?\s*<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)", text)
    if b"\0" in text or (declared and declared[1].lower() not in (b"utf-8", b"us-ascii", b"ascii")):
        raise unsupported("The XML is not encoded in UTF-8.")
    if re.search(rb"<!(?:DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise Refused(
            "dtd_forbidden", "The XML declares a document type.", "Export the model with another program."
        )


def _parsed(text: bytes) -> etree._Element:
    """The root of a small XML part."""
    _check_plain_xml(text)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        return etree.fromstring(text, parser)
    except etree.XMLSyntaxError as error:
        raise malformed("3mf", f"The relationships are not XML ({error.msg}).") from error


def _model(text: bytes) -> _Model:
    """Walk the model part once, element by element, without keeping what was counted."""
    _check_plain_xml(text)
    objects: dict[str, _Object] = {}
    items: list[str] = []
    root: etree._Element | None = None
    for event, element in etree.iterparse(
        BytesIO(text), events=("start", "end"), resolve_entities=False, no_network=True, load_dtd=False
    ):
        if event == "start":
            root = element if root is None else root
            continue
        if element.tag == _CORE + "object":
            if element.attrib["id"] in objects:
                raise ValueError(f"object id {element.attrib['id']} occurs twice")
            objects[str(element.attrib["id"])] = _object(element)
            element.clear()
        elif element.tag == _CORE + "item":
            _check_plain_reference(element)
            items.append(str(element.attrib["objectid"]))
    assert root is not None
    return _Model(_unit(root), objects, items)


def _unit(root: etree._Element) -> str:
    if root.tag != _CORE + "model":
        raise ValueError(f"the root is {root.tag}")
    spaces = root.nsmap
    for prefix in root.get("requiredextensions", "").split():
        if spaces.get(prefix) != _MATERIALS:
            raise unsupported(f"The model requires the extension {spaces.get(prefix, prefix)}.")
    return _UNITS[str(root.get("unit", "millimeter"))]


def _object(element: etree._Element) -> _Object:
    triangles = 0
    components: list[str] = []
    for part in element:
        if part.tag == _CORE + "mesh":
            triangles += _mesh_triangles(part)
        elif part.tag == _CORE + "components":
            for component in part.iterchildren(_CORE + "component"):
                _check_plain_reference(component)
                components.append(str(component.attrib["objectid"]))
        elif isinstance(part.tag, str) and part.tag != _CORE + "metadatagroup":
            raise unsupported(f"An object is described by {part.tag}.")
    return _Object(str(element.get("type", "model")), triangles, components)


def _mesh_triangles(mesh: etree._Element) -> int:
    """Check the vertices and corners of a mesh and count its triangles."""
    vertices = mesh.find(_CORE + "vertices")
    triangles = mesh.find(_CORE + "triangles")
    if vertices is None or triangles is None:
        raise ValueError("a mesh has no vertices or no triangles")
    strange = [part.tag for part in mesh if part not in (vertices, triangles) and part.tag != _TRIANGLE_SETS]
    if any(isinstance(tag, str) for tag in strange):
        raise unsupported(f"A mesh holds {strange[0]}.")
    vertex_count = _check_vertices(vertices)
    count = 0
    for triangle in triangles.iterchildren(_CORE + "triangle"):
        for corner in ("v1", "v2", "v3"):
            if not 0 <= int(triangle.attrib[corner]) < vertex_count:
                raise ValueError(
                    f"a triangle refers to vertex {str(triangle.attrib[corner])[:20]} of {vertex_count}"
                )
        count += 1
    return count


def _check_vertices(vertices: etree._Element) -> int:
    count = 0
    for vertex in vertices.iterchildren(_CORE + "vertex"):
        for axis in ("x", "y", "z"):
            coordinate(str(vertex.attrib[axis]).encode(), "3mf", vertex.sourceline or 0)
        count += 1
    return count


def _check_plain_reference(element: etree._Element) -> None:
    """An item or component of this part whose transform is twelve finite numbers.

    With the production extension the same object id exists in several parts, and trimesh takes the last one
    read.
    """
    if any(str(name).endswith("}path") for name in element.attrib):
        raise unsupported("An object lies in another part (production extension).")
    transform = element.get("transform")
    if transform is not None:
        numbers = [coordinate(word.encode(), "3mf", element.sourceline or 0) for word in transform.split()]
        if len(numbers) != 12:
            raise ValueError(f"a transform has {len(numbers)} numbers")


def _expected_triangles(model: _Model) -> int:
    """Triangles of all build items, components counted each time they occur."""
    totals: dict[str, int] = {}
    total = sum(_triangles_of(identity, model.objects, totals, 0) for identity in model.items)
    if total == 0:
        raise Refused("no_facets", "The build holds no triangles.", "Check what was selected when exporting.")
    if total > FACETS_MAX:
        raise Refused(
            "too_many_facets",
            f"The build has {total} triangles; at most {FACETS_MAX} are read.",
            "Export it with a coarser tolerance.",
        )
    return total


def _triangles_of(identity: str, objects: dict[str, _Object], totals: dict[str, int], depth: int) -> int:
    if identity in totals:
        return totals[identity]
    part = objects.get(identity)
    if part is None or depth > _DEPTH_MAX:
        raise malformed("3mf", f"Object {identity[:20]!r} does not exist, or contains itself.")
    if part.kind != "model":
        raise unsupported(f"The build holds an object of type {part.kind!r}, which is not part of the piece.")
    total = part.triangles + sum(_triangles_of(c, objects, totals, depth + 1) for c in part.components)
    totals[identity] = total
    return total


def _archive_of(text: bytes) -> bytes:
    """A new archive that holds the model part and nothing else."""
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("3D/3dmodel.model", text)
    return stream.getvalue()
