"""Bounds that a test can reach."""

from typing import Any

import msgspec

from storage.bounds import Bounds


def smaller(**changes: Any) -> Bounds:
    """Bounds with some of them changed, for tests that must reach one."""
    return msgspec.structs.replace(Bounds(), **changes)


PATIENT = smaller(shared_deadline_s=10.0, catch_up_s=10.0)
"""For tests in which nothing is away, however slow the machine is."""
