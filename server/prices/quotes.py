"""A quote as it is promised, stored and explained: what was asked, what it costs, what it was made from.

That is in the quote itself: the facts of the model as they were then, the options, and the versions of the
price list and the metal fix, which never change. So it can be computed again at any time, whatever has been
published or analysed since.
"""

from datetime import datetime
from decimal import Decimal

import msgspec
from msgspec import UNSET, UnsetType

from pricing.facts import Facts, MeshWarning
from pricing.price.explanation import Variable, Working, Workings, workings
from pricing.price.formula import Price
from pricing.price.model_view import VerificationState
from pricing.price.options import Options
from pricing.price.price_list import MetalFix, PriceList
from pricing.price.stones import StoneCount
from pricing.units import AS_IN_THE_FILE
from storage.errors import Conflict
from storage.orders.order import Money


class NotExplainable(Conflict):
    """The quote is of a release that had another formula, or did not keep what quotes were made from."""

    code = "not_explainable"


FILE_UNIT_WINS = frozenset({"1", "2"})
"""Analysers of releases in which the unit that a file states won over the one that was asked for."""


class PriceLine(msgspec.Struct, frozen=True):
    """`formula` and `variables`: with `explain=1` only."""

    code: str
    basis: str
    amount: Money
    formula: str | UnsetType = UNSET
    variables: tuple[Variable, ...] | UnsetType = UNSET


class MadeFrom(msgspec.Struct, frozen=True):
    """All that a price depends on beside its price list and metal fix. Facts are in the file's own unit."""

    analyser: str
    options: Options
    facts: Facts


class Explained(msgspec.Struct, frozen=True):
    """How volume, area and mass came about before the lines, and the totals after them."""

    rounding: str
    quantities: tuple[Working, ...]
    totals: tuple[Working, ...]


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """A price as it is promised. `manual`: no lines and no amounts, a person prices it. `verification`: what
    another program had said of the model by then. `leave_out`: bodies of the file that are no metal."""

    id: str
    model: str
    priceable: str
    material: str
    finish: str
    plating: str
    quantity: int
    units: str
    rush: bool
    stones: list[StoneCount] = []
    lines: list[PriceLine]
    unit_price: Money | None
    net: Money | None
    vat: Money | None
    gross: Money | None
    mass_g: float | None
    mass_tolerance_pct: float
    price_list: str
    metal_fix: str
    warnings: list[MeshWarning]
    issued_at: datetime
    valid_until: datetime
    verification: VerificationState | UnsetType = UNSET
    leave_out: tuple[int, ...] | UnsetType = UNSET


class QuoteView(Quote, frozen=True, kw_only=True):
    """As it is stored and shown. `explanation`: with `explain=1` only. `withdrawn`: why it holds no
    longer."""

    made_from: MadeFrom
    withdrawn: str | UnsetType = UNSET
    explanation: Explained | UnsetType = UNSET


decode_quote = msgspec.json.Decoder(Quote).decode
_decode_view = msgspec.json.Decoder(QuoteView).decode


def quote_of(
    quote_id: str,
    sha256: str,
    made_from: MadeFrom,
    priced: Price,
    now: datetime,
    valid_until: datetime,
    verification: VerificationState,
) -> QuoteView:
    currency = priced.currency

    def money(amount: Decimal | None) -> Money | None:
        return None if amount is None else Money(amount, currency)

    return QuoteView(
        id=quote_id,
        model=sha256,
        priceable=priced.priceable,
        material=priced.material,
        finish=priced.finish,
        plating=priced.plating,
        quantity=priced.quantity,
        units=priced.units,
        rush=priced.rush,
        stones=list(priced.stones),
        lines=[PriceLine(line.code, line.basis, Money(line.amount, currency)) for line in priced.lines],
        unit_price=money(priced.unit_price),
        net=money(priced.net),
        vat=money(priced.vat),
        gross=money(priced.gross),
        mass_g=None if priced.mass_g is None else float(priced.mass_g),
        mass_tolerance_pct=float(priced.mass_tolerance_pct),
        price_list=priced.price_list,
        metal_fix=priced.metal_fix,
        warnings=list(priced.warnings),
        issued_at=now,
        valid_until=valid_until,
        verification=verification,
        leave_out=made_from.options.leave_out or UNSET,
        made_from=made_from,
    )


class Subject(msgspec.Struct, frozen=True):
    """What a stored quote is about."""

    model: str = ""
    priceable: str = "manual"


subject_of = msgspec.json.Decoder(Subject).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def withdrawn(body: bytes) -> bytes:
    """A stored quote as it was issued, and that it holds no longer."""
    why = b'"Another program reads the model differently: a person has to price it."'
    return msgspec.json.encode(_decode_members(body) | {"withdrawn": msgspec.Raw(why)})


def decode_view(body: bytes) -> QuoteView:
    """A stored quote with what it was made from. Raises NotExplainable."""
    try:
        return _decode_view(body)
    except msgspec.ValidationError:
        raise NotExplainable from None


def explained(quote: QuoteView, price_list: PriceList, metal_fix: MetalFix) -> QuoteView:
    """The quote with the workings of every line. Raises NotExplainable when its amounts do not come out."""
    source = quote.made_from
    options = source.options
    if source.analyser in FILE_UNIT_WINS and source.facts.unit is not None:
        options = msgspec.structs.replace(options, units=AS_IN_THE_FILE)
    found = workings(source.facts, options, price_list, metal_fix)
    if not _leads_to(found, quote):
        raise NotExplainable
    lines = [
        msgspec.structs.replace(line, formula=working.formula, variables=working.variables)
        for line, working in zip(quote.lines, found.lines, strict=True)
    ]
    explanation = Explained(found.rounding, found.quantities, found.totals)
    return msgspec.structs.replace(quote, lines=lines, explanation=explanation)


def _leads_to(found: Workings, quote: QuoteView) -> bool:
    computed = [(working.code, Decimal(working.result)) for working in found.lines]
    totals = {working.code: Decimal(working.result) for working in found.totals}
    issued = [(line.code, line.amount.amount) for line in quote.lines]
    return computed == issued and all(
        amount is None or totals.get(name) == amount.amount
        for name, amount in (("net", quote.net), ("vat", quote.vat), ("gross", quote.gross))
    )
