"""The rules of change: who may take which step, what it does, and that every change can be told back."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import (
    AlreadyTaken,
    Forbidden,
    IllegalTransition,
    Invalid,
    NotEditable,
    NotFound,
    NothingToUndo,
    StorageError,
)
from storage.orders.actors import Actor, Role
from storage.orders.order import Change, Money, Order, OrderPrice, PriceSource, history_item
from storage.orders.rules import StatusRequest, advance, assigns_operator, comment, create, edit, undo
from storage.orders.workflow import Kind, Status
from tests.support.changes import START, an_order, id_of
from tests.support.stacks import ADMIN, IVAN, MES, OLGA, SELLER, SHOP, actor

TABLE = """
INITIATED               FILE_UPLOADED           status  shop seller partner
FILE_UPLOADED           SUBMITTED               status  shop seller partner
SUBMITTED               PRICE_CALCULATED        status  mes seller
PRICE_CALCULATED        MANUFACTURING_APPROVED  status  seller
MANUFACTURING_APPROVED  MANUFACTURING_STARTED   take    operator mes
MANUFACTURING_STARTED   MANUFACTURING_COMPLETED status  operator mes
MANUFACTURING_COMPLETED PACKAGING               status  operator mes
PACKAGING               SHIPPED                 status  operator mes
SHIPPED                 CLOSED                  status  seller

MANUFACTURING_STARTED   MANUFACTURING_APPROVED  release operator mes seller

SUBMITTED               FILE_UPLOADED           status  shop seller partner
PRICE_CALCULATED        FILE_UPLOADED           status  shop seller partner

INITIATED               CANCELLED               status  shop seller
FILE_UPLOADED           CANCELLED               status  shop seller
SUBMITTED               CANCELLED               status  shop seller
PRICE_CALCULATED        CANCELLED               status  shop seller
MANUFACTURING_APPROVED  CANCELLED               status  shop seller
MANUFACTURING_STARTED   CANCELLED               status  shop seller
MANUFACTURING_COMPLETED CANCELLED               status  shop seller
PACKAGING               CANCELLED               status  shop seller
"""
"""From, to, kind, roles; an admin may do all of these. Written out from the description of the business,
so that the program's own table is checked against something."""
ROWS = [line.split() for line in TABLE.splitlines() if line]
STEP = {(Status(row[0]), Status(row[1])): (Kind(row[2]), {*map(Role, row[3:]), Role.ADMIN}) for row in ROWS}
TAKEN = {"MANUFACTURING_STARTED", "MANUFACTURING_COMPLETED", "PACKAGING", "SHIPPED", "CLOSED"}
CUSTOMER = actor(Role.CUSTOMER, "anna", "anna")
PARTNER = actor(Role.PARTNER, "anna", "anna")
ACTORS = {
    Role.CUSTOMER: CUSTOMER,
    Role.PARTNER: PARTNER,
    Role.SHOP: SHOP,
    Role.SELLER: SELLER,
    Role.MES: MES,
    Role.OPERATOR: IVAN,
    Role.ADMIN: ADMIN,
}
NOW = START + timedelta(hours=1)
PRICE = OrderPrice(
    source=PriceSource.COMPUTED,
    net=Money(Decimal("100.00"), "EUR"),
    vat=Money(Decimal("21.00"), "EUR"),
    gross=Money(Decimal("121.00"), "EUR"),
)


def order_at(status: Status, **fields: Any) -> Order:
    operator = "ivan" if status in TAKEN else None
    return an_order(**({"status": status, "operator": operator} | fields))


def wish_for(status: Status, actor: Actor, comment: str | None = "because") -> StatusRequest:
    """A wish that has all the details its step may need."""
    names = actor.role in (Role.MES, Role.ADMIN) and status is Status.MANUFACTURING_STARTED
    return StatusRequest(status=status, comment=comment, operator="ivan" if names else None)


def step(order: Order, status: Status, actor: Actor, **details: Any) -> Change:
    change = advance(order, StatusRequest(status=status, **details), actor, NOW)
    assert change is not None
    return change


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("before", Status)
def test_exactly_the_steps_of_the_table_are_taken_by_exactly_its_roles(before: Status, role: Role) -> None:
    for after in Status:
        if (before, after) not in STEP:
            continue
        order, who = order_at(before), ACTORS[role]
        kind, roles = STEP[before, after]
        if role in roles:
            change = advance(order, wish_for(after, who), who, NOW)
            assert change is not None
            assert (change.kind, change.from_status, change.to_status) == (kind, before, after)
            assert change.order.status is after
        else:
            with pytest.raises(Forbidden):
                advance(order, wish_for(after, who), who, NOW)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("before", Status)
def test_a_step_outside_the_table_is_illegal_and_the_legal_ones_are_named(before: Status, role: Role) -> None:
    legal = {after for start, after in STEP if start is before}
    without_comment = None if role is Role.ADMIN else "because"
    for after in Status:
        if after is before or after in legal:
            continue
        who = ACTORS[role]
        with pytest.raises(IllegalTransition) as caught:
            advance(order_at(before), wish_for(after, who, without_comment), who, NOW)
        assert caught.value.members["from"] == before
        assert caught.value.members["to"] == after
        assert set(caught.value.members["legal"]) == legal


@pytest.mark.parametrize("before", Status)
def test_an_admin_corrects_to_any_status_with_a_comment(before: Status) -> None:
    for after in Status:
        if after is before or (before, after) in STEP:
            continue
        operator = {"operator": "ivan"} if after in TAKEN else {}
        change = step(order_at(before), after, ADMIN, comment="mixed up", **operator)
        assert (change.kind, change.order.status, change.comment) == (Kind.CORRECT, after, "mixed up")


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("status", Status)
def test_setting_the_status_an_order_has_changes_nothing_for_those_who_may_set_it(
    status: Status, role: Role
) -> None:
    who = ACTORS[role]
    setters = {Role.ADMIN}.union(*(roles for (_, after), (_, roles) in STEP.items() if after is status))
    if role in setters:
        wish = wish_for(status, who)
        said = {wish.comment} if wish.comment is not None else set()
        assert advance(order_at(status), wish, who, NOW, said) is None
        if wish.comment is not None:
            new = advance(order_at(status), wish, who, NOW, {"something else"})
            assert new is not None
            assert (new.kind, new.comment, new.to_status) == (Kind.COMMENT, wish.comment, status)
    else:
        with pytest.raises(Forbidden):
            advance(order_at(status), wish_for(status, who), who, NOW)


@pytest.mark.parametrize("role", Role)
def test_orders_are_opened_by_shops_sellers_partners_and_admins(role: Role) -> None:
    if role in (Role.SHOP, Role.SELLER, Role.PARTNER, Role.ADMIN):
        change = create(an_order(), ACTORS[role])
        assert (change.kind, change.from_status, change.before()) == (Kind.CREATE, None, None)
    else:
        with pytest.raises(Forbidden):
            create(an_order(), ACTORS[role])


def test_a_partner_opens_orders_for_itself_only() -> None:
    with pytest.raises(Forbidden):
        create(an_order(customer="boris"), PARTNER)


@pytest.mark.parametrize("who", [CUSTOMER, PARTNER], ids=["customer", "partner"])
def test_an_order_of_somebody_else_does_not_exist_for_a_tenant(who: Actor) -> None:
    order = an_order(customer="boris")
    acts: list[Callable[[], object]] = [
        lambda: advance(order, StatusRequest(status=Status.FILE_UPLOADED), who, NOW),
        lambda: edit(order, {"note": "mine"}, who, NOW),
        lambda: comment(order, "hello", who, NOW),
        lambda: undo(order, [], who, NOW, 30),
    ]
    for act in acts:
        with pytest.raises(NotFound):
            act()


# Taking and releasing


def test_an_operator_takes_an_order_for_themselves() -> None:
    change = step(order_at(Status.MANUFACTURING_APPROVED), Status.MANUFACTURING_STARTED, IVAN)
    assert change.order.operator == "ivan"
    assert assigns_operator(change)


def test_an_operator_cannot_take_an_order_for_another() -> None:
    with pytest.raises(Forbidden):
        step(order_at(Status.MANUFACTURING_APPROVED), Status.MANUFACTURING_STARTED, IVAN, operator="olga")


@pytest.mark.parametrize("who", [MES, ADMIN], ids=["mes", "admin"])
def test_whoever_takes_for_others_says_for_whom(who: Actor) -> None:
    approved = order_at(Status.MANUFACTURING_APPROVED)
    with pytest.raises(Invalid) as caught:
        step(approved, Status.MANUFACTURING_STARTED, who)
    assert caught.value.code == "operator_required"
    assert step(approved, Status.MANUFACTURING_STARTED, who, operator="olga").order.operator == "olga"


@pytest.mark.parametrize("status", sorted(TAKEN))
def test_the_second_who_takes_an_order_learns_who_was_first_and_since_when(status: str) -> None:
    order = order_at(Status(status))
    with pytest.raises(AlreadyTaken) as caught:
        step(order, Status.MANUFACTURING_STARTED, OLGA)
    assert caught.value.members == {"operator": "ivan", "since": order.status_since}
    with pytest.raises(AlreadyTaken):
        step(order, Status.MANUFACTURING_STARTED, MES, operator="olga")


def test_repeating_ones_own_take_changes_nothing() -> None:
    started = order_at(Status.MANUFACTURING_STARTED)
    assert advance(started, StatusRequest(status=Status.MANUFACTURING_STARTED), IVAN, NOW) is None
    assert (
        advance(started, StatusRequest(status=Status.MANUFACTURING_STARTED, operator="ivan"), MES, NOW)
        is None
    )


def test_a_release_leaves_the_order_to_nobody() -> None:
    change = step(order_at(Status.MANUFACTURING_STARTED), Status.MANUFACTURING_APPROVED, IVAN)
    assert (change.kind, change.order.operator, change.was.operator) == (Kind.RELEASE, None, "ivan")
    assert not assigns_operator(change)


def test_only_the_orders_operator_releases_or_completes_it_among_operators() -> None:
    started = order_at(Status.MANUFACTURING_STARTED)
    for after in (Status.MANUFACTURING_APPROVED, Status.MANUFACTURING_COMPLETED):
        with pytest.raises(Forbidden):
            step(started, after, OLGA)
        assert step(started, after, MES).order.status is after


def test_any_operator_packs_and_ships() -> None:
    assert step(order_at(Status.MANUFACTURING_COMPLETED), Status.PACKAGING, OLGA).order.operator == "ivan"
    assert step(order_at(Status.PACKAGING), Status.SHIPPED, OLGA).order.operator == "ivan"


def test_a_seller_says_why_an_order_is_released() -> None:
    with pytest.raises(Invalid) as caught:
        step(order_at(Status.MANUFACTURING_STARTED), Status.MANUFACTURING_APPROVED, SELLER)
    assert caught.value.code == "comment_required"
    change = step(
        order_at(Status.MANUFACTURING_STARTED), Status.MANUFACTURING_APPROVED, SELLER, comment="ill"
    )
    assert change.comment == "ill"


def test_a_cancellation_says_why() -> None:
    with pytest.raises(Invalid) as caught:
        step(order_at(Status.SUBMITTED), Status.CANCELLED, SHOP)
    assert caught.value.code == "comment_required"
    assert step(order_at(Status.SUBMITTED), Status.CANCELLED, SHOP, comment="no ring").comment == "no ring"


def test_details_that_belong_to_another_step_are_refused() -> None:
    with pytest.raises(Invalid, match="/price"):
        step(order_at(Status.PRICE_CALCULATED), Status.MANUFACTURING_APPROVED, SELLER, price=PRICE)
    with pytest.raises(Invalid, match="/operator"):
        step(order_at(Status.PRICE_CALCULATED), Status.MANUFACTURING_APPROVED, SELLER, operator="ivan")


def test_a_correction_back_before_the_take_leaves_the_order_to_nobody() -> None:
    change = step(order_at(Status.PACKAGING), Status.MANUFACTURING_APPROVED, ADMIN, comment="not made")
    assert change.order.operator is None


def test_a_correction_back_before_the_price_drops_it() -> None:
    change = step(order_at(Status.PACKAGING, price=PRICE), Status.SUBMITTED, ADMIN, comment="other ring")
    assert change.order.price is None


def test_a_correction_into_work_needs_somebody_who_has_the_order() -> None:
    with pytest.raises(Invalid) as caught:
        step(order_at(Status.SUBMITTED), Status.MANUFACTURING_STARTED, ADMIN, comment="begun")
    assert caught.value.code == "operator_required"
    change = step(
        order_at(Status.SUBMITTED), Status.MANUFACTURING_STARTED, ADMIN, comment="begun", operator="olga"
    )
    assert change.order.operator == "olga"
    assert assigns_operator(change)


# Editing


def test_an_edit_of_what_the_price_depends_on_drops_the_price_and_the_status_falls_back() -> None:
    priced = order_at(Status.PRICE_CALCULATED, price=PRICE, quote="q-1", material="brass", model="a" * 64)
    for name, value in {
        "units": "in",
        "material": "silver-925",
        "finish": "matt",
        "plating": "rhodium",
        "quantity": 2,
        "quote": "q-2",
    }.items():
        change = edit(priced, {name: value}, SHOP, NOW)
        assert change is not None
        assert (change.order.price, change.order.status, change.kind) == (None, Status.SUBMITTED, Kind.EDIT)
        assert change.order.quote == ("q-2" if name == "quote" else None)
    changed = edit(priced, {"model": "b" * 64}, SHOP, NOW)
    assert changed is not None
    assert (changed.order.price, changed.order.status) == (None, Status.FILE_UPLOADED)


def test_an_edit_of_anything_else_keeps_the_price() -> None:
    priced = order_at(Status.PRICE_CALCULATED, price=PRICE, quote="q-1")
    change = edit(priced, {"note": "engrave", "reference": "r", "due_at": NOW}, SHOP, NOW)
    assert change is not None
    assert (change.order.price, change.order.quote, change.order.status) == (PRICE, "q-1", priced.status)
    assert change.order.status_version == priced.status_version


def test_an_edit_that_changes_nothing_is_no_change() -> None:
    assert edit(an_order(note="same"), {"note": "same", "quantity": 1}, SHOP, NOW) is None


def test_a_new_file_takes_an_order_that_nobody_submitted_to_file_uploaded() -> None:
    change = edit(an_order(), {"model": "a" * 64}, SHOP, NOW)
    assert change is not None
    assert change.order.status is Status.FILE_UPLOADED


def test_a_new_file_after_the_price_drops_it() -> None:
    priced = order_at(Status.PRICE_CALCULATED, price=PRICE, quote="q-1")
    change = step(priced, Status.FILE_UPLOADED, SHOP)
    assert (change.order.price, change.order.quote) == (None, None)


@pytest.mark.parametrize("status", Status)
def test_orders_are_edited_before_approval_only(status: Status) -> None:
    if status in ("INITIATED", "FILE_UPLOADED", "SUBMITTED", "PRICE_CALCULATED"):
        assert edit(order_at(status), {"note": "n"}, SHOP, NOW) is not None
    else:
        with pytest.raises(NotEditable):
            edit(order_at(status), {"note": "n"}, SHOP, NOW)


@pytest.mark.parametrize("who", [CUSTOMER, MES, IVAN], ids=["customer", "mes", "operator"])
def test_others_do_not_edit(who: Actor) -> None:
    with pytest.raises(Forbidden):
        edit(an_order(), {"note": "n"}, who, NOW)


@pytest.mark.parametrize("status", Status)
def test_whoever_sees_an_order_may_comment_at_any_time(status: Status) -> None:
    change = comment(order_at(status), "hello", CUSTOMER, NOW)
    assert (change.kind, change.comment, change.order.status) == (Kind.COMMENT, "hello", status)
    assert change.order.status_version == 1


# Undoing


def taken(seconds_ago: float = 10.0) -> Change:
    approved = order_at(Status.MANUFACTURING_APPROVED)
    change = advance(
        approved,
        StatusRequest(status=Status.MANUFACTURING_STARTED),
        IVAN,
        NOW - timedelta(seconds=seconds_ago),
    )
    assert change is not None
    return change


def test_undo_takes_ones_own_last_step_back() -> None:
    take = taken()
    change = undo(take.order, [history_item(take)], IVAN, NOW, 30)
    assert (change.kind, change.order.status, change.order.operator) == (
        Kind.UNDO,
        Status.MANUFACTURING_APPROVED,
        None,
    )
    assert change.order.version == take.order.version + 1


def test_undo_of_a_release_gives_the_order_back() -> None:
    release = step(order_at(Status.MANUFACTURING_STARTED), Status.MANUFACTURING_APPROVED, IVAN)
    change = undo(release.order, [history_item(release)], IVAN, NOW, 30)
    assert change.order.operator == "ivan"
    assert assigns_operator(change)


def test_undo_brings_a_dropped_price_back() -> None:
    upload = step(order_at(Status.PRICE_CALCULATED, price=PRICE, quote="q-1"), Status.FILE_UPLOADED, SHOP)
    change = undo(upload.order, [history_item(upload)], SHOP, NOW, 30)
    assert (change.order.price, change.order.quote) == (PRICE, "q-1")


def test_undo_ends_with_its_window() -> None:
    assert undo(taken(30.0).order, [history_item(taken(30.0))], IVAN, NOW, 30)
    with pytest.raises(NothingToUndo):
        undo(taken(30.001).order, [history_item(taken(30.001))], IVAN, NOW, 30)


def test_a_step_of_somebody_else_is_not_undone() -> None:
    with pytest.raises(NothingToUndo, match="ivan"):
        undo(taken().order, [history_item(taken())], OLGA, NOW, 30)


def test_a_comment_after_the_step_does_not_hinder_undo_and_an_edit_does() -> None:
    upload = step(order_at(Status.SUBMITTED), Status.FILE_UPLOADED, SHOP)
    remark = comment(upload.order, "oops", SHOP, NOW)
    assert undo(remark.order, [history_item(upload), history_item(remark)], SHOP, NOW, 30)
    edited = edit(upload.order, {"note": "n"}, SHOP, NOW)
    assert edited is not None
    with pytest.raises(NothingToUndo):
        undo(edited.order, [history_item(upload), history_item(edited)], SHOP, NOW, 30)


@pytest.mark.parametrize("kind", [Kind.CREATE, Kind.EDIT, Kind.UNDO, Kind.CORRECT])
def test_what_is_no_step_is_not_undone(kind: Kind) -> None:
    item = msgspec.structs.replace(history_item(taken()), kind=kind)
    with pytest.raises(NothingToUndo):
        undo(taken().order, [item], IVAN, NOW, 30)
    with pytest.raises(NothingToUndo):
        undo(taken().order, [], IVAN, NOW, 30)


# Every change, however it came about

WISHES = st.builds(
    StatusRequest,
    status=st.sampled_from(Status),
    comment=st.sampled_from([None, "because"]),
    operator=st.sampled_from([None, "ivan", "olga"]),
    price=st.sampled_from([None, PRICE]),
)
EDITS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["a" * 64, "b" * 64]),
        "material": st.sampled_from([None, "brass"]),
        "quantity": st.integers(1, 3),
        "quote": st.sampled_from([None, "q-1"]),
        "note": st.sampled_from([None, "n"]),
        "reference": st.sampled_from([None, "r"]),
        "due_at": st.sampled_from([None, NOW]),
    },
)
ACTS = st.one_of(WISHES, EDITS, st.just("undo"), st.just("comment"))
MOVES = st.lists(st.tuples(ACTS, st.sampled_from(Role), st.integers(-5, 20)), max_size=40)


def act_on(order: Order, past: list[Change], act: Any, who: Actor, moment: Any) -> Change | None:
    if isinstance(act, StatusRequest):
        return advance(order, act, who, moment)
    if isinstance(act, dict):
        return edit(order, act, who, moment)
    if act == "comment":
        return comment(order, "hello", who, moment)
    since = [history_item(change) for change in past if change.order.version >= order.status_version]
    return undo(order, since, who, moment, 30)


@given(MOVES)
@settings(max_examples=150, deadline=None)
def test_every_change_counts_one_version_tells_what_it_replaced_and_never_goes_back_in_time(
    moves: list[tuple[Any, Role, int]],
) -> None:
    order, moment = an_order(id=id_of(1)), START
    past: list[Change] = [create(order, ADMIN)]
    for act, role, seconds in moves:
        moment += timedelta(seconds=seconds)
        try:
            change = act_on(order, past, act, ACTORS[role], moment)
        except StorageError:
            continue
        if change is None:
            continue
        assert change.before() == order
        assert change.order.version == order.version + 1
        assert change.at == change.order.updated_at >= order.updated_at
        assert (change.from_status, change.to_status) == (order.status, change.order.status)
        moved = change.order.status is not order.status
        assert change.order.status_version == (change.order.version if moved else order.status_version)
        assert change.order.status_since == (change.at if moved else order.status_since)
        assert assigns_operator(change) == (change.order.operator not in (None, order.operator))
        order, past = change.order, [*past, change]


@given(MOVES)
@settings(max_examples=100, deadline=None)
def test_undo_leaves_the_order_as_it_was_before_the_step(moves: list[tuple[Any, Role, int]]) -> None:
    order, past = an_order(), [create(an_order(), ADMIN)]
    for act, role, _ in moves:
        who = ACTORS[role]
        try:
            change = act_on(order, past, act, who, START)
        except StorageError:
            continue
        if change is None:
            continue
        if change.kind in (Kind.STATUS, Kind.TAKE, Kind.RELEASE):
            undone = undo(change.order, [history_item(change)], who, START, 30).order
            times = {name: getattr(order, name) for name in ("version", "status_version", "status_since")}
            assert msgspec.structs.replace(undone, **times, updated_at=order.updated_at) == order
        order, past = change.order, [*past, change]
