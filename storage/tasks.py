"""Ending tasks for certain."""

import asyncio
from typing import Any

AGAIN_S = 0.5


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel them and wait until they have ended. One that loses its cancellation (Python 3.11 can lose one
    inside `asyncio.wait_for`) is cancelled again."""
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=AGAIN_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen
