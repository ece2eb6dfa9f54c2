"""The shared clock: right within what was measured, and never backwards."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from storage.clock import DRIFT, SharedClock
from tests.support.stacks import ManualClock

START = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
delays = st.floats(0.0, 2.0)


class Machine:
    """A machine with a clock of its own, and one that it shares."""

    def __init__(self, ahead_s: float) -> None:
        self.own = ManualClock()
        self.own._now += timedelta(seconds=ahead_s)
        self.shared = START
        self.clock = SharedClock(self.own)

    def pass_time(self, seconds: float) -> None:
        self.own.move(seconds)
        self.shared += timedelta(seconds=seconds)

    def measure(self, there_s: float, back_s: float) -> None:
        asked_s = self.own.monotonic_s()
        self.pass_time(there_s)
        said = self.shared
        self.pass_time(back_s)
        self.clock.measured(said, asked_s, self.own.monotonic_s())


@given(st.floats(-1e6, 1e6), st.lists(st.tuples(delays, delays), min_size=1, max_size=20))
def test_it_is_right_within_half_of_the_shortest_way(ahead_s: float, ways: list[tuple[float, float]]) -> None:
    machine = Machine(ahead_s)
    for way in ways:
        machine.measure(*way)
    wrong_s = abs((machine.clock.now() - machine.shared).total_seconds())
    shortest_s = min(sum(way) for way in ways)
    assert wrong_s <= shortest_s / 2 + DRIFT * sum(map(sum, ways)) + 1e-5
    assert abs(machine.clock.difference_s - ahead_s) <= wrong_s + 1e-5


steps = st.tuples(st.floats(0.0, 100.0), st.floats(-1e4, 1e4))


@given(st.floats(-1e6, 1e6), st.lists(steps, max_size=20))
def test_it_never_goes_backwards_whatever_is_shared_next(
    ahead_s: float, changes: list[tuple[float, float]]
) -> None:
    machine = Machine(ahead_s)
    machine.measure(0.0, 0.0)
    moments = [machine.clock.now()]
    for passed_s, set_by_s in changes:
        machine.pass_time(passed_s)
        machine.shared += timedelta(seconds=set_by_s)  # as after a failover
        moments.append(machine.clock.now())
        machine.measure(0.001, 0.001)
        moments.append(machine.clock.now())
    assert moments == sorted(moments)


def test_a_clock_that_was_ahead_goes_on_at_half_speed_until_it_is_right() -> None:
    machine = Machine(0.0)
    machine.measure(0.0, 0.0)
    before = machine.clock.now()
    machine.shared -= timedelta(seconds=60)
    machine.measure(0.0, 0.0)
    machine.pass_time(10.0)
    assert machine.clock.now() - before == timedelta(seconds=5)
    machine.pass_time(120.0)
    machine.clock.now()
    assert abs((machine.clock.now() - machine.shared).total_seconds()) < 1e-5


def test_without_a_shared_clock_it_is_this_machines_own() -> None:
    machine = Machine(7.0)
    assert machine.clock.now() == machine.own.now()
    assert machine.clock.difference_s == 0.0
