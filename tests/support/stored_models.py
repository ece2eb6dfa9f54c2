"""Models as the database keeps them."""

from datetime import datetime

from storage.database.records import StoredModel


def stored_model(
    name: str, at: datetime, *tenants: str, score: float = 1.0, analyser: str = "1"
) -> StoredModel:
    return StoredModel(
        sha256=name * 64,
        analyser=analyser,
        byte_count=10,
        facts=f'{{"found_by": {analyser}}}'.encode(),
        first_seen_at=at,
        score=score,
        requested_at=at,
        tenants=frozenset(tenants),
    )
