"""The ZIP archive of a 3MF file, or of one model: bounded before anything is inflated, read in place, never
unpacked to disk."""

import posixpath
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO, RawIOBase
from itertools import islice
from typing import IO
from urllib.parse import unquote

from pricing.errors import Refused
from pricing.readers.common import malformed, unsupported
from pricing.readers.xml_stream import Attributes, ElementStream

MEMBERS_MAX = 1_000
MEMBER_BYTES_MAX = 512 << 20
TOTAL_BYTES_MAX = 768 << 20
RATIO_MAX = 200
"""Inflated over compressed bytes; model XML reaches some 20."""

_RATIO_BYTES_MIN = 1 << 20
# What the desktops of this world put into archives.
_BY_THE_WAY = frozenset({"__macosx", ".ds_store", "thumbs.db", "desktop.ini"})
ROOT_RELATIONS = "_rels/.rels"
_RELATIONSHIP = "http://schemas.openxmlformats.org/package/2006/relationships}Relationship"
_MODEL_TYPE = "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"

# What zipfile raises for archives with wrong offsets, sizes, names or checksums.
ARCHIVE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


class _BytesInPlace(RawIOBase):
    """A file over a view, which is not copied."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        position = offset + (0, self._position, len(self._body))[whence]
        if position < 0:
            raise OSError("seek before the beginning")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        piece = self._body[self._position : self._position + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)


_CONTENT_TYPES = "[content_types].xml"
_SEND_IT = "Send the model that is in it."


class Package:
    """The members of an archive by name. The names are only compared, so none can lead anywhere else."""

    def __init__(self, body: memoryview) -> None:
        # zipfile lists every member before it can be asked how many there are.
        if sum(1 for _ in islice(re.finditer(rb"PK\x01\x02", body), MEMBERS_MAX + 1)) > MEMBERS_MAX:
            raise _limit(f"The archive has more than {MEMBERS_MAX} members.")
        self._archive = zipfile.ZipFile(_BytesInPlace(body))
        members = self._archive.infolist()
        _check_members(members, len(body))
        self._members = {member.filename.lower(): member for member in members}
        if len(self._members) != len(members):
            raise malformed("3mf", "Two members have the same name.")

    def model_name(self) -> str:
        """The model part that the root relationships name."""
        targets: list[str] = []

        def take(name: str, attributes: Attributes) -> None:
            internal = attributes.get("TargetMode", "Internal") == "Internal"
            if name == _RELATIONSHIP and attributes.get("Type") == _MODEL_TYPE and internal:
                targets.append(attributes.get("Target", ""))

        self.read(ROOT_RELATIONS, ElementStream(take, lambda: None).read)
        if len(targets) != 1:
            raise malformed("3mf", f"The root relationships name {len(targets)} model parts instead of one.")
        return part_name(targets[0])

    def has(self, name: str) -> bool:
        return name in self._members

    def only_model(self) -> str | None:
        """The one file in an archive that is no 3MF; None when there are several."""
        names = [
            name
            for name in self._members
            if not name.endswith("/") and not _BY_THE_WAY & {name.partition("/")[0], name.rpartition("/")[2]}
        ]
        return names[0] if len(names) == 1 else None

    def read(self, name: str, reader: Callable[[IO[bytes]], None]) -> None:
        """Give `reader` the inflated member; its size and checksum are those the archive states."""
        if (member := self._members.get(name) or self._members.get(unquote(name))) is None:
            raise malformed("3mf", f"The part {name[:80]!r} does not exist.")
        with self._archive.open(member) as stream:
            reader(stream)
            # The stated size is the sender's claim, behind which zipfile stops without a word.
            if stream.tell() != member.file_size:
                raise malformed("3mf", f"{name[:80]!r} has not the size the archive states.")


def only_model(body: memoryview) -> memoryview | None:
    """The one file in the archive; None when the archive is itself a model (3MF).

    Refused `archive`, `archive_limit`, `malformed_3mf`, `unsupported_feature`.
    """
    try:
        package = Package(body)
        if package.has(ROOT_RELATIONS) or package.has(_CONTENT_TYPES):
            return None
        if (name := package.only_model()) is None:
            raise Refused("archive", "This is a ZIP archive of several files.", _SEND_IT)
        content = BytesIO()
        package.read(name, lambda stream: _copy(stream, content))
    except ARCHIVE_ERRORS as error:
        raise malformed("3mf", f"The archive cannot be read ({error}).") from error
    if bytes(content.getbuffer()[:4]) == b"PK\x03\x04":
        raise Refused("archive", "This is a ZIP archive in a ZIP archive.", _SEND_IT)
    return content.getbuffer()


def _copy(stream: IO[bytes], content: BytesIO) -> None:
    while piece := stream.read(1 << 20):
        content.write(piece)


def part_name(target: str) -> str:
    """A part as the package names it: from the root, in lower case."""
    return posixpath.normpath("/" + target).lstrip("/").lower()


def _limit(detail: str) -> Refused:
    return Refused("archive_limit", detail, "Export the model alone, as 3MF or binary STL.")


def _check_members(members: list[zipfile.ZipInfo], archive_bytes: int) -> None:
    total = sum(member.file_size for member in members)
    if total > min(TOTAL_BYTES_MAX, max(_RATIO_BYTES_MIN, RATIO_MAX * archive_bytes)):
        raise _limit(f"The archive of {archive_bytes} bytes holds {total} bytes.")
    for member in members:
        name = member.filename[:80]
        if member.flag_bits & 1:
            raise unsupported("The archive is encrypted.")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise unsupported(f"The archive is compressed by method {member.compress_type}.")
        if member.file_size > MEMBER_BYTES_MAX:
            raise _limit(f"{name!r} has {member.file_size} bytes; at most {MEMBER_BYTES_MAX} are read.")
        if member.file_size > max(_RATIO_BYTES_MIN, RATIO_MAX * member.compress_size):
            raise _limit(f"{name!r} inflates more than {RATIO_MAX} times.")
