"""XML from strangers, read as a stream: no document types, no entities, no other files, nothing kept.

expat reports a document type before it does anything about it, in whatever encoding the text is, so none can
hide from the check.
"""

from collections.abc import Callable
from typing import IO
from xml.parsers import expat

from pricing.errors import Refused
from pricing.readers.common import malformed

PIECE_BYTES = 1 << 16
DEPTH_MAX = 64
NAMESPACE_END = "}"
"""Stands between namespace and name, as in `http://...}model`; names without a namespace are bare."""

Attributes = dict[str, str]
Start = Callable[[str, Attributes], None]


class ElementStream:
    """Reports the elements of one XML part. `line` is where the part is being read, for refusals."""

    def __init__(
        self, start: Start, end: Callable[[], None], text: Callable[[str], None] | None = None
    ) -> None:
        self._start = start
        self._end = end
        self._depth = 0
        self.namespaces: dict[str, str] = {}
        self._parser = expat.ParserCreate(namespace_separator=NAMESPACE_END)
        self._parser.StartDoctypeDeclHandler = _refuse_document_type
        self._parser.StartNamespaceDeclHandler = self._declare
        self._parser.StartElementHandler = self._enter
        self._parser.EndElementHandler = self._leave
        if text is not None:
            self._parser.CharacterDataHandler = text

    @property
    def line(self) -> int:
        return self._parser.CurrentLineNumber

    def read(self, stream: IO[bytes]) -> None:
        """Read to the end; Refused `dtd_forbidden` or `malformed_3mf`."""
        try:
            while piece := stream.read(PIECE_BYTES):
                self._parser.Parse(piece, False)
            self._parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise malformed("3mf", f"A part is not XML ({error}).") from error
        except LookupError as error:
            raise malformed("3mf", f"A part is in an unknown encoding ({error}).") from error

    def _declare(self, prefix: str | None, uri: str | None) -> None:
        self.namespaces[prefix or ""] = uri or ""

    def _enter(self, name: str, attributes: Attributes) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise malformed("3mf", f"Elements are nested more than {DEPTH_MAX} deep.")
        self._start(name, attributes)

    def _leave(self, name: str) -> None:
        self._depth -= 1
        self._end()


def _refuse_document_type(name: str, system: str | None, public: str | None, subset: int) -> None:
    raise Refused(
        "dtd_forbidden", "The XML declares a document type.", "Export the model with another program."
    )
