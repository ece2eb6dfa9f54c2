"""`facet export`: every order as JSON lines or CSV."""

import argparse
import csv
import json
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from server.commands.shared import add_data, through_control

if TYPE_CHECKING:
    from server.config import Settings


def add_export(command: argparse.ArgumentParser) -> None:
    command.add_argument("--csv", action="store_true", help="CSV instead of a JSON object a line")
    command.add_argument("--history", action="store_true", help="with each order's history (JSON only)")
    add_data(command)


def export(settings: "Settings", parsed: argparse.Namespace) -> int:
    from server.config import ConfigError

    if parsed.csv and parsed.history:
        raise ConfigError("--history goes with JSON: leave out --csv")
    return through_control(settings, lambda control: _export_all(control, parsed))


async def _export_all(control: Any, parsed: argparse.Namespace) -> None:
    table = None
    async for order in _all_orders(control):
        if parsed.history:
            order["history"] = (await control.send("GET", f"/v1/orders/{order['id']}/history"))["items"]
        if not parsed.csv:
            print(json.dumps(order, ensure_ascii=False))
            continue
        order["price"] = order["price"] and order["price"]["gross"]["amount"]
        if table is None:
            table = csv.DictWriter(sys.stdout, list(order))
            table.writeheader()
        table.writerow(order)


async def _all_orders(control: Any) -> AsyncIterator[dict[str, Any]]:
    """Oldest first; orders that change meanwhile are neither repeated nor left out."""
    cursor = ""
    while True:
        page = await control.send("GET", f"/v1/orders?sort=created_at&limit=200{cursor}")
        for order in page["items"]:
            yield order
        if page["next"] is None:
            return
        cursor = f"&cursor={page['next']}"
