"""Models in SQLite, which cannot be relied on to know powers and logarithms: scores are added up here, in the
transaction that stores them, and ranked by a function of ours."""

import json
from collections.abc import Sequence
from datetime import datetime

import aiosqlite
import msgspec

from storage.clock import from_text
from storage.database.records import StoredModel
from storage.memory.popularity import added, rank
from storage.sqlite.rows import INSERT_MODEL_TENANT, ROWS, UPSERT_MODEL

RANK = "facet_rank(requests_score, requested_at, $1)"
"""Works on connections that `add_functions` was called with."""
_SCORES = (
    "SELECT sha256, requests_score, requested_at FROM models WHERE sha256 IN (SELECT value FROM json_each(?))"
)

Score = tuple[float, datetime]


async def add_functions(connection: aiosqlite.Connection) -> None:
    await connection.create_function("facet_rank", 3, _rank, deterministic=True)


def _rank(score: float, requested_at: str, half_life_s: float) -> float:
    return rank(score, from_text(requested_at), half_life_s)


async def store_models(
    connection: aiosqlite.Connection, models: Sequence[StoredModel], half_life_s: float
) -> None:
    hashes = json.dumps([model.sha256 for model in models])
    scores: dict[str, Score] = {
        sha256: (score, from_text(requested_at))
        for sha256, score, requested_at in await connection.execute_fetchall(_SCORES, (hashes,))
    }
    rows = []
    for model in models:
        score = (model.score, model.requested_at)
        known = scores.get(model.sha256)
        scores[model.sha256] = score = score if known is None else added(known, score, half_life_s)
        stored = msgspec.structs.replace(model, score=score[0], requested_at=score[1])
        rows.append(ROWS.model_row(stored))
    await connection.executemany(UPSERT_MODEL, rows)
    tenants = [(model.sha256, tenant) for model in models for tenant in sorted(model.tenants)]
    if tenants:
        await connection.executemany(INSERT_MODEL_TENANT, tenants)
