"""The commands of operations: what they do, and that bad input is one line and exit code 2."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from server.commands.cli import _COMMANDS
from server.commands.token import ROLES
from storage.data_directory import DataDirectory
from storage.orders.actors import Role
from tests.support.commands import facet, serving
from tests.support.template import ROOT


def one_line(output: str) -> bool:
    return output.count("\n") == 1 and output.startswith("facet: ")


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["serve", "--port", "http"], {}, "--port 'http': must be a whole number"),
        (["serve", "--port", "70000"], {}, "0 to 65535"),
        (["serve"], {"FACET_PROT": "8080"}, "FACET_PROT is not a setting"),
        (["serve"], {"FACET_REDIS_URL": "http://127.0.0.1"}, "must begin with redis://"),
        (["serve"], {"FACET_WORKERS": "4"}, "more than one process needs"),
        (["serve"], {"FACET_DATABASE_URL": "mysql://x"}, "use postgresql://"),
        (["serve"], {"FACET_ADMIN_TOKEN": "short"}, "at least 16"),
        (["serve"], {"FACET_ADMIN_TOKEN_FILE": "/nonexistent"}, "No such file"),
        (["warm", "--data-dir", "/nonexistent"], {}, "no server is running"),
        (["token", "list", "--data-dir", "/nonexistent"], {}, "no Facet data"),
        (["restore", "/nonexistent"], {}, "is not a file"),
        (["restore", "setup.cfg"], {}, "is not a backup"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    arguments: list[str], environment: dict[str, str], said: str, tmp_path: Path
) -> None:
    if "--data-dir" not in arguments:
        arguments = [*arguments, "--data-dir", str(tmp_path / "data")]
    refused = facet(*arguments, **environment)
    assert (refused.returncode, one_line(refused.stderr)) == (2, True), refused.stderr
    assert said in refused.stderr


def test_reading_the_command_line_loads_nothing_heavy() -> None:
    """A command is not kept waiting by what others need."""
    heavy = {"aiohttp", "alembic", "jinja2", "numba", "numpy", "redis", "sqlalchemy"}
    program = f"import server.commands.cli, sys; sys.exit(', '.join(sorted({heavy} & sys.modules.keys())))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr == "\n"


def test_an_unknown_command_exits_with_2() -> None:
    assert facet("sevre").returncode == 2


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = facet("serve", "--port", str(port), "--data-dir", str(tmp_path / "data"))
    assert refused.returncode == 2
    assert one_line(refused.stderr), refused.stderr
    assert f"port {port} on 127.0.0.1 is in use" in refused.stderr


def test_a_damaged_database_is_said(tmp_path: Path) -> None:
    tmp_path.joinpath("facet.db").write_bytes(b"not a database at all, whatever its name")
    refused = facet("serve", "--port", "0", "--data-dir", str(tmp_path))
    assert (refused.returncode, one_line(refused.stderr)) == (2, True), refused.stderr


def test_a_data_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = facet("serve", "--data-dir", str(tmp_path / "file" / "data"))
    assert (refused.returncode, one_line(refused.stderr)) == (2, True), refused.stderr


def test_a_second_server_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, "serve", "--port", "0", "--data-dir", str(tmp_path)) as first:
        refused = facet("serve", "--port", "0", "--data-dir", str(tmp_path))
        assert refused.returncode == 2
        assert f"in use by process {first.pid}" in refused.stderr


def test_the_first_admin_token_is_in_a_file_only_its_owner_reads(tmp_path: Path) -> None:
    with serving(tmp_path, "serve", "--port", "0", "--data-dir", str(tmp_path)):
        file = tmp_path / "admin-token"
        assert file.stat().st_mode & 0o777 == 0o600
        holder = DataDirectory(tmp_path).holder()
        assert holder is not None
        request = urllib.request.Request(
            f"{holder.url}/v1/me", headers={"Authorization": f"Bearer {file.read_text().strip()}"}
        )
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["role"] == "admin"


@pytest.mark.slow
def test_tokens_are_managed_through_the_running_server_and_without_one(tmp_path: Path) -> None:
    assert facet("migrate", "--data-dir", str(tmp_path)).stdout.startswith("schema none -> ")
    created = facet("token", "create", "--role", "shop", "--name", "web", "--data-dir", str(tmp_path))
    token_id = created.stdout.split()[1]
    assert "facet_" in created.stdout
    with serving(tmp_path, "serve", "--port", "0", "--data-dir", str(tmp_path)):
        assert token_id in facet("token", "list", "--data-dir", str(tmp_path)).stdout
        assert facet("token", "revoke", token_id, "--data-dir", str(tmp_path)).returncode == 0
        assert token_id not in facet("token", "list", "--data-dir", str(tmp_path)).stdout
        twice = facet("token", "revoke", token_id, "--data-dir", str(tmp_path))
        assert (twice.returncode, one_line(twice.stderr)) == (2, True)
    assert token_id not in facet("token", "list", "--data-dir", str(tmp_path)).stdout


def test_a_partner_without_its_customer_is_refused(tmp_path: Path) -> None:
    facet("migrate", "--data-dir", str(tmp_path))
    refused = facet("token", "create", "--role", "partner", "--name", "p", "--data-dir", str(tmp_path))
    assert refused.returncode == 2
    assert "/customer" in refused.stderr


def test_doctor_finds_nothing_wrong_with_a_running_service(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "serve", "--port", "0", "--data-dir", str(tmp_path / "data")):
        examined = facet("doctor", "--data-dir", str(tmp_path / "data"))
    assert examined.returncode == 0, examined.stdout
    assert "running" in examined.stdout


def test_doctor_finds_a_damaged_database(tmp_path: Path) -> None:
    facet("migrate", "--data-dir", str(tmp_path))
    (tmp_path / "facet.db").write_bytes(b"not a database at all, whatever its name")
    examined = facet("doctor", "--data-dir", str(tmp_path))
    assert examined.returncode == 1
    assert "FAIL  database" in examined.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [("price", "--help"), ("--version",), ("migrate",)], ids=" ".join)
def test_an_output_that_nobody_reads_is_no_error_of_the_interpreter(
    arguments: tuple[str, ...], unbuffered: str, tmp_path: Path
) -> None:
    """Whatever is left to be written when the command is done: it finds out then."""
    reads, writes = os.pipe()
    os.close(reads)
    try:
        done = with_output(writes, arguments, tmp_path, unbuffered)
    finally:
        os.close(writes)
    assert done.stderr == ""
    assert done.returncode in (0, 128 + signal.SIGPIPE)


def test_an_output_that_does_not_fit_is_told_in_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = with_output(full.fileno(), ("migrate",), tmp_path, "")
    assert (done.returncode, done.stderr) == (2, "facet: <stdout>: No space left on device\n")


def with_output(
    descriptor: int, arguments: tuple[str, ...], folder: Path, unbuffered: str
) -> "subprocess.CompletedProcess[str]":
    """A command, with the interpreter's buffers as a user has them, or none."""
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "FACET_DATA_DIR": str(folder)},
        stdout=descriptor,
        stderr=subprocess.PIPE,
        text=True,
    )


# --- Paths, and who asks


@pytest.mark.parametrize("name", ["a?b", "%41", "a b", "a#b", "a;b", "file:x", "ф"])
def test_a_data_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    done = facet("token", "create", "--role", "shop", "--name", "web", "--data-dir", str(directory))
    assert done.returncode == 2  # there is no data yet
    assert facet("migrate", "--data-dir", str(directory)).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (directory / "facet.db").stat().st_size > 0
    done = facet("token", "create", "--role", "shop", "--name", "web", "--data-dir", str(directory))
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(
    "words",
    [
        ("token", "list"),
        ("serve", "--port", "0"),
        ("migrate",),
        ("doctor",),
        ("backup", "/nonexistent/facet.backup"),
        ("export",),
        ("warm",),
        ("reload",),
        ("tour",),
        ("demo", "--embedded"),
    ],
)
def test_a_command_of_another_user_is_refused_in_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    directory = tmp_path / "data"
    facet("migrate", "--data-dir", str(directory))
    program = (
        "import os, sys; os.setuid(65534); from server.commands.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    # What the program is made of must be loaded before: nobody may not enter this folder.
    modules = ("commands.cli", "config", "process.control", "commands.doctor", "demo.demo", "demo.tour")
    preloaded = f"import {', '.join(f'server.{module}' for module in modules)}\n"
    done = subprocess.run(
        [sys.executable, "-c", preloaded + program, *words, "--data-dir", str(directory)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), (done.stdout, done.stderr)


# --- Help, before anything is installed


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout in which nothing is installed."""
    for name in ("server", "storage", "pricing", "tests", "benchmarks", "requirements.lock"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "facet").write_bytes((ROOT / "facet").read_bytes())
    (tmp_path / "facet").chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code"),
    [(("--help",), 0), (("price", "--help"), 0), (("token", "create", "-h"), 0), ((), 2), (("sevre",), 2)],
)
def test_help_needs_nothing_installed(bare: Path, words: tuple[str, ...], code: int) -> None:
    python = {"PYTHON": getattr(sys, "_base_executable", sys.executable)}
    done = subprocess.run(
        [str(bare / "facet"), *words],
        env={"PATH": os.environ["PATH"], **python},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert "installing" not in done.stderr
    assert not (bare / ".venv").exists()
    assert "facet" in done.stdout + done.stderr


def test_the_script_knows_every_command_and_the_program_every_role() -> None:
    script = (ROOT / "facet").read_text()
    known = set(re.findall(r"[a-z]+", " ".join(re.findall(r"^ +([a-z| ]+)\) return 1 ;;", script, re.M))))
    assert known == {name for name, *_ in _COMMANDS} | {"worker", "test", "bench"}
    assert [role.value for role in Role] == list(ROLES)
