"""Mutated meshes are priced or refused; and the program that says so notices when they are not."""

import os
import signal
from io import BytesIO
from pathlib import Path
from random import Random

import pytest
import trimesh

from pricing.errors import Refused
from pricing.mesh.analysis import analyse
from pricing.price.firmness import firmness_of
from tests.drills import fuzz, fuzz_mutations

MUTANTS = 200
SEED = 20


@pytest.mark.parametrize("family", fuzz_mutations.FAMILIES)
def test_mutants_are_priced_or_refused(family: str) -> None:
    tally = fuzz.run(family, MUTANTS, SEED, workers=2)
    assert tally.findings == ()
    assert tally.mutants == MUTANTS
    assert tally.priced > 0
    assert tally.manual > 0
    assert tally.refused > 0


@pytest.mark.parametrize("family", fuzz_mutations.FAMILIES)
def test_seeds_are_sound_and_priced(family: str) -> None:
    for body in fuzz_mutations.seeds(family):
        assert analyse(body).format == family
        assert "priced" in {fuzz.examine(body, Random(number)) for number in range(20)}


def test_a_mutant_follows_from_seed_family_and_number() -> None:
    bodies = [fuzz.Mutants("obj", SEED).body(number) for number in range(50)]
    assert bodies == [fuzz.Mutants("obj", SEED).body(number) for number in range(50)]
    assert bodies != [fuzz.Mutants("obj", SEED + 1).body(number) for number in range(50)]
    assert len(set(bodies)) > 40


def test_what_is_firm_has_the_volume_that_trimesh_finds() -> None:
    mutants = fuzz.Mutants("stl-binary", SEED)
    compared = 0
    for number in range(2 * MUTANTS):
        body = mutants.body(number)
        try:
            facts = analyse(body)
            firm = firmness_of(facts, "mm").priceable == "auto"
        except Refused:
            continue
        mesh = trimesh.load_mesh(BytesIO(body), file_type="stl") if firm else None
        # Without the facets that have no area, which open a mesh there.
        if mesh is not None and not facts.warnings and mesh.is_volume:
            assert facts.volume == pytest.approx(mesh.volume, rel=1e-5)
            assert facts.area == pytest.approx(mesh.area, rel=1e-5)
            compared += 1
    assert compared > 20


def crashing(body: bytes, random: Random) -> fuzz.Outcome:
    if body == BODIES[7]:
        os.kill(os.getpid(), signal.SIGKILL)
    return "priced"


def hanging(body: bytes, random: Random) -> fuzz.Outcome:
    while body == BODIES[7]:
        pass
    return "manual"


def wrong(body: bytes, random: Random) -> fuzz.Outcome:
    assert body != BODIES[7], "a price of nothing"
    return "refused"


BODIES = [fuzz.Mutants("stl-binary", SEED).body(number) for number in range(20)]


@pytest.mark.parametrize(
    ("examine", "kind"),
    [(crashing, "crash"), (hanging, "hang"), (wrong, "unexpected")],
    ids=["crash", "hang", "wrong"],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_a_mutant_that_does_harm_is_found_kept_and_passed_over(
    examine: fuzz.Examine, kind: str, workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = fuzz.run("stl-binary", len(BODIES), SEED, workers, hang_s=0.4, examine=examine)
    assert [(finding.kind, finding.number) for finding in tally.findings] == [(kind, 7)]
    assert tally.mutants == tally.priced + tally.manual + tally.refused + 1 == len(BODIES)
    fuzz.keep(tally, SEED, tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [BODIES[7]]
    assert f"--family stl-binary --seed {SEED} --only 7" in capsys.readouterr().out


def test_the_program_prints_a_line_for_each_family_and_ends_well(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = ["--mutants", "10", "--family", "off", "--seed", "3", "--keep", str(tmp_path)]
    assert fuzz.main(given) == 0
    line = capsys.readouterr().out
    assert line.startswith("10 mutants of off: ")
    assert line.endswith("0 crashes, 0 hangs, 0 unexpected\n")
    assert list(tmp_path.iterdir()) == []
    assert fuzz.main([*given, "--only", "4"]) == 0
    assert capsys.readouterr().out.strip() in ("priced", "manual", "refused")
