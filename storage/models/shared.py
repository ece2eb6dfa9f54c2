"""What processes tell each other of models, as copies: the facts, that a file was refused, and who has
uploaded a model since the database last heard.

The analyser's version is in the key: what another release found out is not taken for this one's. The facts
are for whoever has the bytes; who has not must have uploaded them before, which the copy does not say.
"""

import hashlib

import msgspec

from storage.database.records import Verification
from storage.shared.cache import SharedCache

FORMAT = b"1"
"""First byte of a copy. A reader takes another format for none, so that two releases can run side by side."""


class Model(msgspec.Struct, frozen=True):
    """A model's encoded facts, which version of the analyser has found them, and who has uploaded it.
    `verification`: None while the facts have not been held against another program's."""

    sha256: str
    byte_count: int
    facts: bytes
    tenants: frozenset[str]
    analyser: str = ""
    verification: Verification | None = None


class Refusal(msgspec.Struct, frozen=True):
    """Why a file cannot be used: the same for the same bytes, always."""

    code: str
    detail: str
    remedy: str


class _Copy(msgspec.Struct, frozen=True, array_like=True):
    byte_count: int
    facts: bytes
    refusal: Refusal | None = None
    verification: Verification | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Copy).decode


class SharedModels:
    def __init__(self, copies: SharedCache, analyser: str, ttl_s: float, refusal_ttl_s: float) -> None:
        self._copies = copies
        self._analyser = analyser
        self._ttl_s = ttl_s
        self._refusal_ttl_s = refusal_ttl_s

    async def find(self, sha256: str) -> Model | Refusal | None:
        """What another process found out about these bytes; the model without those who may see it."""
        value = await self._copies.get(self._key(sha256))
        if value is None or not value.startswith(FORMAT):
            return None
        try:
            copy = _decode(value[len(FORMAT) :])
        except msgspec.DecodeError:
            return None
        return copy.refusal or Model(
            sha256, copy.byte_count, copy.facts, frozenset(), self._analyser, copy.verification
        )

    async def keep(self, sha256: str, found: Model | Refusal) -> None:
        """Others find it on return; what an earlier analyser has found they do not take for this one's."""
        if isinstance(found, Model) and found.analyser != self._analyser:
            return
        await self._copies.keep(self._key(sha256), *self._value(found))

    def offer(self, model: Model) -> None:
        """Others find it some time soon."""
        if model.analyser != self._analyser:
            return
        self._copies.put(self._key(model.sha256), *self._value(model))

    async def drop(self, sha256: str) -> None:
        await self._copies.drop(self._key(sha256))

    async def admit(self, sha256: str, tenant: str) -> None:
        """This tenant has uploaded the model. A key for each, so that two processes overwrite nothing."""
        await self._copies.keep(_admission(sha256, tenant), FORMAT, self._ttl_s)

    async def is_admitted(self, sha256: str, tenant: str) -> bool:
        return await self._copies.get(_admission(sha256, tenant)) == FORMAT

    def _value(self, found: Model | Refusal) -> tuple[bytes, float]:
        if isinstance(found, Refusal):
            return FORMAT + _encode(_Copy(0, b"", found)), self._refusal_ttl_s
        return FORMAT + _encode(_copy_of(found)), self._ttl_s

    def _key(self, sha256: str) -> str:
        return f"facts:{self._analyser}:{sha256}"


def _copy_of(model: Model) -> _Copy:
    return _Copy(model.byte_count, model.facts, None, model.verification)


def is_older(analyser: str, other: str) -> bool:
    """Versions are numbers, as texts."""
    return (len(analyser), analyser) < (len(other), other)


def _admission(sha256: str, tenant: str) -> str:
    """Names of tenants may be of any length and spelling; the key is not."""
    return f"tenant:{sha256}:{hashlib.blake2b(tenant.encode(), digest_size=16).hexdigest()}"
