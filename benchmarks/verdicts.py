"""`facet bench verdicts FOLDER`: what is said of each model in a folder: our verdict and volume, what columns
find, and what trimesh reads in the same bytes. No ratio: a table to look for disagreement in.
"""

import asyncio
import io
import logging
import warnings
from collections import Counter
from concurrent.futures import TimeoutError as WallClockExpired
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from pricing.errors import Refused
from pricing.facts import Facts
from pricing.pool import FactsPool, Limits
from pricing.price.firmness import effective_unit, firmness_of
from pricing.units import MILLIMETRES_PER_UNIT

TRIMESH_WALL_S = 60.0
SUFFIXES = (".stl", ".obj", ".ply", ".off", ".glb", ".3mf", ".zip")


def run(folder: Path) -> dict[str, Any]:
    """Raises FileNotFoundError for a folder without models."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise FileNotFoundError(f"{folder} holds no model")
    rows = asyncio.run(_rows(files))
    return {"name": "verdicts", "verdicts": dict(Counter(row["verdict"] for row in rows)), "rows": rows}


async def _rows(files: list[Path]) -> list[dict[str, Any]]:
    pool = FactsPool(Limits(workers=1))
    with ProcessPool(max_workers=1) as others:
        rows = [{"file": path.name, **await _ours(pool, path), **_trimesh(others, path)} for path in files]
    await pool.close()
    return rows


async def _ours(pool: FactsPool, path: Path) -> dict[str, Any]:
    """Volumes in mm3."""
    try:
        facts = await pool.analyse(path)
        firmness = firmness_of(facts, "")
    except Refused as refused:
        return {"verdict": "refused", "reasons": refused.code, "volume": None, "columns": None}
    reasons = " ".join(warning.code for warning in firmness.warnings)
    scale = _mm3(facts)
    volume = facts.volume * scale if facts.closed and facts.oriented else None
    columns = None if facts.metal is None else facts.metal * scale
    return {"verdict": firmness.priceable, "reasons": reasons, "volume": volume, "columns": columns}


def _mm3(facts: Facts) -> float:
    return float(MILLIMETRES_PER_UNIT[effective_unit(facts, "")]) ** 3


def _trimesh(others: ProcessPool, path: Path) -> dict[str, Any]:
    """In the file's own unit, by its suffix, vertices merged."""
    try:
        return {"trimesh": others.schedule(_read_by_trimesh, (path,), timeout=TRIMESH_WALL_S).result()}
    except (WallClockExpired, ProcessExpired) as error:
        return {"trimesh": type(error).__name__}


def _read_by_trimesh(path: Path) -> str:
    import trimesh

    logging.disable()
    warnings.simplefilter("ignore")
    try:
        mesh = trimesh.load_mesh(io.BytesIO(path.read_bytes()), file_type=path.suffix[1:].lower())
        assert isinstance(mesh, trimesh.Trimesh)
        mesh.merge_vertices(merge_tex=True, merge_norm=True)
        return f"{mesh.volume:.6g}{'' if mesh.is_watertight else ' open'}"
    except Exception as error:  # whatever a library says of a broken file
        return f"{type(error).__name__}"


def table(result: dict[str, Any]) -> str:
    lines = [f"{'file':<44}{'verdict':<13}{'volume':>14}{'columns':>14}{'trimesh':>20}  reasons"]
    for row in result["rows"]:
        volume, columns = ("-" if row[name] is None else f"{row[name]:.6g}" for name in ("volume", "columns"))
        lines.append(
            f"{row['file'][:43]:<44}{row['verdict']:<13}{volume:>14}{columns:>14}{row['trimesh'][:19]:>20}"
            f"  {row['reasons']}"
        )
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(result["verdicts"].items()))
    return "\n".join([*lines, counts])
