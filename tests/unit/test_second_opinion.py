"""What trimesh says of the same bytes is held against our sums: equal, different, or not to be had."""

import io
import zipfile
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from pricing.facts import SECOND_OPINION_DIFFERS, Facts, MeshWarning
from pricing.mesh.analysis import analyse
from pricing.price.firmness import firmness_of
from pricing.second_opinion import second_opinion
from tests.support import meshes
from tests.support.encodings import encodings

RING = meshes.torus()
FAR = (RING + np.float32(3e4)).astype(np.float32)


def opinion_of(body: bytes) -> tuple[str, str | None]:
    found = second_opinion(body, analyse(body))
    return found.state, found.reason


@pytest.mark.parametrize("write", meshes.ALL_FORMATS.values(), ids=meshes.ALL_FORMATS)
@pytest.mark.parametrize("shape", [RING, FAR, RING[:-1], meshes.flipped(RING), meshes.flipped(RING, 5)])
def test_it_agrees_on_every_format_closed_or_not(
    write: Callable[[meshes.Triangles], bytes], shape: meshes.Triangles
) -> None:
    assert opinion_of(write(shape)) == ("agreed", None)


def test_closedness_and_bodies_are_told_and_not_judged_by() -> None:
    two = np.concatenate([RING[:-1], RING + np.float32(40)])
    found = second_opinion(meshes.binary_stl(two), analyse(meshes.binary_stl(two)))
    assert (found.state, found.closed, found.bodies) == ("agreed", False, 2)
    ring = meshes.binary_stl(RING)
    found, facts = second_opinion(ring, analyse(ring)), analyse(ring)
    assert (found.closed, found.bodies) == (True, 1)
    assert found.volume == pytest.approx(facts.volume, rel=1e-6)
    assert found.by.startswith("trimesh ")


def test_a_repaired_or_united_surface_is_compared_as_it_was_in_the_file() -> None:
    for shape in (
        np.concatenate([meshes.cube(), meshes.cube(at=(5, 5, 5))]),
        np.concatenate([RING, RING[:1]]),
        meshes.flipped(RING, 3),
    ):
        body = meshes.binary_stl(shape)
        assert analyse(body).warnings
        assert opinion_of(body) == ("agreed", None)


@pytest.mark.parametrize("factor", [1 + 3e-6, 0.99])
def test_facts_that_are_not_of_the_file_differ(factor: float) -> None:
    body = meshes.binary_stl(RING)
    facts = analyse(body)
    found = second_opinion(body, msgspec.structs.replace(facts, volume=facts.volume * factor))
    assert found.state == "differs"
    assert found.reason is not None
    assert found.reason.startswith("The facts say")


def test_the_file_in_an_archive_and_a_text_of_another_encoding_are_compared() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("ring.stl", meshes.binary_stl(RING))
    assert opinion_of(archive.getvalue()) == ("agreed", None)
    assert opinion_of(meshes.ascii_stl(RING).decode().encode("utf-16")) == ("agreed", None)


ENCODINGS = encodings()
KNOWN_OTHERWISE = {
    "ASCII STL, CR": "does not read it",
    "OBJ, negative indices": "count back",
    "3MF, production parts": "no facets",
    "3MF with a support": "taken for metal",
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_what_trimesh_reads_otherwise_is_known_by_name(name: str) -> None:
    state, reason = opinion_of(ENCODINGS[name].body)
    if name in KNOWN_OTHERWISE:
        assert state == "not_possible"
        assert KNOWN_OTHERWISE[name] in str(reason)
    else:
        assert (state, reason) == ("agreed", None)


def test_faces_that_two_programs_cut_otherwise_are_no_difference() -> None:
    arrow = b"v 0 0 0\nv 10 -5 0\nv 3 0 0\nv 10 5 0\nv 3 0 -9\n"
    sides = b"f 2 1 5\nf 3 2 5\nf 4 3 5\nf 1 4 5\n"
    state, reason = opinion_of(arrow + b"f 2 3 4 1\n" + sides)
    assert (state, "more than three corners" in str(reason)) == ("not_possible", True)
    assert opinion_of(arrow + b"f 2 3 1\nf 3 4 1\n" + sides) == ("agreed", None)


def test_a_carriage_return_within_a_line_is_no_difference() -> None:
    """Found by a mutant: OFF is read by words here, and by lines there."""
    body = meshes.off(RING).replace(b"3 0 ", b"3 0 \r", 1)
    state, reason = opinion_of(body)
    assert (state, "carriage return" in str(reason)) == ("not_possible", True)


@pytest.mark.parametrize("broken", ["3 0 \r\n", "3 \n0 "])
def test_a_facet_over_two_lines_is_no_difference(broken: str) -> None:
    """Found by mutants: OFF is read by words here, and by lines there."""
    state, reason = opinion_of(meshes.off(RING).replace(b"\n3 0 ", b"\n" + broken.encode(), 1))
    assert (state, "on a line each" in str(reason)) == ("not_possible", True)


def test_an_indented_line_is_no_difference() -> None:
    """Found by a mutant: trimesh looks for facets at the beginnings of lines."""
    body = meshes.obj(RING).replace(b"\nf ", b"\n\tf ", 1)
    state, reason = opinion_of(body)
    assert (state, "begin with blanks" in str(reason)) == ("not_possible", True)


def test_long_thin_facets_may_be_rounded_otherwise() -> None:
    """Found by a mutant: a text has more digits than trimesh keeps. The thinner facets are, the more of their
    area that can be."""
    for tube in (0.01, 0.003, 0.001):
        thin = meshes.torus(ring=5.913580124, tube=tube, around=8, across=4)
        assert opinion_of(meshes.ascii_ply(thin)) == ("agreed", None)


def test_who_disputes_a_model_leaves_its_price_to_a_person() -> None:
    facts: Facts = analyse(meshes.binary_stl(RING))
    assert firmness_of(facts, "mm").priceable == "auto"
    doubt = MeshWarning(SECOND_OPINION_DIFFERS, "The volume is another.")
    disputed = msgspec.structs.replace(facts, warnings=(doubt,))
    assert firmness_of(disputed, "mm").priceable == "manual"
