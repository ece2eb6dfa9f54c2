"""Every format gives the same ring, and whatever is cut, contradictory, hostile or not understood is
refused with its code.
"""

import json
import re
import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

import DracoPy
import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from pricing.errors import Refused
from pricing.mesh.analysis import analyse
from pricing.readers import triangulate as polygons
from pricing.readers.glb import read_glb
from pricing.readers.off import read_off
from pricing.readers.read import detect
from tests.support import meshes

EMPTY = np.empty((0, 3, 3))
BYTE_FORMATS: dict[str, Callable[[meshes.Triangles], bytes]] = {
    **meshes.ALL_FORMATS,
    "ply binary": meshes.binary_ply,
}


def refusal(body: bytes, content_type: str | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        analyse(body, content_type)
    assert caught.value.detail
    assert caught.value.remedy
    return caught.value


def code(body: bytes) -> str:
    return refusal(body).code


@pytest.mark.parametrize("name", BYTE_FORMATS)
def test_every_format_gives_the_same_closed_ring(name: str) -> None:
    triangles = meshes.torus()
    facts = analyse(BYTE_FORMATS[name](triangles))
    reference = analyse(meshes.binary_stl(triangles))
    assert facts.format == name.removesuffix(" binary")
    assert facts.facets == reference.facets
    assert facts.volume == pytest.approx(reference.volume, rel=1e-6)
    assert facts.area == pytest.approx(reference.area, rel=1e-6)
    assert facts.extent == pytest.approx(reference.extent, rel=1e-6)
    assert (facts.bodies, facts.closed, facts.oriented, facts.repaired) == (1, True, True, False)


@pytest.mark.parametrize("name", BYTE_FORMATS)
def test_every_format_shows_a_missing_facet_and_a_second_body(name: str) -> None:
    assert not analyse(BYTE_FORMATS[name](meshes.torus()[1:])).closed
    two = np.concatenate([meshes.cube(), meshes.cube(at=(20, 0, 0))])
    assert analyse(BYTE_FORMATS[name](two)).bodies == 2


@pytest.mark.parametrize("name", BYTE_FORMATS)
def test_no_format_is_read_when_it_is_cut_short(name: str) -> None:
    body = BYTE_FORMATS[name](meshes.cube())
    for length in {len(body) // 3, len(body) // 2, len(body) - 20}:
        if name == "obj":
            continue  # has no counts and no end: a shorter file is another file, and an open one
        assert re.match("malformed|stl_size|not_a_mesh", code(body[:length]))


def test_obj_cut_short_is_open() -> None:
    body = meshes.obj(meshes.cube())
    assert not analyse(body[: body.rindex(b"\n")]).closed


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "empty_file"),
        (b"hello", "not_a_mesh"),
        (b"<html><body>not found</body></html>" * 20, "not_a_mesh"),
        (b"%PDF-1.7\n" + b"\0" * 500, "unsupported_format"),
        (b"3D Geometry File Format        5" + b"\0" * 500, "unsupported_format"),
        (b"ISO-10303-21;\nHEADER;\n", "unsupported_format"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 500, "unsupported_format"),
        (b"\xff" * 500, "not_a_mesh"),
        (b"\0" * 83, "not_a_mesh"),
    ],
)
def test_what_is_no_mesh_is_refused_with_a_reason(body: bytes, expected: str) -> None:
    assert code(body) == expected


def test_content_decides_not_the_stated_type() -> None:
    body = meshes.obj(meshes.cube())
    assert detect(body, len(body)) == "obj"
    for harmless in (None, "application/octet-stream", "text/plain; charset=utf-8", "model/obj"):
        assert analyse(body, harmless).format == "obj"
    assert refusal(body, "model/stl").code == "content_type_mismatch"


OBJ_CUBE = meshes.obj(meshes.cube())


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"f ", b"f 0 ", "malformed_obj"),
        (b"f ", b"f 99/1/1 ", "malformed_obj"),
        (b"f ", b"f -99 ", "malformed_obj"),
        (b"f ", b"f x ", "malformed_obj"),
        (b"\nf ", b"\nf 1 2\nf ", "malformed_obj"),
        (b"v 0.0", b"v", "malformed_obj"),
        (b"v 0.0", b"v zero", "malformed_obj"),
        (b"v 0.0", b"v 1_0", "malformed_obj"),
        (b"f ", b"f 0_1 ", "malformed_obj"),
        (b"f ", b"f 9223372036854775808 ", "malformed_obj"),
        (b"f ", b"face ", "malformed_obj"),
        (b"\nf ", b"\ncsh rm -rf /\nf ", "unsupported_feature"),
        (b"v 0.0", b"v nan", "not_finite"),
        (b"v 0.0", b"v inf", "not_finite"),
        (b"v 0.0", b"v 0,0", "comma_decimal"),
        (b"\nv ", b"\nsurf 0 1 0 1\nv ", "unsupported_feature"),
    ],
)
def test_obj_that_contradicts_itself_is_refused(old: bytes, new: bytes, expected: str) -> None:
    assert old in OBJ_CUBE
    assert code(OBJ_CUBE.replace(old, new, 1)) == expected


def test_obj_polygons_negative_indices_and_continued_lines_are_read() -> None:
    corners = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    lines = [f"v {x} {y} {z} 1.0 # weight" for x, y, z in corners]
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    lines += [f"f {a - 8}// {b - 8}// \\\n {c - 8}// {d - 8}//" for a, b, c, d in quads]
    facts = analyse("\n".join(lines).encode())
    assert (facts.facets, facts.closed, facts.oriented) == (12, True, True)
    assert facts.volume == pytest.approx(1)


@pytest.mark.parametrize(
    "name", ["ring.mtl", "./ring.mtl", "C:\\rings\\ring.mtl", "a ring..mtl", "my/ring.mtl"]
)
def test_obj_with_a_library_of_materials_beside_it_is_read(name: str) -> None:
    assert analyse(f"mtllib {name}\n".encode() + OBJ_CUBE).closed


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "http://127.0.0.1:1/x.mtl",
        "FILE:/etc/passwd",
        "..",
        "a/../../b.mtl",
        "..\\b",
        "\\\\host\\b",
    ],
)
@pytest.mark.parametrize("statement", ["mtllib", "maplib"])
def test_obj_may_name_any_file_for_it_is_never_opened(statement: str, name: str) -> None:
    assert analyse(OBJ_CUBE + f"\n{statement} {name}\n".encode()).volume == analyse(OBJ_CUBE).volume


def notched(height: float = 4.0) -> list[list[tuple[float, float, float]]]:
    """The polygons of a prism over an arrow head, whose two ends are not convex."""
    outline = [(0.0, 0.0), (8.0, 0.0), (8.0, 8.0), (4.0, 2.0), (0.0, 8.0)]
    bottom = [(x, y, 0.0) for x, y in reversed(outline)]
    top = [(x, y, height) for x, y in outline]
    sides = []
    for (x, y), (u, v) in zip(outline, [*outline[1:], outline[0]], strict=True):
        sides.append([(x, y, 0.0), (u, v, 0.0), (u, v, height), (x, y, height)])
    return [bottom, top, *sides]


@pytest.mark.parametrize("turn", range(5))
@pytest.mark.parametrize("axis", range(3))
def test_a_polygon_that_is_not_convex_keeps_its_area_wherever_it_begins(turn: int, axis: int) -> None:
    lines, number = [], 0
    for polygon in notched():
        start = turn % len(polygon)
        corners = [*polygon[start:], *polygon[:start]]
        lines += ["v {} {} {}".format(*corner[axis:], *corner[:axis]) for corner in corners]
        lines.append("f " + " ".join(str(number + place) for place in range(1, len(corners) + 1)))
        number += len(corners)
    facts = analyse("\n".join(lines).encode())
    outline_mm = 8 + 8 + 8 + 2 * np.hypot(4, 6)
    assert facts.volume == pytest.approx(40 * 4)
    assert facts.area == pytest.approx(2 * 40 + 4 * outline_mm)
    assert (facts.facets, facts.closed, facts.oriented) == (16, True, True)


def star(corners: int, inner: float) -> bytes:
    """A face of so many corners, every second one at the distance `inner`, in OFF."""
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radius = np.where(np.arange(corners) % 2, 10.0, inner)
    rows = [f"{x} {y} 0" for x, y in zip(radius * np.cos(turn), radius * np.sin(turn), strict=True)]
    return "\n".join(
        ["OFF", f"{corners} 1 0", *rows, " ".join(map(str, [corners, *range(corners)]))]
    ).encode()


def test_faces_of_very_many_corners_must_be_convex() -> None:
    bound = polygons.CUT_CORNERS_MAX
    corners = read_off(memoryview(star(bound, inner=4.0))).corners
    area = (
        np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum()
        / 2
    )
    assert area == pytest.approx(bound / 2 * 10 * 4 * np.sin(2 * np.pi / bound))
    assert len(read_off(memoryview(star(bound + 2, inner=10.0))).corners) == bound
    assert code(star(bound + 2, inner=4.0)) == "unsupported_feature"


def test_text_is_detected_in_the_same_time_whatever_it_begins_with() -> None:
    for head in (b"# " * 2000, b" " * 4000, b"#\n" * 2000):
        assert detect(head + b"\nv 1 2 3\n" + b" " * 200, 9000) == "obj"
        assert code(head + b"?" * 200) in ("not_a_mesh", "no_facets", "malformed_obj")


OFF_CUBE = meshes.off(meshes.cube())


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"8 12 0", b"9 12 0", "malformed_off"),
        (b"8 12 0", b"7 12 0", "malformed_off"),
        (b"8 12 0", b"8 13 0", "malformed_off"),
        (b"8 12 0", b"8 11 0", "malformed_off"),
        (b"8 12 0", b"-8 12 0", "malformed_off"),
        (b"8 12 0", b"eight", "malformed_off"),
        (b"8 12 0", b"8 0 0", "no_facets"),
        (b"\n3 ", b"\n4 ", "malformed_off"),
        (b"\n3 ", b"\n2 ", "malformed_off"),
        (b"\n3 1", b"\n3 8", "malformed_off"),
        (b"0.0 0.0 0.0", b"0.0 nan 0.0", "not_finite"),
        (b"0.0 0.0 0.0", b"0.0 0,5 0.0", "comma_decimal"),
        (b"0.0 0.0 0.0", b"0.0 0.0", "malformed_off"),
        (b"OFF\n", b"4OFF\n", "unsupported_feature"),
        (b"OFF\n", b"OFF BINARY\n", "unsupported_feature"),
    ],
)
def test_off_that_contradicts_itself_is_refused(old: bytes, new: bytes, expected: str) -> None:
    assert old in OFF_CUBE
    assert code(OFF_CUBE.replace(old, new, 1)) == expected


def test_off_with_colours_comments_and_counts_beside_the_keyword_is_read() -> None:
    body = OFF_CUBE.replace(b"OFF\n", b"# made by hand\n  COFF ").replace(
        b"10.0\n", b"10.0 255 0 0 255 # red\n"
    )
    assert analyse(body).closed


PLY_CUBE = meshes.ascii_ply(meshes.cube())
PLY_PACKED = meshes.binary_ply(meshes.cube())


@pytest.mark.parametrize("body", [PLY_CUBE, PLY_PACKED], ids=["ascii", "binary"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"element face 12", b"element face 13"),
        (b"element face 12", b"element face 11"),
        (b"element face 12", b"element face -1"),
        (b"element face 12", b"element face 999999999999"),
        (b"format ", b"format middle_endian "),
        (b"property float x", b"property float w"),
        (b"property float x", b"property half x"),
        (b"property list uchar int vertex_indices", b"property int vertex_indices"),
        (b"end_header\n", b""),
    ],
)
def test_ply_that_contradicts_itself_is_refused(body: bytes, old: bytes, new: bytes) -> None:
    assert old in body
    assert code(body.replace(old, new, 1)) == "malformed_ply"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"\n3 1", b"\n3 8", "malformed_ply"),
        (b"\n3 1", b"\n3 -1", "malformed_ply"),
        (b"\n3 ", b"\n4 ", "malformed_ply"),
        (b"\n3 ", b"\n2 ", "malformed_ply"),
        (b"0.0 0.0 0.0", b"0.0 nan 0.0", "not_finite"),
        (b"0.0 0.0 0.0", b"0.0 x 0.0", "malformed_ply"),
        (b"0.0 0.0 0.0", b"0.0 0.0", "malformed_ply"),
        (b"0.0 0.0 0.0", b"0,5 0.0 0.0", "comma_decimal"),
    ],
)
def test_ascii_ply_rows_are_checked(old: bytes, new: bytes, expected: str) -> None:
    assert old in PLY_CUBE
    assert code(PLY_CUBE.replace(old, new, 1)) == expected


def test_binary_ply_with_an_index_out_of_range_is_refused() -> None:
    for wrong in (b"\x24\0\0\0", b"\xff\xff\xff\xff"):
        assert code(PLY_PACKED[:-4] + wrong) == "malformed_ply"


def test_binary_ply_whose_face_states_more_corners_than_it_has_is_refused() -> None:
    for face in (12, 11, 1):
        at = len(PLY_PACKED) - face * 13
        assert code(PLY_PACKED[:at] + b"\4" + PLY_PACKED[at + 1 :]) == "malformed_ply"


@pytest.mark.parametrize("order", ["ascii", "<", ">"])
def test_ply_with_triangles_and_quads_and_other_columns_is_read(order: str) -> None:
    facts = analyse(meshes.mixed_ply(order))
    assert (facts.facets, facts.bodies, facts.closed, facts.oriented) == (12, 1, True, True)
    assert facts.volume == pytest.approx(1000)
    assert facts.area == pytest.approx(600)


@pytest.mark.parametrize("body", [PLY_CUBE, PLY_PACKED], ids=["ascii", "binary"])
def test_ply_whose_header_ends_another_way_than_its_other_lines_is_read(body: bytes) -> None:
    assert analyse(body.replace(b"end_header\n", b"end_header\r\n")).closed


def test_binary_ply_whose_header_lines_end_with_cr_keeps_a_first_byte_that_is_lf() -> None:
    body = PLY_PACKED.replace(b"\n", b"\r", PLY_PACKED[: PLY_PACKED.index(b"end_header")].count(b"\n") + 1)
    start = body.index(b"end_header\r") + len(b"end_header\r")
    with_line_feed = body[:start] + b"\n" + body[start + 1 :]
    assert analyse(body).closed
    assert analyse(with_line_feed).facets == 12


def test_big_endian_ply_is_read() -> None:
    assert analyse(meshes.binary_ply(meshes.cube(), ">")).volume == pytest.approx(1000)


def test_glb_node_transforms_are_honoured() -> None:
    triangles = meshes.cube(1.0)
    assert analyse(meshes.glb(triangles, scale=[2, 3, 4])).volume == pytest.approx(24)
    mirrored = analyse(meshes.glb(triangles, scale=[-2, 3, 4], translation=[5, 0, 0]))
    assert mirrored.volume == pytest.approx(24)
    assert mirrored.warnings == ()
    matrix = np.diag([0.5, 0.5, 0.5, 1.0])
    assert analyse(meshes.glb(triangles, matrix=matrix.T.flatten().tolist())).volume == pytest.approx(0.125)
    assert analyse(meshes.glb(triangles)).unit == "m"


def test_glb_transforms_of_nested_nodes_multiply_even_under_a_camera() -> None:
    document, binary = meshes.glb_document(meshes.cube(1.0))
    document["cameras"] = [{"type": "perspective", "perspective": {"yfov": 1, "znear": 1}}]
    document["nodes"] = [{"children": [1], "scale": [2, 2, 2], "camera": 0}, {"mesh": 0, "scale": [3, 1, 1]}]
    assert analyse(meshes.glb_of(document, binary)).volume == pytest.approx(24)


def test_glb_counts_every_instance_and_only_the_default_scene() -> None:
    document, binary = meshes.glb_document(meshes.cube(1.0))
    document["nodes"] = [
        {"mesh": 0},
        {"mesh": 0, "translation": [5, 0, 0]},
        {"mesh": 0, "translation": [9, 0, 0]},
    ]
    document["scenes"] = [{"nodes": [2]}, {"nodes": [0, 1]}]
    document["scene"] = 1
    facts = analyse(meshes.glb_of(document, binary))
    assert (facts.facets, facts.bodies) == (24, 2)


def test_glb_rotations_agree_with_trimesh() -> None:
    box = meshes.cube(1.0) * (1, 2, 3)
    turned = analyse(meshes.glb(box, rotation=[0, 0, np.sqrt(0.5), np.sqrt(0.5)]))
    assert turned.extent == pytest.approx((2, 1, 3))
    body = meshes.glb(box, rotation=[0.1, -0.5, 0.7, 0.5], scale=[2, 1, 3], translation=[1, 2, 3])
    corners = np.asarray(read_glb(memoryview(body)).corners)
    mesh = trimesh.load_scene(BytesIO(body), file_type="glb", process=False).to_mesh()
    assert np.allclose(corners, mesh.vertices[mesh.faces], atol=1e-6)


@pytest.mark.parametrize("mode", [5, 6])
def test_glb_strips_and_fans_turn_as_the_format_says(mode: int) -> None:
    ring = [(0.0, 0.0, 0.0), (4.0, 0.0, 0.0), (4.0, 4.0, 0.0), (0.0, 4.0, 0.0)]
    order = (0, 1, 3, 2) if mode == 5 else (0, 1, 2, 3)
    document, _ = meshes.glb_document(meshes.cube())
    document["meshes"] = [{"primitives": [{"attributes": {"POSITION": 0}, "mode": mode}]}]
    document["accessors"] = [{"bufferView": 0, "componentType": 5126, "count": 4, "type": "VEC3"}]
    document["bufferViews"] = [{"buffer": 0, "byteLength": 48}]
    document["buffers"] = [{"byteLength": 48}]
    binary = np.array([ring[place] for place in order], "<f4").tobytes()
    corners = np.asarray(read_glb(memoryview(meshes.glb_of(document, binary))).corners, np.float64)
    assert np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).tolist() == [[0, 0, 16]] * 2


def test_glb_repeated_without_end_is_refused_before_it_is_built() -> None:
    document, binary = meshes.glb_document(meshes.torus(around=400, across=100))
    document["nodes"] = [{"mesh": 0}] * 200
    document["scenes"] = [{"nodes": list(range(200))}]
    assert code(meshes.glb_of(document, binary)) == "too_many_facets"


GLB_CHANGES: dict[str, tuple[dict[str, object], str]] = {
    "required extension": ({"extensionsRequired": ["EXT_meshopt_compression"]}, "unsupported_feature"),
    "outside buffer": ({"buffers": [{"uri": "file:///etc/passwd", "byteLength": 5}]}, "unsupported_feature"),
    "skin": ({"nodes": [{"mesh": 0, "skin": 0}]}, "unsupported_feature"),
    "cycle": ({"nodes": [{"mesh": 0, "children": [0]}]}, "malformed_glb"),
    "node of two parents": (
        {"nodes": [{"children": [2]}, {"children": [2]}, {"mesh": 0}], "scenes": [{"nodes": [0, 1]}]},
        "malformed_glb",
    ),
    "no such node": ({"nodes": []}, "malformed_glb"),
    "negative node": ({"scenes": [{"nodes": [-1]}]}, "malformed_glb"),
    "no scene": ({"scenes": []}, "malformed_glb"),
    "nothing shown": ({"scenes": [{"nodes": []}]}, "no_facets"),
    "no accessors": ({"accessors": []}, "malformed_glb"),
    "rotation of no length": ({"nodes": [{"mesh": 0, "rotation": [0, 0, 0, 0]}]}, "malformed_glb"),
    "flattened": ({"nodes": [{"mesh": 0, "scale": [1, 0, 1]}]}, "malformed_glb"),
    "perspective": (
        {"nodes": [{"mesh": 0, "matrix": [1, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]}]},
        "malformed_glb",
    ),
    "matrix of 15": ({"nodes": [{"mesh": 0, "matrix": [1.0] * 15}]}, "malformed_glb"),
    "scale nan": ({"nodes": [{"mesh": 0, "scale": [1, float("nan"), 1]}]}, "malformed_glb"),
    "nodes is text": ({"nodes": "many"}, "malformed_glb"),
    "views too long": (
        {"bufferViews": [{"buffer": 0, "byteLength": 10**9}, {"buffer": 0, "byteLength": 144}]},
        "malformed_glb",
    ),
}


@pytest.mark.parametrize("change", GLB_CHANGES)
def test_glb_that_is_not_understood_is_refused(change: str) -> None:
    document, binary = meshes.glb_document(meshes.cube())
    changes, expected = GLB_CHANGES[change]
    assert code(meshes.glb_of({**document, **changes}, binary)) == expected


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("meshes/0/primitives/0/mode", 0, "unsupported_feature"),
        ("meshes/0/primitives/0/mode", 1, "unsupported_feature"),
        ("meshes/0/primitives/0/targets", [{"POSITION": 0}], "unsupported_feature"),
        ("meshes/0/primitives/0/extensions", {"KHR_draco_mesh_compression": {}}, "malformed_glb"),
        ("nodes/0/extensions", {"EXT_mesh_gpu_instancing": {}}, "unsupported_feature"),
        ("bufferViews/0/extensions", {"EXT_meshopt_compression": {}}, "unsupported_feature"),
        ("accessors/0/sparse", {"count": 1}, "unsupported_feature"),
        ("accessors/0/componentType", 5123, "malformed_glb"),
        ("accessors/0/count", 37, "malformed_glb"),
        ("accessors/1/count", 35, "malformed_glb"),
        ("accessors/1/count", 3 * 10**15, "too_many_facets"),
        ("accessors/1/byteOffset", 4, "malformed_glb"),
        ("accessors/1/bufferView", 0, "malformed_glb"),
        ("bufferViews/0/byteStride", 4, "malformed_glb"),
    ],
)
def test_glb_parts_are_checked(path: str, value: object, expected: str) -> None:
    document, binary = meshes.glb_document(meshes.cube())
    *steps, last = path.split("/")
    part: object = document
    for step in steps:
        part = part[int(step)] if isinstance(part, list) else part[step]  # type: ignore[index]
    assert isinstance(part, dict)
    part[last] = value
    assert code(meshes.glb_of(document, binary)) == expected


def test_glb_lengths_must_fill_the_file() -> None:
    body = meshes.glb(meshes.cube())
    for wrong in (
        body + b"x",
        body + b"\0" * 100,
        body[:-1],
        body[:8] + b"\xff\xff\0\0" + body[12:],
        body[:19],
        b"glTF" + b"\1" * 40,
    ):
        assert code(wrong) == "malformed_glb"
    assert code(body[:20] + b"}" + body[21:]) == "malformed_glb"


def test_glb_may_be_padded_and_have_extensions_that_it_does_not_require() -> None:
    matrix = [1, 0, 0, 1e-9, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0.9999999]
    extensions: dict[str, Any] = {"WEBGI_object3d_extras": {"userData": {}}}
    document, binary = meshes.glb_document(meshes.cube(), matrix=matrix, extensions=extensions)
    body = meshes.glb_of(document, binary)
    (size,) = struct.unpack_from("<I", body, 12)
    text = body[20 : 20 + size].rstrip()
    assert analyse(body[:20] + text.ljust(size, b"\0") + body[20 + size :]).facets == 12
    assert analyse(body + b"\0\0").facets == 12


def draco(corners: NDArray[np.float64]) -> tuple[dict[str, Any], bytes]:
    """A ring as web shops show it: the primitive compressed, and nothing but that in the binary part."""
    document: dict[str, Any] = meshes.glb_document(corners)[0]
    points, faces = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
    faces = faces.reshape(-1, 3)
    packed = DracoPy.encode(points, faces, quantization_bits=20)
    extension = {"bufferView": 0, "attributes": {"POSITION": 0}}
    document["meshes"][0]["primitives"][0] = {
        "attributes": {"POSITION": 0},
        "indices": 1,
        "extensions": {"KHR_draco_mesh_compression": extension},
    }
    document["accessors"] = [
        {"componentType": 5126, "count": len(points), "type": "VEC3"},
        {"componentType": 5125, "count": faces.size, "type": "SCALAR"},
    ]
    document["bufferViews"] = [{"buffer": 0, "byteLength": len(packed)}]
    document["buffers"] = [{"byteLength": len(packed)}]
    document["extensionsRequired"] = ["KHR_draco_mesh_compression"]
    return document, packed


def test_glb_compressed_by_draco_is_read() -> None:
    ring = meshes.torus()
    facts = analyse(meshes.glb_of(*draco(ring)))
    assert facts.closed
    assert facts.volume == pytest.approx(analyse(meshes.binary_stl(ring)).volume, rel=1e-5)


def test_glb_compressed_by_draco_holds_what_it_states() -> None:
    document, packed = draco(meshes.torus())
    document["accessors"][1]["count"] -= 3
    assert code(meshes.glb_of(document, packed)) == "malformed_glb"
    document, packed = draco(meshes.torus())
    assert code(meshes.glb_of(document, bytes(len(packed)))) == "malformed_glb"
    assert code(meshes.glb_of(document, packed[: len(packed) // 2])) == "malformed_glb"


def test_glb_that_begins_with_its_binary_part_is_refused() -> None:
    body = meshes.glb(meshes.cube())
    size = int.from_bytes(body[12:16], "little")
    assert code(body[:12] + body[20 + size :] + body[12 : 20 + size]) == "malformed_glb"


def test_glb_nesting_does_not_exhaust_the_stack() -> None:
    text = b'{"scenes":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert code(meshes.glb_of({"x": 0}, b"").replace(b'{"x": 0}', b"") + text) == "malformed_glb"
    assert code(meshes.glb_of(json.loads('{"scenes": []}'), b"")) == "malformed_glb"
