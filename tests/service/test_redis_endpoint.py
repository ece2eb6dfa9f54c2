"""Which addresses of Redis are understood, and the names of what it holds."""

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio.connection import SSLConnection

from server.demo.private_servers.servers import ValkeyCluster, ValkeySentinel, free_port
from storage.errors import LogUnavailable
from storage.redis.connection import opened
from storage.redis.endpoint import endpoint_of
from storage.redis.keys import Keys, body_of, encode_value
from tests.support.certificates import self_signed
from tests.support.proxies import proxied

DEADLINE_S = 0.4


async def options_of(url: str) -> dict[str, Any]:
    return await endpoint_of(url, "facet", DEADLINE_S).options()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://127.0.0.1:7000/3", {"host": "127.0.0.1", "port": 7000, "db": 3}),
        ("redis://anna:se%40cret@shop:7000", {"username": "anna", "password": "se@cret", "host": "shop"}),
        ("rediss://shop:7000/0", {"host": "shop", "port": 7000}),
        ("unix:///run/valkey.sock?db=2", {"path": "/run/valkey.sock", "db": 2}),
    ],
)
async def test_an_address_of_one_server_says_how_to_reach_it(url: str, said: dict[str, Any]) -> None:
    options = await options_of(url)
    assert {name: options.get(name) for name in said} == said
    assert options["retry"].get_retries() == 0
    assert options["retry_on_timeout"] is False
    assert issubclass(options["connection_class"], SSLConnection) == url.startswith("rediss")


@pytest.mark.parametrize(
    "url",
    [
        "http://shop",
        "shop:6379",
        "",
        "redis+sentinel://shop:26379",
        "redis+sentinel:///facet/0",
        "redis+sentinel://shop:26379/facet/first",
        "redis+cluster://",
        "redis+cluster://shop:port",
        "redis+cluster://a:1,,b:2",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"must begin|names no|invalid literal|Port"):
        endpoint_of(url, "facet", DEADLINE_S)


@pytest.mark.parametrize(
    "address", ["redis+sentinel://127.0.0.1:{},127.0.0.1:{}/facet", "redis+cluster://127.0.0.1:{}"]
)
async def test_where_nobody_answers_is_said_at_once(address: str) -> None:
    endpoint = endpoint_of(address.format(free_port(), free_port()), "facet", DEADLINE_S)
    async with asyncio.timeout(2 * DEADLINE_S):
        with pytest.raises(LogUnavailable, match="Redis cannot be found"):
            await opened(endpoint, DEADLINE_S)


def test_all_names_share_one_hash_tag_and_those_of_two_lives_differ() -> None:
    first, second = Keys("facet", 1), Keys("facet", 2)
    for keys in (first, second):
        names = (
            keys.meta,
            keys.log,
            keys.flushed,
            keys.marks,
            keys.claims,
            keys.voids,
            keys.known,
            keys.probe,
        )
        assert all(name.startswith("{facet}:") for name in (*names, keys.order("a"), keys.answer("b")))
        assert len(set(names)) == len(names)
    assert first.meta == second.meta
    assert first.log != second.log
    assert not second.log.startswith(first.space)
    assert not Keys("facet", 12).log.startswith(first.space)


def test_a_value_is_read_back_and_one_of_another_format_is_none() -> None:
    assert body_of(encode_value(12, b'{"a": 1}')) == b'{"a": 1}'
    assert body_of(None) is None
    assert body_of(b"") is None
    assert body_of(b"9 whatever a later release holds") is None


# TLS


async def test_sentinels_and_nodes_are_asked_over_tls_as_well(
    tmp_path: Path, redis_sentinel: ValkeySentinel, redis_cluster: ValkeyCluster
) -> None:
    tls, certificate = self_signed(tmp_path)
    trusted = f"ssl_ca_certs={certificate}"
    sentinel, node = (urlsplit(server.url.split(",")[0]).port for server in (redis_sentinel, redis_cluster))
    assert sentinel is not None
    assert node is not None
    service = redis_sentinel.url.rpartition("/")[0].rpartition("/")[2]
    async with proxied(sentinel, tls) as to_sentinel, proxied(node, tls) as to_node:
        for url in (
            f"rediss+sentinel://127.0.0.1:{to_sentinel.port}/{service}/0",
            f"rediss+cluster://127.0.0.1:{to_node.port}",
        ):
            options = await options_of(f"{url}?{trusted}")
            assert issubclass(options["connection_class"], SSLConnection)
            assert options["ssl_ca_certs"] == str(certificate)
            with pytest.raises(LogUnavailable, match=r"(?i)certificate"):
                await options_of(url)


@pytest.mark.parametrize("scheme", ["rediss://h/0", "rediss+sentinel://h/s/0", "rediss+cluster://h"])
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("ssl_ca_certs=/not/there.pem", r"ssl_ca_certs: /not/there\.pem: No such file"),
        ("ssl_certfile=/not/there.pem", "ssl_certfile: /not/there"),
        ("ssl_ca_path=/not/there", "ssl_ca_path: /not/there is not a directory"),
        ("ssl_cert_reqs=perhaps", "ssl_cert_reqs: one of required, optional, none"),
        ("ssl_check_hostname=perhaps", "ssl_check_hostname: one of true, false"),
        ("ssl_unheard_of=1", "unknown option: ssl_unheard_of"),
        (f"ssl_ca_certs={__file__}", "its certificates cannot be used"),
    ],
)
def test_wrong_options_of_tls_are_said_before_anybody_connects(scheme: str, query: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        endpoint_of(f"{scheme}?{query}", "facet", DEADLINE_S)


def test_options_of_tls_without_tls_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown option"):
        endpoint_of("redis://h/0?ssl_cert_reqs=none", "facet", DEADLINE_S)
