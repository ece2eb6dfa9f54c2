"""Functions compiled to machine code by numba: at their first call, and kept on disk for the next process.

Compiled code does arithmetic on arrays and nothing else: it raises nothing, and its callers turn what it
returns into refusals. Globals would be frozen into what is kept, so all it works with is passed to it. What
is kept is thrown away when the function's own file changes, and no other: compiled functions call only those
of their own module.
"""

from collections.abc import Callable
from typing import Any, Literal

from numba import njit
from numba.np import linalg

Function = Callable[..., Any]


def _no_blas() -> None:
    raise ImportError("no compiled function here does linear algebra")


linalg.ensure_blas = _no_blas
"""numba would load scipy's in every process that calls a compiled function: a third of its start."""


def compiled(function: Function) -> Function:
    """Without the interpreter's lock; division by zero gives infinity, as in numpy."""
    return _compiled(function, inline="never")


def inlined(function: Function) -> Function:
    """The same, and put into each caller."""
    return _compiled(function, inline="always")


def _compiled(function: Function, inline: Literal["never", "always"]) -> Function:
    try:
        return njit(function, cache=True, nogil=True, error_model="numpy", inline=inline)
    except RuntimeError:  # nowhere to keep it: every process compiles for itself
        return njit(function, nogil=True, error_model="numpy", inline=inline)
