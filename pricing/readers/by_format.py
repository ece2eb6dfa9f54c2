"""The readers of all formats but STL, by name."""

from collections.abc import Callable

from pricing.readers.common import Points
from pricing.readers.glb import read_glb
from pricing.readers.obj import read_obj
from pricing.readers.off import read_off
from pricing.readers.ply import read_ply
from pricing.readers.three_mf import read_three_mf

_READERS: dict[str, Callable[[memoryview], tuple[Points, str | None]]] = {
    "obj": read_obj,
    "off": read_off,
    "ply": read_ply,
    "glb": read_glb,
    "3mf": read_three_mf,
}


def read(found: str, body: memoryview) -> tuple[Points, str | None]:
    """The corners (n, 3, 3) of `body` in the format `found`, and the unit the file states."""
    return _READERS[found](body)
