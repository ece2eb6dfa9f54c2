"""The demonstration and its tour, as a newcomer starts them."""

import json
from pathlib import Path

from storage.data_directory import DataDirectory
from tests.commands import facet, serving


def test_the_demo_fills_itself_serves_and_keeps_every_promise_of_the_tour(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    with serving(directory, "demo", "--port", "0", "--data-dir", str(directory)) as demo:
        tour = facet("tour", "--data-dir", str(directory))
        assert tour.returncode == 0, tour.stdout + tour.stderr
        assert "promises kept" in tour.stdout
    assert demo.returncode == 0


def test_a_demo_that_was_interrupted_while_it_filled_itself_starts_again(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    directory.mkdir()
    (directory / "demo.unfinished").touch()
    (directory / "facet.db").write_bytes(b"half of something")
    with serving(directory, "demo", "--port", "0", "--data-dir", str(directory)):
        assert len(json.loads((directory / "demo.json").read_text())) == 8


def test_a_demo_refuses_a_directory_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    refused = facet("demo", "--data-dir", str(tmp_path))
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "not a demo" in refused.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_tour_without_a_demo_says_how_to_start_one(tmp_path: Path) -> None:
    refused = facet("tour", "--data-dir", str(tmp_path))
    assert refused.returncode == 2
    assert "./facet demo" in refused.stderr
    assert DataDirectory(tmp_path).holder() is None
