"""Whether another program reads in a model's file what we have read, before an order is sold by it.

Every model is held against trimesh once, in the background and behind everything else. What trimesh says goes
with the facts to all processes. Where it differs the model's quotes are withdrawn and a person has to look;
where it has nothing to say for too long, that is said, and nobody waits for it any more.
"""

import asyncio
import contextlib
import logging
from collections import Counter

import msgspec
from aiohttp import web

from pricing.errors import Refused
from pricing.facts import Decision, Opinion
from pricing.pool import FactsPool, PoolBusy, PoolClosed
from pricing.price.model_view import VerificationState
from server.prices.model_uploads import facts_of
from storage.clock import Clock
from storage.database.records import ACCEPTED, DIFFERS, REJECTED, Verification
from storage.errors import Conflict, NotFound, StorageError, Unavailable
from storage.log.entries import Position
from storage.models.files import KeptFiles
from storage.models.shared import Model
from storage.services.stack import Storage

logger = logging.getLogger("facet.verification")

BY = "trimesh"
PENDING_S_MAX = 600.0
"""A model that has waited this long for an opinion gets none, so that nothing waits for ever."""
ORDER_WAIT_S = 10.0
"""How long the price of an order waits for the opinion about its model."""
LOOK_S = 0.25
"""Between two looks for what another process has been told."""
DEATHS_MAX = 2
"""A worker may be killed by anybody; a file that has ended two is not tried again."""

_decode_opinion = msgspec.json.Decoder(Opinion).decode


def opinion_of(model: Model) -> Opinion | None:
    """None while it is pending."""
    return None if model.verification is None else _decode_opinion(model.verification.body)


def state_of(model: Model) -> VerificationState:
    opinion = opinion_of(model)
    return "pending" if opinion is None else opinion.state


def verified_tag(model: Model) -> str:
    """What tells answers about the model before and after its verification apart."""
    return "" if model.verification is None else f"{model.verification.at.timestamp():.6f}"


class VerificationPending(Unavailable):
    """Nobody has said yet whether another program reads the model alike."""

    code = "verification_pending"


class NothingToDecide(Conflict):
    code = "nothing_to_decide"


class Verifications:
    def __init__(self, storage: Storage, pool: FactsPool, files: KeptFiles, clock: Clock) -> None:
        self._storage = storage
        self._pool = pool
        self._files = files
        self._clock = clock
        self._deaths: Counter[str] = Counter()
        self._unannounced: set[str] = set()
        """Models that differ, as the database says, of which the other processes could not be told."""
        self._news = asyncio.Event()
        self.outcomes: Counter[str] = Counter()

    @property
    def lag_s(self) -> float:
        """How long the model that has waited longest waits for its opinion."""
        return self._storage.models.unverified.lag_s

    async def verify(self, sha256: str) -> bool:
        """Ask about a model, unless that was done meanwhile. False: later."""
        try:
            model = await self._storage.models.look_again(sha256)
            if model is not None and model.verification is None and not await self._verified(model):
                return False
            if sha256 in self._unannounced:
                await self._storage.announce_verification(sha256)
                self._unannounced.discard(sha256)
        except StorageError as error:
            logger.warning("the opinion about model %s could not be kept: %s", sha256, error)
            return False
        self._deaths.pop(sha256, None)
        self._news.set()
        return True

    async def _verified(self, model: Model) -> bool:
        """Raises StorageError."""
        if (opinion := await self._opinion(model)) is None:
            return False
        now = await self._storage.models.look_again(model.sha256)
        if now is None or now.verification is not None:
            return True  # somebody was faster
        opinion = msgspec.structs.replace(opinion, at=self._clock.now())
        verification = Verification(opinion.state, opinion.at, msgspec.json.encode(opinion))
        differs = opinion.state == DIFFERS
        if differs:
            logger.error("model %s: the second opinion differs: %s", model.sha256, opinion.reason)
            self._unannounced.add(model.sha256)
        if not await self._storage.models.verify(model, verification, durable=differs):
            self._unannounced.discard(model.sha256)
            return False  # of facts that were found anew meanwhile nothing is known
        self.outcomes[opinion.state] += 1
        return True

    async def settled(self, model: Model, patience_s: float) -> Model:
        """The model with its verification, if that comes in time."""
        deadline_s = asyncio.get_running_loop().time() + patience_s
        backlog = self._storage.models.unverified
        if model.verification is None:
            backlog.hurry(model.sha256)
        while model.verification is None:
            left_s = deadline_s - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), min(LOOK_S, left_s))
            with contextlib.suppress(StorageError):  # what is held here is as good as it was
                model = await self._storage.models.look_again(model.sha256) or model
        return model

    async def decide(self, sha256: str, decision: Decision) -> tuple[Model, Position]:
        """A person has looked at a model about which the two differ. Raises NothingToDecide when they do not,
        NotFound, Unavailable."""
        model = await self._storage.models.look_again(sha256)
        if model is None:
            raise NotFound("This model is not known here.")
        opinion = opinion_of(model)
        if opinion is None or opinion.state != DIFFERS:
            raise NothingToDecide("There is nothing to decide: the second opinion does not differ.")
        opinion = msgspec.structs.replace(opinion, decided=decision)
        state = ACCEPTED if decision.accepted else REJECTED
        verification = Verification(state, decision.at, msgspec.json.encode(opinion))
        if not await self._storage.models.verify(model, verification, durable=True):
            raise Conflict("The facts of this model have been found anew: look at it again.")
        position = await self._storage.announce_verification(sha256)
        return msgspec.structs.replace(model, verification=verification), position

    async def _opinion(self, model: Model) -> Opinion | None:
        """None: not now."""
        path = await asyncio.to_thread(self._files.path, model.sha256)
        if path is None:
            waits = not self._storage.change_log.single_process and not self._is_overdue(model)
            return None if waits else self._none("The file is no longer kept here: send it again.")
        try:
            return await self._pool.opinion(path, facts_of(model))
        except Refused as refused:
            if refused.code == "worker_died":
                self._deaths[model.sha256] += 1
                if self._deaths[model.sha256] < DEATHS_MAX:
                    return None
            return self._none(f"{refused.code}: {refused.detail}")
        except (PoolBusy, PoolClosed, OSError) as error:
            late = self._is_overdue(model)
            return self._none(f"Nobody could be asked: {error}") if late else None
        except Exception as error:
            logger.exception("nobody can be asked about model %s", model.sha256)
            late = self._is_overdue(model)
            return self._none(f"Nobody could be asked: {type(error).__name__}") if late else None

    def _is_overdue(self, model: Model) -> bool:
        return self._storage.models.unverified.waited_s(model.sha256) >= PENDING_S_MAX

    def _none(self, reason: str) -> Opinion:
        return Opinion(state="not_possible", by=BY, at=self._clock.now(), reason=reason)


VERIFICATIONS: web.AppKey[Verifications] = web.AppKey("verifications", Verifications)
