"""Both kinds of STL as the analyser reads them: what is understood, and what is refused."""

import struct

import numpy as np
import pytest

from pricing.errors import Refused
from pricing.mesh.analysis import analyse
from pricing.readers import stl
from tests.support import meshes


def refusal(body: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        analyse(body)
    return caught.value


def test_binary_ring_is_read_in_place_and_in_full() -> None:
    facts = analyse(meshes.binary_stl(meshes.torus()))
    assert (facts.format, facts.facets, facts.closed, facts.oriented) == ("stl-binary", 576, True, True)


@pytest.mark.parametrize("change", [-1, 1, -50, 50, -600], ids=lambda n: f"{n:+d} bytes")
def test_binary_stl_of_another_size_than_stated_is_refused_with_the_numbers(change: int) -> None:
    body = meshes.binary_stl(meshes.cube())
    changed = body[:change] if change < 0 else body + b"\0" * change
    refused = refusal(changed)
    assert refused.code == "stl_size_mismatch"
    assert str(len(changed)) in refused.detail
    assert "684" in refused.detail


@pytest.mark.parametrize("blanks", [b"\n", b"\r\n", b" " * 50, b"\x1a"])
def test_blanks_behind_a_binary_stl_are_passed_over_with_a_remark(blanks: bytes) -> None:
    facts = analyse(meshes.binary_stl(meshes.cube()) + blanks)
    assert facts.volume == 1000
    assert [warning.code for warning in facts.warnings] == ["blank_bytes"]


@pytest.mark.parametrize("count", [0, 11, 13, 2**32 - 1])
def test_binary_stl_with_a_wrong_count_is_refused(count: int) -> None:
    body = bytearray(meshes.binary_stl(meshes.cube(), header=b"solid but binary"))
    struct.pack_into("<I", body, 80, count)
    assert refusal(bytes(body)).code == "stl_size_mismatch"


def test_reader_refuses_a_body_shorter_than_the_header() -> None:
    with pytest.raises(Refused, match="stl_size_mismatch"):
        stl.binary_facet_count(memoryview(b"\1" * 83))


def test_header_alone_has_no_facets() -> None:
    assert refusal(meshes.binary_stl(np.empty((0, 3, 3)))).code == "no_facets"


def test_binary_stl_whose_header_begins_with_solid_is_binary() -> None:
    assert analyse(meshes.binary_stl(meshes.cube(), header=b"solid ring\nfacet")).format == "stl-binary"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("facet", [0, 5000])
def test_binary_stl_with_a_coordinate_that_is_no_number_is_refused(value: float, facet: int) -> None:
    triangles = meshes.torus(around=60, across=50)
    triangles[facet, 1, 2] = value
    assert refusal(meshes.binary_stl(triangles)).code == "not_finite"


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"], ids=["LF", "CR", "CRLF"])
def test_ascii_line_ends_make_no_difference(end: str) -> None:
    body = meshes.ascii_stl(meshes.torus(), end=end)
    assert analyse(body) == analyse(meshes.ascii_stl(meshes.torus()))


def test_ascii_and_binary_agree() -> None:
    as_text, packed = analyse(meshes.ascii_stl(meshes.torus())), analyse(meshes.binary_stl(meshes.torus()))
    assert as_text.volume == pytest.approx(packed.volume, rel=1e-6)
    assert (as_text.facets, as_text.bodies, as_text.closed) == (packed.facets, packed.bodies, packed.closed)


def test_ascii_keywords_may_be_written_in_any_case() -> None:
    assert analyse(meshes.ascii_stl(meshes.cube()).upper().replace(b"RING", b"ring")).facets == 12


@pytest.mark.parametrize("name", ["facet normal endsolid solid", "обручка 月球", "", "  two  words ", "a\tb"])
def test_solid_may_have_any_name(name: str) -> None:
    assert analyse(meshes.ascii_stl(meshes.cube(), name=name)).volume == pytest.approx(1000)


def test_solid_name_may_be_bytes_of_no_encoding() -> None:
    body = meshes.ascii_stl(meshes.cube()).replace(b"solid ring", b"solid \xff\xfe\xe9")
    assert analyse(body).facets == 12


def test_several_solids_are_one_mesh_of_several_bodies() -> None:
    text = meshes.ascii_solid(meshes.cube()) + meshes.ascii_solid(meshes.cube(at=(20, 0, 0)))
    facts = analyse(text.encode())
    assert (facts.facets, facts.bodies) == (24, 2)
    assert facts.volume == pytest.approx(2000)


def test_byte_order_mark_before_solid_is_skipped() -> None:
    assert analyse(b"\xef\xbb\xbf" + meshes.ascii_stl(meshes.cube())).facets == 12


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b"10.0", b"10,0", "comma_decimal"),
        (b"10.0", b"nan", "not_finite"),
        (b"10.0", b"-Inf", "not_finite"),
        (b"10.0", b"1e999", "not_finite"),
        (b"10.0", b"1_0", "malformed_stl"),
        (b"10.0", b"ten", "malformed_stl"),
        (b"10.0", b"1e", "malformed_stl"),
        (b"10.0 ", b"", "malformed_stl"),
        (b"endloop\n", b"", "malformed_stl"),
        (b"outer loop", b"inner loop", "malformed_stl"),
        (b"endsolid ring", b"", "malformed_stl"),
        (b"endsolid ring", b"endsolid ring\nmore text", "malformed_stl"),
        (b"endsolid ring", b"endsolid ring\nendsolid ring", "malformed_stl"),
    ],
)
def test_ascii_that_is_not_exactly_stl_is_refused(old: bytes, new: bytes, code: str) -> None:
    body = meshes.ascii_stl(meshes.cube())
    assert old in body
    assert refusal(body.replace(old, new, 1)).code == code


def test_refusal_names_the_facet() -> None:
    triangles = meshes.cube()
    triangles[4, 0, 0] = np.nan
    assert "Facet 5:" in refusal(meshes.ascii_stl(triangles)).detail


def test_ascii_cut_short_anywhere_is_refused() -> None:
    body = meshes.ascii_stl(meshes.cube()).rstrip()
    for length in range(60, len(body) - len("endsolid ring"), 37):
        assert refusal(body[:length]).code == "malformed_stl"


def test_ascii_without_facets_is_refused() -> None:
    assert refusal(b"solid Empty\nendsolid Empty").code == "no_facets"
