"""The row of an order, from the fields of `Order` and the columns of its table: the same names.

Compiled once for each engine: a loop over the fields would take several times as long for each row.
"""

from collections.abc import Callable
from datetime import datetime
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import msgspec

from storage.database.schema import ORDER_COLUMNS
from storage.orders.order import Order, OrderPrice
from storage.orders.search import stored_text
from storage.orders.unknown_fields import from_json
from storage.orders.workflow import Status

ORDER_NAMES = ", ".join(ORDER_COLUMNS)
STEP_NAMES = (
    *("id", "version", "status", "status_since", "status_version"),
    *("operator", "quote", "price", "updated_at", "search"),
)
"""What anything but an edit can change of an order."""
MOVE_NAMES = ("id", "version", "status", "status_since", "status_version", "updated_at")
"""What a change of the status alone changes of an order: most changes are such."""
UPDATED_NAMES = [name for name in (*ORDER_COLUMNS, "search") if name not in ("id", "number", "created_by")]
"""What a newer state of an order replaces."""

_FORMS: dict[object, tuple[str, str]] = {
    datetime: ("stored({0})", "loaded({0})"),
    Status: ("{0}.value", "Status({0})"),
    OrderPrice: ("encode({0}).decode()", "decode({0})"),
}
"""How a value of this type is stored and loaded; others are kept as they are."""
_TYPES = {field.name: field.type for field in msgspec.structs.fields(Order)}
_decode_price = msgspec.json.Decoder(OrderPrice).decode


class OrderRows(NamedTuple):
    """`row`: of ORDER_COLUMNS, then `search`; `step`: of STEP_NAMES; `move`: of MOVE_NAMES; `order`: from a
    row of ORDER_COLUMNS; `body`: from such a row as `encode_order` encodes the order, without making one."""

    row: Callable[[Order], tuple[Any, ...]]
    step: Callable[[Order], tuple[Any, ...]]
    move: Callable[[Order], tuple[Any, ...]]
    order: Callable[[Any], Order]
    body: Callable[[Any], bytes]


_Shown = msgspec.defstruct("_Shown", [(name, Any) for name in _TYPES], gc=False)
"""The fields of an order, of whatever types an engine keeps."""


def order_rows(
    stored: Callable[[datetime], Any], loaded: Callable[[Any], datetime], shown: Callable[[Any], Any]
) -> OrderRows:
    """`stored` makes of a moment what the engine keeps, `loaded` the reverse, and `shown` what is encoded as
    the moment is."""
    names = {
        "Order": Order,
        "Status": Status,
        "stored_text": stored_text,
        "stored": stored,
        "loaded": loaded,
        "encode": msgspec.json.Encoder().encode,
        "decode": _price_of,
        "shown": shown,
        "Shown": _Shown,
    }
    fields = (f"{name}={_form(name, 1, f'row[{at}]')}" for at, name in enumerate(ORDER_COLUMNS))
    return OrderRows(
        eval(f"lambda order: ({_values((*ORDER_COLUMNS, 'search'))})", names),
        eval(f"lambda order: ({_values(STEP_NAMES)})", names),
        eval(f"lambda order: ({_values(MOVE_NAMES)})", names),
        eval(f"lambda row: Order({', '.join(fields)})", names),
        eval(f"lambda row: encode(Shown({', '.join(map(_shown, _TYPES))}))", names),
    )


def _values(names: tuple[str, ...]) -> str:
    return ", ".join(
        "stored_text(order)" if name == "search" else _form(name, 0, f"order.{name}") for name in names
    )


def _shown(name: str) -> str:
    """An expression of what is encoded of this field."""
    value = f"row[{ORDER_COLUMNS.index(name)}]"
    form = _form(name, 1, value)
    return form.replace("loaded(", "shown(") if "Status(" not in form else value


def _form(name: str, which: int, value: str) -> str:
    """An expression of a value of this field: stored (0) or loaded (1)."""
    kind = _TYPES[name]
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    (plain,) = [each for each in get_args(kind) if each is not NoneType] or [kind]
    form = _FORMS.get(plain, ("{0}", "{0}"))[which].format(value)
    return form if plain is kind or form == value else f"None if {value} is None else {form}"


def _price_of(text: str) -> OrderPrice:
    """As far as this release knows it."""
    try:
        return _decode_price(text)
    except msgspec.ValidationError:
        return from_json(text, OrderPrice)
