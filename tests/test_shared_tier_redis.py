"""The shared tier on Redis keeps the contract, over either database and over a unix socket and TLS."""

import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from server.private_servers import ValkeyServer
from tests.proxies import proxied
from tests.shared_processes import Facet, PostgresData, RedisFacet, SqliteData
from tests.shared_tier_contract import ManyProcessesContract, SharedTierContract


def flush(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.flushdb()


class TestRedisTierOverSqlite(SharedTierContract):
    @pytest.fixture
    def facet(self, tmp_path: Path, fresh_redis: str) -> Facet:
        return RedisFacet(SqliteData(tmp_path / "facet.db"), fresh_redis, lambda: flush(fresh_redis))


class TestRedisTierOverPostgresql(ManyProcessesContract):
    @pytest.fixture
    def facet(self, migrated_database: str, fresh_redis: str) -> Facet:
        return RedisFacet(PostgresData(migrated_database), fresh_redis, lambda: flush(fresh_redis))


class TestRedisTierOnUnixSocket(SharedTierContract):
    @pytest.fixture
    def facet(self, tmp_path: Path, redis_server: ValkeyServer) -> Facet:
        redis_server.start()
        flush(redis_server.url)
        data = SqliteData(tmp_path / "facet.db")
        return RedisFacet(data, redis_server.unix_url, lambda: flush(redis_server.url))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 127.0.0.1, signed by itself; certificate and key in one file."""
    folder = tmp_path_factory.mktemp("certificate")
    made = folder / "made.pem"
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run(
        ["openssl", *words, *names, "-keyout", folder / "key.pem", "-out", folder / "certificate.pem"],
        check=True,
        capture_output=True,
    )
    made.write_bytes((folder / "key.pem").read_bytes() + (folder / "certificate.pem").read_bytes())
    return made


class TestRedisTierOverTls(SharedTierContract):
    """The TLS ends before Redis: not every build of it has any."""

    @pytest.fixture
    async def facet(self, tmp_path: Path, fresh_redis: str, certificate: Path) -> AsyncIterator[Facet]:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        port = urlsplit(fresh_redis).port
        assert port is not None
        async with proxied(port, tls) as proxy:
            url = f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={certificate}"
            yield RedisFacet(SqliteData(tmp_path / "facet.db"), url, lambda: flush(fresh_redis))
