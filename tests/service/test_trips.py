"""How far a request travels through the files: `python -m tests.support.trips` prints it."""

import re

import pytest

from tests.support.trips import ROOT, Trip, travel


@pytest.fixture(scope="module")
def trips() -> dict[str, Trip]:
    return travel()


def test_an_upload_passes_few_files_and_seldom_changes_the_package(trips: dict[str, Trip]) -> None:
    upload = trips["upload"]
    assert len(upload.passed) <= 22
    assert len(upload.crossings) <= 5


@pytest.mark.parametrize("name", ["upload", "change", "list"])
def test_the_architecture_tells_the_trip_as_it_is(trips: dict[str, Trip], name: str) -> None:
    told = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = told.partition(f"\n{name}: ")[2].partition("```")[0]
    assert re.findall(r"^ *\d+\. (\S+)$", listed, re.MULTILINE) == trips[name].passed
