"""The files that `./facet price` is given: names, directories, patterns, pipes, standard input.

Files are read, and pipes for as long as something comes. A device has no end, and a file may be said to be
larger than any model: neither is opened for reading.
"""

import contextlib
import glob
import hashlib
import io
import os
import select
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pricing.errors import Refused

MODEL_SUFFIXES = (".stl", ".obj", ".ply", ".off", ".glb", ".3mf")
FACTS_SUFFIXES = (".json",)
FILES_MAX = 100_000
"""Files of one call: their names are held, to count them and to sort them."""

FILE_BYTES_MAX = 1 << 30
"""What is read of a file, or of a pipe: that goes to a temporary file first, and has no size to look at."""

PIPE_WAIT_S = 10.0
"""How long a pipe may bring nothing, unless `--wait` says otherwise."""

_CHUNK_BYTES = 1 << 20
STANDARD_INPUT = "-"


class BadArgument(Exception):
    """A name that leads to no file."""


class ModelSource(NamedTuple):
    """A file, and what it is called in the answers."""

    name: str
    path: Path


class Content(NamedTuple):
    """What was in a file, and when: `stamp` is another as soon as it is written to."""

    sha256: str
    byte_count: int
    stamp: tuple[int, ...]


def expand(
    names: Sequence[str], suffixes: tuple[str, ...], spool: Path, wait_s: float = PIPE_WAIT_S
) -> list[ModelSource]:
    """The files behind `names`, in their order, those of a directory or a pattern by name.

    Pipes are read now, into files below the directory `spool`, while each brings something within `wait_s`.
    Raises BadArgument, OSError.
    """
    if names.count(STANDARD_INPUT) > 1:
        raise BadArgument(f"{STANDARD_INPUT} is named twice: standard input can be read once")
    sources: list[ModelSource] = []
    for name in names:
        for source in _sources(name, suffixes, spool / str(len(sources)), wait_s):
            sources.append(source)
            if len(sources) > FILES_MAX:
                raise BadArgument(f"these are more than {FILES_MAX} files: price them in parts")
    return sources


def _sources(name: str, suffixes: tuple[str, ...], spooled: Path, wait_s: float) -> Iterable[ModelSource]:
    if name == STANDARD_INPUT:
        if sys.stdin.isatty():
            raise BadArgument(f"{STANDARD_INPUT} reads a file from standard input, which is this terminal")
        mode = os.fstat(sys.stdin.fileno()).st_mode
        if not stat.S_ISSOCK(mode):  # as some programs have it: it ends as pipes do
            _require_end(name, mode)
        return [_spooled(name, sys.stdin.fileno(), spooled, wait_s)]
    if not os.path.exists(name) and glob.has_magic(name):
        return _matching(name, suffixes)
    if os.path.isdir(name):
        return _within(name, suffixes)
    mode = os.stat(name).st_mode
    _require_end(name, mode)
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # of a pipe: before a writer has
    try:
        if stat.S_ISREG(mode):
            return [ModelSource(_shown(name), Path(name))]
        return [_spooled(name, descriptor, spooled, wait_s)]
    finally:
        os.close(descriptor)


def _require_end(name: str, mode: int) -> None:
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise BadArgument(f"{_shown(name)} is {_kind(mode)}, not a file")


def _matching(pattern: str, suffixes: tuple[str, ...]) -> Iterator[ModelSource]:
    """The files of a pattern that no shell has expanded; directories are looked into."""
    if not (found := sorted(glob.glob(pattern, recursive=True))):
        raise BadArgument(f"{_shown(pattern)} matches no file")
    # `**` yields a directory and what is in it: then the files alone are meant.
    if files := [name for name in found if os.path.isfile(name)]:
        yield from (ModelSource(_shown(name), Path(name)) for name in files)
    else:
        for name in found:
            yield from _within(name, suffixes)


def _within(directory: str, suffixes: tuple[str, ...]) -> Iterator[ModelSource]:
    """The model files of a directory and of those in it, told by their suffix; hidden ones are left out."""
    found = 0
    for folder, folders, files in os.walk(directory, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                found += 1
                path = os.path.join(folder, name)
                yield ModelSource(_shown(path), Path(path))
    if not found:
        raise BadArgument(f"{_shown(directory)} holds no file that ends in {', '.join(suffixes)}")


def _raise(error: OSError) -> None:
    raise error


def _spooled(name: str, descriptor: int, target: Path, wait_s: float) -> ModelSource:
    byte_count = 0
    with target.open("wb") as file:
        for chunk in _chunks(name, descriptor, wait_s):
            byte_count += len(chunk)
            if byte_count > FILE_BYTES_MAX:
                raise BadArgument(f"{_shown(name)}: more than {FILE_BYTES_MAX} bytes come out of it")
            file.write(chunk)
    return ModelSource(_shown(name), target)


def _chunks(name: str, descriptor: int, wait_s: float) -> Iterator[bytes]:
    """What comes, until its end. A pipe without a writer yet has not ended."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        if not poll.poll(wait_s * 1000):
            raise BadArgument(f"{_shown(name)}: nothing came for {wait_s:g} s; --wait allows for more")
        try:
            chunk = os.read(descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            continue
        if not chunk:
            return
        yield chunk


def _kind(mode: int) -> str:
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "a device"
    return "a socket" if stat.S_ISSOCK(mode) else "a pipe" if stat.S_ISFIFO(mode) else "something else"


def document(path: Path, bytes_max: int, wait_s: float) -> bytes:
    """At most this many bytes, and one more, of a file or a pipe. Raises OSError, Refused, BadArgument."""
    if not stat.S_ISFIFO(os.stat(path).st_mode):
        with opened(path) as file:
            return file.read(bytes_max + 1)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    read = bytearray()
    try:
        for chunk in _chunks(str(path), descriptor, wait_s):
            read += chunk
            if len(read) > bytes_max:
                break
    finally:
        os.close(descriptor)
    return bytes(read)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """A file to be read. Raises OSError; Refused for what has no end, or is larger than any model."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise Refused("not_a_file", f"This is {_kind(mode)}, not a file.", "Name a model file.")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_size > FILE_BYTES_MAX:
            raise Refused(
                "file_too_large",
                f"The file has {status.st_size} bytes; at most {FILE_BYTES_MAX} are read.",
                "Export the model with a coarser tolerance, or as binary STL.",
            )
        yield file


def _shown(name: str) -> str:
    """A name that can be printed anywhere, whatever bytes it has."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)


def content_of(path: Path) -> Content:
    """Raises OSError, Refused."""
    with opened(path) as file:
        before = os.fstat(file.fileno())
        return Content(hashlib.file_digest(file, "sha256").hexdigest(), before.st_size, _stamp(before))


def unchanged(path: Path, content: Content) -> bool:
    """Whether the file is still as it was when it was hashed. Raises OSError."""
    return _stamp(path.stat()) == content.stamp


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
