"""Price lists and metal fixes: versioned data a price is made from, immutable once published.

Amounts and rates are JSON strings of decimal digits; a JSON number would pass through binary floating point
on the way. Rates are shares (0.05 is 5 %). Densities differ by up to 7 % between suppliers' tables, so each
comes with its source.
"""

import codecs
import functools
import itertools
from datetime import datetime
from decimal import Decimal, InvalidOperation
from importlib.resources import files
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

Metal = Literal["gold", "silver", "platinum", "palladium"]
Problem = tuple[str, str]
"""JSON pointer (RFC 6901) and what is wrong there."""


class InvalidData(ValueError):
    """A price list or metal fix breaks its rules; `errors` holds all of them, each with a JSON pointer."""

    def __init__(self, errors: list[Problem]) -> None:
        super().__init__("; ".join(f"{pointer or '/'}: {message}" for pointer, message in errors))
        self.errors = errors


class Material(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An alloy. A precious one has `metal` and `fineness` (share of pure metal), any other `price_per_kg`."""

    code: str
    name: str
    density_g_cm3: Decimal
    density_source: str
    loss: Decimal
    premium: Decimal
    metal: Metal | None = None
    fineness: Decimal | None = None
    price_per_kg: Decimal | None = None


class Surface(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A finish or a plating, charged by the area of the model."""

    code: str
    name: str
    rate_per_cm2: Decimal


class Stone(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of stone and how it is set; `price_each` is 0 for stones that the customer brings."""

    code: str
    name: str
    price_each: Decimal
    setting_each: Decimal


class QuantityBreak(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From `from_quantity` pieces the labour lines are cheaper by `rate`."""

    from_quantity: int
    rate: Decimal


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Work and order-level amounts, in the list's currency; `handling_per_body` is for each body after the
    first."""

    pattern_base: Decimal
    pattern_per_cm3: Decimal
    casting_base: Decimal
    casting_per_g: Decimal
    handling_per_body: Decimal
    setup_per_order: Decimal
    order_minimum: Decimal
    markup: Decimal
    rush: Decimal
    vat: Decimal


VOLUME_ERROR_MAX_PCT = Decimal("0.1")
"""What changes the volume by more is not mended: a list may only be stricter."""


class PriceList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One published list. `valid_to` None means until the next one; `rounding` applies to every line.
    `cavities`: whether closed hollows stay hollow, or metal fills them, as in casting by lost wax.
    `volume_error_max_pct`: what mending a surface, and the precision of its numbers, may change of the volume
    of a firm price."""

    version: str
    valid_from: datetime
    valid_to: datetime | None
    currency: Literal["EUR"]
    rounding: Literal["half_up", "half_even", "up"]
    quote_validity_days: int
    mass_tolerance_pct: Decimal
    quantity_max: int
    default_finish: str
    default_plating: str
    rates: Rates
    quantity_breaks: tuple[QuantityBreak, ...]
    materials: tuple[Material, ...]
    finishes: tuple[Surface, ...]
    platings: tuple[Surface, ...]
    stones: tuple[Stone, ...] = ()
    cavities: Literal["kept", "filled"] = "kept"
    volume_error_max_pct: Decimal = VOLUME_ERROR_MAX_PCT


class MetalFix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prices of pure metals per troy ounce, as fixed by `source` at `fixed_at`."""

    version: str
    source: str
    fixed_at: datetime
    currency: Literal["EUR"]
    gold_per_oz: Decimal
    silver_per_oz: Decimal
    platinum_per_oz: Decimal
    palladium_per_oz: Decimal

    def per_oz(self, metal: Metal) -> Decimal:
        """The price of one troy ounce of pure `metal`."""
        prices: dict[Metal, Decimal] = {
            "gold": self.gold_per_oz,
            "silver": self.silver_per_oz,
            "platinum": self.platinum_per_oz,
            "palladium": self.palladium_per_oz,
        }
        return prices[metal]


DATA_BYTES_MAX = 256 << 10
"""A price list is some 6 KB; a longer document than this is refused unread."""

CODE_LENGTH_MAX = 40
"""Requests name codes no longer than this."""

ROWS_MAX = 200
"""Alloys, finishes, platings, stones, or breaks: as many of each as have room in a document, with texts and
numbers of the greatest length."""

NAME_LENGTH_MAX = 80
SOURCE_LENGTH_MAX = 200
VERSION_LENGTH_MAX = 100

_PROBLEMS_MAX = 200
_DIGITS_MAX = 18
_DECIMAL_LENGTH_MAX = 64
"""A text this long has leading zeros or a needless exponent."""
_ROWS = ("quantity_breaks", "materials", "finishes", "platings", "stones")
_Record = TypeVar("_Record", bound=msgspec.Struct)


def parse_price_list(data: bytes) -> PriceList:
    """The price list in a JSON document; InvalidData with every error in it."""
    return price_list_of(_parse_json(data))


def price_list_of(document: object) -> PriceList:
    """The price list in a parsed document; InvalidData with every error in it."""
    _raise_if_any(_length_problems(document))
    price_list = _checked_price_list(document)
    _raise_if_any(_text_problems(price_list))
    return price_list


def read_price_list(data: bytes) -> PriceList:
    """A published price list. It may be longer than what is published today. InvalidData when it breaks the
    rules."""
    return _checked_price_list(_decode_json(data))


def _checked_price_list(document: object) -> PriceList:
    price_list = _record_of(PriceList, document)
    _raise_if_any(_price_list_problems(price_list))
    return price_list


def parse_metal_fix(data: bytes) -> MetalFix:
    """The metal fix in a JSON document; InvalidData with every error in it."""
    return metal_fix_of(_parse_json(data))


def metal_fix_of(document: object) -> MetalFix:
    """The metal fix in a parsed document; InvalidData with every error in it."""
    fix = _checked_metal_fix(document)
    _raise_if_any(
        _short("/version", fix.version, VERSION_LENGTH_MAX) + _short("/source", fix.source, SOURCE_LENGTH_MAX)
    )
    return fix


def read_metal_fix(data: bytes) -> MetalFix:
    """A published metal fix. InvalidData when it breaks the rules."""
    return _checked_metal_fix(_decode_json(data))


def _checked_metal_fix(document: object) -> MetalFix:
    fix = _record_of(MetalFix, document)
    problems = (
        _zoned("/fixed_at", fix.fixed_at) + _named("/version", fix.version) + _named("/source", fix.source)
    )
    for metal in get_args(Metal):
        if not fix.per_oz(metal) > 0:
            problems.append((f"/{metal}_per_oz", "must be greater than 0"))
    _raise_if_any(problems)
    return fix


def default_price_list() -> PriceList:
    """The list delivered with the program; its rates are for illustration."""
    return parse_price_list(files("pricing.price").joinpath("default_price_list.json").read_bytes())


def default_metal_fix() -> MetalFix:
    """The metal fix delivered with the program; its prices are for illustration."""
    return parse_metal_fix(files("pricing.price").joinpath("default_metal_fix.json").read_bytes())


def _raise_if_any(problems: list[Problem]) -> None:
    if problems:
        raise InvalidData(problems)


def _parse_json(data: bytes) -> object:
    if len(data) > DATA_BYTES_MAX:
        raise InvalidData([("", f"has {len(data)} bytes; at most {DATA_BYTES_MAX} are read")])
    return _decode_json(data.removeprefix(codecs.BOM_UTF8))


def _decode_json(data: bytes) -> object:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidData([("", f"is not JSON: {error}")]) from None


def _record_of(record: type[_Record], document: object) -> _Record:
    problems: list[Problem] = []
    decoded = _decode(record, document, "", problems)
    _raise_if_any(problems)
    assert isinstance(decoded, record)
    return decoded


def _decode(kind: Any, raw: object, pointer: str, problems: list[Problem]) -> Any:
    """`raw` as `kind`; what is wrong is added to `problems` and None returned in its place.

    msgspec stops at the first error; a person who edits a price list wants all of them, so records and
    arrays are walked here and only single values are left to msgspec.
    """
    if len(problems) > _PROBLEMS_MAX:
        return None  # more of them would not be read
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _decode_record(kind, raw, pointer, problems)
    if get_origin(kind) is tuple:
        return _decode_array(get_args(kind)[0], raw, pointer, problems)
    if raw is not None and Decimal in (kind, *get_args(kind)):
        return _decode_decimal(raw, pointer, problems)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        problems.append((pointer, str(error)))
        return None


def _decode_record(
    record: type[_Record], raw: object, pointer: str, problems: list[Problem]
) -> _Record | None:
    if not isinstance(raw, dict):
        problems.append((pointer, "must be an object"))
        return None
    before = len(problems)
    kinds, required = _fields(record)
    escaped = (name.replace("~", "~0").replace("/", "~1") for name in raw if name not in kinds)
    unknown = itertools.islice(escaped, _PROBLEMS_MAX)
    problems += [(f"{pointer}/{name}", "is not a known field") for name in unknown]
    problems += [(f"{pointer}/{name}", "is missing") for name in sorted(required - raw.keys())]
    values = {
        name: _decode(kinds[name], value, f"{pointer}/{name}", problems)
        for name, value in raw.items()
        if name in kinds
    }
    return record(**values) if len(problems) == before else None


@functools.cache
def _fields(record: type[msgspec.Struct]) -> tuple[dict[str, Any], frozenset[str]]:
    """The kind of each field, and the names of those that must be there."""
    required = frozenset(field.name for field in msgspec.structs.fields(record) if field.required)
    return get_type_hints(record), required


def _decode_array(kind: Any, raw: object, pointer: str, problems: list[Problem]) -> tuple[Any, ...] | None:
    if not isinstance(raw, list):
        problems.append((pointer, "must be an array"))
        return None
    return tuple(_decode(kind, item, f"{pointer}/{index}", problems) for index, item in enumerate(raw))


def _decode_decimal(raw: object, pointer: str, problems: list[Problem]) -> Decimal | None:
    try:
        value = Decimal(raw) if isinstance(raw, str) and len(raw) <= _DECIMAL_LENGTH_MAX else None
    except InvalidOperation:
        value = None
    if value is None or not value.is_finite():
        problems.append((pointer, 'must be a string of decimal digits, such as "1.05"'))
        return None
    exponent = value.as_tuple().exponent
    if value.is_signed() or len(value.as_tuple().digits) > _DIGITS_MAX or abs(int(exponent)) > _DIGITS_MAX:
        problems.append((pointer, f"must be 0 or more, with at most {_DIGITS_MAX} digits"))
        return None
    return value


def _length_problems(document: object) -> list[Problem]:
    """Lists with more rows than are looked at."""
    if not isinstance(document, dict):
        return []
    return [
        (f"/{field}", f"has {len(rows)} rows; at most {ROWS_MAX} are read")
        for field in _ROWS
        if isinstance(rows := document.get(field), list) and len(rows) > ROWS_MAX
    ]


def _text_problems(price_list: PriceList) -> list[Problem]:
    """Texts that are longer than ROWS_MAX rows have room for."""
    problems = _short("/version", price_list.version, VERSION_LENGTH_MAX)
    for field in ("materials", "finishes", "platings", "stones"):
        for index, row in enumerate(getattr(price_list, field)):
            problems += _short(f"/{field}/{index}/name", row.name, NAME_LENGTH_MAX)
    for index, material in enumerate(price_list.materials):
        pointer = f"/materials/{index}/density_source"
        problems += _short(pointer, material.density_source, SOURCE_LENGTH_MAX)
    return problems


def _short(pointer: str, text: str, length_max: int) -> list[Problem]:
    return [(pointer, f"has more than {length_max} characters")] if len(text) > length_max else []


def _price_list_problems(price_list: PriceList) -> list[Problem]:
    """Rules between and beyond single fields."""
    problems = _named("/version", price_list.version) + _zoned("/valid_from", price_list.valid_from)
    problems += _validity_problems(price_list) + _bound_problems(price_list) + _break_problems(price_list)
    for index, material in enumerate(price_list.materials):
        problems += _material_problems(f"/materials/{index}", material)
    for field in ("materials", "finishes", "platings"):
        rows = getattr(price_list, field)
        problems += [] if rows else [(f"/{field}", "must not be empty")]
        problems += _code_problems(field, [row.code for row in rows])
    problems += _code_problems("stones", [stone.code for stone in price_list.stones])
    for default, rows in (("default_finish", price_list.finishes), ("default_plating", price_list.platings)):
        if getattr(price_list, default) not in {row.code for row in rows}:
            problems.append((f"/{default}", "is not a code of this list"))
    return problems


def _named(pointer: str, text: str) -> list[Problem]:
    return [] if text.strip() else [(pointer, "must not be empty")]


def _zoned(pointer: str, moment: datetime) -> list[Problem]:
    return [] if moment.tzinfo else [(pointer, "must state its offset from UTC")]


def _validity_problems(price_list: PriceList) -> list[Problem]:
    if price_list.valid_to is None:
        return []
    if problems := _zoned("/valid_to", price_list.valid_to) or _zoned("/valid_from", price_list.valid_from):
        return problems
    return [] if price_list.valid_to > price_list.valid_from else [("/valid_to", "must be after valid_from")]


def _bound_problems(price_list: PriceList) -> list[Problem]:
    problems = []
    # A minimum above zero is what makes "never a price of zero" hold for every model and every rate.
    if price_list.rates.order_minimum < Decimal("0.01"):
        problems.append(("/rates/order_minimum", "must be at least 0.01"))
    if price_list.rates.vat > 1:
        problems.append(("/rates/vat", "is a share: at most 1"))
    if not 1 <= price_list.quote_validity_days <= 366:
        problems.append(("/quote_validity_days", "must be 1 to 366"))
    if not 1 <= price_list.quantity_max <= 1_000_000:
        problems.append(("/quantity_max", "must be 1 to 1000000"))
    if price_list.mass_tolerance_pct > 100:
        problems.append(("/mass_tolerance_pct", "must be at most 100"))
    if not 0 < price_list.volume_error_max_pct <= VOLUME_ERROR_MAX_PCT:
        problems.append(("/volume_error_max_pct", f"must be above 0, at most {VOLUME_ERROR_MAX_PCT}"))
    return problems


def _break_problems(price_list: PriceList) -> list[Problem]:
    """Breaks rise, and one more piece never makes the labour cheaper in total."""
    problems: list[Problem] = []
    before, rate_before = 1, Decimal(0)
    for index, step in enumerate(price_list.quantity_breaks):
        if step.from_quantity <= before or step.rate <= rate_before or step.rate >= 1:
            problems.append(
                (f"/quantity_breaks/{index}", "must rise in quantity and rate, with a rate below 1")
            )
        elif _is_cheaper(step, rate_before, price_list.rounding):
            problems.append(
                (f"/quantity_breaks/{index}/rate", "makes more pieces cheaper in total than fewer")
            )
        before, rate_before = step.from_quantity, step.rate
    return problems


def _is_cheaper(step: QuantityBreak, rate_before: Decimal, rounding: str) -> bool:
    """Whether the labour of the first order with this break costs less than that of one piece fewer."""
    charged = step.from_quantity * (1 - step.rate)
    charged_before = (step.from_quantity - 1) * (1 - rate_before)
    # Of two equal amounts half_even may round one down and the other up: 2 x 0.75 of a cent and 3 x 0.5.
    return charged < charged_before or (charged == charged_before and rounding == "half_even")


def _material_problems(pointer: str, material: Material) -> list[Problem]:
    problems = _named(f"{pointer}/density_source", material.density_source)
    if not 0 < material.density_g_cm3 < 30:
        problems.append((f"{pointer}/density_g_cm3", "must be above 0 and below 30 g/cm3"))
    precious = material.metal is not None and material.fineness is not None
    if precious == (material.price_per_kg is not None) or (material.metal is None) != (
        material.fineness is None
    ):
        problems.append((pointer, "needs either metal and fineness, or price_per_kg"))
    if material.fineness is not None and not 0 < material.fineness <= 1:
        problems.append((f"{pointer}/fineness", "is a share: above 0, at most 1"))
    if material.price_per_kg is not None and not material.price_per_kg > 0:
        problems.append((f"{pointer}/price_per_kg", "must be greater than 0"))
    return problems


def _code_problems(field: str, codes: list[str]) -> list[Problem]:
    problems = []
    before: set[str] = set()
    for index, code in enumerate(codes):
        if not code or not code.replace("-", "").replace("_", "").isalnum() or code != code.lower():
            problems.append((f"/{field}/{index}/code", "must be lower-case letters, digits, - and _"))
        if len(code) > CODE_LENGTH_MAX:
            problems.append((f"/{field}/{index}/code", f"has more than {CODE_LENGTH_MAX} characters"))
        if code in before:
            problems.append((f"/{field}/{index}/code", f"occurs twice: {code[:CODE_LENGTH_MAX]}"))
        before.add(code)
    return problems
