"""Price lists, facts and wishes drawn by hypothesis: anything that may be published and asked for."""

from decimal import Decimal

import msgspec
from hypothesis import strategies as st

from pricing.facts import Facts
from pricing.price.options import Options
from pricing.price.price_list import (
    InvalidData,
    PriceList,
    QuantityBreak,
    Rates,
    Stone,
    default_metal_fix,
    default_price_list,
    parse_price_list,
)
from pricing.price.stones import StoneCount

LIST, FIX = default_price_list(), default_metal_fix()
STONES = (
    Stone("own", "Own", Decimal("0"), Decimal("3.335")),
    Stone("small", "Small", Decimal("0.005"), Decimal("0")),
    Stone("large", "Large", Decimal("12.3456"), Decimal("18.00")),
)


def facts(volume: float = 241.186049, area: float = 1057.768, **fields: object) -> Facts:
    """Those of the golden example, but for what is given."""
    whole = Facts(
        format="stl-binary",
        facets=576,
        volume=volume,
        area=area,
        extent=(20.0, 20.0, 5.0),
        bodies=1,
        closed=True,
        oriented=True,
        repaired=False,
        unit=None,
        warnings=(),
    )
    return msgspec.structs.replace(whole, **fields)


def with_rates(**rates: str) -> PriceList:
    """The default list with other rates."""
    changed = {name: Decimal(value) for name, value in rates.items()}
    return msgspec.structs.replace(LIST, rates=msgspec.structs.replace(LIST.rates, **changed))


def _accepted(price_list: PriceList) -> bool:
    try:
        parse_price_list(msgspec.json.encode(price_list))
    except InvalidData:
        return False
    return True


_MONEY = st.one_of(
    st.just(Decimal(0)),
    st.decimals("0.001", "0.1", places=3),
    st.decimals("0.01", "1000", places=2),
)
_SHARE = st.decimals("0", "0.99", places=3)
_BREAKS = st.lists(
    st.builds(QuantityBreak, st.integers(2, 40), st.decimals("0.01", "0.9", places=2)), max_size=4
).map(lambda breaks: tuple(sorted(breaks, key=lambda step: (step.from_quantity, step.rate))))
_RATES = st.builds(
    Rates,
    pattern_base=_MONEY,
    pattern_per_cm3=_MONEY,
    casting_base=_MONEY,
    casting_per_g=_MONEY,
    handling_per_body=_MONEY,
    setup_per_order=_MONEY,
    order_minimum=st.decimals("0.01", "100", places=2),
    markup=_SHARE,
    rush=_SHARE,
    vat=_SHARE,
)

PRICE_LISTS = st.builds(
    lambda rates, breaks, rounding: msgspec.structs.replace(
        LIST, rates=rates, quantity_breaks=breaks, rounding=rounding, stones=STONES
    ),
    _RATES,
    _BREAKS,
    st.sampled_from(["half_up", "half_even", "up"]),
).filter(_accepted)
"""Lists that may be published."""

FACTS = st.builds(
    facts,
    volume=st.one_of(st.floats(1e-3, 1), st.floats(1, 1e6)),
    area=st.floats(0.01, 1e5),
    bodies=st.sampled_from([1, 2, 5, None]),
    unit=st.sampled_from([None, "mm", "m"]),
)

_WISHED = st.lists(
    st.builds(StoneCount, st.sampled_from([stone.code for stone in STONES]), st.integers(1, 500)),
    unique_by=lambda stone: stone.code,
    max_size=3,
).map(tuple)

OPTIONS = st.builds(
    Options,
    material=st.sampled_from([row.code for row in LIST.materials]),
    units=st.sampled_from(["mm", "cm", "in"]),
    finish=st.sampled_from([None, *(row.code for row in LIST.finishes)]),
    plating=st.sampled_from([None, *(row.code for row in LIST.platings)]),
    quantity=st.one_of(st.integers(1, 45), st.integers(1, LIST.quantity_max)),
    rush=st.booleans(),
    stones=_WISHED,
)
