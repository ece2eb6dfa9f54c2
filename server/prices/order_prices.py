"""The price of an order: of its quote, of its model, or set by a person."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
from aiohttp import web

from pricing.errors import Refused
from pricing.price.formula import round_amount
from pricing.price.options import Options
from pricing.price.price_list import PriceList
from pricing.units import DECLARABLE_UNITS
from server.http.problems import HttpError
from server.prices.quotes import (
    Quote,
    decode_quote,
)
from server.prices.quoting import Quoting
from server.prices.verification import ORDER_WAIT_S, VerificationPending, Verifications
from storage.clock import Clock
from storage.errors import Invalid, NotFound, NotPriceable
from storage.models.shared import Model
from storage.orders.actors import Actor, Role
from storage.orders.new_order import NewOrder
from storage.orders.order import Money, Order, OrderPrice, PriceSource
from storage.services.stack import Storage

CENT = Decimal("0.01")
AMOUNT_MAX = Decimal(1_000_000_000)


class OrderPrices:
    def __init__(
        self, storage: Storage, quoting: Quoting, verifications: Verifications, clock: Clock
    ) -> None:
        self._storage = storage
        self._quoting = quoting
        self._verifications = verifications
        self._clock = clock

    async def complete_draft(self, draft: NewOrder, actor: Actor) -> NewOrder:
        """A new order's choices, checked, and taken from its quote where it names one. Raises Invalid."""
        self._check_choices(msgspec.structs.asdict(draft))
        if draft.quote is None:
            return msgspec.structs.replace(draft, quantity=draft.quantity or 1)
        quote = await self._quote_for(draft.quote, actor)
        chosen = {**_choices(quote), "model": quote.model, "quantity": quote.quantity}
        given = {name: getattr(draft, name) for name in chosen}
        errors = [
            (f"/{name}", f"the quote has {chosen[name]}")
            for name in chosen
            if given[name] not in (None, 0, chosen[name])
        ]
        if errors:
            raise Invalid(*errors, code="quote_mismatch")
        return msgspec.structs.replace(draft, **chosen)

    async def check_edit(self, order: Order, fields: dict[str, Any], actor: Actor) -> None:
        """Raises Invalid for a choice the price list does not have, or a quote for something else."""
        self._check_choices(fields)
        if (quote_id := fields.get("quote")) is None:
            return
        quote = await self._quote_for(quote_id, actor)
        after = {name: fields.get(name, getattr(order, name)) for name in _ASKED}
        if not _answers(quote, after):
            raise Invalid(("/quote", "is for another model or other choices"), code="quote_mismatch")

    async def price_of_order(
        self, order: Order, actor: Actor, person: tuple[Money, str] | None
    ) -> OrderPrice | None:
        """What PRICE_CALCULATED puts on an order: a person's price, else its valid quote, else the price of
        its model. None when the order has no model here. Raises Invalid, NotPriceable, and
        VerificationPending while nobody has said whether another program reads the model alike."""
        if person is not None:
            return price_of_person(*person, self._quoting.current()[0])
        if actor.role is Role.SELLER:
            raise Invalid(("/price", "a seller sets the price: net and reason"), code="price_required")
        quote = await self._own_quote(order)
        if quote is not None and quote.valid_until > self._clock.now():
            return await self._price_in_force(quote)
        model = None if order.model is None else await self._verified(order.model)
        if model is None:
            return None
        if order.material is None:
            raise NotPriceable("The order names no material: edit it, or send price {net, reason}.")
        options = Options(
            material=order.material,
            units=_units_of(order),
            finish=order.finish,
            plating=order.plating,
            quantity=order.quantity,
            # An order has no fields for these: they come with its quote, and stay when that has expired.
            rush=quote is not None and quote.rush,
            stones=tuple(quote.stones) if quote is not None else (),
            leave_out=(quote.leave_out or ()) if quote is not None else (),
        )
        self._storage.models.count(model)
        asker = Actor(token_id="", name="", role=Role.PARTNER, customer=order.customer)
        try:
            quoted = await self._quoting.quote(model, options, asker)
        except (Refused, HttpError) as error:
            if not options.leave_out:
                raise
            raise NotPriceable(f"Without its bodies the model cannot be priced: {error}") from error
        return price_of_quote(decode_quote(quoted.stored.body), PriceSource.COMPUTED)

    async def _verified(self, sha256: str) -> Model | None:
        """A model that another program has been asked about. Raises VerificationPending while it has not."""
        if (found := await self._storage.models.find(sha256)) is None:
            return None
        model = await self._verifications.settled(found[0], ORDER_WAIT_S)
        if model.verification is None:
            said = "The model is still held against a second opinion: try again."
            raise VerificationPending(said, retry_after_s=5)
        return model

    async def _price_in_force(self, quote: Quote) -> OrderPrice:
        await self._require_in_force(quote.id)
        price = price_of_quote(quote, PriceSource.QUOTE)
        if await self._verified(quote.model) is None:
            raise NotPriceable("The model of the quote is no longer known: upload it again.")
        await self._require_in_force(quote.id)
        return price

    async def _require_in_force(self, quote_id: str) -> None:
        """Raises Invalid."""
        if await self._quoting.is_withdrawn(await self._storage.quotes.get(quote_id)):
            said = "is withdrawn: another program reads the model differently, a person has to price it"
            raise Invalid(("/quote", said), code="quote_withdrawn")

    async def _own_quote(self, order: Order) -> Quote | None:
        """The quote the order names, valid or not, while it is for what the order is for."""
        if order.quote is None:
            return None
        try:
            stored = await self._storage.quotes.get(order.quote)
        except NotFound:
            return None
        quote = decode_quote(stored.body)
        return quote if _answers(quote, {name: getattr(order, name) for name in _ASKED}) else None

    async def _quote_for(self, quote_id: str, actor: Actor) -> Quote:
        try:
            stored = await self._quoting.known_quote(quote_id, actor)
        except NotFound:
            raise Invalid(("/quote", "no such quote"), code="unknown_quote") from None
        if stored.valid_until <= self._clock.now():
            raise Invalid(("/quote", "has expired"), code="quote_expired")
        await self._require_in_force(quote_id)
        return decode_quote(stored.body)

    def _check_choices(self, fields: dict[str, Any]) -> None:
        price_list, _ = self._quoting.current()
        known = {
            "units": set(DECLARABLE_UNITS),
            "material": {row.code for row in price_list.materials},
            "finish": {row.code for row in price_list.finishes},
            "plating": {row.code for row in price_list.platings},
        }
        errors = [
            (f"/{name}", f"one of {', '.join(sorted(codes))}")
            for name, codes in known.items()
            if fields.get(name) is not None and fields[name] not in codes
        ]
        if errors:
            raise Invalid(*errors)


EXPLICIT_UNITS_SINCE = datetime(2026, 11, 28, tzinfo=UTC)
"""Orders of before keep the unit of their file, whatever they name: it won then."""


def _units_of(order: Order) -> str:
    return order.units if order.units is not None and order.created_at >= EXPLICIT_UNITS_SINCE else ""


_ASKED = ("model", "units", "material", "finish", "plating", "quantity")


def _choices(quote: Quote) -> dict[str, Any]:
    return {
        "units": quote.units if quote.units in DECLARABLE_UNITS else None,
        "material": quote.material,
        "finish": quote.finish,
        "plating": quote.plating,
    }


def _answers(quote: Quote, asked: dict[str, Any]) -> bool:
    """Whether the quote is for what is asked; a choice left open fits any."""
    chosen = {**_choices(quote), "model": quote.model, "quantity": quote.quantity}
    return all(value is None or value == chosen[name] for name, value in asked.items())


def price_of_quote(quote: Quote, source: PriceSource) -> OrderPrice:
    if quote.priceable != "auto" or quote.net is None or quote.vat is None or quote.gross is None:
        codes = ", ".join(warning.code for warning in quote.warnings) or quote.priceable
        raise NotPriceable(
            f"The model cannot be priced firmly ({codes}): send price {{net, reason}}.",
            priceable=quote.priceable,
        )
    return OrderPrice(source=source, net=quote.net, vat=quote.vat, gross=quote.gross, quote=quote.id)


def price_of_person(net: Money, reason: str, price_list: PriceList) -> OrderPrice:
    """Rounded by the rule of the price list, as every price is. Raises Invalid."""
    if net.currency != price_list.currency:
        raise Invalid(("/price/net/currency", f"must be {price_list.currency}"))
    amount = net.amount
    if not amount.is_finite() or not 0 < amount <= AMOUNT_MAX or amount != amount.quantize(CENT):
        raise Invalid(("/price/net/amount", f"above 0, at most {AMOUNT_MAX}, with two decimals"))
    vat = round_amount(amount * price_list.rates.vat, price_list)
    currency = price_list.currency
    return OrderPrice(
        source=PriceSource.PERSON,
        net=Money(amount.quantize(CENT), currency),
        vat=Money(vat, currency),
        gross=Money(amount.quantize(CENT) + vat, currency),
        reason=reason,
    )


ORDER_PRICES: web.AppKey[OrderPrices] = web.AppKey("order_prices", OrderPrices)
