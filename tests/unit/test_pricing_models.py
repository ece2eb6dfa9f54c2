"""Bad files are never priced firmly, real files have their known volume, and trimesh agrees on every closed
mesh.

The first table is what a mesh library lets through: each row is a file that trimesh reads without complaint
into something a price must not follow. The second part reads real files from the folder FACET_TEST_MODELS
names; without it the generated meshes stand in.
"""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import trimesh

from pricing.errors import Refused
from pricing.facts import Facts
from pricing.mesh.analysis import analyse
from pricing.price.formula import price
from pricing.price.options import Options
from pricing.price.price_list import default_metal_fix, default_price_list
from pricing.second_opinion import second_opinion
from tests.support import meshes

LIST, FIX = default_price_list(), default_metal_fix()
RING, CUBE = meshes.torus(), meshes.cube()
REAL = meshes.real_models()


def outcome(body: bytes) -> str:
    """`auto`, `provisional`, `manual`, or the code of the refusal."""
    try:
        priced = price(analyse(body), Options("gold-585-yellow"), LIST, FIX)
    except Refused as refused:
        return refused.code
    assert (priced.net is None) == (priced.priceable == "manual")
    assert priced.net is None or priced.net > 0
    return priced.priceable


def with_coordinate(value: float) -> bytes:
    triangles = RING.copy()
    triangles[7, 2, 1] = value
    return meshes.binary_stl(triangles)


PACKED = meshes.binary_stl(RING)

TRAPS: dict[str, tuple[bytes, set[str]]] = {
    "one byte after the last facet": (PACKED + b"\0", {"stl_size_mismatch"}),
    "cut short": (PACKED[:-1], {"stl_size_mismatch"}),
    "cut short by a facet": (PACKED[:-50], {"stl_size_mismatch"}),
    "wrong count": (PACKED[:80] + b"\7\0\0\0" + PACKED[84:], {"stl_size_mismatch"}),
    "empty": (b"", {"empty_file"}),
    "text": (b"this is not a mesh\n" * 50, {"not_a_mesh"}),
    "nan": (with_coordinate(np.nan), {"not_finite"}),
    "inf": (with_coordinate(np.inf), {"not_finite"}),
    "one facet flipped": (meshes.binary_stl(meshes.flipped(CUBE, 0)), {"provisional"}),
    "overlapping bodies": (meshes.binary_stl(np.concatenate([CUBE, CUBE + 5])), {"auto"}),
    "the same body twice": (meshes.binary_stl(np.concatenate([CUBE, CUBE])), {"provisional"}),
    "a body within a body": (meshes.binary_stl(np.concatenate([CUBE, CUBE * 0.5 + 2])), {"auto"}),
    "hole": (meshes.binary_stl(RING[1:]), {"manual"}),
    "comma decimals": (meshes.ascii_stl(RING).replace(b".", b","), {"comma_decimal"}),
    "document type in 3MF": (
        meshes.three_mf_archive(
            meshes.three_mf_model(meshes.three_mf_object(CUBE), prolog="<!DOCTYPE model>")
        ),
        {"dtd_forbidden"},
    ),
    "inches declared as millimetres": (meshes.binary_stl(RING / 25.4), {"manual"}),
}

HARMLESS: dict[str, tuple[bytes, float]] = {
    "support object": (
        meshes.three_mf_archive(
            meshes.three_mf_model(
                meshes.three_mf_object(CUBE) + meshes.three_mf_object(CUBE + 30, 2, "support"),
                '<item objectid="1"/><item objectid="2"/>',
            )
        ),
        1000,
    ),
    "all facets inverted": (meshes.binary_stl(meshes.flipped(CUBE)), 1000),
    "degenerate facet": (meshes.binary_stl(np.concatenate([CUBE, CUBE[:1, [0, 1, 1]]])), 1000),
    "CR line ends": (meshes.ascii_stl(CUBE, end="\r"), 1000),
    "header that begins with solid": (meshes.binary_stl(CUBE, header=b"solid ring"), 1000),
    "normals and UVs in OBJ": (meshes.obj(CUBE), 1000),
    "normals and UVs in PLY": (meshes.binary_ply(CUBE), 1000),
    "unmerged vertices in GLB": (meshes.glb(CUBE / 1000), 1e-6),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps_are_refused_or_judged_never_priced_firmly(trap: str) -> None:
    body, allowed = TRAPS[trap]
    assert outcome(body) in allowed


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_looks_wrong_is_priced_by_its_true_volume(name: str) -> None:
    body, volume = HARMLESS[name]
    assert outcome(body) == "auto"
    assert analyse(body).volume == pytest.approx(volume, rel=1e-6)


def trimesh_of(body: bytes, facts: Facts) -> trimesh.Trimesh:
    """The file as trimesh reads it, vertices merged by position alone."""
    scene = trimesh.load_scene(BytesIO(body), file_type=facts.format.split("-", maxsplit=1)[0])
    parts = [plain(scene, node) for node in scene.graph.nodes_geometry]
    mesh = trimesh.util.concatenate(parts)
    assert isinstance(mesh, trimesh.Trimesh)
    mesh.merge_vertices()
    return mesh


def plain(scene: trimesh.Scene, node: str) -> trimesh.Trimesh:
    """Positions and faces of one instance; copying a textured mesh would need Pillow."""
    transform, name = scene.graph[node]
    part = trimesh.Trimesh(scene.geometry[name].vertices, scene.geometry[name].faces, process=False)
    part.apply_transform(transform)
    return part


def check_against_trimesh(body: bytes, facts: Facts) -> None:
    mesh = trimesh_of(body, facts)
    assert mesh.is_watertight
    assert facts.volume == pytest.approx(abs(mesh.volume), rel=1e-6)
    assert facts.area == pytest.approx(mesh.area, rel=1e-6)
    assert facts.extent == pytest.approx(tuple(mesh.extents), rel=1e-6)


@pytest.mark.parametrize("name", meshes.ALL_FORMATS)
def test_trimesh_agrees_on_generated_meshes(name: str) -> None:
    body = meshes.ALL_FORMATS[name](RING)
    check_against_trimesh(body, analyse(body))


# What becomes of each real file, in its own unit or as millimetres.
EXPECTED = {
    "trimesh_unit_cube.stl": "manual",
    "trimesh_20mm_xyz_cube.stl": "auto",
    "trimesh_idler_riser_INCH.stl": "provisional",
    "trimesh_featuretype.stl": "auto",
    "trimesh_7_8ths_cube.stl": "auto",
    "trimesh_torus.stl": "provisional",
    "trimesh_unit_sphere.stl": "manual",
    "trimesh_two_objects_mixed_case.stl": "auto",
    "trimesh_empty.stl": "no_facets",
    "trimesh_ballA.off": "auto",
    "trimesh_whitespace.off": "provisional",
    "trimesh_cube.glb": "manual",
    "trimesh_Duck.glb": "manual",
    "trimesh_polygonfaces.obj": "zero_volume",
    "trimesh_notenoughindices.obj": "malformed_obj",
    "trimesh_1002_tray_bottom.stl": "provisional",
    "trimesh_suzanne.ply": "manual",
    "numpystl_Star.stl": "provisional",
    "numpystl_Star_ascii.stl": "provisional",
    "numpystl_Moon_Chinese.stl": "provisional",
    "numpystl_Moon.stl": "provisional",
    "numpystl_StarWithEmptyHeader.stl": "provisional",
    "numpystl_triamid.stl": "provisional",
    "3mf_box.3mf": "auto",
    "3mf_torus.3mf": "auto",
    "3mf_multiple_cylinders.3mf": "auto",
    "3mf_MUSTPASS_Chapter3.2b_UnitsMeasurementMM.3mf": "auto",
    "3mf_MUSTFAIL_Chapter2.1.1a_PartsRelationships_NonExist3DModelPart.3mf": "malformed_3mf",
    "assimp_sphereWithHole.stl": "manual",
    "assimp_triangle_two_solids.stl": "zero_volume",
    "assimp_invalid.off": "malformed_off",
    "assimp_malformed.obj": "malformed_obj",
    "assimp_cube_rn.ply": "manual",
    "jewel_tile_bracelet_heart.stl": "auto",
    "jewel_bracelet_heart_tiles.stl": "auto",
    "pypi_nut.ply": "auto",
}


@pytest.mark.parametrize("name", REAL)
def test_real_file_has_the_expected_outcome(name: str) -> None:
    path, _ = REAL[name]
    assert outcome(path.read_bytes()) == EXPECTED[name]


@pytest.mark.parametrize("name", [name for name, (_, row) in REAL.items() if row["is_volume"] == "True"])
def test_real_closed_file_has_its_known_volume_and_bodies(name: str) -> None:
    path, row = REAL[name]
    if EXPECTED[name].startswith("malformed"):
        return  # a file the format's own test suite calls invalid
    facts = analyse(path.read_bytes())
    assert (facts.closed, facts.oriented, facts.repaired) == (True, True, False)
    assert facts.facets == int(row["facets"])
    assert facts.bodies == int(row["bodies"])
    if row["mesh_volume_native"]:
        assert facts.volume == pytest.approx(float(row["mesh_volume_native"]), rel=1e-6)
    check_against_trimesh(path.read_bytes(), facts)
    found = second_opinion(path.read_bytes(), facts)
    assert (found.state, found.reason) == ("agreed", None)


@pytest.mark.parametrize("name", [name for name, (_, row) in REAL.items() if row["is_volume"] == "False"])
def test_real_file_that_is_no_volume_is_never_firm(name: str) -> None:
    path, _ = REAL[name]
    assert outcome(path.read_bytes()) != "auto"


def test_every_real_file_has_an_expectation_and_the_index_is_complete() -> None:
    assert not REAL or set(REAL) == set(EXPECTED)
    for path, row in REAL.values():
        assert path.stat().st_size == int(row["bytes"])


def test_real_files_are_only_read(tmp_path: Path) -> None:
    body = bytearray(PACKED)
    before = bytes(body)
    analyse(memoryview(body))
    assert bytes(body) == before
