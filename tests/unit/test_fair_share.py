"""Who takes in bodies shares each round of the event loop."""

import asyncio

from storage.memory.fair_share import FairShare


async def test_so_many_bytes_are_taken_in_each_round_first_come_first_served() -> None:
    rounds, taken, looked = FairShare(round_bytes=2), [], 0

    async def upload(name: int) -> None:
        for _ in range(3):
            await rounds.turn(1)
            taken.append((name, looked))

    uploads = [asyncio.create_task(upload(name)) for name in range(4)]
    while not all(task.done() for task in uploads):
        before = len(taken)
        await asyncio.sleep(0)
        looked += 1
        assert len(taken) - before <= 4
    assert sorted(name for name, _ in taken) == sorted(list(range(4)) * 3)
    assert looked >= 6
    assert {name for name, _ in taken[:4]} >= {0, 1}


async def test_who_gives_up_waiting_takes_nothing_from_others() -> None:
    rounds = FairShare(round_bytes=1)
    tasks = [asyncio.create_task(rounds.turn(1)) for _ in range(4)]
    await asyncio.sleep(0)
    first, *others = [task for task in tasks if not task.done()]
    first.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*others)
        await asyncio.wait([first])
    assert len(others) >= 2
    assert first.cancelled()


async def test_one_alone_never_waits_long() -> None:
    rounds = FairShare(round_bytes=10)
    async with asyncio.timeout(5):
        for _ in range(1_000):
            await rounds.turn(7)


async def test_what_one_takes_beyond_a_round_is_made_up_for() -> None:
    rounds, taken = FairShare(round_bytes=2), []

    async def read(name: str, byte_count: int) -> None:
        await rounds.turn(byte_count)
        taken.append(name)

    tasks = [asyncio.create_task(read("large", 10)), asyncio.create_task(read("next", 10))]
    counts = []
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        counts.append(len(taken))
    assert taken == ["large", "next"]
    assert counts.count(1) >= 4
    async with asyncio.timeout(5):
        await rounds.turn(1)
