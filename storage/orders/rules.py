"""The rules of change: pure functions from an order and a wish to a `Change`, or to a domain error.

No clock, no I/O: the caller passes the moment. `None` means there is nothing to do.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from storage.errors import (
    AlreadyPriced,
    AlreadyTaken,
    Forbidden,
    IllegalTransition,
    Invalid,
    NotEditable,
    NotFound,
    NothingToUndo,
)
from storage.orders.actors import OPENING_ROLES, Actor, Role
from storage.orders.order import (
    PRICE_FIELDS,
    Change,
    HistoryItem,
    Order,
    OrderPrice,
    Previous,
    PriceSource,
    set_fields,
)
from storage.orders.workflow import (
    BEFORE_APPROVAL,
    BEFORE_PRICE,
    LEGAL,
    MAY_SET,
    STEPS,
    WITH_OPERATOR,
    Kind,
    Status,
    Step,
)

_STARTED = Status.MANUFACTURING_STARTED


class StatusRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A step that is requested."""

    status: Status
    comment: str | None = None
    operator: str | None = None
    price: OrderPrice | None = None


def create(order: Order, actor: Actor, comment: str | None = None) -> Change:
    """The first change of a new order."""
    if actor.role not in OPENING_ROLES:
        raise Forbidden(f"A token of role {actor.role} cannot create orders.")
    if not actor.sees(order.customer):
        raise Forbidden("A partner creates orders for itself only.")
    return Change(
        order=order,
        was=Previous(),
        kind=Kind.CREATE,
        from_status=None,
        to_status=order.status,
        actor=actor.name,
        at=order.created_at,
        comment=comment,
    )


def advance(
    order: Order, wish: StatusRequest, actor: Actor, now: datetime, said: Collection[str] = ()
) -> Change | None:
    """Bring the order to another status. `said`: comments that the actor has left since the last step.

    Raises NotFound, Forbidden, AlreadyTaken, AlreadyPriced, IllegalTransition or Invalid.
    """
    require_visible(order, actor)
    if wish.price is not None and wish.status is not Status.PRICE_CALCULATED:
        raise Invalid(("/price", "goes with PRICE_CALCULATED only"))
    if wish.status is _STARTED:
        _refuse_other_operator(wish, actor)
        _refuse_second_take(order, wish, actor)
    if wish.status is order.status:
        _require_role(MAY_SET[wish.status] | {Role.ADMIN}, actor, wish.status)
        return _repeat(order, wish, actor, now, said)
    if (step := STEPS.get((order.status, wish.status))) is None:
        return _correct(order, wish, actor, now)
    _require_role(step.roles, actor, wish.status)
    _check_details(order, wish, step, actor)
    return _changed(order, _effects(order, wish, step, actor), step.kind, actor, now, wish.comment)


def edit(order: Order, fields: Mapping[str, Any], actor: Actor, now: datetime) -> Change | None:
    """Change what was ordered, before approval; drops a price that no longer holds."""
    require_visible(order, actor)
    _require_role(OPENING_ROLES, actor, order.status)
    if order.status not in BEFORE_APPROVAL:
        raise NotEditable(f"The order is {order.status}: it can be edited only before approval.")
    effects = {name: value for name, value in fields.items() if getattr(order, name) != value}
    if not effects:
        return None
    if not PRICE_FIELDS.isdisjoint(effects):
        effects["price"] = None
        effects.setdefault("quote", None)
        if "model" in effects:
            effects["status"] = Status.FILE_UPLOADED
        elif order.status is Status.PRICE_CALCULATED:
            effects["status"] = Status.SUBMITTED
    return _changed(order, effects, Kind.EDIT, actor, now, None)


def comment(order: Order, text: str, actor: Actor, now: datetime) -> Change:
    """A remark; anybody who sees the order may leave one, at any time."""
    require_visible(order, actor)
    return _changed(order, {}, Kind.COMMENT, actor, now, text)


def undo(order: Order, since: Sequence[HistoryItem], actor: Actor, now: datetime, window_s: float) -> Change:
    """Take back one's own last step. `since` is the history from that step on."""
    require_visible(order, actor)
    step = since[0] if since else None
    if step is None or step.kind not in (Kind.STATUS, Kind.TAKE, Kind.RELEASE) or step.from_status is None:
        raise NothingToUndo("The last step of this order is not one that can be undone.")
    if step.actor != actor.name:
        raise NothingToUndo(f"The last step of this order was made by {step.actor}.")
    if now - step.at > timedelta(seconds=window_s):
        raise NothingToUndo(f"The last step is older than {window_s:g} s.")
    if any(item.kind is not Kind.COMMENT for item in since[1:]):
        raise NothingToUndo("The order was edited after its last step.")
    replaced = set_fields(step.was)
    effects: dict[str, Any] = {
        name: replaced[name] for name in ("operator", "price", "quote") if name in replaced
    }
    effects["status"] = step.from_status
    return _changed(order, effects, Kind.UNDO, actor, now, None)


def require_visible(order: Order, actor: Actor) -> None:
    """An order of another customer does not exist, as far as its asker can tell."""
    if not actor.sees(order.customer):
        raise NotFound("There is no such order.")


def assigns_operator(change: Change) -> bool:
    """Whether this change assigns the order: such a change waits for the database."""
    operator = change.order.operator
    return operator is not None and change.was.operator is not msgspec.UNSET


def _require_role(roles: frozenset[Role], actor: Actor, status: Status) -> None:
    if actor.role not in roles:
        allowed = ", ".join(sorted(roles))
        raise Forbidden(f"A token of role {actor.role} cannot do this to an order ({status}): {allowed} can.")


def _wished_operator(wish: StatusRequest, actor: Actor) -> str | None:
    return actor.name if actor.role is Role.OPERATOR else wish.operator


def _refuse_second_take(order: Order, wish: StatusRequest, actor: Actor) -> None:
    taken_by = order.operator
    if taken_by is None or actor.role not in STEPS[Status.MANUFACTURING_APPROVED, _STARTED].roles:
        return
    if actor.role is Role.ADMIN and wish.comment and order.status is not _STARTED:
        return  # a correction
    if taken_by == _wished_operator(wish, actor) and order.status is _STARTED:
        return
    if order.status in WITH_OPERATOR and taken_by != _wished_operator(wish, actor):
        raise AlreadyTaken(f"The order was taken by {taken_by}.", operator=taken_by, since=order.status_since)


def _repeat(
    order: Order, wish: StatusRequest, actor: Actor, now: datetime, said: Collection[str]
) -> Change | None:
    """A status that the order has already: only a new comment leaves something."""
    _require_operator_fits(wish)
    if wish.price is not None and not _is_same_price(wish.price, order.price):
        raise AlreadyPriced(
            "The order has another price. To change it, undo that step within 30 s; or set FILE_UPLOADED,"
            " SUBMITTED, and PRICE_CALCULATED with the new price.",
            price=order.price,
        )
    if wish.comment is None or wish.comment in said:
        return None
    return comment(order, wish.comment, actor, now)


def _is_same_price(wished: OrderPrice, price: OrderPrice | None) -> bool:
    """VAT follows from the price list, which may have changed since."""
    return (
        price is not None
        and price.source is PriceSource.PERSON
        and (price.net, price.reason) == (wished.net, wished.reason)
    )


def _require_operator_fits(wish: StatusRequest) -> None:
    if wish.operator is not None and wish.status is not _STARTED:
        raise Invalid(("/operator", "goes with MANUFACTURING_STARTED only"))


def _check_details(order: Order, wish: StatusRequest, step: Step, actor: Actor) -> None:
    _require_operator_fits(wish)
    if wish.status is Status.CANCELLED and not wish.comment:
        raise Invalid(("/comment", "say why the order is cancelled"), code="comment_required")
    if step.kind is Kind.TAKE and actor.role is not Role.OPERATOR and not wish.operator:
        raise Invalid(("/operator", "say which operator takes the order"), code="operator_required")
    if actor.role is Role.OPERATOR and wish.status is Status.MANUFACTURING_COMPLETED:
        _require_own(order, actor)
    if step.kind is Kind.RELEASE:
        _check_release(order, wish, actor)


def _refuse_other_operator(wish: StatusRequest, actor: Actor) -> None:
    if actor.role is Role.OPERATOR and wish.operator not in (None, actor.name):
        raise Forbidden("An operator takes orders for themselves only.")


def _check_release(order: Order, wish: StatusRequest, actor: Actor) -> None:
    if actor.role is Role.OPERATOR:
        _require_own(order, actor)
    if actor.role is Role.SELLER and not wish.comment:
        raise Invalid(("/comment", "a seller says why an order is released"), code="comment_required")


def _require_own(order: Order, actor: Actor) -> None:
    if order.operator != actor.name:
        raise Forbidden(f"The order is {order.operator}'s.")


def _effects(order: Order, wish: StatusRequest, step: Step, actor: Actor) -> dict[str, Any]:
    effects: dict[str, Any] = {"status": wish.status}
    if step.kind is Kind.TAKE:
        effects["operator"] = _wished_operator(wish, actor)
    elif step.kind is Kind.RELEASE:
        effects["operator"] = None
    elif wish.status is Status.PRICE_CALCULATED:
        effects["price"] = wish.price
    elif wish.status is Status.FILE_UPLOADED and order.status is not Status.INITIATED:
        effects["price"] = effects["quote"] = None
    return effects


def _correct(order: Order, wish: StatusRequest, actor: Actor, now: datetime) -> Change:
    """A step outside the table: an admin's, with a comment. Anybody else is told the legal ones."""
    if actor.role is not Role.ADMIN or not wish.comment:
        legal = [status.value for status in LEGAL[order.status]]
        hint = " An admin may correct it with a comment." if actor.role is Role.ADMIN else ""
        raise IllegalTransition(
            f"An order cannot go from {order.status} to {wish.status}.{hint}",
            **{"from": order.status.value, "to": wish.status.value, "legal": legal},
        )
    if wish.operator is not None and wish.status not in WITH_OPERATOR:
        raise Invalid(("/operator", f"an order that is {wish.status} has no operator"))
    effects: dict[str, Any] = {"status": wish.status}
    if wish.status in WITH_OPERATOR:
        effects["operator"] = wish.operator or order.operator
        if effects["operator"] is None and wish.status is _STARTED:
            raise Invalid(("/operator", "say which operator has the order"), code="operator_required")
    elif wish.status is not Status.CANCELLED:
        effects["operator"] = None
    if wish.price is not None:
        effects["price"] = wish.price
    elif wish.status in BEFORE_PRICE:
        effects["price"] = None
    return _changed(order, effects, Kind.CORRECT, actor, now, wish.comment)


def _changed(
    order: Order, effects: dict[str, Any], kind: Kind, actor: Actor, now: datetime, comment: str | None
) -> Change:
    """The change that has these effects. Times never go back, whatever the clock does."""
    moment = max(now, order.updated_at)
    effects = {name: value for name, value in effects.items() if getattr(order, name) != value}
    effects["updated_at"] = moment
    if "status" in effects:
        effects |= {"status_since": moment, "status_version": order.version + 1}
    return Change(
        order=msgspec.structs.replace(order, version=order.version + 1, **effects),
        was=Previous(**{name: getattr(order, name) for name in effects}),
        kind=kind,
        from_status=order.status,
        to_status=effects.get("status", order.status),
        actor=actor.name,
        at=moment,
        comment=comment,
    )
