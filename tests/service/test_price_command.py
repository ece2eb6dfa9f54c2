"""`./facet price` as a user runs it: streams, pipes, terminals, Ctrl-C, and the golden example."""

import contextlib
import csv
import json
import math
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from server.commands.cli import main
from tests.support import meshes
from tests.support.commands import facet
from tests.support.encodings import encodings
from tests.support.gates import until
from tests.support.template import ROOT

GOLDEN_VOLUME_MM3, GOLDEN_AREA_MM2 = 241.186049, 1057.768
GOLDEN_LINES = {
    "metal": "448.17",
    "pattern": "20.67",
    "casting": "32.67",
    "finish": "57.12",
    "setup": "15.00",
    "quantity_break": "-5.52",
    "markup": "142.03",
}
MANY = 1_500
"""Files whose CSV is longer than a pipe holds: the command cannot end while nobody reads it."""


def plate(volume_mm3: float, area_mm2: float, length_mm: float = 20.0) -> meshes.Triangles:
    """A closed block of that volume and area: width and height are the roots of a quadratic."""
    product = volume_mm3 / length_mm
    total = (area_mm2 / 2 - product) / length_mm
    root = math.sqrt(total**2 - 4 * product)
    sides = np.array([length_mm, (total + root) / 2, (total - root) / 2])
    block: meshes.Triangles = meshes.cube(1.0) * sides
    return block


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    path = tmp_path / "ring.stl"
    path.write_bytes(meshes.binary_stl(meshes.torus()))
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cubes that are equal but for their headers, so that no file is another's double."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(MANY):
        body = meshes.binary_stl(meshes.cube(), header=b"cube %d" % number)
        (folder / f"a-cube-with-a-rather-long-name-{number:05}.stl").write_bytes(body)
    return folder


def _heed_interrupts() -> None:
    """A shell's background jobs are started deaf to them, and so are these tests when it runs them so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def started(*words: str, stderr: int = subprocess.PIPE) -> Iterator["subprocess.Popen[str]"]:
    """The command, running, the first of a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "server", "price", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
        preexec_fn=_heed_interrupts,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=60)


def drained(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """What is left to read of both outputs, and the process over."""
    assert process.stdout is not None
    assert process.stderr is not None
    rest, error = process.stdout.read(), process.stderr.read()
    process.wait(60)
    return rest, error


def alive(group: int) -> list[int]:
    """Processes of a group that run, the workers of a command among them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, its_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                found.append(int(entry.name))
    return found


# --- The golden example


@pytest.mark.parametrize("form", ["obj", "stl", "facts"])
def test_the_golden_example_comes_out_to_the_cent(form: str, tmp_path: Path) -> None:
    block = plate(GOLDEN_VOLUME_MM3, GOLDEN_AREA_MM2)
    facts = {"volume_mm3": GOLDEN_VOLUME_MM3, "area_mm2": GOLDEN_AREA_MM2, "bbox_mm": [20, 20, 5]}
    bodies = {"obj": meshes.obj(block), "stl": meshes.binary_stl(block), "facts": json.dumps(facts).encode()}
    path = tmp_path / f"golden.{form}"
    path.write_bytes(bodies[form])
    asked = [str(path), "--material", "gold-585-yellow", "--quantity", "3", "--explain"]
    asked += ["--facts"] if form == "facts" else []
    (item,) = json.loads(facet("price", *asked, "--json").stdout)["items"]
    assert item["model"]["volume_mm3"] == pytest.approx(GOLDEN_VOLUME_MM3, abs=5e-5)
    assert item["model"]["area_mm2"] == pytest.approx(GOLDEN_AREA_MM2, abs=2e-4)
    assert {line["code"]: line["amount"]["amount"] for line in item["price"]["lines"]} == GOLDEN_LINES
    assert [item["price"][name]["amount"] for name in ("unit_price", "net", "vat", "gross")] == [
        "186.21",
        "710.14",
        "142.03",
        "852.17",
    ]
    explained = {step["code"]: step["variables"] for step in item["explanation"]}
    assert explained["metal"]["mass_g"] == "3.152"
    assert explained["markup"]["subtotal"] == "568.11"
    shown = facet("price", *asked).stdout
    assert all(text in shown for text in ("852.17", "568.11 x 0.25", "fix_per_oz = 2000.00"))


def test_the_model_of_an_answer_is_priced_again_without_its_mesh(ring: Path, tmp_path: Path) -> None:
    asked = ["--material", "silver-925", "--json"]
    (item,) = json.loads(facet("price", str(ring), *asked).stdout)["items"]
    kept = tmp_path / "kept.json"
    for document in (item["model"], item):
        kept.write_text(json.dumps(document))
        (again,) = json.loads(facet("price", "--facts", str(kept), *asked).stdout)["items"]
        assert again["model"] == item["model"]
        assert {**again["price"], "warnings": []} == {**item["price"], "warnings": []}


# --- Files, directories, patterns, pipes


def test_a_directory_is_all_the_models_in_it_by_name(ring: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "cube.PLY").write_bytes(meshes.binary_ply(meshes.cube()))
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / ".hidden.stl").write_bytes(b"")
    for named in (str(tmp_path), f"{tmp_path}/**"):
        done = facet("price", named, "--material", "brass", "--csv")
        rows = list(csv.DictReader(StringIO(done.stdout)))
        expected = ["ring.stl", "deep/cube.PLY"] if named == str(tmp_path) else None
        names = [str(Path(row["file"]).relative_to(tmp_path)) for row in rows]
        assert expected is None or names == expected
        assert {"ring.stl", "deep/cube.PLY"} <= set(names)


def test_standard_input_is_a_file(ring: Path) -> None:
    with ring.open("rb") as body:
        done = subprocess.run(
            [sys.executable, "-m", "server", "price", "-", "--material", "brass", "--csv"],
            cwd=ROOT,
            stdin=body,
            capture_output=True,
            text=True,
        )
    (row,) = csv.DictReader(StringIO(done.stdout))
    assert (done.returncode, row["file"], row["priceable"]) == (0, "-", "auto")


def test_a_named_pipe_is_a_file(ring: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with started(str(pipe), "--material", "brass", "--csv") as process:
        pipe.write_bytes(ring.read_bytes())
        out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    assert out.splitlines()[1].split(",")[7] == "auto"


def test_names_of_any_bytes_are_shown(ring: Path, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/ring \xff\x1b[31m.stl"
    os.rename(ring, odd)
    for form in ([], ["--json"], ["--csv"]):
        done = facet("price", str(tmp_path), "--material", "brass", *form)
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["FILE"],
        ["FILE", "--material", "unobtainium"],
        ["FILE", "--material", "brass", "--quantity", "many"],
        ["FILE", "--material", "brass", "--stones", "own-small"],
        ["FILE", "--material", "brass", "--stones", "moonstone:2"],
        ["FILE", "--material", "brass", "--json", "--csv"],
        ["FILE", "/nowhere/ring.stl", "--material", "brass"],
        ["/nowhere/*.stl", "--material", "brass"],
        ["EMPTY", "--material", "brass"],
        ["-", "-", "--material", "brass"],
        ["FILE", "--material", "brass", "--price-list", "/nowhere/list.json"],
    ],
)
def test_a_bad_argument_is_one_line_and_exit_code_2(
    words: list[str], ring: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    named = {"FILE": str(ring), "EMPTY": str(tmp_path / "empty")}
    try:
        code: object = main(["price", *(named.get(word, word) for word in words)])
    except SystemExit as end:
        code = end.code
    out, error = capsys.readouterr()
    assert (code, out, error.count("\n")) == (2, "", 1), error
    assert error.startswith("facet price: ")


def test_a_bad_argument_ends_the_command_before_anything_is_read() -> None:
    done = facet("price", "/nowhere/ring.stl", "--material", "brass")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "/nowhere/ring.stl" in done.stderr


def test_a_refused_file_is_shown_with_its_reason_and_what_to_do(ring: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.stl"
    cut.write_bytes(ring.read_bytes()[:-10])
    done = facet("price", str(cut), str(ring), "--material", "brass")
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    head = lines[0].index("remarks")
    assert lines[1][head:] == "stl_size_mismatch"
    assert lines[2].index("auto") == lines[0].index("price")
    assert f"{cut}: The header states 576 facets" in done.stdout
    assert "Export the model again as binary STL." in done.stdout


# --- Many files


def test_rows_come_while_other_files_are_still_read_and_in_their_order(many: Path) -> None:
    with started(str(many), "--material", "brass", "--csv") as process:
        assert process.stdout is not None
        head, first = process.stdout.readline(), process.stdout.readline()
        assert process.poll() is None
        rest, error = drained(process)
    rows = list(csv.DictReader(StringIO(head + first + rest)))
    assert [Path(row["file"]) for row in rows] == sorted(many.iterdir())
    assert {row["gross"] for row in rows} == {rows[0]["gross"]}
    assert (process.returncode, error) == (0, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
async def test_nothing_is_left_of_a_command_that_is_ended(many: Path, number: int, code: int) -> None:
    with started(str(many), "--material", "brass", "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(alive(process.pid)) > 1
        process.send_signal(number)
        rest, error = drained(process)
        assert process.returncode == code
        assert number == signal.SIGKILL or error == ""
        assert rest.count("\n") < MANY
        await until(lambda: not alive(process.pid))


async def test_a_reader_that_goes_away_ends_the_command(many: Path) -> None:
    with started(str(many), "--material", "brass", "--csv") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (141, "")
        await until(lambda: not alive(process.pid))


# --- Terminals


def test_a_terminal_sees_how_far_it_is_and_a_pipe_does_not(ring: Path, tmp_path: Path) -> None:
    copies = [str(ring)] * 3
    assert facet("price", *copies, "--material", "brass").stderr == ""
    master, slave = pty.openpty()
    with started(*copies, "--material", "brass", stderr=slave) as process:
        os.close(slave)
        out, _ = process.communicate(timeout=60)
    seen = read_all(master)
    assert "] 3/3 " in seen
    assert seen.endswith("\r\x1b[K")
    assert "\x1b" not in out
    assert out.count("ring.stl") == 3


def read_all(terminal: int) -> str:
    """What was written to a terminal whose other end is closed: reading it then fails."""
    seen = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(terminal, 65_536):
            seen += chunk
    os.close(terminal)
    return seen.decode()


def test_another_program_is_asked_where_that_is_wanted(tmp_path: Path) -> None:
    """One file here, several in workers; what it cannot read is said, and what nobody asked about is not."""
    (tmp_path / "ring.stl").write_bytes(meshes.binary_stl(meshes.torus()))
    (tmp_path / "ring.obj").write_bytes(encodings()["OBJ, negative indices"].body)
    asked = ["--material", "brass", "--json", "--verify"]
    (alone,) = json.loads(facet("price", str(tmp_path / "ring.stl"), *asked).stdout)["items"]
    assert alone["model"]["verification"]["state"] == "agreed"
    other, same = json.loads(facet("price", str(tmp_path), *asked).stdout)["items"]
    assert same["model"]["verification"]["state"] == "agreed"
    assert other["model"]["verification"]["state"] == "not_possible"
    assert (other["price"]["priceable"], same["price"]["priceable"]) == ("auto", "auto")
    table = facet("price", str(tmp_path), "--material", "brass", "--verify").stdout
    assert "no second opinion" in table
    listed = facet("price", str(tmp_path), "--material", "brass", "--csv").stdout
    rows = list(csv.DictReader(StringIO(listed)))
    assert [row["verification"] for row in rows] == ["", ""]
    refused = facet("price", "--facts", str(tmp_path / "x.json"), "--material", "brass", "--verify")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_bodies_that_are_no_metal_are_left_out(tmp_path: Path) -> None:
    ring = meshes.torus()
    (tmp_path / "ring.stl").write_bytes(meshes.binary_stl(ring))
    (tmp_path / "set.stl").write_bytes(meshes.binary_stl(np.concatenate([meshes.cube(at=(30, 0, 0)), ring])))
    asked = ["--material", "brass", "--json"]
    alone, whole = json.loads(facet("price", str(tmp_path), *asked).stdout)["items"]
    assert [body["index"] for body in whole["model"]["bodies_found"]] == [1, 2]
    left_out = facet("price", str(tmp_path / "set.stl"), *asked, "--leave-out", "1")
    (without,) = json.loads(left_out.stdout)["items"]
    assert without["price"]["net"] == alone["price"]["net"] != whole["price"]["net"]
    refused, other = json.loads(facet("price", str(tmp_path), *asked, "--leave-out", "2").stdout)["items"]
    assert (refused["error"]["code"], "price" in other) == ("unknown_body", True)
    bad = facet("price", str(tmp_path), "--material", "brass", "--leave-out", "x")
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
