"""`facet test`: everything, in named stages with times. `--quick`: what fits into a minute."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
SOURCES = ("server", "pricing", "storage", "tests", "benchmarks")

WORKERS = 4
"""Twice as many as two cores: many tests wait for other processes. Not by the machine's number of cores,
which may be more than this may use."""
UNIT_WORKERS = 2
"""Unit tests wait for nothing, and each further process imports and collects all of them."""
UNLIKE_USERS = frozenset({"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"})
"""What a machine that runs tests may have set, and who uses Facet has not."""
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in UNLIKE_USERS}
"""Hundreds of processes are started: they compile our modules once, not each for itself."""


class Stage(NamedTuple):
    name: str
    command: list[str]
    quick: bool
    tests: bool = False


class Outcome(NamedTuple):
    stage: str
    code: int
    seconds: float
    passed: int = 0
    failed: int = 0
    skipped: int = 0


def stages() -> list[Stage]:
    python = sys.executable
    return [
        Stage("format", [python, "-m", "ruff", "format", "--check", *SOURCES], True),
        Stage("lint", [python, "-m", "ruff", "check", *SOURCES], True),
        Stage("types", [python, "-m", "mypy", *SOURCES], True),
        Stage("unit", _pytest("unit", UNIT_WORKERS), True, True),
        Stage("service", _pytest("service"), False, True),
        Stage("drills", _pytest("drills"), False, True),
    ]


def _pytest(folder: str, workers: int = WORKERS) -> list[str]:
    return [sys.executable, "-m", "pytest", "-n", str(workers), "--dist", "worksteal", f"tests/{folder}"]


def run_stage(stage: Stage) -> Outcome:
    began_s = time.monotonic()
    if stage.tests:
        print(f"\n=== {stage.name}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [*stage.command, f"--junitxml={report}"] if stage.tests else stage.command
        # What runs beside the tests says what it has to say at its end.
        output = None if stage.tests else subprocess.PIPE
        done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, stdout=output, stderr=output, text=True)
        counts = _counts(report) if report.exists() else (0, 0, 0)
    if not stage.tests:
        print(f"\n=== {stage.name}\n{done.stdout}{done.stderr}", end="", flush=True)
    outcome = Outcome(stage.name, done.returncode, time.monotonic() - began_s, *counts)
    print(f"=== {stage.name}: {_verdict(outcome)} in {outcome.seconds:.1f} s", flush=True)
    return outcome


def _counts(report: Path) -> tuple[int, int, int]:
    suite = next(ElementTree.parse(report).iter("testsuite"))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    skipped = int(suite.get("skipped", 0))
    return int(suite.get("tests", 0)) - failed - skipped, failed, skipped


def _verdict(outcome: Outcome) -> str:
    return "ok" if outcome.code == 0 else f"FAILED ({outcome.code})"


def main() -> int:
    parser = argparse.ArgumentParser(prog="facet test", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only what fits into a minute")
    parser.add_argument("--stage", action="append", help="only this stage; may be repeated")
    chosen = parser.parse_args()
    wanted = [
        stage
        for stage in stages()
        if (not chosen.quick or stage.quick) and (not chosen.stage or stage.name in chosen.stage)
    ]
    if not wanted:
        print(f"facet: no such stage; there are {', '.join(s.name for s in stages())}", file=sys.stderr)
        return 2
    began_s = time.monotonic()
    outcomes = run_stages(wanted)
    return report(outcomes, time.monotonic() - began_s)


def run_stages(wanted: list[Stage]) -> list[Outcome]:
    """Tests one stage after the other; what only reads the sources beside them."""
    with ThreadPoolExecutor(1) as beside:
        checks = [beside.submit(run_stage, stage) for stage in wanted if not stage.tests]
        outcomes = [run_stage(stage) for stage in wanted if stage.tests]
        return [*(check.result() for check in checks), *outcomes]


def report(outcomes: list[Outcome], total_s: float) -> int:
    print("\nstage      time     passed  failed  skipped")
    for outcome in outcomes:
        row = f"{outcome.seconds:6.1f} s {outcome.passed:8} {outcome.failed:7} {outcome.skipped:8}"
        print(f"{outcome.stage:9}{row}  {_verdict(outcome)}")
    skipped = sum(outcome.skipped for outcome in outcomes)
    bad = [outcome.stage for outcome in outcomes if outcome.code != 0]
    if skipped and (os.environ.get("CI") or os.environ.get("FACET_TEST_MODELS")):
        bad.append("skipped tests")
        print(f"{skipped} tests were skipped: on CI, or with the models at hand, none may be")
    if not os.environ.get("FACET_TEST_CASES"):
        print("left out: tests/unit/test_model_cases.py, since FACET_TEST_CASES names no folder")
    print(f"total {total_s:8.1f} s" + (f"; not good: {', '.join(bad)}" if bad else ""))
    failed = sum(outcome.failed for outcome in outcomes)
    print(f"{sum(outcome.passed for outcome in outcomes)} passed, {failed} failed, {skipped} skipped")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
