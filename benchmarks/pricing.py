"""Facts of a binary STL with a million facets, against trimesh and against hashing alone.

Variants run interleaved in one process and are compared by the median of their processor time: on a shared
machine only such ratios mean anything. `facts` is volume, area, box and closedness, the work trimesh's
`load(...).volume` does and more; `analyse` counts the bodies and checks every edge as well.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from io import BytesIO

import numpy as np
import trimesh

from pricing import stl
from pricing.facts import analyse
from pricing.kernel import Measures, measure

FACETS = 1_000_000
ROUNDS = 5

_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attributes", "<u2")])


def torus_stl(facets: int, ring_mm: float = 10.0, tube_mm: float = 2.0) -> bytes:
    """A closed torus as binary STL, with two facets per cell of a grid round both circles."""
    cells_round = 2 * int((facets / 4) ** 0.5)
    cells_across = facets // 2 // cells_round
    around = np.linspace(0, 2 * np.pi, cells_round, endpoint=False)[:, None]
    across = np.linspace(0, 2 * np.pi, cells_across, endpoint=False)[None, :]
    distance = ring_mm + tube_mm * np.cos(across)
    points = np.stack(
        [distance * np.cos(around), distance * np.sin(around), tube_mm * np.sin(across) + 0 * around], axis=-1
    )
    right, up = np.roll(points, -1, axis=0), np.roll(points, -1, axis=1)
    both = np.roll(right, -1, axis=1)
    corners = np.concatenate([np.stack([points, right, both], 2), np.stack([points, both, up], 2)])
    records = np.zeros(corners.shape[0] * corners.shape[1], _FACET)
    records["corners"] = corners.reshape(-1, 3, 3)
    return b"benchmark".ljust(80) + len(records).to_bytes(4, "little") + records.tobytes()


def _facts(body: bytes) -> Measures:
    return measure(stl.read_binary(memoryview(body)))


def _loaded(body: bytes) -> trimesh.Trimesh:
    mesh = trimesh.load(BytesIO(body), file_type="stl")
    assert isinstance(mesh, trimesh.Trimesh)
    return mesh


def _trimesh_volume(body: bytes) -> float:
    return float(_loaded(body).volume)


def _trimesh_facts(body: bytes) -> tuple[object, ...]:
    mesh = _loaded(body)
    return (
        mesh.volume,
        mesh.area,
        mesh.bounds,
        mesh.is_watertight,
        mesh.is_winding_consistent,
        mesh.body_count,
    )


def _sha256(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def _hash_and_facts(body: bytes) -> tuple[bytes, Measures]:
    return _sha256(body), _facts(body)


_VARIANTS: dict[str, Callable[[bytes], object]] = {
    "facts": _facts,
    "hash_and_facts": _hash_and_facts,
    "sha256": _sha256,
    "analyse": analyse,
    "trimesh_volume": _trimesh_volume,
    "trimesh_same_facts": _trimesh_facts,
}


def _medians_s(body: bytes, rounds: int) -> dict[str, float]:
    """Median processor seconds of each variant."""
    spent: dict[str, list[float]] = {name: [] for name in _VARIANTS}
    for _ in range(rounds):
        for name, variant in _VARIANTS.items():
            before = time.process_time()
            variant(body)
            spent[name].append(time.process_time() - before)
    return {name: statistics.median(seconds) for name, seconds in spent.items()}


def _peak_bytes(variant: Callable[[bytes], object], body: bytes) -> int:
    """Most memory in use at once beyond the body."""
    tracemalloc.start()
    variant(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def _import_s() -> float:
    """Seconds to import the analyser in a new interpreter, as that interpreter measures them."""
    code = "import time; t = time.perf_counter(); import pricing.facts; print(time.perf_counter() - t)"
    return float(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    )


def run(facets: int = FACETS, rounds: int = ROUNDS) -> dict[str, object]:
    """Measure and return `name`, `rounds`, `ratios` (larger is better for `x_`, smaller for `of_`) and
    `figures`.
    """
    body = torus_stl(facets)
    for variant in (_facts, analyse):
        variant(body)  # first calls import and allocate
    seconds = _medians_s(body, rounds)
    count = stl.binary_facet_count(memoryview(body))
    figures = {f"{name}_ns_per_facet": round(spent / count * 1e9, 1) for name, spent in seconds.items()}
    return {
        "name": "pricing",
        "rounds": rounds,
        "ratios": {
            "facts_x_trimesh_volume": round(seconds["trimesh_volume"] / seconds["facts"], 1),
            "hash_and_facts_x_trimesh_volume": round(
                seconds["trimesh_volume"] / seconds["hash_and_facts"], 1
            ),
            "analyse_x_trimesh_same_facts": round(seconds["trimesh_same_facts"] / seconds["analyse"], 1),
            "hash_and_facts_of_sha256": round(seconds["hash_and_facts"] / seconds["sha256"], 2),
        },
        "figures": {
            "facets": count,
            **figures,
            "facts_extra_memory_mb": round(_peak_bytes(_facts, body) / 1e6, 1),
            "analyse_extra_memory_mb": round(_peak_bytes(analyse, body) / 1e6, 1),
            "import_s": round(_import_s(), 2),
        },
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Facts of a large STL against trimesh and hashing.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--facets", type=int, default=FACETS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    result = run(options.facets, options.rounds)
    if options.json:
        print(json.dumps(result))
        return
    for group in ("ratios", "figures"):
        print(group)
        values = result[group]
        assert isinstance(values, dict)
        for name, value in values.items():
            print(f"  {name:<40}{value:>12}")


if __name__ == "__main__":
    main()
