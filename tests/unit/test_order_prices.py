"""A price that a person sets follows the price list as every price does."""

from decimal import Decimal

import msgspec
import pytest

from pricing.price.price_list import default_price_list
from server.prices.order_prices import price_of_person
from storage.orders.order import Money

VAT_OF_HALF_A_CENT = Decimal("0.05"), Decimal("0.10")
"""A net amount and a rate whose product lies half way between two cents."""


@pytest.mark.parametrize(("rounding", "vat"), [("half_up", "0.01"), ("half_even", "0.00"), ("up", "0.01")])
def test_its_vat_is_rounded_by_the_rule_of_the_price_list(rounding: str, vat: str) -> None:
    net, rate = VAT_OF_HALF_A_CENT
    delivered = default_price_list()
    rates = msgspec.structs.replace(delivered.rates, vat=rate)
    price_list = msgspec.structs.replace(delivered, rounding=rounding, rates=rates)
    price = price_of_person(Money(net, price_list.currency), "agreed", price_list)
    assert price.vat.amount == Decimal(vat)
    assert price.gross.amount == net + Decimal(vat)
