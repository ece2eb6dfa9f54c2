"""The service on a machine whose clock is wrong: `python -m tests.skewed_server SECONDS serve ...`."""

import sys
from datetime import datetime, timedelta

from storage.clock import SystemClock


def skew(seconds: float) -> None:
    """From now on the clock of this machine is ahead by so much."""
    right = SystemClock.now

    def now(self: SystemClock) -> datetime:
        return right(self) + timedelta(seconds=seconds)

    SystemClock.now = now  # type: ignore[method-assign]


if __name__ == "__main__":
    skew(float(sys.argv.pop(1)))
    from server.cli import main

    sys.exit(main(sys.argv[1:]))
