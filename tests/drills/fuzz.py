"""`python -m tests.drills.fuzz`: mutated meshes through analysis, second opinion, judgement and price.

Every mutant follows from the seed, the family and its number alone. Mutants are made and examined in worker
processes, many in each; a worker says which one it is at before it begins, so that one that crashes or hangs
is known, kept and passed over.
"""

import argparse
import json
import math
import multiprocessing
import os
import resource
import sys
import traceback
import warnings
from collections.abc import Callable
from ctypes import c_int64
from multiprocessing.connection import wait
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any, Literal, NamedTuple

import msgspec

from pricing.errors import Refused
from pricing.facts import Facts, Opinion
from pricing.mesh.analysis import analyse
from pricing.mesh.warm import warm
from pricing.price.firmness import Firmness, firmness_of
from pricing.price.formula import price
from pricing.price.options import Options
from pricing.price.price_list import default_metal_fix, default_price_list
from pricing.second_opinion import import_trimesh, second_opinion
from tests.drills import fuzz_mutations

HANG_S = 5.0
"""Processor time. A mutant of a few kilobytes takes milliseconds; this long, it has no end."""

WAITING_FACTOR = 60
"""A worker that waits for something takes no processor time; so many times the limit, on the clock."""

LOOK_EVERY_S = 1.0
MEMORY_BYTES = 1 << 30
FINDINGS_MAX = 50
"""So many findings end a run: more of them would say the same."""

LEFT_OUT = 0.5
"""Of the mutants with several bodies this share is examined without one of them."""

UNITS = ("", "mm", "cm", "m", "in")

_NUMBER, _PRICED, _MANUAL, _REFUSED, _UNEXPECTED = range(5)
Outcome = Literal["priced", "manual", "refused"]
Examine = Callable[[bytes, Random], Outcome]


class Finding(NamedTuple):
    """What went wrong (`crash`, `hang` or `unexpected`) with which mutant."""

    kind: str
    number: int
    detail: str


class Tally(NamedTuple):
    """What became of the mutants of a family."""

    family: str
    mutants: int
    priced: int
    manual: int
    refused: int
    findings: tuple[Finding, ...]

    def line(self) -> str:
        kinds = [finding.kind for finding in self.findings]
        return (
            f"{self.mutants} mutants of {self.family}: {self.priced} priced, {self.manual} for a person,"
            f" {self.refused} refused, {kinds.count('crash')} crashes, {kinds.count('hang')} hangs,"
            f" {kinds.count('unexpected')} unexpected"
        )


class Mutants:
    """The mutants of a family under a seed, by number."""

    def __init__(self, family: str, seed: int) -> None:
        self.family = family
        self._seed = seed
        self._bodies = fuzz_mutations.seeds(family)
        self._strangers = [fuzz_mutations.seeds(other)[0] for other in fuzz_mutations.FAMILIES]

    def random(self, number: int) -> Random:
        return Random(f"{self._seed} {self.family} {number}")

    def body(self, number: int) -> bytes:
        return fuzz_mutations.mutant(self.random(number), self.family, self._bodies, self._strangers)


def examine(body: bytes, random: Random) -> Outcome:
    """From bytes to a price; AssertionError when what comes out cannot be."""
    units = random.choice(UNITS)
    try:
        facts = analyse(body)
        _check_facts(facts)
        _check_opinion(second_opinion(body, facts), firmness_of(facts, units))
        if facts.bodies_found and random.random() < LEFT_OUT:
            facts = analyse(body, leave_out=(random.choice(facts.bodies_found).index,))
            _check_facts(facts)
        judgement = firmness_of(facts, units)
        answer = price(facts, Options("gold-585-yellow", units), default_price_list(), default_metal_fix())
    except Refused as refused:
        _check_refusal(refused)
        return "refused"
    amounts = (answer.unit_price, answer.net, answer.gross)
    if judgement.priceable == "manual":
        assert amounts == (None, None, None), amounts
        return "manual"
    for amount in amounts:
        assert amount is not None, answer
        assert amount.is_finite(), answer
        assert amount > 0, answer
    return "priced"


def _check_opinion(opinion: Opinion, judgement: Firmness) -> None:
    """Of a firm price there is no other opinion."""
    msgspec.json.encode(opinion)
    assert opinion.state != "differs" or judgement.priceable != "auto", opinion


def _check_refusal(refused: Refused) -> None:
    assert refused.code.isidentifier(), refused.code
    assert refused.detail, refused.code
    assert refused.remedy, refused.code
    msgspec.json.encode((refused.code, refused.detail, refused.remedy))


def _check_facts(facts: Facts) -> None:
    numbers = (facts.volume, facts.area, *facts.extent)
    assert all(math.isfinite(number) and number >= 0 for number in numbers), facts
    assert facts.facets > 0, facts
    assert facts.bodies is None or facts.bodies >= 0, facts
    # They are kept and shown as text: what cannot be read again would be in the way for ever.
    assert msgspec.json.decode(msgspec.json.encode(facts), type=Facts) == facts, facts


def _work(mutants: Mutants, numbers: range, state: Any, findings: Any, examine: Examine) -> None:
    """Examine mutants in a process of its own; `state` is shared, `findings` the end of a pipe."""
    resource.setrlimit(resource.RLIMIT_AS, (_address_space_bytes() + MEMORY_BYTES, resource.RLIM_INFINITY))
    # Arithmetic that warns was not meant to meet such numbers.
    warnings.simplefilter("error")
    places = {"priced": _PRICED, "manual": _MANUAL, "refused": _REFUSED}
    parent = os.getppid()
    for number in numbers:
        if os.getppid() != parent:  # it was stopped, and nobody would ever read the rest
            return
        state[_NUMBER] = number
        try:
            state[places[examine(mutants.body(number), mutants.random(-number))]] += 1
        except (Exception, RecursionError) as error:
            state[_UNEXPECTED] += 1
            findings.send_bytes(json.dumps([number, _said(error)]).encode())
            if state[_UNEXPECTED] >= FINDINGS_MAX:
                return


def _said(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-2000:]


def _address_space_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def _processor_s(pid: int | None) -> float:
    """Processor time a process has used; 0 when it has just ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Worker:
    """One process and its share of the numbers; replaced, past the mutant it was at, when it fails."""

    def __init__(self, mutants: Mutants, numbers: range, examine: Examine) -> None:
        self._context = multiprocessing.get_context("fork")
        self._mutants, self._numbers, self._examine = mutants, numbers, examine
        self.state = self._context.RawArray(c_int64, [-1, 0, 0, 0, 0])
        self.findings: list[Finding] = []
        self._start(numbers)

    def _start(self, numbers: range) -> None:
        self._receiver, sender = self._context.Pipe(duplex=False)
        arguments = (self._mutants, numbers, self.state, sender, self._examine)
        self._process = self._context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        sender.close()
        self._seen = (-1, monotonic(), 0.0)

    @property
    def ends(self) -> list[Any]:
        """What to wait for: a finding, or the end of the process."""
        return [self._process.sentinel, self._receiver]

    def look(self, hang_s: float) -> bool:
        """Take in what happened; whether there is more to come."""
        self._receive()
        if self._process.is_alive():
            if not self._hangs(hang_s):
                return True
            self._process.kill()
            self._process.join()
            return self._go_on("hang", f"more than {hang_s:g} s")
        self._process.join()
        self._receive()
        return self._process.exitcode != 0 and self._go_on("crash", f"exit code {self._process.exitcode}")

    def _hangs(self, hang_s: float) -> bool:
        """Whether one mutant takes too long; on a busy machine that is not the time on the clock."""
        number, now, processor_s = self.state[_NUMBER], monotonic(), _processor_s(self._process.pid)
        if number != self._seen[0]:
            self._seen = (number, now, processor_s)
        _, since, processor_before_s = self._seen
        return processor_s - processor_before_s > hang_s or now - since > WAITING_FACTOR * hang_s

    def _receive(self) -> None:
        try:
            while self._receiver.poll():
                number, said = json.loads(self._receiver.recv_bytes())
                self.findings.append(Finding("unexpected", number, said))
        except EOFError:
            pass

    def _go_on(self, kind: str, detail: str) -> bool:
        number = self.state[_NUMBER]
        self.findings.append(Finding(kind, number, detail))
        rest = self._numbers[self._numbers.index(number) + 1 :] if number >= 0 else range(0)
        if not rest or len(self.findings) >= FINDINGS_MAX:
            return False
        self._start(rest)
        return True


def run(
    family: str,
    count: int,
    seed: int,
    workers: int = 1,
    hang_s: float = HANG_S,
    examine: Examine = examine,
) -> Tally:
    """Examine `count` mutants of a family."""
    warm()
    import_trimesh()
    mutants = Mutants(family, seed)
    working = [_Worker(mutants, range(first, count, workers), examine) for first in range(workers)]
    all_workers = list(working)
    while working:
        # A finding may wake this early; a mutant is looked at LOOK_EVERY_S apart at most.
        wait([end for worker in working for end in worker.ends], timeout=min(LOOK_EVERY_S, hang_s / 2))
        working = [worker for worker in working if worker.look(hang_s)]
    priced, manual, refused = (
        sum(worker.state[place] for worker in all_workers) for place in (_PRICED, _MANUAL, _REFUSED)
    )
    findings = tuple(finding for worker in all_workers for finding in worker.findings)
    return Tally(family, priced + manual + refused + len(findings), priced, manual, refused, findings)


def keep(tally: Tally, seed: int, folder: Path) -> None:
    """Write the mutants of all findings to files, and say how to make them again."""
    mutants = Mutants(tally.family, seed)
    for finding in tally.findings:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{tally.family}-{seed}-{finding.number}"
        path.write_bytes(mutants.body(finding.number))
        print(
            f"{finding.kind}: --family {tally.family} --seed {seed} --only {finding.number}, kept as {path}"
        )
        print(finding.detail)


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Mutated meshes through analysis, second opinion, judgement and price."
    )
    parser.add_argument("--mutants", type=int, default=1000, help="how many of each family")
    parser.add_argument("--family", choices=[*fuzz_mutations.FAMILIES, "all"], default="all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", type=int, help="examine this one mutant, in this process")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="folder for what went wrong")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """0 when nothing was found."""
    arguments = _arguments(given)
    families = fuzz_mutations.FAMILIES if arguments.family == "all" else (arguments.family,)
    if arguments.only is not None:
        for family in families:
            mutants = Mutants(family, arguments.seed)
            print(examine(mutants.body(arguments.only), mutants.random(-arguments.only)))
        return 0
    found = 0
    for family in families:
        tally = run(family, arguments.mutants, arguments.seed, arguments.workers)
        keep(tally, arguments.seed, arguments.keep)
        print(tally.line(), flush=True)
        found += len(tally.findings)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
