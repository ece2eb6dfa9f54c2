"""The reader of ASCII STL against Python's own float and a regular expression, and within its bounds."""

import math
import random
import re
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pricing.errors import Refused
from pricing.readers import ascii_stl
from pricing.readers.ascii_stl import read_corners
from tests.support import meshes

FACET = "facet normal 0 0 1 outer loop vertex {} {} {} vertex {} {} {} vertex {} {} {} endloop endfacet\n"


def corners_of(body: bytes) -> NDArray[np.float64]:
    return read_corners(memoryview(body))


def refusal(body: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        corners_of(body)
    return caught.value


def solid_of(tokens: list[str]) -> bytes:
    """A solid whose coordinates are these tokens, filled up with zeros to whole facets."""
    tokens = tokens + ["0"] * (-len(tokens) % 9)
    facets = [FACET.format(*tokens[i : i + 9]) for i in range(0, len(tokens), 9)]
    return f"solid x\n{''.join(facets)}endsolid x\n".encode()


def bits(values: NDArray[np.float64] | list[float]) -> list[int]:
    """Doubles as integers: -0 is not 0."""
    return np.asarray(values, np.float64).reshape(-1).view(np.int64).tolist()


# --- Numbers

digits = st.text("0123456789", min_size=1, max_size=40)
plain_writings = st.from_regex(
    r"[+-]?([0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,40})([eE][+-]?[0-9]{1,4})?", fullmatch=True
)
doubles = st.floats(allow_nan=False, allow_infinity=False)
formats = st.sampled_from(["%r", "%e", "%f", "%g", "%.17g", "%.16e", "%.19e", "%.25e", "%+.12E"])
printed_doubles = st.builds(lambda form, value: form % value, formats, doubles)
usual_writings = st.builds(lambda form, value: form % value, formats, st.floats(-100, 100))
shifted_integers = st.builds("{}e{}".format, st.integers(0, 10**25), st.integers(-345, 310))
barely_too_long = st.builds("{}e{}".format, st.integers(2**53, 2**55), st.integers(-25, 25))
single_precision = st.builds(
    lambda value: repr(value), st.floats(width=32, allow_nan=False, allow_infinity=False)
)


@st.composite
def near_ties(draw: st.DrawFn) -> str:
    """Decimal writings exactly between two neighbouring doubles, and a hair beside."""
    value = draw(st.floats(1e-5, 1e15))
    top, bottom = value.as_integer_ratio()
    gap_top, gap_bottom = math.ulp(value).as_integer_ratio()
    scale = max(bottom, 2 * gap_bottom)
    middle = top * (scale // bottom) + gap_top * (scale // (2 * gap_bottom))
    places = scale.bit_length() - 1  # scale is a power of two: the decimal ends after so many places
    written = middle * 5**places
    offset = draw(st.sampled_from([0, 0, 1, -1]))
    return f"{written * 10**3 + offset}e-{places + 3}"


@given(
    st.lists(
        st.one_of(
            plain_writings,
            printed_doubles,
            usual_writings,
            shifted_integers,
            barely_too_long,
            single_precision,
            near_ties(),
        ),
        min_size=1,
        max_size=36,
    )
)
@example(["1", "1.", ".5", "-0", "+0", "-.0", "1e-7", "1E+05", "007", "0e99999999999999999999", "-0e-99999"])
@example(["5e-324", "4e-324", "2e-324", "2.2250738585072014e-308", "2.2250738585072011e-308", "1.5e-308"])
@example(["1.7976931348623157e308", "1e22", "1e23", "8.5e22", "0.1", "0.3", "7.038531e-26"])
@example(
    [
        "9007199254740992",
        "9007199254740993",
        "9007199254740995",
        "13128215229136437e-3",
        "17932163277122441e7",
    ]
)
@example(["18446744073709551615", "18446744073709551616", "9999999999999999999", "99999999999999999999"])
@example(["1e-400", "0." + "0" * 300 + "1e290", "1" + "0" * 300 + "e-300", "123456789012345678901234567890"])
@example(["50033203797938023e-18", "15196956472674976e-20"])  # a carry out of the lower half decides
@settings(deadline=None)  # the first one compiles
def test_every_writing_of_a_number_gives_the_double_that_python_reads(tokens: list[str]) -> None:
    finite = [token for token in tokens if math.isfinite(float(token))]
    assert bits(corners_of(solid_of(finite)))[: len(finite)] == bits([float(token) for token in finite])


@pytest.mark.parametrize(
    "token", ["1e309", "-1e400", "1.8e308", "9" * 400, "1e18446744073709551617", "1E+309"]
)
def test_number_beyond_the_doubles_is_not_finite(token: str) -> None:
    refused = refusal(solid_of(["0"] * 13 + [token]))
    assert refused.code == "not_finite"
    assert "Facet 2:" in refused.detail


@pytest.mark.parametrize(
    "token", ["1.2.3", ".", "+", "-", "--1", "1e", "1e+", "e5", ".e5", "1_0", "0x1p3", "1d5", "１"]
)
def test_what_python_reads_otherwise_or_not_at_all_is_no_number(token: str) -> None:
    refused = refusal(solid_of(["0"] * 9 + [token]))
    assert (refused.code, "Facet 2:" in refused.detail) == ("malformed_stl", True)


@pytest.mark.parametrize("token", ["1,5", "-,5", "+1,5e-3", "0,0E+05"])
def test_decimal_comma_has_a_code_of_its_own(token: str) -> None:
    assert refusal(solid_of(["0", token])).code == "comma_decimal"


@pytest.mark.parametrize("token", ["nan", "NaN", "-inf", "Infinity", "-nan(ind)", "1.#QNAN", "-1.#INF00"])
def test_what_printf_writes_for_no_number_is_not_finite(token: str) -> None:
    assert refusal(solid_of(["0", token])).code == "not_finite"


def test_longest_number_is_read_and_a_longer_one_refused() -> None:
    longest = "0." + "3" * (ascii_stl.NUMBER_BYTES_MAX - 2)
    assert corners_of(solid_of([longest]))[0, 0, 0] == float(longest)
    refused = refusal(solid_of([longest + "3"]))
    assert (refused.code, "2048" in refused.detail) == ("malformed_stl", True)


def test_numbers_left_for_python_are_decided_in_bounded_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [repr(index * 5e-324) for index in range(1, 901)]
    expected = bits([float(token) for token in tokens])
    assert bits(corners_of(solid_of(tokens))) == expected
    monkeypatch.setattr(ascii_stl, "UNDECIDED_MAX", 9)
    assert bits(corners_of(solid_of(tokens))) == expected


# --- Grammar

GAP = rb"(?!\s*[\r\n][ \t]*(?:solid(?!\S)|endsolid(?![^\s\0\x1a])))\s+"
NUMBER = rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
VERTEX = rb" vertex" + (b" " + NUMBER) * 3
WORD = rb"(?:facet|normal|outer|loop|vertex|endloop|endfacet|solid)(?!\S)|endsolid(?![^\s\0\x1a])"
REMARK = rb"(?:[\t\x20]+(?!" + WORD + rb")[^\s\0\x1a]\S*)*"
FACET_WRITING = (
    rb" facet normal \S+ \S+ \S+ outer loop" + VERTEX * 3 + rb" endloop" + REMARK + rb" endfacet" + REMARK
)
SOLID_WRITING = (
    rb"(?:\A|[ \t\r\n\0\x1a]*[\r\n])[ \t]*solid(?!\S)[^\r\n]*"
    rb"(?:" + FACET_WRITING.replace(b" ", GAP) + rb")*\s*[\r\n][ \t]*endsolid(?![^\s\0\x1a])[^\r\n]*"
)
WHOLE_FILE = re.compile(rb"(?:" + SOLID_WRITING + rb")*[ \t\r\n\0\x1a]*", re.IGNORECASE)
ONE_SOLID = re.compile(SOLID_WRITING, re.IGNORECASE)
ONE_FACET = re.compile(FACET_WRITING.replace(b" ", GAP), re.IGNORECASE)
ONE_VERTEX = re.compile(rb"vertex\s+(\S+)\s+(\S+)\s+(\S+)", re.IGNORECASE)

SCRAPS = (
    b"solid|endsolid|endsolid\0|\nendsolid\n|\n solid\n|\r\tENDSOLID x|facet|vertex|endfacet|endloop|normal|"
    b"outer loop|nan|inf|1,5|-0|1e400|1.e5|1e|.|e5|+.5e-3|1_0|1111111111111111111111111|\xff|\0|\x1a|\x0b|"
    b"\x0c|\r|\n|\t| "
).split(b"|")


def numbers_by_expression(body: bytes) -> list[float] | None:
    """The coordinates of a file the regular expression knows, None of any other."""
    body = body.removeprefix(b"\xef\xbb\xbf")
    if not WHOLE_FILE.fullmatch(body):
        return None
    # A name may hold a whole facet: it is cut off with its line.
    insides = [re.sub(rb"\A\s*\S+[^\r\n]*", b"", solid.group()) for solid in ONE_SOLID.finditer(body)]
    facets = [facet.group() for inside in insides for facet in ONE_FACET.finditer(inside)]
    return [float(token) for facet in facets for vertex in ONE_VERTEX.findall(facet) for token in vertex]


def drawn_file(draws: random.Random) -> bytes:
    """One to three solids of up to three facets, with names and line ends to stumble over."""
    solids = []
    for _ in range(draws.randint(1, 3)):
        triangles = meshes.cube()[: draws.randrange(4)]
        name = draws.choice(["a", "", "facet normal", "endsolid solid", "  ", "a\tb", "\x1a"])
        solids.append(meshes.ascii_solid(triangles, name, end=draws.choice(["\n", "\r", "\r\n", "\n\t "])))
    return draws.choice([b"", b"\xef\xbb\xbf"]) + "".join(solids).encode()


def spoiled(body: bytes, draws: random.Random) -> bytes:
    """The same with a piece inserted, cut out, replaced, repeated, or with another byte."""
    start = draws.randrange(len(body) + 1)
    stop = min(len(body), start + draws.randrange(12))
    middle = draws.choice(
        [b"", body[start:stop] * 2, draws.choice(SCRAPS), draws.choice(SCRAPS), draws.randbytes(1)]
    )
    return body[:start] + middle + body[draws.choice([start, stop]) :]


@pytest.mark.parametrize("seed", range(10))
def test_reader_takes_exactly_what_the_regular_expression_takes(seed: int) -> None:
    draws = random.Random(seed)
    taken = 0
    for _ in range(100):
        body = drawn_file(draws)
        for _ in range(draws.randrange(3)):
            body = spoiled(body, draws)
        expected = numbers_by_expression(body)
        if expected is None:
            assert refusal(body).code in ("malformed_stl", "comma_decimal", "not_finite"), body
        elif not np.isfinite(expected).all():
            assert refusal(body).code == "not_finite", body
        else:
            assert bits(corners_of(body)) == bits(expected), body
            taken += 1
    assert 20 < taken < 90


def test_real_text_files_are_read_as_by_the_regular_expression() -> None:
    for path, row in meshes.real_models().values():
        if row["format"] == "stl:ascii":
            body = path.read_bytes()
            assert bits(corners_of(body)) == bits(numbers_by_expression(body) or []), path.name


@pytest.mark.parametrize("filler", [b"", b"\n\n", b"\r\n\x1a", b"\0\0\0", b"\x1a", b"\n\0\n \t\r"], ids=repr)
def test_line_ends_and_fillers_may_follow_the_last_solid(filler: bytes) -> None:
    assert len(corners_of(solid_of(["1"]).rstrip() + filler)) == 1
    assert len(corners_of(solid_of(["1"]).replace(b"endsolid x\n", b"endsolid") + filler)) == 1


def test_blanks_of_any_kind_and_number_stand_between_tokens() -> None:
    body = (
        solid_of(["1.5", "-2"])
        .replace(b" 0", b"\t\r\n \x0b\x0c0")
        .replace(b"endloop ", b"EndLoop" + b" " * 200_000)
    )
    assert bits(corners_of(body))[:3] == bits([1.5, -2.0, 0.0])


def test_normal_is_not_looked_at_but_must_be_three_tokens_of_the_solid() -> None:
    body = solid_of(["1"])
    assert len(corners_of(body.replace(b"normal 0 0 1", b"normal nan -1,5 solid"))) == 1
    assert refusal(body.replace(b"normal 0 0 1", b"normal 0 1")).code == "malformed_stl"
    assert refusal(body.replace(b"normal 0 0 1", b"normal 0\nendsolid 1")).code == "malformed_stl"


@pytest.mark.parametrize("make", [bytes, bytearray], ids=["read-only", "writable"])
def test_body_is_left_as_it_is(make: type[bytes] | type[bytearray]) -> None:
    body = make(solid_of(["1", "2", "3"]))
    assert bits(read_corners(memoryview(body)))[:3] == bits([1.0, 2.0, 3.0])
    assert bytes(body) == solid_of(["1", "2", "3"])


# --- Refusals


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"outer loop", b"inner loop", "Facet 1: expected 'outer' at byte 27, found 'inner'"),
        (
            b"endloop endfacet",
            b"endloop\nendface",
            "Facet 1: expected 'endfacet' at byte 85, found 'endface'",
        ),
        (b"endsolid", b"solid", "'solid' at byte 94 does not follow its counterpart"),
        (b"solid x\nfacet", b"endsolid x\nfacet", "'endsolid' at byte 0 does not follow its counterpart"),
        (b"endsolid x\n", b"endsolid x\nmore text", "outside of any solid at byte 105: 'more'"),
        (
            b"endsolid x\n",
            b"endsolid x\n\0solid y\nendsolid y\n",
            "outside of any solid at byte 106: 'solid'",
        ),
        (b"endsolid x\n", b"endsolid x\n\x0c\n", "outside of any solid at byte 105"),
        (b"endsolid x\n", b"", "cut short after 1 facets"),
        (
            b"vertex 0 0 0 vertex",
            b"vertex 0 0 vertex",
            "Facet 1: the coordinate 'vertex' at byte 49 is not a number",
        ),
    ],
)
def test_refusal_says_where_and_what(old: bytes, new: bytes, words: str) -> None:
    body = solid_of(["0"])
    assert body.count(old) >= 1
    refused = refusal(body.replace(old, new, 1))
    assert refused.code == "malformed_stl"
    assert words in refused.detail


def test_every_beginning_of_a_file_is_cut_short() -> None:
    body = solid_of(["1.5e3"] * 18)
    for length in range(len(b"solid"), len(body) - len(b" x\n")):
        assert "cut short" in refusal(body[:length]).detail, length


def test_first_thing_that_is_wrong_is_the_one_refused() -> None:
    assert refusal(solid_of(["0", "1,5", "nan", "ten"])).code == "comma_decimal"
    assert refusal(solid_of(["0", "1e999", "1,5", "ten"])).code == "not_finite"
    assert refusal(solid_of(["1e999"] + ["0"] * 9 * 8 + ["1,5"])).code == "not_finite"


# --- Bounds


def seconds_to_read(body: bytes, facets: int) -> float:
    """Of this process's own work, at best of three."""
    times = []
    for _ in range(3):
        before = time.process_time()
        assert len(corners_of(body)) == facets
        times.append(time.process_time() - before)
    return min(times)


def test_work_is_linear_in_the_number_of_solids() -> None:
    """A hundred times the solids may take a hundred times as long, with room for noise; quadratic work would
    take ten thousand times.
    """
    one = solid_of(["1"])
    assert seconds_to_read(one * 200_000, 200_000) < 500 * max(seconds_to_read(one * 2_000, 2_000), 0.0005)


def test_work_is_linear_in_the_blanks_before_a_word() -> None:
    facet = FACET.format(*[1] * 9)
    body = f"solid x\n{(' ' * 5_000 + chr(10) + facet) * 2_000}endsolid x".encode()
    assert seconds_to_read(body, 2_000) < 1


@pytest.mark.parametrize(
    "word", [b"facet normal ", b"facet normal 0 0 0 outer loop vertex ", b"", b"facet normal 0 "]
)
@pytest.mark.parametrize("garbage", [b"\xff", b"1", b" ", b"solid ", b"\nsolid "], ids=repr)
def test_garbage_is_refused_at_once_however_long(word: bytes, garbage: bytes) -> None:
    body = b"solid x\n" + word + garbage * (10_000_000 // len(garbage))
    before = time.process_time()
    assert refusal(body).code == "malformed_stl"
    assert time.process_time() - before < 1


def memory_to_read(body: bytes) -> tuple[int, int]:
    """Bytes kept, and the most there were meanwhile."""
    tracemalloc.start()
    try:
        corners = corners_of(body)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert corners.nbytes == 72 * 20_000
    return kept - corners.nbytes, peak


def test_memory_kept_is_72_bytes_a_facet_and_less_than_the_size_of_the_body_is_reserved() -> None:
    body = solid_of(["0.00000"] * 9 * 20_000)
    corners_of(solid_of(["0"]))
    # The least of three: other threads of the test process are counted as well, and can only add to it.
    kept, peak = map(min, zip(*(memory_to_read(body) for _ in range(3)), strict=True))
    assert kept < 20_000
    assert peak < 0.84 * len(body) + 200_000
