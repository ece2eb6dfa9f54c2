"""Something that is not as it should be, from when it is met until it is over."""

import asyncio
import logging

STEADY_S = 2.0
"""What comes back this soon was never over, as far as the log of the service is concerned."""


class Trouble:
    """What is wrong right now, for `/readyz` and metrics; and two lines in the log, however often it is met:
    one when it begins, one when it is over, with the count between."""

    def __init__(self, logger: logging.Logger, begins: str, ends: str) -> None:
        """What the two lines say."""
        self._logger = logger
        self._begins = begins
        self._ends = ends
        self._count = 0
        self._ending: asyncio.TimerHandle | None = None
        self.error: str | None = None

    def met(self, error: str, cause: BaseException | None = None) -> None:
        """`cause`: of what was unexpected, so that its traceback is logged."""
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        elif self.error is None or not self._count:
            self._logger.warning("%s: %s", self._begins, error, exc_info=cause)
        self._count += 1
        self.error = error

    def over(self) -> None:
        if self.error is None:
            return
        self.error = None
        if self._count:  # else it was so from the start, and nothing was said
            self._ending = asyncio.get_running_loop().call_later(STEADY_S, self._end)

    def _end(self) -> None:
        self._ending = None
        self._logger.info("%s (met %d times)", self._ends, self._count)
        self._count = 0
