"""What several commands share. Like the command line itself it imports nothing heavy."""

import argparse
import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from server.config import Settings

Command = Callable[["Settings", argparse.Namespace], int]


def add_data(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data-dir", help="data directory (./data)")


def through_control(settings: "Settings", act: Callable[[Any], Any], *, running_only: bool = False) -> int:
    from server.observability.logs import configure
    from server.process.control import control

    async def run() -> None:
        async with control(settings, running_only=running_only) as connected:
            await act(connected)

    configure(settings)
    asyncio.run(run())
    return 0
