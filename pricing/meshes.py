"""The readers of all formats but STL, by name."""

from collections.abc import Callable

from pricing.glb import read_glb
from pricing.loading import Points
from pricing.obj import read_obj
from pricing.off import read_off
from pricing.ply import read_ply
from pricing.three_mf import read_three_mf

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
