"""After the analyser's version was raised: what an earlier one has found serves until the kept file is read
anew, and never turns a known model into one without a price."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pricing.facts import ANALYSER_VERSION
from tests.support.gates import until_true
from tests.support.meshes import binary_stl, torus
from tests.support.processes import Service, clients_of
from tests.support.workshop import Workshop, set_status

EARLIER = str(int(ANALYSER_VERSION) - 1)
MODELS = 12
QUERY = "material=gold-585-yellow"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path / "data", FACET_MODEL_WORKERS="1")
    service.start()
    yield service
    service.stop()


class Shop:
    """The workshop, over whatever the service is now."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.sha256 = ""
        self.tokens: dict[str, Any] = {}

    async def price(self) -> Any:
        async with clients_of(self.service.url) as clients:
            return await clients.admin.get(f"/v1/models/{self.sha256}/price?{QUERY}")

    async def order_price(self) -> Any:
        """What PRICE_CALCULATED puts on an order of the model."""
        async with clients_of(self.service.url) as clients:
            workshop = Workshop(clients)
            await workshop.open()
            order = await workshop.order("SUBMITTED", model=self.sha256, material="gold-585-yellow")
            return await set_status(workshop.mes, order["id"], "PRICE_CALCULATED")

    def analyser(self) -> str:
        with closing(sqlite3.connect(self.service.data_dir / "facet.db", timeout=5)) as connection:
            rows = connection.execute("SELECT analyser FROM models WHERE sha256 = ?", (self.sha256,))
            return str(rows.fetchone()[0])

    def outdated(self) -> int:
        with closing(sqlite3.connect(self.service.data_dir / "facet.db", timeout=5)) as connection:
            rows = connection.execute("SELECT count(*) FROM models WHERE analyser = ?", (EARLIER,))
            return int(rows.fetchone()[0])

    def upgrade(self, *, without_file: bool = False) -> None:
        """As if the release before had found the facts, and this one had another analyser."""
        assert self.service.stop() == 0
        with closing(sqlite3.connect(self.service.data_dir / "facet.db")) as connection, connection:
            connection.execute("UPDATE models SET analyser = ?", (EARLIER,))
        if without_file:
            shutil.rmtree(self.service.data_dir / "models")
        self.service.start()


@pytest.fixture
async def shop(service: Service) -> Shop:
    shop = Shop(service)
    body = binary_stl(torus(9.3))
    async with clients_of(service.url) as clients:
        reply = await clients.admin.send("POST", f"/v1/prices?{QUERY}", data=body)
        assert reply.json["price"]["priceable"] == "auto"
        shop.sha256 = reply.json["model"]["sha256"]
    return shop


async def test_with_the_file_prices_go_on_and_it_is_read_anew_in_the_background(shop: Shop) -> None:
    before = (await shop.price()).json["price"]
    shop.upgrade()
    priced = await shop.price()
    assert (priced.status, priced.json["price"]["gross"]) == (200, before["gross"])
    changed = await shop.order_price()
    assert (changed.status, changed.json["price"]["gross"]) == (200, before["gross"])

    async def is_read_anew() -> bool:
        return shop.analyser() == ANALYSER_VERSION

    await until_true(is_read_anew)
    assert (await shop.price()).json["price"]["priceable"] == "auto"


async def test_without_the_file_the_facts_stay_and_a_person_should_look(shop: Shop) -> None:
    before = (await shop.price()).json["price"]
    shop.upgrade(without_file=True)
    priced = (await shop.price()).json["price"]
    assert priced["priceable"] == "provisional"
    assert priced["gross"] == before["gross"]
    assert "older_analysis" in [warning["code"] for warning in priced["warnings"]]
    changed = await shop.order_price()
    assert (changed.status, changed.json["code"]) == (409, "not_priceable"), changed
    assert shop.analyser() == EARLIER


async def test_an_upload_of_the_same_bytes_is_analysed_anew(shop: Shop) -> None:
    shop.upgrade(without_file=True)
    async with clients_of(shop.service.url) as clients:
        reply = await clients.admin.send("POST", f"/v1/prices?{QUERY}", data=binary_stl(torus(9.3)))
    assert reply.json["price"]["priceable"] == "auto"

    async def is_known_anew() -> bool:
        return shop.analyser() == ANALYSER_VERSION

    await until_true(is_known_anew)
    assert (await shop.order_price()).status == 200


async def test_a_server_that_stops_while_files_are_read_anew_stops_as_ever_and_goes_on_later(
    shop: Shop,
) -> None:
    async with clients_of(shop.service.url) as clients:
        for count in range(MODELS):
            body = binary_stl(torus(9.4 + count / 10))
            assert (await clients.admin.send("POST", f"/v1/prices?{QUERY}", data=body)).status == 200
    shop.upgrade()
    assert shop.service.stop() == 0
    shop.service.start()

    async def all_are_read_anew() -> bool:
        return shop.outdated() == 0

    await until_true(all_are_read_anew)
