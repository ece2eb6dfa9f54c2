"""Everybody who works with orders, each with a token, and orders brought as far as a test needs them."""

import asyncio
from typing import Any
from uuid import uuid4

from tests.support.processes import Client, Clients, Reply

LINE = (
    "INITIATED",
    "FILE_UPLOADED",
    "SUBMITTED",
    "PRICE_CALCULATED",
    "MANUFACTURING_APPROVED",
    "MANUFACTURING_STARTED",
    "MANUFACTURING_COMPLETED",
    "PACKAGING",
    "SHIPPED",
    "CLOSED",
)
"""The way of an order that nothing befalls."""

PATIENCE_S = 120.0
"""On a machine busy with other tests."""

SHA256_UNKNOWN = "ab" * 32


class Workshop:
    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self.admin = clients.admin
        self.nobody = clients.nobody
        self.shop: Client
        self.seller: Client
        self.mes: Client
        self.ivan: Client
        self.olga: Client
        self.partner: Client
        self.customer: Client

    async def open(self) -> None:
        of = self.clients.of
        self.shop, self.seller, self.mes = await of("shop"), await of("seller"), await of("mes")
        self.ivan, self.olga = await of("operator", "ivan"), await of("operator", "olga")
        self.partner = await of("partner", "acme", "acme")
        self.customer = await of("customer", "anna", "anna")

    def everybody(self) -> dict[str, Client]:
        return {
            "customer": self.customer,
            "partner": self.partner,
            "shop": self.shop,
            "seller": self.seller,
            "mes": self.mes,
            "operator": self.ivan,
            "admin": self.admin,
        }

    async def order(self, status: str = "INITIATED", **fields: Any) -> Any:
        """A new order of anna's, brought to a status by those whose step each is; ivan takes it."""
        reply = await self.shop.post("/v1/orders", {"customer": "anna"} | fields)
        assert reply.status == 201, reply
        order = reply.json
        way = LINE[: LINE.index(status) + 1]
        for step in way[way.index(order["status"]) + 1 :]:
            reply = await self.step(order["id"], step)
            assert reply.status == 200, reply
            order = reply.json
        return order

    async def step(self, order_id: str, status: str) -> Reply:
        """One step, made by somebody who may."""
        if status == "MANUFACTURING_STARTED":
            return await self.ivan.post(f"/v1/orders/{order_id}/take")
        return await set_status(self._maker(status), order_id, status)

    def _maker(self, status: str) -> Client:
        if status in ("FILE_UPLOADED", "SUBMITTED"):
            return self.shop
        if status in ("MANUFACTURING_APPROVED", "CLOSED"):
            return self.seller
        return self.mes


async def set_status(client: Client, order_id: str, status: str, **fields: Any) -> Reply:
    """Tried again while the model waits for its second opinion, as a caller would."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            reply = await client.put(f"/v1/orders/{order_id}/status", {"status": status} | fields)
            if reply.status != 503 or reply.json["code"] != "verification_pending":
                return reply


def new_key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid4())}


def problem(reply: Reply, status: int, code: str) -> Any:
    """The members of a refusal, once it is known to be the one expected."""
    assert (reply.status, reply.headers["Content-Type"]) == (status, "application/problem+json"), reply
    members = reply.json
    assert (members["status"], members["code"]) == (status, code), members
    assert members["type"] == f"/docs#problem-{code}"
    assert members["title"]
    assert members["detail"]
    assert members["request_id"] == reply.headers["X-Request-Id"]
    return members


def pointers(members: Any) -> set[str]:
    return {error["pointer"] for error in members["errors"]}


def case_name(value: Any) -> str:
    """The same in every process that collects the tests, which a set's own text is not."""
    return str(sorted(value) if isinstance(value, set) else value)[:60]
