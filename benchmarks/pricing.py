"""Facts of a binary STL with a million facets, against trimesh and against hashing alone; and an ASCII one.

Variants run interleaved in one process and are compared by the median of their processor time: on a shared
machine only such ratios mean anything. `facts` is volume, area, box and closedness, the work trimesh's
`load(...).volume` does and more; `analyse` welds the facets, checks every edge and counts the bodies as well.
Compiling, importing and loading what was compiled are measured apart, each in an interpreter of its own.
"""

import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import trimesh

from benchmarks import pricing_http
from benchmarks.toruses import torus_ascii_stl, torus_stl
from pricing.mesh.analysis import analyse
from pricing.mesh.measures import Measures, measure
from pricing.mesh.warm import warm
from pricing.readers import stl

FACETS = 1_000_000
ASCII_FACETS = 100_000
ROUNDS = 5

Variants = dict[str, Callable[[bytes], object]]


def _facts(body: bytes) -> Measures:
    return measure(stl.read_binary(memoryview(body)).corners)


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


_BINARY: Variants = {
    "facts": _facts,
    "hash_and_facts": lambda body: (_sha256(body), _facts(body)),
    "sha256": _sha256,
    "analyse": analyse,
    "trimesh_volume": _trimesh_volume,
    "trimesh_same_facts": _trimesh_facts,
}
_ASCII: Variants = {"ascii_analyse": analyse, "ascii_trimesh_volume": _trimesh_volume}


def _medians_s(variants: Variants, body: bytes, rounds: int) -> dict[str, float]:
    """Median processor seconds of each variant."""
    spent: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            before = time.process_time()
            variant(body)
            spent[name].append(time.process_time() - before)
    return {name: statistics.median(seconds) for name, seconds in spent.items()}


_EXTRA_MEMORY = """
import sys
from pathlib import Path
from benchmarks import pricing
body = pricing.torus_stl(int(sys.argv[2]))
pricing.warm()
def stands(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024
Path("/proc/self/clear_refs").write_text("5")
before = stands("VmRSS")
getattr(pricing, sys.argv[1])(body)
print(stands("VmHWM") - before)
"""


def _extra_memory_mb(variant: str, facets: int) -> float:
    """Most memory in use at once beyond the body, as the system counts it, in a fresh interpreter."""
    return round(float(_printed(_EXTRA_MEMORY, variant, str(facets))) / 1e6, 1)


def _printed(code: str, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, **environment}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def _starts_s() -> dict[str, float]:
    """Seconds to import the analyser, then to have its machine code: compiled, and from the disk."""
    code = (
        "import time; began = time.perf_counter(); from pricing.mesh.warm import warm;"
        " imported = time.perf_counter(); warm();"
        " print(imported - began, time.perf_counter() - imported)"
    )
    with tempfile.TemporaryDirectory() as kept:
        first = _printed(code, NUMBA_CACHE_DIR=str(Path(kept))).split()
        second = _printed(code, NUMBA_CACHE_DIR=str(Path(kept))).split()
    return {
        "import_s": round(float(second[0]), 2),
        "compile_once_s": round(float(first[1]), 2),
        "load_compiled_s": round(float(second[1]), 2),
    }


def run(facets: int = FACETS, rounds: int = ROUNDS) -> dict[str, object]:
    """Measure and return `name`, `rounds`, `ratios` (larger is better for `x_`, smaller for `of_`) and
    `figures`.
    """
    warm()
    http = pricing_http.run(rounds)
    body, text = torus_stl(facets), torus_ascii_stl(min(facets, ASCII_FACETS))
    seconds = _medians_s(_BINARY, body, rounds)
    ascii_seconds = _medians_s(_ASCII, text, rounds)
    count, ascii_count = len(stl.read_binary(memoryview(body)).corners), analyse(text).facets
    ns = {f"{name}_ns_per_facet": round(spent / count * 1e9, 1) for name, spent in seconds.items()}
    ns |= {
        f"{name}_ns_per_facet": round(spent / ascii_count * 1e9, 1) for name, spent in ascii_seconds.items()
    }
    return {
        "name": "pricing",
        "rounds": rounds,
        "ratios": _ratios(seconds | ascii_seconds) | http["ratios"],
        "figures": {
            "facets": count,
            "ascii_facets": ascii_count,
            **ns,
            "facts_extra_memory_mb": _extra_memory_mb("_facts", facets),
            "analyse_extra_memory_mb": _extra_memory_mb("analyse", facets),
            "trimesh_volume_extra_memory_mb": _extra_memory_mb("_trimesh_volume", facets),
            **_starts_s(),
            **http["figures"],
        },
    }


def _ratios(seconds: dict[str, float]) -> dict[str, float]:
    def times(slow: str, fast: str) -> float:
        return round(seconds[slow] / seconds[fast], 1)

    return {
        "facts_x_trimesh_volume": times("trimesh_volume", "facts"),
        "hash_and_facts_x_trimesh_volume": times("trimesh_volume", "hash_and_facts"),
        "analyse_x_trimesh_same_facts": times("trimesh_same_facts", "analyse"),
        "ascii_analyse_x_trimesh_volume": times("ascii_trimesh_volume", "ascii_analyse"),
        "hash_and_facts_of_sha256": round(seconds["hash_and_facts"] / seconds["sha256"], 2),
    }
