"""Every format gives the same ring, and whatever is cut, contradictory, hostile or not understood is
refused with its code.
"""

import json
import re
import zipfile
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest

from pricing import three_mf
from pricing.errors import Refused
from pricing.facts import analyse
from pricing.formats import detect
from pricing.loading import load_triangles
from tests import meshes

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


def test_obj_never_opens_the_files_it_names(tmp_path: object) -> None:
    assert analyse(b"mtllib /etc/passwd\nmtllib http://127.0.0.1:1/x.mtl\n" + OBJ_CUBE).closed


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


def test_binary_ply_with_faces_of_several_lengths_is_refused_not_misread() -> None:
    at = len(PLY_PACKED) - 12 * 13
    body = PLY_PACKED[:at] + b"\4" + PLY_PACKED[at + 1 :]
    assert code(body) == "malformed_ply"


def test_binary_ply_whose_second_face_states_another_length_is_refused() -> None:
    at = len(PLY_PACKED) - 11 * 13
    assert code(PLY_PACKED[:at] + b"\4" + PLY_PACKED[at + 1 :]) == "malformed_ply"


def test_what_trimesh_leaves_out_is_noticed() -> None:
    assert load_triangles(b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "obj", 1).count == 1
    with pytest.raises(Refused, match="malformed_obj"):
        load_triangles(b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "obj", 2)


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


GLB_CHANGES: dict[str, tuple[dict[str, object], str]] = {
    "required extension": ({"extensionsRequired": ["KHR_draco_mesh_compression"]}, "unsupported_feature"),
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
        ("meshes/0/primitives/0/mode", 5, "unsupported_feature"),
        ("meshes/0/primitives/0/mode", 1, "unsupported_feature"),
        ("meshes/0/primitives/0/targets", [{"POSITION": 0}], "unsupported_feature"),
        ("meshes/0/primitives/0/extensions", {"KHR_draco_mesh_compression": {}}, "unsupported_feature"),
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
        body + b"\0",
        body[:-1],
        body[:8] + b"\xff\xff\0\0" + body[12:],
        body[:19],
        b"glTF" + b"\1" * 40,
    ):
        assert code(wrong) == "malformed_glb"
    assert code(body[:20] + b"}" + body[21:]) == "malformed_glb"


def test_glb_nesting_does_not_exhaust_the_stack() -> None:
    text = b'{"scenes":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert code(meshes.glb_of({"x": 0}, b"").replace(b'{"x": 0}', b"") + text) == "malformed_glb"
    assert code(meshes.glb_of(json.loads('{"scenes": []}'), b"")) == "malformed_glb"


CUBE_3MF = meshes.three_mf_object(meshes.cube())


def archive(objects: str = CUBE_3MF, items: str = '<item objectid="1"/>', attributes: str = "") -> bytes:
    return meshes.three_mf_archive(meshes.three_mf_model(objects, items, attributes))


@pytest.mark.parametrize(
    ("name", "unit"), [("micron", "um"), ("centimeter", "cm"), ("inch", "in"), ("foot", "ft"), ("meter", "m")]
)
def test_3mf_states_its_unit(name: str, unit: str) -> None:
    model = meshes.three_mf_model(CUBE_3MF).replace("millimeter", name)
    assert analyse(meshes.three_mf_archive(model)).unit == unit
    assert analyse(archive()).unit == "mm"


def test_3mf_items_components_and_transforms_are_honoured() -> None:
    group = '<object id="2"><components>'
    group += '<component objectid="1"/><component objectid="1" transform="2 0 0 0 1 0 0 0 1 50 0 0"/>'
    group += "</components></object>"
    items = '<item objectid="2"/><item objectid="2" transform="1 0 0 0 1 0 0 0 -1 0 0 500"/>'
    facts = analyse(archive(CUBE_3MF + group, items))
    assert (facts.facets, facts.bodies) == (48, 4)
    assert facts.volume == pytest.approx(6000)
    assert facts.warnings == ()


def test_3mf_objects_that_are_not_built_do_not_count() -> None:
    assert analyse(archive(CUBE_3MF + meshes.three_mf_object(meshes.torus(), 7, "support"))).facets == 12


@pytest.mark.parametrize("kind", ["support", "solidsupport", "surface", "other"])
def test_3mf_support_in_the_build_is_refused(kind: str) -> None:
    objects = CUBE_3MF + meshes.three_mf_object(meshes.torus(), 7, kind)
    assert code(archive(objects, '<item objectid="1"/><item objectid="7"/>')) == "unsupported_feature"


PRODUCTION = "http://schemas.microsoft.com/3dmanufacturing/production/2015/06"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (archive(items='<item objectid="2"/>'), "malformed_3mf"),
        (archive(items=""), "no_facets"),
        (archive(items='<item objectid="1" transform="1 0 0"/>'), "malformed_3mf"),
        (archive(items='<item objectid="1" transform="1 0 0 0 1 0 0 0 nan 0 0 0"/>'), "not_finite"),
        (archive(CUBE_3MF + CUBE_3MF), "malformed_3mf"),
        (archive(CUBE_3MF.replace('v1="0"', 'v1="8"')), "malformed_3mf"),
        (archive(CUBE_3MF.replace('v1="0"', 'v1="-1"')), "malformed_3mf"),
        (archive(CUBE_3MF.replace('v1="0"', "")), "malformed_3mf"),
        (archive(CUBE_3MF.replace('x="0.0"', 'x="nan"')), "not_finite"),
        (archive(CUBE_3MF.replace('x="0.0"', 'x="0,5"')), "comma_decimal"),
        (archive(CUBE_3MF.replace("</mesh>", "<beamlattice/></mesh>")), "unsupported_feature"),
        (
            archive('<object id="1"><components><component objectid="1"/></components></object>'),
            "malformed_3mf",
        ),
        (archive(attributes=f'xmlns:p="{PRODUCTION}" requiredextensions="p"'), "unsupported_feature"),
        (
            archive(items='<item objectid="1" p:path="/3D/x.model"/>', attributes=f'xmlns:p="{PRODUCTION}"'),
            "unsupported_feature",
        ),
        (
            meshes.three_mf_archive(meshes.three_mf_model(CUBE_3MF).replace("millimeter", "furlong")),
            "malformed_3mf",
        ),
        (meshes.three_mf_archive("<model/>"), "malformed_3mf"),
        (meshes.three_mf_archive("no xml"), "malformed_3mf"),
        (meshes.three_mf_archive(meshes.three_mf_model(CUBE_3MF), target="/3D/other.model"), "malformed_3mf"),
        (meshes.three_mf_archive(meshes.three_mf_model(CUBE_3MF).encode("utf-16")), "unsupported_feature"),
        (b"PK\x03\x04" + b"\0" * 200, "malformed_3mf"),
    ],
)
def test_3mf_that_is_not_understood_is_refused(body: bytes, expected: str) -> None:
    assert code(body) == expected


def test_3mf_with_a_document_type_is_refused_before_it_expands() -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    prolog = f'<!DOCTYPE model [<!ENTITY e0 "10">{entities}]>'
    objects = CUBE_3MF.replace('x="10.0"', 'x="&e11;"')
    body = meshes.three_mf_archive(meshes.three_mf_model(objects, prolog=prolog))
    assert code(body) == "dtd_forbidden"
    hidden = meshes.three_mf_model(CUBE_3MF).replace("UTF-8", "UTF-7")
    assert code(meshes.three_mf_archive(hidden)) == "unsupported_feature"


def test_3mf_components_that_double_thirty_times_are_refused_without_building_them() -> None:
    doubling = "".join(
        f'<object id="{n}"><components>' + f'<component objectid="{n - 1}"/>' * 2 + "</components></object>"
        for n in range(2, 32)
    )
    assert code(archive(CUBE_3MF + doubling, '<item objectid="31"/>')) == "too_many_facets"


def test_zip_bombs_are_refused_by_ratio_members_and_total(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = BytesIO(archive())
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("bomb", b"\0" * 30_000_000)
    assert code(stream.getvalue()) == "archive_limit"
    monkeypatch.setattr(three_mf, "TOTAL_BYTES_MAX", 1000)
    assert code(archive()) == "archive_limit"
    stream = BytesIO(archive())
    with zipfile.ZipFile(stream, "a") as many:
        for number in range(three_mf.MEMBERS_MAX):
            many.writestr(f"{number}", b"")
    assert code(stream.getvalue()) == "archive_limit"


def test_zip_without_a_model_is_refused() -> None:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as photos:
        photos.writestr("photo.jpg", b"\xff\xd8\xff")
    assert code(stream.getvalue()) == "malformed_3mf"


def test_zip_member_with_a_wrong_checksum_is_refused() -> None:
    stream = BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as stored,
        zipfile.ZipFile(BytesIO(archive())) as source,
    ):
        for name in source.namelist():
            stored.writestr(name, source.read(name))
    body = stream.getvalue()
    assert analyse(body).closed
    assert code(body.replace(b'x="10.0"', b'x="11.0"')) == "malformed_3mf"


def test_zip_with_bytes_missing_anywhere_is_refused() -> None:
    body = archive()
    for start in range(5, len(body) - 120, 23):
        assert code(body[:start] + body[start + 100 :]) in (
            "malformed_3mf",
            "archive_limit",
            "unsupported_feature",
        )
