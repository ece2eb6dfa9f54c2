"""The statuses of an order, and who may take which step from one to another. Standard library only."""

import itertools
from enum import StrEnum
from typing import NamedTuple

from storage.orders.actors import OPENING_ROLES, Role


class Status(StrEnum):
    INITIATED = "INITIATED"
    FILE_UPLOADED = "FILE_UPLOADED"
    SUBMITTED = "SUBMITTED"
    PRICE_CALCULATED = "PRICE_CALCULATED"
    MANUFACTURING_APPROVED = "MANUFACTURING_APPROVED"
    MANUFACTURING_STARTED = "MANUFACTURING_STARTED"
    MANUFACTURING_COMPLETED = "MANUFACTURING_COMPLETED"
    PACKAGING = "PACKAGING"
    SHIPPED = "SHIPPED"
    CLOSED = "CLOSED"
    CANCELLED = "CANCELLED"


class Kind(StrEnum):
    """What a change was. Kept in the history under these names."""

    CREATE = "create"
    STATUS = "status"
    TAKE = "take"
    RELEASE = "release"
    EDIT = "edit"
    COMMENT = "comment"
    UNDO = "undo"
    CORRECT = "correct"


LINE = tuple(status for status in Status if status is not Status.CANCELLED)
"""The normal sequence of statuses."""

BEFORE_APPROVAL = frozenset(LINE[: LINE.index(Status.MANUFACTURING_APPROVED)])

WITH_OPERATOR = frozenset(LINE[LINE.index(Status.MANUFACTURING_STARTED) :])

BEFORE_PRICE = frozenset(LINE[: LINE.index(Status.PRICE_CALCULATED)])

ACTIVE = tuple(status for status in LINE if status is not Status.CLOSED)
"""Statuses in which work is left: warmed at start."""

STATUS_LEVELS: dict[Status, int] = {}
"""Statuses that came with a level of the log above the first: no order is brought to one before every process
that is present knows it."""


class Step(NamedTuple):
    kind: Kind
    roles: frozenset[Role]


def _steps() -> dict[tuple[Status, Status], Step]:
    opening = OPENING_ROLES
    admin = Role.ADMIN
    who: dict[Status, frozenset[Role]] = {
        Status.FILE_UPLOADED: opening,
        Status.SUBMITTED: opening,
        Status.PRICE_CALCULATED: frozenset({Role.MES, Role.SELLER, admin}),
        Status.MANUFACTURING_APPROVED: frozenset({Role.SELLER, admin}),
        Status.MANUFACTURING_STARTED: frozenset({Role.OPERATOR, Role.MES, admin}),
        Status.MANUFACTURING_COMPLETED: frozenset({Role.OPERATOR, Role.MES, admin}),
        Status.PACKAGING: frozenset({Role.OPERATOR, Role.MES, admin}),
        Status.SHIPPED: frozenset({Role.OPERATOR, Role.MES, admin}),
        Status.CLOSED: frozenset({Role.SELLER, admin}),
    }
    steps: dict[tuple[Status, Status], Step] = {
        (before, after): Step(Kind.STATUS, who[after]) for before, after in itertools.pairwise(LINE)
    }
    started, approved = Status.MANUFACTURING_STARTED, Status.MANUFACTURING_APPROVED
    steps[approved, started] = Step(Kind.TAKE, who[started])
    steps[started, approved] = Step(Kind.RELEASE, frozenset({Role.OPERATOR, Role.MES, Role.SELLER, admin}))
    for status in (Status.SUBMITTED, Status.PRICE_CALCULATED):
        steps[status, Status.FILE_UPLOADED] = Step(Kind.STATUS, opening)
    for status in LINE[: LINE.index(Status.SHIPPED)]:
        steps[status, Status.CANCELLED] = Step(Kind.STATUS, frozenset({Role.SHOP, Role.SELLER, admin}))
    return steps


STEPS = _steps()
"""(from, to) -> the kind of change and the roles that may make it. Everything else is illegal."""

LEGAL = {status: tuple(after for before, after in STEPS if before is status) for status in Status}

MAY_SET = {
    status: frozenset[Role]().union(*(step.roles for (_, after), step in STEPS.items() if after is status))
    for status in Status
}
"""Roles that can bring an order to a status at all."""
