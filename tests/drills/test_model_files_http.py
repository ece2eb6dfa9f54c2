"""Every model file of a folder, priced over HTTP, against volumes computed elsewhere.

The folder has an INDEX.tsv with the columns `file`, `watertight`, `winding_consistent`, `mesh_volume_native`
and `truth_volume_native` (in the file's own unit). It is named by FACET_TEST_MODELS. As a report:
`python -m tests.drills.test_model_files_http`.
"""

import asyncio
import csv
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.processes import Client, Reply, Service, clients_of, served

FOLDER = os.environ.get("FACET_TEST_MODELS", "")
TOLERANCE = 1e-6
MM3_PER_IN3 = 25.4**3
MM3_PER_M3 = 1e9
REFUSED = ("MUSTFAIL", "invalid", "malformed", "notenoughindices", "empty")
"""What the names of files that must be refused contain."""

needs_models = pytest.mark.skipif(
    not FOLDER, reason="FACET_TEST_MODELS does not name a folder with model files and an INDEX.tsv"
)


class File(NamedTuple):
    path: Path
    closed: bool
    oriented: bool
    volume_native: float | None

    @property
    def units(self) -> str:
        """Left to the file, unless its name knows better."""
        return "in" if "INCH" in self.path.name else ""

    @property
    def refused(self) -> bool:
        return any(word in self.path.name for word in REFUSED)

    @property
    def volume_mm3(self) -> float | None:
        """What the closed mesh must have; None when nobody has said so."""
        if not self.closed or self.volume_native is None:
            return None
        if self.path.suffix == ".glb":
            return self.volume_native * MM3_PER_M3
        return self.volume_native * (MM3_PER_IN3 if self.units == "in" else 1.0)


def files() -> list[File]:
    """The files of the folder; none when it is not given."""
    if not FOLDER:
        return []
    folder = Path(FOLDER)
    with (folder / "INDEX.tsv").open(newline="", encoding="utf-8") as index:
        return [
            File(
                folder / row["file"],
                row["watertight"] == "True",
                row["winding_consistent"] == "True",
                _volume(row["mesh_volume_native"]) or _volume(row["truth_volume_native"]),
            )
            for row in csv.DictReader(index, delimiter="\t", quoting=csv.QUOTE_NONE)
        ]


def _volume(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


async def priced(mes: Client, file: File) -> Reply:
    path = f"/v1/prices?material=gold-585-yellow&units={file.units}"
    return await mes.send("POST", path, data=BytesIO(file.path.read_bytes()), headers=_OCTETS)


_OCTETS = {"Content-Type": "application/octet-stream"}


def fault(file: File, reply: Reply) -> str | None:
    """What is wrong with this answer; None when it is right."""
    body = reply.json
    if reply.status >= 500:
        return f"answered {reply.status}"
    if reply.status >= 400:
        refusable = file.refused or not file.closed
        return None if refusable and body.get("code") else f"refused: {body.get('code')} {body['detail']}"
    if file.refused:
        return f"priced, {body['price']['priceable']}"
    if not file.closed:
        judged = body["price"]["priceable"]
        return None if judged in ("provisional", "manual") else f"open, and priced as {judged}"
    if not file.oriented and body["price"]["priceable"] == "auto":
        return "facets face both ways, and it is priced firmly"
    if not file.oriented and body["model"]["repaired"]:
        return None  # what the index has is the sum of the facets as they are
    return _volume_fault(file.volume_mm3, body["model"]["volume_mm3"])


def _volume_fault(expected: float | None, given: float) -> str | None:
    if expected is None:
        return None
    off = abs(given - expected) / expected
    return None if off <= TOLERANCE else f"volume {given}, expected {expected}: off by {off:.1e}"


@pytest.fixture(scope="module")
def pricing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(tmp_path_factory.mktemp("models") / "data") as service:
        yield service


@pytest.fixture
async def mes(pricing: Service) -> AsyncIterator[Client]:
    async with clients_of(pricing.url) as clients:
        yield await clients.of("mes")


@needs_models
@pytest.mark.parametrize("file", [pytest.param(file, id=file.path.name) for file in files()])
async def test_model_file_is_priced_by_its_volume_or_refused_with_a_code(file: File, mes: Client) -> None:
    reply = await priced(mes, file)
    assert fault(file, reply) is None, reply


@needs_models
async def test_known_model_is_answered_from_the_cache_with_the_same_price(mes: Client) -> None:
    file = next(file for file in files() if file.volume_mm3 is not None)
    first, second = await priced(mes, file), await priced(mes, file)
    assert second.headers["Cache-Status"].startswith("facet; hit")
    assert second.json["model"] == first.json["model"]
    assert second.json["price"]["net"] == first.json["price"]["net"]


@needs_models
def test_folder_holds_files_of_every_kind() -> None:
    found = files()
    assert any(file.refused for file in found)
    assert any(not file.closed and not file.refused for file in found)
    assert any(file.units == "in" for file in found)
    assert {file.path.suffix for file in found} >= {".stl", ".obj", ".ply", ".off", ".glb", ".3mf"}


async def _report() -> int:
    faults = 0
    with tempfile.TemporaryDirectory() as directory, served(Path(directory) / "data") as service:
        async with clients_of(service.url) as clients:
            mes = await clients.of("mes")
            for file in files():
                reply = await priced(mes, file)
                wrong = fault(file, reply)
                faults += wrong is not None
                print(f"{'WRONG' if wrong else 'ok':<6}{file.path.name[:44]:<46}{wrong or _said(reply)}")
    print(f"{len(files())} files, {faults} wrong")
    return 1 if faults else 0


def _said(reply: Reply) -> str:
    body = reply.json
    if reply.status >= 400:
        return f"{reply.status} {body['code']}"
    return f"{body['price']['priceable']:<12}{body['model']['volume_mm3']:>18.6f} mm3"


if __name__ == "__main__":
    if not FOLDER:
        sys.exit("FACET_TEST_MODELS does not name a folder")
    sys.exit(asyncio.run(_report()))
