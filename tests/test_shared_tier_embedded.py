"""The shared tier of one process keeps the contract, over either database."""

from pathlib import Path

import pytest

from tests.shared_processes import EmbeddedFacet, Facet, PostgresData, SqliteData
from tests.shared_tier_contract import SharedTierContract


class TestEmbeddedTierOverSqlite(SharedTierContract):
    @pytest.fixture
    def facet(self, tmp_path: Path) -> Facet:
        return EmbeddedFacet(SqliteData(tmp_path / "facet.db"), tmp_path / "data")


class TestEmbeddedTierOverPostgresql(SharedTierContract):
    @pytest.fixture
    def facet(self, tmp_path: Path, migrated_database: str) -> Facet:
        return EmbeddedFacet(PostgresData(migrated_database), tmp_path / "data")
