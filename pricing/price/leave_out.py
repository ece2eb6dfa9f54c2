"""Bodies of a file that are no metal, as callers name them: `2,5`."""

import re

from pricing.errors import Refused

LEFT_OUT_MAX = 50
"""Bodies left out of one model."""

_ASKED = re.compile(r"[0-9]{1,6}", re.ASCII)


def parse_leave_out(text: str) -> tuple[int, ...]:
    """Numbers of bodies in their order, so that equal wishes are equal; empty text leaves out none.

    Refused `malformed_leave_out`. Whether there are such bodies is known by the model.
    """
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if wrong := [part for part in parts if not _ASKED.fullmatch(part) or not int(part)]:
        raise _malformed(f"{wrong[0][:80]!r} is not the number of a body.")
    bodies = tuple(sorted({int(part) for part in parts}))
    if len(bodies) > LEFT_OUT_MAX:
        raise _malformed(f"{len(bodies)} bodies are left out; at most {LEFT_OUT_MAX} may be.")
    return bodies


def _malformed(detail: str) -> Refused:
    remedy = "Write the numbers from bodies_found of the model, separated by commas: 2,5."
    return Refused("malformed_leave_out", detail, remedy)
