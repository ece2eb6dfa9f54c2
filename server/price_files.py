"""`./facet price FILE...`: prices model files without a server.

A table for people, `--json` and `--csv` for programs. Several files are read by worker processes side by
side. The exit code is 0 when all files have an answer, 1 when some were refused (the others are priced all
the same), 2 when an argument is bad.
"""

import argparse
import asyncio
import csv
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import msgspec

from pricing.errors import Refused
from pricing.facts import Facts, analyse
from pricing.formula import Explanation, Options, Price, check_options, explain, price
from pricing.model import ModelView, model_view
from pricing.pool import FactsPool, Limits
from pricing.price_list import (
    InvalidData,
    MetalFix,
    PriceList,
    default_metal_fix,
    default_price_list,
    parse_metal_fix,
    parse_price_list,
)

_REFUSED, _BAD_ARGUMENT = 1, 2


class _Rates(NamedTuple):
    """The versioned data prices are made from."""

    price_list: PriceList
    metal_fix: MetalFix


class _Row(NamedTuple):
    """The answer for one file: a model and its price, or a refusal."""

    file: str
    model: ModelView | None = None
    price: Price | None = None
    explanation: tuple[Explanation, ...] = ()
    refusal: Refused | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `./facet price`."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="STL, OBJ, PLY, OFF, GLB or 3MF")
    parser.add_argument("--material", required=True, help="alloy, e.g. gold-585-yellow")
    parser.add_argument(
        "--units", default="mm", help="unit of files that state none: mm, cm, m, in (default mm)"
    )
    parser.add_argument("--finish", help="default: the price list's own")
    parser.add_argument("--plating", help="default: the price list's own")
    parser.add_argument(
        "--quantity", type=int, default=1, metavar="N", help="pieces of each file (default 1)"
    )
    parser.add_argument("--rush", action="store_true", help="with the surcharge for rush orders")
    parser.add_argument("--price-list", type=Path, metavar="FILE", help="JSON, instead of the delivered one")
    parser.add_argument("--metal-fix", type=Path, metavar="FILE", help="JSON, instead of the delivered one")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--csv", action="store_true", help="print CSV, one row per file")
    parser.add_argument("--explain", action="store_true", help="show how each line of a price comes about")


def run(arguments: argparse.Namespace) -> int:
    """Price the files and print the answers; returns the exit code."""
    try:
        rates = _rates(arguments)
        options = _options(arguments)
        check_options(options, rates.price_list)
        paths = [_readable(name) for name in arguments.files]
    except Refused as refused:
        return _complain(f"{refused.detail} {refused.remedy}")
    except (OSError, InvalidData) as error:
        return _complain(str(error))
    rows = [_row(path, answer, options, rates) for path, answer in zip(paths, _answers(paths), strict=True)]
    _print(rows, arguments, sys.stdout)
    return _REFUSED if any(row.refusal for row in rows) else 0


def _complain(message: str) -> int:
    print(f"facet price: {' '.join(message.split())}", file=sys.stderr)
    return _BAD_ARGUMENT


def _rates(arguments: argparse.Namespace) -> _Rates:
    price_list, metal_fix = arguments.price_list, arguments.metal_fix
    return _Rates(
        parse_price_list(price_list.read_bytes()) if price_list else default_price_list(),
        parse_metal_fix(metal_fix.read_bytes()) if metal_fix else default_metal_fix(),
    )


def _options(arguments: argparse.Namespace) -> Options:
    return Options(
        material=arguments.material,
        units=arguments.units,
        finish=arguments.finish,
        plating=arguments.plating,
        quantity=arguments.quantity,
        rush=arguments.rush,
    )


def _readable(name: str) -> Path:
    """The path of a file that can be opened; OSError otherwise."""
    with open(name, "rb"):
        return Path(name)


def _answers(paths: Sequence[Path]) -> list[Facts | Refused]:
    """Facts or refusals, in the order of the files."""
    if len(paths) == 1:
        return [_facts_here(paths[0])]
    return asyncio.run(_facts_in_workers(paths))


def _facts_here(path: Path) -> Facts | Refused:
    # One file: starting workers would take longer than reading it.
    try:
        return analyse(path.read_bytes())
    except Refused as refused:
        return refused


async def _facts_in_workers(paths: Sequence[Path]) -> list[Facts | Refused]:
    workers = min(os.cpu_count() or 1, len(paths))
    pool = FactsPool(Limits(workers=workers, waiting=len(paths)))
    progress = _Progress(len(paths), sys.stderr)

    async def one(path: Path) -> Facts | Refused:
        try:
            return await pool.analyse(path)
        except Refused as refused:
            return refused
        finally:
            progress.step(path.name)

    await pool.start()
    try:
        return await asyncio.gather(*(one(path) for path in paths))
    finally:
        progress.clear()
        await pool.close()


class _Progress:
    """One line on a terminal that counts files; silent elsewhere."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self._total, self._done, self._stream = total, 0, stream
        self._shown = stream.isatty()

    def step(self, name: str) -> None:
        self._done += 1
        self._write(f"\r\x1b[K{self._done}/{self._total} {name[:60]}")

    def clear(self) -> None:
        self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        if self._shown:
            self._stream.write(text)
            self._stream.flush()


def _row(path: Path, answer: Facts | Refused, options: Options, rates: _Rates) -> _Row:
    if isinstance(answer, Refused):
        return _Row(str(path), refusal=answer)
    model = model_view(_sha256(path), path.stat().st_size, answer, options.units)
    try:
        priced = price(answer, options, *rates)
        return _Row(str(path), model, priced, explain(answer, options, *rates))
    except Refused as refused:
        return _Row(str(path), model, refusal=refused)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _print(rows: Sequence[_Row], arguments: argparse.Namespace, out: TextIO) -> None:
    if arguments.json:
        items = [_json_row(row, arguments.explain) for row in rows]
        print(json.dumps({"items": items}, indent=2, ensure_ascii=False), file=out)
    elif arguments.csv:
        _print_csv(rows, out)
    else:
        _print_table(rows, out)
        if arguments.explain:
            _print_explanations(rows, out)


def _json_row(row: _Row, explained: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"file": row.file}
    if row.model:
        shown["model"] = msgspec.to_builtins(row.model)
    if row.price:
        shown["price"] = _json_price(row.price)
    if row.explanation and explained:
        shown["explanation"] = msgspec.to_builtins(row.explanation)
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
    "remedy",
)


def _print_csv(rows: Iterable[_Row], out: TextIO) -> None:
    writer = csv.DictWriter(out, _CSV_COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        fields: dict[str, Any] = {"file": row.file}
        for record in (row.model, row.price):
            fields |= msgspec.structs.asdict(record) if record else {}
        warnings = row.price.warnings if row.price else ()
        fields["warnings"] = " ".join(warning.code for warning in warnings)
        if row.refusal:
            fields |= {"code": row.refusal.code, "remedy": row.refusal.remedy}
        writer.writerow(fields)


def _print_table(rows: Sequence[_Row], out: TextIO) -> None:
    head = ("file", "volume mm3", "size mm", "bodies", "mass g", "each", "net", "gross", "price", "remarks")
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    for line in cells:
        padded = [
            cell.ljust(width) if column in (0, 8, 9) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(padded).rstrip(), file=out)
    if priced := next((row.price for row in rows if row.price), None):
        print(f"\n{_heading(priced)}", file=out)


def _heading(priced: Price) -> str:
    return (
        f"{priced.quantity} x {priced.material}, {priced.finish}, plating {priced.plating}; "
        f"{priced.currency}, net without and gross with VAT; "
        f"price list {priced.price_list}, metal fix {priced.metal_fix}"
    )


def _cells(row: _Row) -> tuple[str, ...]:
    name = Path(row.file).name
    if row.refusal:
        said = f"{row.refusal.code}: {row.refusal.detail} {row.refusal.remedy}"
        return (name, *[""] * 7, "refused", said)
    assert row.model is not None
    assert row.price is not None
    amounts = (row.price.mass_g, row.price.unit_price, row.price.net, row.price.gross)
    return (
        name,
        f"{row.model.volume_mm3:.3f}",
        " x ".join(f"{length:.4g}" for length in row.model.bbox_mm),
        "?" if row.model.bodies is None else str(row.model.bodies),
        *("-" if amount is None else str(amount) for amount in amounts),
        row.price.priceable,
        ", ".join(warning.code for warning in row.price.warnings),
    )


def _print_explanations(rows: Iterable[_Row], out: TextIO) -> None:
    for row in rows:
        if row.price and row.price.lines:
            print(f"\n{row.file}", file=out)
            _print_explanation(row.price, row.explanation, out)


def _print_explanation(priced: Price, steps: Sequence[Explanation], out: TextIO) -> None:
    for line, step in zip(priced.lines, steps, strict=True):
        print(f"  {line.code:<15}{line.amount:>14}  {line.basis}", file=out)
        named = ", ".join(f"{name} = {value}" for name, value in step.variables)
        print(f"  {'':<29}  {named}", file=out)
    for name, amount in (("net", priced.net), ("VAT", priced.vat), ("gross", priced.gross)):
        print(f"  {name:<15}{amount:>14}", file=out)
    for warning in priced.warnings:
        print(f"  {warning.code}: {warning.detail}", file=out)
