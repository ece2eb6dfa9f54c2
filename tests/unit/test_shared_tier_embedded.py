"""The shared tier of one process keeps the contract, over either database."""

from pathlib import Path

import pytest

from tests.contracts.shared_tier_contract import SharedTierContract
from tests.support.shared_processes import EmbeddedFacet, Facet, PostgresData, SqliteData


class TestEmbeddedTierOverSqlite(SharedTierContract):
    @pytest.fixture
    def facet(self, tmp_path: Path) -> Facet:
        return EmbeddedFacet(SqliteData(tmp_path / "facet.db"), tmp_path / "data")


class TestEmbeddedTierOverPostgresql(SharedTierContract):
    @pytest.fixture
    def facet(self, tmp_path: Path, migrated_database: str) -> Facet:
        return EmbeddedFacet(PostgresData(migrated_database), tmp_path / "data")
