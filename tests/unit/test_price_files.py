"""`./facet price`: tables, JSON and CSV, and the exit codes."""

import argparse
import csv
import json
from io import StringIO
from pathlib import Path

import pytest

from server.commands.price.arguments import add_arguments
from server.commands.price.run import run
from tests.support import meshes


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    bodies = {
        "ring.stl": meshes.binary_stl(meshes.torus()),
        "open.obj": meshes.obj(meshes.torus()[1:]),
        "cut.stl": meshes.binary_stl(meshes.torus())[:-10],
    }
    for name, body in bodies.items():
        (tmp_path / name).write_bytes(body)
    return {name: str(tmp_path / name) for name in bodies}


def facet_price(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args(words))


def test_table_shows_the_price_and_what_it_is_made_of(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        facet_price(files["ring.stl"], "--material", "gold-585-yellow", "--quantity", "3", "--explain") == 0
    )
    out, error = capsys.readouterr()
    assert "auto" in out
    assert "quantity_break" in out
    assert "fix_per_oz = 2000.00" in out
    assert error == ""


def test_refused_file_is_a_row_and_the_others_are_priced(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert facet_price(*files.values(), "--material", "silver-925", "--json") == 1
    ring, opened, cut = json.loads(capsys.readouterr().out)["items"]
    assert ring["price"]["gross"]["currency"] == "EUR"
    assert ring["model"]["volume_mm3"] > 0
    assert opened["price"] | {"gross": None, "lines": [], "priceable": "manual"} == opened["price"]
    assert cut["error"]["code"] == "stl_size_mismatch"
    assert cut["error"]["remedy"]


def test_csv_has_one_row_per_file_in_order(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert facet_price(*files.values(), "--material", "brass", "--csv") == 1
    rows = list(csv.DictReader(StringIO(capsys.readouterr().out)))
    assert [row["file"] for row in rows] == list(files.values())
    assert [row["priceable"] for row in rows] == ["auto", "manual", ""]
    assert [row["code"] for row in rows] == ["", "", "stl_size_mismatch"]


@pytest.mark.parametrize(
    "words",
    [
        ["--material", "unobtainium"],
        ["--material", "brass", "--units", "ft"],
        ["--material", "brass", "--quantity", "0"],
        ["--material", "brass", "--finish", "shiny"],
        ["--material", "brass", "--price-list", "/nowhere/list.json"],
    ],
)
def test_bad_argument_is_one_line_and_exit_code_two(
    words: list[str], files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert facet_price(files["ring.stl"], *words) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1


def test_missing_file_is_a_bad_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert facet_price("/nowhere/ring.stl", "--material", "brass") == 2
    assert "/nowhere/ring.stl" in capsys.readouterr().err
