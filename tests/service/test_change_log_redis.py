"""The change log on Redis keeps the contract, over either database and over a unix socket and TLS."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from server.demo.private_servers.servers import ValkeyServer
from tests.contracts.change_log import ChangeLogContract, ManyProcessesContract
from tests.support.certificates import self_signed
from tests.support.proxies import proxied
from tests.support.shared_processes import Facet, PostgresData, RedisFacet, SqliteData


def flush(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.flushdb()


class TestRedisTierOverSqlite(ChangeLogContract):
    @pytest.fixture
    def facet(self, tmp_path: Path, fresh_redis: str) -> Facet:
        return RedisFacet(SqliteData(tmp_path / "facet.db"), fresh_redis, lambda: flush(fresh_redis))


class TestRedisTierOverPostgresql(ManyProcessesContract):
    @pytest.fixture
    def facet(self, migrated_database: str, fresh_redis: str) -> Facet:
        return RedisFacet(PostgresData(migrated_database), fresh_redis, lambda: flush(fresh_redis))


class TestRedisTierOnUnixSocket(ChangeLogContract):
    @pytest.fixture
    def facet(self, tmp_path: Path, redis_server: ValkeyServer) -> Facet:
        redis_server.start()
        flush(redis_server.url)
        data = SqliteData(tmp_path / "facet.db")
        return RedisFacet(data, redis_server.unix_url, lambda: flush(redis_server.url))


class TestRedisTierOverTls(ChangeLogContract):
    """The TLS ends before Redis: not every build of it has any."""

    @pytest.fixture
    async def facet(self, tmp_path: Path, fresh_redis: str) -> AsyncIterator[Facet]:
        tls, certificate = self_signed(tmp_path)
        port = urlsplit(fresh_redis).port
        assert port is not None
        async with proxied(port, tls) as proxy:
            url = f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={certificate}"
            yield RedisFacet(SqliteData(tmp_path / "facet.db"), url, lambda: flush(fresh_redis))
