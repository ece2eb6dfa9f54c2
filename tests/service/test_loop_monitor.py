"""The monitor of the event loop: what holds the loop is seen, and what does not is not."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from server.observability.loop_monitor import (
    BOUNDS_S,
    TICK_S,
    WARNED_S,
    WARNING_EVERY_S,
    Held,
    Hold,
    LoopMonitor,
)
from server.observability.metrics import cumulative
from tests.support.gates import until
from tests.support.workshop import Workshop

HELD_S = 0.05


class Clocks:
    """Both clocks of a monitor, moved by hand."""

    def __init__(self) -> None:
        self.now_s = self.ran_s = 1000.0

    def monitor(self) -> LoopMonitor:
        return LoopMonitor(lambda: self.now_s, lambda: self.ran_s)

    def move(self, now_s: float, ran_s: float = 0.0) -> None:
        self.now_s += now_s
        self.ran_s += ran_s


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
async def monitor(clocks: Clocks) -> AsyncIterator[LoopMonitor]:
    """Its ticks are the test's; the loop's own come long after."""
    monitor = clocks.monitor()
    monitor.start()
    yield monitor
    monitor.stop()


@pytest.fixture
async def real() -> AsyncIterator[LoopMonitor]:
    """With the machine's clocks and the loop's timers."""
    monitor = LoopMonitor()
    monitor.start()
    yield monitor
    monitor.stop()


def above(held: Held, bound_s: float) -> int:
    return sum(held.counts[BOUNDS_S.index(bound_s) + 1 :])


async def ticks(monitor: LoopMonitor, count: int) -> None:
    wanted = sum(monitor.by_clock.counts) + count
    await until(lambda: sum(monitor.by_clock.counts) >= wanted)


def hold_the_loop() -> None:
    until_s = time.thread_time() + HELD_S
    while time.thread_time() < until_s:
        pass


async def test_a_callback_that_computes_for_long_is_seen_by_both_clocks(real: LoopMonitor) -> None:
    await ticks(real, 2)
    real.take_longest()
    asyncio.get_running_loop().call_soon(hold_the_loop)
    await ticks(real, 2)
    longest = real.take_longest()
    assert longest.clock_s >= HELD_S - 2 * TICK_S
    assert HELD_S - 2 * TICK_S <= longest.processor_s <= longest.clock_s
    assert above(real.by_processor, 0.02) == 1
    assert above(real.by_clock, 0.02) >= 1


async def test_a_loop_that_waits_is_not_held(real: LoopMonitor) -> None:
    """By its own doing: a busy machine may keep the whole process waiting."""
    await ticks(real, 40)
    assert above(real.by_processor, 0.02) == 0


async def test_the_longest_is_told_once(clocks: Clocks, monitor: LoopMonitor) -> None:
    clocks.move(TICK_S + 0.03, 0.03)
    monitor.tick()
    clocks.move(TICK_S + 0.02, 0.0)
    monitor.tick()
    assert monitor.take_longest() == pytest.approx(Hold(0.03, 0.03))
    assert monitor.take_longest() == Hold(0.0, 0.0)


async def test_waiting_for_the_machine_is_told_apart_from_holding_the_loop(
    clocks: Clocks, monitor: LoopMonitor
) -> None:
    clocks.move(TICK_S + 0.4, 0.004)
    monitor.tick()
    assert monitor.take_longest() == pytest.approx(Hold(0.4, 0.004))


async def test_work_in_pieces_holds_nothing(clocks: Clocks, monitor: LoopMonitor) -> None:
    """A thread that ran all the time between two ticks, and looked at its timers in time."""
    for _ in range(10):
        clocks.move(TICK_S, TICK_S)
        monitor.tick()
    assert monitor.take_longest() == pytest.approx(Hold(0.0, 0.0))
    assert (above(monitor.by_clock, 0.001), above(monitor.by_processor, 0.001)) == (0, 0)


async def test_a_timer_that_comes_early_counts_as_in_time(clocks: Clocks, monitor: LoopMonitor) -> None:
    clocks.move(TICK_S / 2)
    monitor.tick()
    assert monitor.by_clock.sum_s == 0
    assert monitor.by_clock.counts[0] == 1


async def test_each_hold_is_in_the_first_bucket_that_it_fits() -> None:
    held = Held()
    for held_s in (0.0, 0.001, 0.0011, 0.02, 6.0):
        held.add(held_s)
    rows = dict(cumulative(BOUNDS_S, held.counts))
    assert (rows["0.001"], rows["0.0025"], rows["0.01"], rows["0.02"], rows["5"], rows["+Inf"]) == (
        2,
        3,
        3,
        4,
        4,
        5,
    )
    assert held.sum_s == pytest.approx(6.0221)


async def test_the_log_says_at_once_what_held_the_loop_and_not_again_for_a_while(
    clocks: Clocks, monitor: LoopMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        clocks.move(TICK_S + 2 * WARNED_S, WARNED_S)
        monitor.tick()
    assert [line.partition(";")[0] for line in caplog.messages] == [
        "the event loop was held for 200 ms, 100 ms of them by its own work"
    ]
    clocks.move(WARNING_EVERY_S + TICK_S)
    monitor.tick()
    assert "; 2 more since" in caplog.messages[1]
    assert len(caplog.messages) == 2


async def test_a_short_hold_is_not_worth_a_line(
    clocks: Clocks, monitor: LoopMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    clocks.move(TICK_S + WARNED_S * 0.99, WARNED_S)
    monitor.tick()
    assert caplog.messages == []


async def test_a_stopped_monitor_looks_no_more(real: LoopMonitor) -> None:
    await ticks(real, 1)
    real.stop()
    seen = sum(real.by_clock.counts)
    after = asyncio.Event()
    asyncio.get_running_loop().call_later(3 * TICK_S, after.set)
    await after.wait()
    assert sum(real.by_clock.counts) == seen


async def test_the_service_shows_how_its_loop_is_held(workshop: Workshop) -> None:
    async def looks(by: str) -> float:
        lines = (await workshop.nobody.get("/metrics")).raw.decode().splitlines()
        name = f'facet_event_loop_held_seconds_count{{by="{by}"}} '
        (line,) = [line for line in lines if line.startswith(name)]
        return float(line.removeprefix(name))

    before = await looks("processor")
    async with asyncio.timeout(10):
        while await looks("processor") < before + 3:
            pass
    assert await looks("clock") >= before + 3
