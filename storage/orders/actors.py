"""Who asks: roles, and which orders each may see. Standard library and msgspec only."""

from enum import StrEnum

import msgspec


class Role(StrEnum):
    CUSTOMER = "customer"
    PARTNER = "partner"
    SHOP = "shop"
    SELLER = "seller"
    MES = "mes"
    OPERATOR = "operator"
    ADMIN = "admin"


class Actor(msgspec.Struct, gc=False, frozen=True, kw_only=True):
    """Who is asking. `customer` limits customers and partners to their own orders."""

    token_id: str
    name: str
    role: Role
    customer: str | None = None

    @property
    def tenant(self) -> str | None:
        """The customer whose orders alone are visible; None sees all."""
        return self.customer if self.role in TENANT_ROLES else None

    def sees(self, customer: str) -> bool:
        return self.role not in TENANT_ROLES or self.customer == customer


TENANT_ROLES = frozenset({Role.CUSTOMER, Role.PARTNER})

OPENING_ROLES = frozenset({Role.SHOP, Role.SELLER, Role.PARTNER, Role.ADMIN})
"""Who opens and edits orders (a partner its own)."""

PRICING_ROLES = frozenset(Role) - {Role.CUSTOMER}
