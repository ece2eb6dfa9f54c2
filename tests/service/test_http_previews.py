"""Previews: of every format and of broken meshes, small enough for a screen, made once, not for everybody."""

import asyncio
import hashlib
import json
import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from pricing.errors import Refused
from pricing.mesh.preview import PREVIEW_FACETS_MAX, decimated, preview
from tests.support.meshes import ALL_FORMATS, binary_stl, cube, flipped, torus
from tests.support.processes import Client, Reply, Service
from tests.support.workshop import SHA256_UNKNOWN, Workshop, problem


async def uploaded(client: Client, body: bytes) -> str:
    """Where its preview is."""
    reply = await client.send("POST", "/v1/models", data=BytesIO(body))
    assert reply.status == 201, reply
    return f"/v1/models/{hashlib.sha256(body).hexdigest()}/preview"


def mesh_of(glb: bytes) -> trimesh.Trimesh:
    """As a screen takes it, in millimetres."""
    mesh = trimesh.load(BytesIO(glb), file_type="glb", force="mesh")
    assert isinstance(mesh, trimesh.Trimesh)
    mesh.apply_scale(1000)  # type: ignore[no-untyped-call]
    return mesh


def document_of(glb: bytes) -> Any:
    magic, version, size, length, kind = struct.unpack_from("<4sIII4s", glb)
    assert (magic, version, size, kind) == (b"glTF", 2, len(glb), b"JSON")
    return json.loads(glb[20 : 20 + length])


def a_cube(name: str) -> bytes:
    size = 10 + np.random.default_rng().integers(1, 1000) / 64
    return ALL_FORMATS[name](cube(size / (1000 if name == "glb" else 1)))


@pytest.mark.parametrize("name", ALL_FORMATS)
async def test_every_format_has_a_preview(workshop: Workshop, name: str) -> None:
    body = a_cube(name)
    reply = await workshop.partner.get(await uploaded(workshop.partner, body))
    assert (reply.status, reply.headers["Content-Type"]) == (200, "model/gltf-binary")
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    model = (await workshop.partner.get(f"/v1/models/{hashlib.sha256(body).hexdigest()}")).json["model"]
    shown = mesh_of(reply.raw)
    assert shown.extents == pytest.approx(model["bbox_mm"], rel=1e-5)
    assert shown.volume == pytest.approx(model["volume_mm3"], rel=1e-5)


async def test_a_preview_is_made_once_and_not_sent_again(service: Service, workshop: Workshop) -> None:
    path = await uploaded(workshop.partner, binary_stl(torus(9.3, 1.5, 200, 100)))
    replies = await asyncio.gather(*(workshop.partner.get(path) for _ in range(8)))
    assert len({reply.raw for reply in replies}) == 1
    tag = replies[0].headers["ETag"]
    assert not tag.startswith("W/")
    assert replies[0].headers["Cache-Control"].startswith("private, max-age=")
    again = await workshop.partner.get(path, headers={"If-None-Match": tag})
    assert (again.status, again.raw, again.headers["ETag"]) == (304, b"", tag)
    sha256 = path.split("/")[3]
    kept = [file.name for file in (service.data_dir / "previews" / sha256[:2]).iterdir()]
    assert [name for name in kept if name.startswith(sha256)] == [f"{sha256}-1.glb"]


async def test_a_preview_is_for_who_may_have_the_file(workshop: Workshop) -> None:
    path = await uploaded(workshop.partner, a_cube("stl-binary"))
    for client in (workshop.partner, workshop.ivan, workshop.mes):
        assert (await client.get(path)).status == 200
    for client in (workshop.customer, workshop.shop, workshop.seller):
        problem(await client.get(path), 403, "forbidden")
    rival = await workshop.clients.of("partner", "rival", "rival")
    problem(await rival.get(path), 404, "unknown_model")
    problem(await workshop.mes.get(f"/v1/models/{SHA256_UNKNOWN}/preview"), 404, "unknown_model")


async def test_a_preview_needs_the_file_once_only(service: Service, workshop: Workshop) -> None:
    def remove(path: str) -> None:
        sha256 = path.split("/")[3]
        (service.data_dir / "models" / sha256[:2] / sha256).unlink()

    seen, unseen = [await uploaded(workshop.partner, a_cube("stl-binary")) for _ in range(2)]
    first = await workshop.partner.get(seen)
    remove(seen)
    remove(unseen)
    again: Reply = await workshop.partner.get(seen)
    assert (again.status, again.raw) == (200, first.raw)
    problem(await workshop.partner.get(unseen), 404, "file_gone")


# --- Decimation


def counted(corners: NDArray[np.float64]) -> int:
    return len(decimated(corners).faces)


def noise(facets: int) -> NDArray[np.float64]:
    return np.random.default_rng(5).random((facets, 3, 3)) * 20


LARGE = torus(9.0, 1.5, 400, 200)
HOLED = LARGE[np.random.default_rng(3).random(len(LARGE)) > 0.2]
FACETS = np.arange(len(LARGE))
BROKEN: dict[str, NDArray[np.float64]] = {
    "with holes": HOLED,
    "half of it inside out": flipped(LARGE, *FACETS[::2].tolist()),
    "every facet twice": np.concatenate([LARGE, LARGE]),
    "two that cross": np.concatenate([LARGE, LARGE + np.array([5.0, 0.0, 0.0])]),
    "far away": LARGE + 1e6,
    "flat": LARGE * [1.0, 1.0, 0.0],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_mesh_comes_out_small_and_looks_the_same(name: str) -> None:
    corners = BROKEN[name]
    shape = decimated(corners)
    assert 2_000 < len(shape.faces) <= PREVIEW_FACETS_MAX
    extent = np.ptp(corners.reshape(-1, 3), axis=0)
    assert np.ptp(shape.vertices, axis=0) == pytest.approx(extent, rel=0.02, abs=0.05)
    assert np.abs(shape.vertices.max(axis=0) + shape.vertices.min(axis=0)).max() < 0.2


def test_a_whole_ring_keeps_its_volume_its_area_and_its_sides() -> None:
    shape = decimated(LARGE)
    shown = trimesh.Trimesh(*shape)
    whole = trimesh.Trimesh(LARGE.reshape(-1, 3), np.arange(3 * len(LARGE)).reshape(-1, 3))
    assert len(LARGE) == 160_000
    assert shown.volume == pytest.approx(whole.volume, rel=0.02)
    assert shown.area == pytest.approx(whole.area, rel=0.02)


@pytest.mark.parametrize("facets", [1, PREVIEW_FACETS_MAX])
def test_a_small_mesh_is_shown_as_it_is(facets: int) -> None:
    assert counted(noise(facets)) == facets


@pytest.mark.parametrize(
    "corners",
    [noise(30_000), np.zeros((30_000, 3, 3)), np.sort(noise(30_000) * [1e6, 1e-6, 1e-6], axis=0)],
    ids=["facets as large as the box", "a point", "a needle"],
)
def test_what_no_grid_can_thin_out_is_still_bounded(corners: NDArray[np.float64]) -> None:
    assert 0 < counted(corners) <= PREVIEW_FACETS_MAX


def test_the_same_file_gives_the_same_bytes() -> None:
    body = binary_stl(LARGE)
    assert preview(body) == preview(body)
    assert len(preview(body)) < 20 * PREVIEW_FACETS_MAX


def test_a_preview_is_what_screens_read() -> None:
    document = document_of(preview(binary_stl(torus())))
    positions, indices = document["accessors"]
    assert (positions["type"], indices["componentType"]) == ("VEC3", 5123)
    assert positions["max"] == pytest.approx([10.5, 10.5, 1.5], rel=1e-5)
    assert document["nodes"][0]["matrix"][5:7] == [0.0, -0.001]  # z is up, and a millimetre is a thousandth
    assert all(view["byteOffset"] % 4 == 0 for view in document["bufferViews"])


def test_what_is_no_mesh_has_no_preview() -> None:
    for body in (b"", b"nothing", binary_stl(torus())[:-1], b"solid x\nendsolid x\n"):
        with pytest.raises(Refused):
            preview(body)
