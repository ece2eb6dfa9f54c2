"""The files that `./facet price` is given: names, directories, patterns, standard input."""

import glob
import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

MODEL_SUFFIXES = (".stl", ".obj", ".ply", ".off", ".glb", ".3mf")
FACTS_SUFFIXES = (".json",)
FILES_MAX = 100_000
"""Files of one call: their names are held, to count them and to sort them."""

SPOOLED_BYTES_MAX = 1 << 30
"""What is read of a pipe: it goes to a temporary file first, and has no size to look at."""

_CHUNK_BYTES = 1 << 20
STANDARD_INPUT = "-"


class BadArgument(Exception):
    """A name that leads to no file."""


class Source(NamedTuple):
    """A file, and what it is called in the answers."""

    name: str
    path: Path


class Content(NamedTuple):
    """What was in a file, and when: `stamp` is another as soon as it is written to."""

    sha256: str
    byte_count: int
    stamp: tuple[int, ...]


def expand(names: Sequence[str], suffixes: tuple[str, ...], spool: Path) -> list[Source]:
    """The files behind `names`, in their order, those of a directory or a pattern by name.

    Pipes are read now, into files below the directory `spool`. Raises BadArgument, OSError.
    """
    if names.count(STANDARD_INPUT) > 1:
        raise BadArgument(f"{STANDARD_INPUT} is named twice: standard input can be read once")
    sources: list[Source] = []
    for name in names:
        for source in _sources(name, suffixes, spool / str(len(sources))):
            sources.append(source)
            if len(sources) > FILES_MAX:
                raise BadArgument(f"these are more than {FILES_MAX} files: price them in parts")
    return sources


def _sources(name: str, suffixes: tuple[str, ...], spooled: Path) -> Iterable[Source]:
    if name == STANDARD_INPUT:
        if sys.stdin.isatty():
            raise BadArgument(f"{STANDARD_INPUT} reads a file from standard input, which is this terminal")
        return [_spooled(name, sys.stdin.buffer, spooled)]
    if not os.path.exists(name) and glob.has_magic(name):
        return _matching(name, suffixes)
    if os.path.isdir(name):
        return _within(name, suffixes)
    mode = os.stat(name).st_mode
    if stat.S_ISREG(mode):
        with open(name, "rb"):
            return [Source(_shown(name), Path(name))]
    with open(name, "rb") as pipe:
        return [_spooled(name, pipe, spooled)]


def _matching(pattern: str, suffixes: tuple[str, ...]) -> Iterator[Source]:
    """The files of a pattern that no shell has expanded; directories are looked into."""
    found = sorted(glob.glob(pattern, recursive=True))
    if not found:
        raise BadArgument(f"{_shown(pattern)} matches no file")
    # `**` yields a directory and what is in it: then the files alone are meant.
    files = [name for name in found if os.path.isfile(name)]
    if files:
        yield from (Source(_shown(name), Path(name)) for name in files)
    else:
        for name in found:
            yield from _within(name, suffixes)


def _within(directory: str, suffixes: tuple[str, ...]) -> Iterator[Source]:
    """The model files of a directory and of those in it, told by their suffix; hidden ones are left out."""
    found = 0
    for folder, folders, files in os.walk(directory, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                found += 1
                path = os.path.join(folder, name)
                yield Source(_shown(path), Path(path))
    if not found:
        raise BadArgument(f"{_shown(directory)} holds no file that ends in {', '.join(suffixes)}")


def _raise(error: OSError) -> None:
    raise error


def _spooled(name: str, pipe: BinaryIO, target: Path) -> Source:
    byte_count = 0
    with target.open("wb") as file:
        while chunk := pipe.read(_CHUNK_BYTES):
            byte_count += len(chunk)
            if byte_count > SPOOLED_BYTES_MAX:
                raise BadArgument(f"{_shown(name)}: more than {SPOOLED_BYTES_MAX} bytes come out of the pipe")
            file.write(chunk)
    return Source(_shown(name), target)


def _shown(name: str) -> str:
    """A name that can be printed anywhere, whatever bytes it has."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)


def content_of(path: Path) -> Content:
    """Raises OSError."""
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        return Content(hashlib.file_digest(file, "sha256").hexdigest(), before.st_size, _stamp(before))


def unchanged(path: Path, content: Content) -> bool:
    """Whether the file is still as it was when it was hashed. Raises OSError."""
    return _stamp(path.stat()) == content.stamp


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
