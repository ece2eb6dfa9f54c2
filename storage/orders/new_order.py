"""What callers give of an order, when they open it and when they edit it. Made from the fields of `Order`
that are marked as given."""

from types import NoneType
from typing import TYPE_CHECKING, Any, Union, get_args

import msgspec
from msgspec import UNSET, UnsetType

from storage.orders.fields import Given
from storage.orders.order import Order

if TYPE_CHECKING:

    class NewOrder(msgspec.Struct, frozen=True):
        """What a new order is made of. `customer` may be left out by a partner: it is the partner itself."""

        customer: str | None
        model: str | None
        quote: str | None
        reference: str | None

        def __init__(self, **fields: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    class OrderEdit(msgspec.Struct, frozen=True):
        """Only what is given is changed; null clears a field that may be empty."""

else:
    _GIVEN = [
        (field.name, given)
        for field in msgspec.structs.fields(Order)
        for given in get_args(field.type)[1:]
        if isinstance(given, Given)
    ]
    _STRICT = {"frozen": True, "kw_only": True, "forbid_unknown_fields": True}
    NewOrder = msgspec.defstruct(
        "NewOrder",
        [(name, Union[given.type, NoneType], None) for name, given in _GIVEN],  # noqa: UP007 - of any type
        namespace={"__doc__": "`customer` may be left out by a partner: it is the partner itself."},
        module=__name__,
        **_STRICT,
    )
    OrderEdit = msgspec.defstruct(
        "OrderEdit",
        [
            (name, Union[(given.type, UnsetType, *([NoneType] if given.cleared else []))], UNSET)
            for name, given in _GIVEN
            if given.edited
        ],
        namespace={"__doc__": "Only what is given is changed; null clears a field that may be empty."},
        module=__name__,
        **_STRICT,
    )
