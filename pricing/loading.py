"""The one place where trimesh reads a file: from memory, of a stated type, without following references.

The readers of the single formats hand over containers they have checked and stripped to positions and
faces, and say how many triangles must come out. Whatever trimesh skips, merges or repairs on its own
therefore shows as another number.
"""

from io import BytesIO
from typing import Any, Literal

import numpy as np
import trimesh
from numpy.typing import NDArray

from pricing.errors import Refused
from pricing.facets import ArrayFacets

FileType = Literal["obj", "off", "ply", "glb", "3mf"]

EXPORT_AS_STL = "Export the model again, as binary STL if possible."

# What trimesh and numpy raise for data that contradicts itself.
_READING_ERRORS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    NameError,
)


def malformed(file_type: FileType, detail: str) -> Refused:
    """The refusal `malformed_<type>`."""
    return Refused(f"malformed_{file_type}", detail, EXPORT_AS_STL)


def unsupported(detail: str) -> Refused:
    """The refusal for a file that is sound but uses what would change the volume and is not read here."""
    return Refused("unsupported_feature", detail, EXPORT_AS_STL)


def load_triangles(data: bytes, file_type: FileType, expected: int) -> ArrayFacets:
    """The triangles of a checked file, transforms applied, float64; Refused `malformed_<type>`.

    `expected` is how many triangles the file's own structure announces.
    """
    try:
        parts = _instances(data, file_type)
    except _READING_ERRORS as error:
        raise malformed(
            file_type, f"The content contradicts itself ({type(error).__name__}: {error})."
        ) from error
    found = sum(len(part) for part in parts)
    if found != expected:
        raise malformed(file_type, f"The file announces {expected} triangles, {found} could be read.")
    return ArrayFacets(np.concatenate(parts) if parts else np.empty((0, 3, 3)))


def _instances(data: bytes, file_type: FileType) -> list[NDArray[np.float64]]:
    """One array of triangles for every place a mesh occurs in."""
    # Merging by texture or normal is off: facets are compared by position, in the kernel.
    options: dict[str, Any] = {"process": False}
    if file_type == "ply":
        options |= {"fix_texture": False, "skip_materials": True}
    if file_type == "3mf":
        options |= {"postprocess": False}
    scene = trimesh.load_scene(BytesIO(data), file_type=file_type, **options)
    return [_instance(scene, node) for node in scene.graph.nodes_geometry]


def _instance(scene: trimesh.Scene, node: str) -> NDArray[np.float64]:
    transform, name = scene.graph[node]
    mesh = scene.geometry[name]
    faces = np.asarray(mesh.faces, np.int64)
    # A negative index would silently count from the end.
    if len(faces) and not 0 <= faces.min() <= faces.max() < len(mesh.vertices):
        raise ValueError("a face refers to a vertex that does not exist")
    rotation, offset = np.asarray(transform)[:3, :3], np.asarray(transform)[:3, 3]
    vertices = np.asarray(mesh.vertices, np.float64) @ rotation.T + offset
    if np.linalg.det(rotation) < 0:
        # A mirror turns every facet inside out; both glTF and 3MF say the facets turn with it.
        faces = faces[:, ::-1]
    triangles: NDArray[np.float64] = vertices[faces]
    return triangles
