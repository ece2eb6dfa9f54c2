"""Bounds that a test can reach."""

from typing import Any

import msgspec

from storage.bounds import Bounds

SLOW_MACHINE = msgspec.structs.replace(Bounds(), shared_deadline_s=3.0)
"""Several processes of a test share one event loop, and that the machine: a pause is no outage."""


def smaller(**changes: Any) -> Bounds:
    """Bounds with some of them changed, for tests that must reach one."""
    return msgspec.structs.replace(SLOW_MACHINE, **changes)


PATIENT = smaller(shared_deadline_s=10.0, catch_up_s=10.0)
"""For tests in which nothing is away, however slow the machine is."""
