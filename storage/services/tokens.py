"""Access tokens. Only the SHA-256 of a secret is kept: a secret has 256 random bits, nothing to guess."""

import hashlib
import secrets
from datetime import datetime

import msgspec

from storage.bounds import Bounds
from storage.clock import Clock
from storage.database.records import StoredToken
from storage.errors import Behind, Invalid, NotFound
from storage.ids import new_id
from storage.log.change_log import ChangeLog
from storage.log.entries import IdempotencyRecord, Position, TokenIssued, TokenRevoked
from storage.log.tail import AppliedEntry
from storage.memory.single_flight import SharedLook
from storage.orders.actors import TENANT_ROLES, Actor, Role

PREFIX = "facet_"
"""So that a leaked secret is recognised by scanners."""
MEMO_ENTRIES = 1_000


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What may be shown of a token."""

    id: str
    role: Role
    name: str
    customer: str | None
    created_at: datetime


class Tokens:
    """All valid tokens, in memory; they follow the log."""

    def __init__(self, change_log: ChangeLog, bounds: Bounds, clock: Clock) -> None:
        self._change_log = change_log
        self._look = SharedLook(change_log.reach_head, bounds.unknown_token_pause_s)
        self._clock = clock
        self._by_hash: dict[str, Actor] = {}
        self._tokens: dict[str, tuple[Token, str]] = {}
        self._memo: dict[str, Actor] = {}
        self.has_configured = False
        self.revocations = 0
        """How often a token has become invalid here: who remembers what one may compares this."""

    def load(self, stored: list[StoredToken]) -> None:
        """These and no others, but for the configured one."""
        for token_id in list(self._tokens):
            self._remove(token_id)
        for token in stored:
            self._add(
                Token(
                    id=token.id,
                    role=token.role,
                    name=token.name,
                    customer=token.customer,
                    created_at=token.created_at,
                ),
                token.secret_hash,
            )

    def apply(self, followed: AppliedEntry) -> None:
        """Follow the log by one entry."""
        entry = followed.logged.entry
        if isinstance(entry, TokenIssued):
            token = Token(
                id=entry.token_id,
                role=entry.role,
                name=entry.name,
                customer=entry.customer,
                created_at=entry.at,
            )
            self._add(token, entry.secret_hash)
        elif isinstance(entry, TokenRevoked):
            self._remove(entry.token_id)

    def add_configured(self, secret: str) -> None:
        """The administrator's secret from the settings: valid while it is set, listed nowhere."""
        self.has_configured = True
        self._by_hash[_hash(secret)] = Actor(token_id="configured", name="admin", role=Role.ADMIN)

    def authenticate(self, secret: str) -> Actor | None:
        if (actor := self._memo.get(secret)) is not None:
            return actor
        if (actor := self._by_hash.get(_hash(secret))) is not None:
            if len(self._memo) >= MEMO_ENTRIES:
                self._memo.clear()
            self._memo[secret] = actor
        return actor

    async def find(self, secret: str) -> Actor | None:
        """As `authenticate`; but what is not known here another process may have issued a moment ago. Raises
        Behind when it cannot be known. Any number of callers share one look: see `SharedLook`."""
        actor = self.authenticate(secret)
        if actor is not None or self._change_log.single_process or not secret.startswith(PREFIX):
            return actor
        if not await self._look():
            raise Behind("This process cannot say whether this token is valid.")
        return self.authenticate(secret)

    def list(self) -> list[Token]:
        return [token for token, _ in self._tokens.values()]

    def names(self, role: Role) -> set[str]:
        return {token.name for token, _ in self._tokens.values() if token.role is role}

    async def issue(
        self,
        role: Role,
        name: str,
        customer: str | None,
        secret: str | None = None,
        remembered: IdempotencyRecord | None = None,
    ) -> tuple[Token, str, Position]:
        """A new token with its secret, which is shown this once; random unless given. Raises Invalid."""
        if (role in TENANT_ROLES) != (customer is not None):
            needs = "names its customer" if role in TENANT_ROLES else "has no customer"
            raise Invalid(("/customer", f"a token of role {role} {needs}"))
        now = self._clock.now()
        secret = PREFIX + (secret or secrets.token_urlsafe(32))
        token = Token(id=new_id(now), role=role, name=name, customer=customer, created_at=now)
        position = await self._change_log.append(
            TokenIssued(
                id=new_id(now),
                at=now,
                token_id=token.id,
                secret_hash=_hash(secret),
                role=role,
                name=name,
                customer=customer,
                remembered=remembered,
            )
        )
        return token, secret, position

    async def revoke(self, token_id: str) -> Position:
        """Raises NotFound."""
        if token_id not in self._tokens:
            raise NotFound("There is no such token.")
        now = self._clock.now()
        return await self._change_log.append(TokenRevoked(id=new_id(now), at=now, token_id=token_id))

    def _add(self, token: Token, secret_hash: str) -> None:
        self._tokens[token.id] = (token, secret_hash)
        self._by_hash[secret_hash] = Actor(
            token_id=token.id, name=token.name, role=token.role, customer=token.customer
        )

    def _remove(self, token_id: str) -> None:
        if (known := self._tokens.pop(token_id, None)) is not None:
            self._by_hash.pop(known[1], None)
            self._memo.clear()
            self.revocations += 1


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
