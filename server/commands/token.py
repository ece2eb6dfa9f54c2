"""`facet token`: issue, list and revoke access tokens."""

import argparse
from typing import TYPE_CHECKING, Any

from server.commands.shared import add_data, through_control

if TYPE_CHECKING:
    from server.config import Settings

ROLES = ("customer", "partner", "shop", "seller", "mes", "operator", "admin")


def add_token(command: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="issue a token; its secret is printed once")
    create.add_argument("--role", required=True, choices=ROLES)
    create.add_argument("--name", required=True)
    create.add_argument("--customer", help="whose orders a customer's or partner's token sees")
    listing = actions.add_parser("list", help="valid tokens")
    revoke = actions.add_parser("revoke", help="make a token invalid")
    revoke.add_argument("id")
    for action in (create, listing, revoke):
        add_data(action)


def token(settings: "Settings", parsed: argparse.Namespace) -> int:
    return through_control(settings, lambda control: _token_action(control, parsed))


async def _token_action(control: Any, parsed: argparse.Namespace) -> None:
    if parsed.action == "create":
        body = {"role": parsed.role, "name": parsed.name} | (
            {"customer": parsed.customer} if parsed.customer else {}
        )
        issued = await control.send("POST", "/v1/tokens", body)
        print(f"id     {issued['id']}\ntoken  {issued['token']}")
    elif parsed.action == "revoke":
        await control.send("DELETE", f"/v1/tokens/{parsed.id}")
        print(f"revoked {parsed.id}")
    else:
        for token in (await control.send("GET", "/v1/tokens"))["items"]:
            print(f"{token['id']}  {token['role']:8}  {token['name']}  {token['customer'] or ''}".rstrip())
