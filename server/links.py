"""Signed links to a customer's page of one order: who has the link sees the order's status, nothing else."""

import base64
import hashlib
import hmac
import os
from datetime import datetime, timedelta
from pathlib import Path

from aiohttp import web

from storage.clock import from_micros, to_micros
from storage.database.contract import Database

SECRET = "links"
KEY_BYTES = 32
VALID_DAYS = 90
_SIGNATURE_BYTES = 16


class Links:
    """The key is in the database, so that every process opens the links of every other. A new key makes all
    links invalid."""

    def __init__(self, key_file: Path) -> None:
        """The file is where releases before this one kept the key: the database takes it over."""
        self._key_file = key_file
        self._key = b""

    async def open(self, database: Database) -> None:
        """Raises DatabaseUnavailable."""
        proposed = self._key_file.read_bytes() if self._key_file.exists() else os.urandom(KEY_BYTES)
        self._key = await database.secret(SECRET, proposed)

    def make(self, order_id: str, now: datetime) -> tuple[str, datetime]:
        """The path of the page, and when it expires."""
        expires_at = (now + timedelta(days=VALID_DAYS)).replace(microsecond=0)
        payload = f"{order_id}.{to_micros(expires_at) // 1_000_000}"
        return f"/c/{payload}.{self._sign(payload)}", expires_at

    def derive(self, purpose: str) -> str:
        """256 bits that only this installation can make again, as text: for a secret that a repeated
        request must be able to show again without its being stored."""
        digest = hmac.digest(self._key, f"derive:{purpose}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def order_id(self, link: str, now: datetime) -> str | None:
        """The order of a link that is genuine and has not expired."""
        payload, _, signature = link.rpartition(".")
        if not hmac.compare_digest(self._sign(payload).encode(), signature.encode()):
            return None
        order_id, _, expires_s = payload.rpartition(".")
        return order_id if now < from_micros(int(expires_s) * 1_000_000) else None

    def _sign(self, payload: str) -> str:
        digest = hmac.digest(self._key, payload.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest[:_SIGNATURE_BYTES]).decode().rstrip("=")


LINKS: web.AppKey[Links] = web.AppKey("links", Links)
