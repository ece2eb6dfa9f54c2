"""The change log of one process keeps the contract, over either database."""

from pathlib import Path

import pytest

from tests.contracts.change_log import ChangeLogContract
from tests.support.shared_processes import EmbeddedFacet, Facet, PostgresData, SqliteData


class TestEmbeddedTierOverSqlite(ChangeLogContract):
    @pytest.fixture
    def facet(self, tmp_path: Path) -> Facet:
        return EmbeddedFacet(SqliteData(tmp_path / "facet.db"), tmp_path / "data")


class TestEmbeddedTierOverPostgresql(ChangeLogContract):
    @pytest.fixture
    def facet(self, tmp_path: Path, migrated_database: str) -> Facet:
        return EmbeddedFacet(PostgresData(migrated_database), tmp_path / "data")
