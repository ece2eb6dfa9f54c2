"""A bar on a terminal, on one line that is wiped before anything else is written there."""

import shutil
import time
from typing import TextIO

_BAR = 24
"""Characters of the bar itself."""

_REDRAW_S = 0.05
"""Drawn no more often than this: small files come by the hundred in a second."""

_WIPE = "\r\x1b[K"


class ProgressBar:
    """Counts files; silent unless on a terminal."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self._total, self._done, self._stream = total, 0, stream
        self._shown = stream.isatty() and total > 1
        self._drawn_at_s = -_REDRAW_S

    def step(self, name: str) -> None:
        """One more file is done, `name`."""
        self._done += 1
        now_s = time.monotonic()
        if now_s - self._drawn_at_s < _REDRAW_S and self._done < self._total:
            return
        self._drawn_at_s = now_s
        filled = _BAR * self._done // self._total
        text = f"[{'#' * filled}{'.' * (_BAR - filled)}] {self._done}/{self._total} {name}"
        # A line that wraps cannot be wiped.
        self._write(_WIPE + text[: shutil.get_terminal_size().columns - 1])

    def wipe(self) -> None:
        """Make room for other text; the next step draws the bar again."""
        self._write(_WIPE)

    def _write(self, text: str) -> None:
        if self._shown:
            self._stream.write(text)
            self._stream.flush()
