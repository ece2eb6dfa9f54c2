"""What is kept is for its owner only: files whatever the mask, backups, cookies, links, demo servers."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from server.demo.private_servers.servers import PostgresServer, ValkeyServer
from tests.support.commands import facet, serving
from tests.support.engines import query
from tests.support.processes import ADMIN_TOKEN, Clients, Service, clients_of, served
from tests.support.template import ROOT
from tests.support.workshop import Workshop


def open_to_others(folder: Path) -> list[Path]:
    paths = [path for path in (folder, *folder.rglob("*")) if not path.is_symlink()]
    return [path for path in paths if path.stat().st_mode & 0o077]


def with_a_wide_mask(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        umask=0,
    )


def test_all_that_a_command_makes_is_its_owners_whatever_the_mask(tmp_path: Path) -> None:
    directory, backup = tmp_path / "data", tmp_path / "facet.backup"
    for words in (
        ("migrate",),
        ("token", "create", "--role", "shop", "--name", "web"),
        ("backup", str(backup)),
    ):
        done = with_a_wide_mask(*words, "--data-dir", str(directory))
        assert done.returncode == 0, done.stderr
    assert open_to_others(directory) == []
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    restored = with_a_wide_mask("restore", str(backup), "--data-dir", str(tmp_path / "restored"))
    assert restored.returncode == 0, restored.stderr
    assert open_to_others(tmp_path / "restored") == []


def test_what_an_earlier_release_left_open_is_closed(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    facet("migrate", "--data-dir", str(directory))
    (directory / "facet.db").chmod(0o644)
    (directory / "admin-token").write_text("of before")
    (directory / "admin-token").chmod(0o644)
    with serving(directory, "serve", "--port", "0", "--data-dir", str(directory)):
        assert open_to_others(directory) == []


def test_a_backup_follows_no_link_and_overwrites_nothing(tmp_path: Path) -> None:
    directory, precious = tmp_path / "data", tmp_path / "precious"
    facet("migrate", "--data-dir", str(directory))
    precious.write_text("precious")
    target = tmp_path / "facet.backup"
    (tmp_path / "facet.backup.partial").symlink_to(precious)
    assert facet("backup", str(target), "--data-dir", str(directory)).returncode == 0
    assert precious.read_text() == "precious"
    assert not target.is_symlink()
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "elsewhere")
    refused = facet("backup", str(dangling), "--data-dir", str(directory))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "elsewhere").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dangling",
        "data",
        "facet.backup",
        "facet.backup.partial",
        "precious",
    ]


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with served(
        tmp_path_factory.mktemp("public") / "data", FACET_PUBLIC_URL="https://orders.example/"
    ) as service:
        yield service


async def workshop_of(clients: Clients) -> Workshop:
    workshop = Workshop(clients)
    await workshop.open()
    return workshop


async def test_behind_https_the_cookie_is_secure_and_links_name_the_public_address(public: Service) -> None:
    async with clients_of(public.url) as clients:
        workshop = await workshop_of(clients)
        login = await workshop.nobody.send(
            "POST",
            "/login",
            data={"token": ADMIN_TOKEN},
            headers={"Origin": "https://orders.example"},
            allow_redirects=False,
        )
        assert login.status == 303
        assert "; Secure" in login.headers["Set-Cookie"]
        order = await workshop.order()
        reply = await workshop.seller.post(
            f"/v1/orders/{order['id']}/links", headers={"Host": "evil.example"}
        )
        assert reply.json["url"].startswith("https://orders.example/c/")
    assert "FACET_PUBLIC_URL is not set" not in public.log_text()
    assert (
        "https://orders.example/"
        in facet(
            "doctor", "--data-dir", str(public.data_dir), FACET_PUBLIC_URL="https://orders.example/"
        ).stdout
    )


async def test_without_a_public_address_it_is_said_whose_a_link_takes(
    service: Service, workshop: Workshop
) -> None:
    order = await workshop.order()
    reply = await workshop.seller.post(f"/v1/orders/{order['id']}/links")
    assert reply.json["url"].startswith(service.url)
    assert "FACET_PUBLIC_URL is not set" in service.log_text()
    login = await workshop.nobody.send("POST", "/login", data={"token": ADMIN_TOKEN}, allow_redirects=False)
    assert "Secure" not in login.headers["Set-Cookie"]


def test_the_demos_servers_answer_nobody_else(tmp_path: Path) -> None:
    with (
        PostgresServer(tmp_path / "a?b %41" / "postgres", over_socket=True) as postgres,
        ValkeyServer(tmp_path / "a?b %41" / "valkey", over_socket=True) as valkey,
    ):
        assert query(postgres.url, "SELECT current_user") == [("facet",)]
        with redis.Redis.from_url(valkey.url) as client:
            assert client.ping()
        sockets = [valkey.unix_socket, postgres.socket_folder / f".s.PGSQL.{postgres.port}"]
        assert [stat.S_IMODE(path.stat().st_mode) for path in sockets] == [0o700, 0o700]
        for pid in (postgres.pid, valkey.pid):
            assert listening(pid) == []


def listening(pid: int) -> list[str]:
    """The TCP sockets on which a process listens."""
    links = (os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd"))
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]
