"""Failures that nobody saw: of a task that nobody waited for, and that nobody asked how it ended."""

UNSEEN = "never retrieved"
"""So asyncio says it, in the log, when such a task is collected."""


def unseen_failures(log: str) -> list[str]:
    """The lines of a process's log that tell of one."""
    return [line for line in log.splitlines() if UNSEEN in line]
