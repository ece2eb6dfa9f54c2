"""The answers of `./facet price`, written as they come: a table for people, JSON and CSV for programs."""

import csv
import json
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

import msgspec
from msgspec import UNSET

from pricing.errors import Refused
from pricing.price.formula import Explanation, Price
from pricing.price.model_view import ModelView

TABLE_ROWS = 500
"""Rows that are held to make their columns equally wide; a longer table continues below."""

_HEAD = ("file", "volume mm3", "size mm", "bodies", "mass g", "each", "net", "gross", "price", "remarks")
_TO_THE_LEFT = (0, 8, 9)


class Row(NamedTuple):
    """The answer for one file: a model and its price, or a refusal."""

    file: str
    model: ModelView | None = None
    price: Price | None = None
    explanation: tuple[Explanation, ...] = ()
    refusal: Refused | None = None


class RowWriter(Protocol):
    """Takes the rows one by one, and is closed once after the last."""

    def row(self, row: Row) -> None: ...

    def close(self) -> None: ...


class JsonWriter:
    """One document, `{"items": [...]}`, with one item a line, and nothing is held."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._before = '{"items": [\n'

    def row(self, row: Row) -> None:
        self._out.write(self._before + json.dumps(json_row(row), ensure_ascii=False))
        self._out.flush()
        self._before = ",\n"

    def close(self) -> None:
        self._out.write("\n]}\n" if self._before == ",\n" else '{"items": []}\n')


def json_row(row: Row) -> dict[str, Any]:
    """One item of the JSON document."""
    shown: dict[str, Any] = {"file": row.file}
    if row.model:
        shown["model"] = msgspec.to_builtins(row.model)
    if row.price:
        shown["price"] = _json_price(row.price)
    if row.explanation:
        shown["explanation"] = [
            {
                "code": step.code,
                "variables": {name: str(value) for name, value in step.variables},
                "amount": str(step.amount),
            }
            for step in row.explanation
        ]
    if row.refusal:
        refusal = row.refusal
        shown["error"] = {"code": refusal.code, "detail": refusal.detail, "remedy": refusal.remedy}
    return shown


def _json_price(priced: Price) -> dict[str, Any]:
    """The price as the service shows it: money is an amount and its currency."""

    def money(amount: Decimal | None) -> dict[str, str] | None:
        return None if amount is None else {"amount": str(amount), "currency": priced.currency}

    shown: dict[str, Any] = msgspec.to_builtins(priced)
    for name in ("unit_price", "net", "vat", "gross"):
        shown[name] = money(getattr(priced, name))
    for line, record in zip(shown["lines"], priced.lines, strict=True):
        line["amount"] = money(record.amount)
    del shown["currency"]
    return shown


_CSV_COLUMNS = (
    "file",
    "sha256",
    "format",
    "facets",
    "volume_mm3",
    "area_mm2",
    "bodies",
    "priceable",
    "mass_g",
    "unit_price",
    "net",
    "vat",
    "gross",
    "currency",
    "warnings",
    "code",
    "detail",
    "remedy",
    "verification",
)


class CsvWriter:
    """One row a file; nothing is held."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._table = csv.DictWriter(
            out, _CSV_COLUMNS, restval="", extrasaction="ignore", lineterminator="\n"
        )
        self._table.writeheader()

    def row(self, row: Row) -> None:
        fields: dict[str, Any] = {"file": row.file}
        for record in (row.model, row.price):
            fields |= msgspec.structs.asdict(record) if record else {}
        fields["verification"] = _verified(row)
        warnings = row.price.warnings if row.price else ()
        fields["warnings"] = " ".join(warning.code for warning in warnings)
        if row.refusal:
            refusal = row.refusal
            fields |= {"code": refusal.code, "detail": refusal.detail, "remedy": refusal.remedy}
        self._table.writerow(fields)
        self._out.flush()

    def close(self) -> None:
        pass


class TableWriter:
    """A table, below it what was refused and why, and how prices come about where they were explained."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._held: list[Row] = []
        self._heading = ""

    def row(self, row: Row) -> None:
        self._held.append(row)
        if row.price and not self._heading:
            self._heading = _heading(row.price)
        if len(self._held) == TABLE_ROWS:
            self._write_held()

    def close(self) -> None:
        if self._held:
            self._write_held()
        if self._heading:
            print(f"\n{self._heading}", file=self._out)

    def _write_held(self) -> None:
        rows, self._held = self._held, []
        cells = [_HEAD, *(_cells(row) for row in rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
        for line in cells:
            print(_aligned(line, widths), file=self._out)
        for row in rows:
            if row.refusal:
                print(f"\n{row.file}: {row.refusal.detail}\n  {row.refusal.remedy}", file=self._out)
            if row.price and row.explanation:
                print(f"\n{row.file}", file=self._out)
                _print_explanation(row.price, row.explanation, self._out)
        self._out.flush()


def _aligned(line: tuple[str, ...], widths: list[int]) -> str:
    padded = [
        cell.ljust(width) if column in _TO_THE_LEFT else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()


def _heading(priced: Price) -> str:
    stones = "".join(f", {stone.count} {stone.code}" for stone in priced.stones)
    rush = ", rush" if priced.rush else ""
    return (
        f"{priced.quantity} x {priced.material}, {priced.finish}, plating {priced.plating}{stones}{rush}; "
        f"{priced.currency}, net without and gross with VAT; "
        f"price list {priced.price_list}, metal fix {priced.metal_fix}"
    )


def _cells(row: Row) -> tuple[str, ...]:
    name = Path(row.file).name
    if row.refusal:
        return (name, *[""] * 7, "refused", row.refusal.code)
    assert row.model is not None
    assert row.price is not None
    amounts = (row.price.mass_g, row.price.unit_price, row.price.net, row.price.gross)
    return (
        name,
        "" if row.model.volume_mm3 is None else f"{row.model.volume_mm3:.3f}",
        " x ".join(f"{length:.4g}" for length in row.model.bbox_mm),
        "?" if row.model.bodies is None else str(row.model.bodies),
        *("-" if amount is None else str(amount) for amount in amounts),
        row.price.priceable,
        ", ".join([*(warning.code for warning in row.price.warnings), *_unverified(row)]),
    )


def _verified(row: Row) -> str:
    """What another program said, where it was asked."""
    verification = UNSET if row.model is None else row.model.verification
    return "" if verification is UNSET else verification.state


def _unverified(row: Row) -> list[str]:
    return ["no second opinion"] if _verified(row) == "not_possible" else []


def _print_explanation(priced: Price, steps: tuple[Explanation, ...], out: TextIO) -> None:
    for line, step in zip(priced.lines, steps, strict=True):
        print(f"  {line.code:<15}{line.amount:>14}  {line.basis}", file=out)
        named = ", ".join(f"{name} = {value}" for name, value in step.variables)
        print(f"  {'':<29}  {named}", file=out)
    for name, amount in (("net", priced.net), ("VAT", priced.vat), ("gross", priced.gross)):
        print(f"  {name:<15}{amount:>14}", file=out)
    for warning in priced.warnings:
        print(f"  {warning.code}: {warning.detail}", file=out)
