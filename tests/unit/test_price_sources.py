"""The files behind `./facet price`: how many are held, which are read once, what happens when they change."""

import asyncio
import contextlib
import os
import socket
from pathlib import Path

import pytest

from pricing.errors import Refused
from pricing.facts import Facts
from pricing.mesh.analysis import analyse
from server.commands.price.rows import Row
from server.commands.price.run import AHEAD, _in_order, _Meshes
from server.commands.price.sources import MODEL_SUFFIXES, BadArgument, ModelSource, expand
from tests.support import meshes
from tests.support.gates import DEADLINE_S

RING = meshes.binary_stl(meshes.torus())


def sources(folder: Path, *bodies: bytes) -> list[ModelSource]:
    found = []
    for number, body in enumerate(bodies):
        path = folder / f"{number}.stl"
        path.write_bytes(body)
        found.append(ModelSource(path.name, path))
    return found


class Reader:
    """Reads files, and keeps their names."""

    def __init__(self) -> None:
        self.read: list[str] = []

    async def analyse(self, path: Path) -> Facts:
        self.read.append(path.name)
        await asyncio.sleep(0)
        return analyse(path.read_bytes())


async def test_files_of_equal_content_are_read_once_also_at_once(tmp_path: Path) -> None:
    reader, cut = Reader(), RING[:-1]
    known = _Meshes(reader.analyse, None, "mm")
    named = sources(tmp_path, RING, RING, cut, RING, cut)
    answers = await asyncio.gather(*(known.answer(source) for source in named), return_exceptions=True)
    assert len(reader.read) == 2
    assert answers[0] == answers[1] == answers[3]
    assert [type(answers[number]) for number in (2, 4)] == [Refused] * 2


async def test_a_file_that_is_written_to_meanwhile_is_refused(tmp_path: Path) -> None:
    (source,) = sources(tmp_path, RING)

    async def analysed(path: Path) -> Facts:
        with path.open("ab") as file:
            file.write(b"more")
        return analyse(RING)

    with pytest.raises(Refused, match="file_changed"):
        await _Meshes(analysed, None, "mm").answer(source)


async def test_a_file_that_is_gone_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    gone, there = sources(tmp_path, RING, RING)
    gone.path.unlink()
    known = _Meshes(Reader().analyse, None, "mm")
    with pytest.raises(Refused, match="unreadable"):
        await known.answer(gone)
    assert (await known.answer(there))[0].facets == 576


async def test_what_is_held_does_not_grow_with_the_number_of_files() -> None:
    begun = taken = held = 0

    async def row_of(source: ModelSource) -> Row:
        nonlocal begun
        begun += 1
        return Row(source.name)

    many = [ModelSource(str(number), Path()) for number in range(1_000)]
    async with contextlib.aclosing(_in_order(many, row_of)) as rows:
        async for row in rows:
            assert row.file == str(taken)
            taken += 1
            held = max(held, begun - taken)
    assert (taken, held) == (1_000, AHEAD - 1)


async def test_files_under_way_are_given_up_when_nobody_wants_their_rows() -> None:
    given_up = 0

    async def row_of(source: ModelSource) -> Row:
        nonlocal given_up
        try:
            if source.name != "0":
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            given_up += 1
            raise
        return Row(source.name)

    many = [ModelSource(str(number), Path()) for number in range(10)]
    async with asyncio.timeout(DEADLINE_S), contextlib.aclosing(_in_order(many, row_of)) as rows:
        async for row in rows:
            assert row.file == "0"
            break
    assert given_up == 9


def test_directories_are_walked_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.stl", "a.3mf", ".c.stl", "d.txt", "sub/e.GLB", ".git/f.stl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = expand([str(tmp_path)], MODEL_SUFFIXES, tmp_path)
    assert [os.path.relpath(source.path, tmp_path) for source in found] == ["a.3mf", "b.stl", "sub/e.GLB"]


def test_a_name_with_brackets_is_a_name_when_there_is_such_a_file(tmp_path: Path) -> None:
    (tmp_path / "ring[1].stl").write_bytes(RING)
    (tmp_path / "ring1.stl").write_bytes(RING)
    (found,) = expand([str(tmp_path / "ring[1].stl")], MODEL_SUFFIXES, tmp_path)
    assert found.path.name == "ring[1].stl"


def test_too_many_files_are_said_before_any_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.commands.price.sources.FILES_MAX", 2)
    names = [str(source.path) for source in sources(tmp_path, b"", b"", b"")]
    assert len(expand(names[:2], MODEL_SUFFIXES, tmp_path)) == 2
    with pytest.raises(BadArgument, match="more than 2 files"):
        expand(names, MODEL_SUFFIXES, tmp_path)


def test_a_pipe_without_an_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.commands.price.sources.FILE_BYTES_MAX", 3 << 10)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    held = os.open(pipe, os.O_RDWR)
    os.write(held, b"x" * 5_000)
    with pytest.raises(BadArgument, match="more than 3072 bytes"):
        expand([str(pipe)], MODEL_SUFFIXES, tmp_path)
    os.close(held)


def test_a_pipe_that_nobody_writes_to_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(BadArgument, match=r"nothing came for 0\.01 s; --wait"):
        expand([str(pipe)], MODEL_SUFFIXES, tmp_path, 0.01)
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(BadArgument, match="nothing came"):
            expand(["-"], MODEL_SUFFIXES, tmp_path, 0.01)
    os.close(writing)


def test_what_is_no_file_is_refused_by_what_it_is(tmp_path: Path) -> None:
    endless, listening = tmp_path / "endless.stl", tmp_path / "socket.stl"
    endless.symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(listening))
        for path, kind in ((endless, "a device"), (listening, "a socket"), (Path("/dev/null"), "a device")):
            with pytest.raises(BadArgument, match=kind):
                expand([str(path)], MODEL_SUFFIXES, tmp_path)
    loop = tmp_path / "loop.stl"
    loop.symlink_to(loop)
    with pytest.raises(OSError, match="loop"):
        expand([str(loop)], MODEL_SUFFIXES, tmp_path)


async def test_in_a_directory_what_is_no_file_is_refused_and_the_rest_is_priced(tmp_path: Path) -> None:
    reader = Reader()
    known = _Meshes(reader.analyse, None, "mm")
    os.mkfifo(tmp_path / "a.stl")
    (tmp_path / "b.stl").symlink_to("/dev/zero")
    with (tmp_path / "c.stl").open("wb") as sparse:
        sparse.truncate(200 << 30)
    (tmp_path / "d.stl").write_bytes(RING)
    refusals = {}
    for source in expand([str(tmp_path)], MODEL_SUFFIXES, tmp_path):
        try:
            await known.answer(source)
        except Refused as refused:
            refusals[source.path.name] = refused.code
    assert refusals == {"a.stl": "not_a_file", "b.stl": "not_a_file", "c.stl": "file_too_large"}
    assert reader.read == ["d.stl"]
