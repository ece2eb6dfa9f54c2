"""What a price must not follow: each row of what a general mesh library was seen to do with such files, and
files made to hurt whoever reads them, within a worker's limits.
"""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from pricing.errors import Refused
from pricing.facts import Facts
from pricing.mesh.analysis import analyse
from pricing.pool import FactsPool, Limits
from pricing.price.firmness import firmness_of
from pricing.price.formula import price
from pricing.price.options import Options
from pricing.price.price_list import default_metal_fix, default_price_list
from tests.support import hostile, meshes

CUBE, RING = meshes.cube(), meshes.torus()
STL = meshes.binary_stl(RING)
VOLUME_MM3 = analyse(STL).volume

MEMORY_BYTES = 192 << 20
"""Less than any of the bombs holds, and than a library that reads them at once would take."""

LIMITS = Limits(workers=1, memory_bytes=MEMORY_BYTES, cpu_s=2, wall_s=2.0)


def code(body: bytes, content_type: str | None = None) -> str:
    with pytest.raises(Refused) as caught:
        analyse(body, content_type)
    return caught.value.code


def warnings(facts: Facts) -> set[str]:
    return {warning.code for warning in facts.warnings}


@asynccontextmanager
async def worker(limits: Limits = LIMITS) -> AsyncIterator[FactsPool]:
    pool = FactsPool(limits)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (STL + b"\0", "stl_size_mismatch"),
        (STL[:-1], "stl_size_mismatch"),
        (STL[: len(STL) // 2], "stl_size_mismatch"),
        (STL[:80] + b"\1" + STL[81:], "stl_size_mismatch"),
        (b"", "empty_file"),
        (b"Dear Sir or Madam, please find attached the ring.", "not_a_mesh"),
        (b"solid nothing\nendsolid nothing\n", "no_facets"),
    ],
    ids=["trailing byte", "cut by a byte", "cut in half", "wrong count", "empty", "text", "no facets"],
)
def test_files_that_look_like_an_empty_mesh_are_refused(body: bytes, expected: str) -> None:
    assert code(body) == expected


def test_the_content_decides_and_a_wrong_type_is_said() -> None:
    assert code(meshes.obj(RING), "model/stl") == "content_type_mismatch"
    assert analyse(meshes.obj(RING), "application/octet-stream").format == "obj"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("facet", [0, 300, 575])
def test_a_coordinate_that_is_no_number_is_refused_and_not_dropped(value: float, facet: int) -> None:
    triangles = RING.copy()
    triangles[facet, 1, 2] = value
    assert code(meshes.binary_stl(triangles)) == "not_finite"
    assert code(meshes.ascii_stl(triangles)) == "not_finite"


@pytest.mark.parametrize("write", [meshes.binary_stl, meshes.binary_ply, meshes.glb])
def test_a_signalling_not_a_number_is_refused_without_a_warning(
    write: Callable[[meshes.Triangles], bytes],
) -> None:
    triangles = RING.copy()
    triangles[0, 0] = 1234.5
    marked = np.float32(1234.5).tobytes()
    assert code(write(triangles).replace(marked, b"\x01\x00\xa0\x7f")) == "not_finite"


def test_all_facets_inverted_give_the_volume_without_its_sign() -> None:
    facts = analyse(meshes.binary_stl(meshes.flipped(RING)))
    assert facts.volume == pytest.approx(VOLUME_MM3)
    assert "inverted" in warnings(facts)


@pytest.mark.parametrize("facet", range(12))
def test_one_facet_flipped_never_halves_a_volume(facet: int) -> None:
    facts = analyse(meshes.binary_stl(meshes.flipped(CUBE, facet)))
    assert firmness_of(facts, "mm").priceable in ("manual", "provisional")
    if firmness_of(facts, "mm").priceable == "provisional":
        assert facts.volume == pytest.approx(1000)
        assert facts.repaired
        assert "flipped_facets" in warnings(facts)


def test_bodies_that_overlap_are_not_charged_twice() -> None:
    facts = analyse(meshes.binary_stl(np.concatenate([CUBE, meshes.cube(at=(5, 5, 5))])))
    assert facts.volume == pytest.approx(2000 - 125)
    inverted = analyse(meshes.binary_stl(meshes.flipped(np.concatenate([CUBE, meshes.cube(at=(5, 5, 5))]))))
    assert firmness_of(inverted, "mm").priceable == "manual" or inverted.volume == pytest.approx(2000 - 125)
    twice = analyse(meshes.binary_stl(np.concatenate([CUBE, CUBE])))
    assert firmness_of(twice, "mm").priceable == "manual" or twice.volume == pytest.approx(1000)


@pytest.mark.parametrize("corners", [(0, 0, 0), (0, 0, 1), (0, 1, 0)])
def test_a_facet_without_area_opens_nothing(corners: tuple[int, int, int]) -> None:
    flat = RING[7][list(corners)][None]
    facts = analyse(meshes.binary_stl(np.concatenate([RING, flat])))
    assert (facts.closed, facts.oriented) == (True, True)
    assert facts.volume == pytest.approx(VOLUME_MM3)


def test_lines_ended_by_cr_are_read_and_decimal_commas_are_said() -> None:
    text = meshes.ascii_stl(RING)
    assert analyse(text.replace(b"\n", b"\r")).volume == pytest.approx(VOLUME_MM3)
    assert code(text.replace(b".", b",")) == "comma_decimal"


@pytest.mark.parametrize("form", [meshes.obj, meshes.binary_ply, meshes.glb])
def test_vertices_split_by_normals_and_textures_leave_a_mesh_closed(
    form: Callable[[meshes.Triangles], bytes],
) -> None:
    facts = analyse(form(RING))
    assert (facts.closed, facts.oriented, facts.bodies) == (True, True, 1)


def test_facts_need_no_library_that_reads_other_files_or_pictures() -> None:
    program = (
        "import sys\n"
        "from pricing.mesh.analysis import analyse\n"
        "from tests.support import meshes\n"
        "for write in meshes.ALL_FORMATS.values():\n"
        "    assert analyse(write(meshes.torus())).closed\n"
        "print(sorted({'trimesh', 'PIL', 'networkx', 'lxml'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_nothing_but_the_program_itself_is_opened_while_reading() -> None:
    program = (
        "import sys\n"
        "from pricing.errors import Refused\n"
        "from pricing.mesh.analysis import analyse\n"
        "from pricing.mesh.warm import warm\n"
        "from pricing.second_opinion import second_opinion\n"
        "from tests.support import hostile, meshes\n"
        "warm()\n"
        "bodies = [make() for make, _ in hostile.REFUSED.values()]\n"
        "bodies += [b'mtllib ring.mtl\\nusemtl gold\\n' + meshes.obj(meshes.torus())]\n"
        "sound = [write(meshes.torus()) for write in meshes.ALL_FORMATS.values()]\n"
        "sound += [bodies[-1]]\n"
        "facts = [analyse(body) for body in sound]\n"
        "opinions = [second_opinion(*pair) for pair in zip(sound, facts)]\n"
        "assert {opinion.state for opinion in opinions} == {'agreed'}, opinions\n"
        "def watch(event, values):\n"
        "    if event.startswith(('open', 'socket', 'subprocess', 'os.', 'shutil', 'urllib')):\n"
        "        print(event, values)\n"
        "sys.addaudithook(watch)\n"
        "for body in bodies:\n"
        "    try:\n"
        "        analyse(body)\n"
        "    except Refused:\n"
        "        pass\n"
        "opinions = [second_opinion(*pair) for pair in zip(sound, facts)]\n"
        "assert {opinion.state for opinion in opinions} == {'agreed'}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == ""


@pytest.mark.parametrize("name", hostile.REFUSED)
def test_hostile_files_are_refused_with_their_code(name: str) -> None:
    make, expected = hostile.REFUSED[name]
    assert code(make()) == expected


@pytest.mark.slow
async def test_hostile_files_stay_within_the_limits_of_a_worker() -> None:
    """Beyond the memory, the processor time or the 2 seconds of the pool, the code would be another."""
    async with worker() as pool:
        for name, (make, expected) in hostile.REFUSED.items():
            with pytest.raises(Refused) as caught:
                await pool.analyse(make())
            assert (name, caught.value.code) == (name, expected)
            assert caught.value.remedy
        assert (await pool.analyse(STL)).closed


async def test_2_000_tiny_solids_are_read_within_the_limits() -> None:
    async with worker(LIMITS._replace(wall_s=30.0)) as pool:  # of processor time: the clock depends on others
        facts = await pool.analyse(hostile.tiny_solids(2000))
        assert (facts.facets, facts.bodies, facts.closed) == (8000, 2000, True)
        left_open = await pool.analyse(hostile.tiny_solids(2000, facets=3))
        assert firmness_of(left_open, "mm").priceable == "manual"


async def test_a_large_stl_takes_a_share_of_what_a_library_takes() -> None:
    body = meshes.binary_stl(meshes.torus(around=1300, across=500))
    assert len(body) == 65_000_084
    async with worker(LIMITS._replace(memory_bytes=640 << 20, cpu_s=30, wall_s=30.0)) as pool:
        facts = await pool.analyse(body)
    assert (facts.facets, facts.closed, facts.oriented) == (1_300_000, True, True)


@pytest.mark.parametrize("material", ["gold-585-yellow", "silver-925"])
def test_what_is_repaired_or_doubtful_still_has_a_price_above_zero(material: str) -> None:
    for triangles in (RING, meshes.flipped(RING), meshes.flipped(RING, 3), np.concatenate([CUBE, CUBE])):
        facts = analyse(meshes.binary_stl(triangles))
        answer = price(facts, Options(material), default_price_list(), default_metal_fix())
        assert answer.gross is None or answer.gross > 0
