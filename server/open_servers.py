"""Refuses a Redis or PostgreSQL that anyone in the network can use, before anything is opened."""

import ipaddress
from collections.abc import Iterator
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from server.config import ConfigError, Settings

DEFAULT_PASSWORDS = {("postgres", "postgres")}
"""User and password that servers come with."""
ALLOWED = "FACET_ALLOW_OPEN_SERVERS=1"


def refuse_open_servers(settings: Settings) -> None:
    """Raises ConfigError when a server away from this machine has no password, or the one it came with."""
    if settings.allow_open_servers:
        return
    for variable, url in (
        ("FACET_REDIS_URL", settings.redis_url),
        ("FACET_DATABASE_URL", settings.database_url if settings.uses_postgresql else ""),
    ):
        fault = fault_of(url) if url else None
        if fault is not None:
            raise ConfigError(f"{variable}: {fault}; on a closed network say {ALLOWED}")


def fault_of(url: str) -> str | None:
    """Why this server may be open to others; None when it is not, or is on this machine."""
    parts = urlsplit(url)
    if not (away := [host for host in _hosts(parts) if not is_loopback(host)]):
        return None
    user, password = _login(parts)
    if (user, password) in DEFAULT_PASSWORDS:
        return f"{away[0]} is used with the password {user} came with"
    if not password and "passfile" not in parse_qs(parts.query):
        return f"{away[0]} is used without a password"
    return None


def is_loopback(host: str) -> bool:
    """Names other than localhost lead away: in a container's network they do."""
    if host in ("", "localhost") or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _hosts(parts: SplitResult) -> Iterator[str]:
    if parts.scheme == "unix":
        return
    given = [parts.netloc.rpartition("@")[2], *parse_qs(parts.query).get("host", ())]
    for text in ",".join(given).split(","):
        yield unquote(text) if "%2F" in text.upper() else urlsplit(f"//{text}").hostname or ""


def _login(parts: SplitResult) -> tuple[str, str]:
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    query = parse_qs(parts.query)
    users, passwords = query.get("user", [user]), query.get("password", [password])
    return unquote(users[0]), unquote(passwords[0])
