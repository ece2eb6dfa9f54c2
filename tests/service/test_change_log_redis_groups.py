"""The change log keeps the contract on a Redis that Sentinel finds, and on a cluster."""

import pytest

from server.demo.private_servers.servers import ValkeyCluster, ValkeySentinel, ask
from tests.contracts.change_log import ManyProcessesContract
from tests.support.shared_processes import Facet, PostgresData, RedisFacet


class TestRedisTierFoundBySentinel(ManyProcessesContract):
    @pytest.fixture
    def facet(self, migrated_database: str, redis_sentinel: ValkeySentinel) -> Facet:
        def flush() -> None:
            ask(redis_sentinel.master_port(), "FLUSHALL")

        flush()
        return RedisFacet(PostgresData(migrated_database), redis_sentinel.url, flush)


class TestRedisTierOnCluster(ManyProcessesContract):
    @pytest.fixture
    def facet(self, migrated_database: str, redis_cluster: ValkeyCluster) -> Facet:
        def flush() -> None:
            for node in redis_cluster.nodes:
                ask(node.port, "FLUSHALL")

        flush()
        return RedisFacet(PostgresData(migrated_database), redis_cluster.url, flush)
