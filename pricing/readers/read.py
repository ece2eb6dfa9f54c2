"""Any model file to the corners of its facets."""

from pricing.readers import stl
from pricing.readers.corners import Corners


def read(found: str, body: memoryview) -> tuple[Corners, str | None]:
    """The facets of `body`, which is of the format `found`, and the unit it states."""
    if found == "stl-binary":
        return stl.read_binary(body), None
    if found == "stl-ascii":
        return stl.read_ascii(body), None
    # Few files are of the other formats, and their readers take a while to import.
    from pricing.readers import by_format as meshes

    return meshes.read(found, body)
