"""The bodies of a file one by one, numbered in the order of their first facets; and a model without some of
them: a stone that was left in the file is not metal."""

from collections.abc import Sequence

import numpy as np

from pricing.errors import Refused
from pricing.facts import Body
from pricing.mesh.topology import FREE, SHARED, Welded, bodies_of, match_edges, mesh_of, volumes
from pricing.readers.corners import Corners

BODIES_LISTED_MAX = 50
"""Of more bodies the first ones are listed."""


def list_bodies(welded: Welded, corners: Corners) -> tuple[Body, ...]:
    """Those of a file with several; `welded` has all its facets."""
    labels, number = bodies_of(welded.faces, len(welded.places))
    if number <= 1:
        return ()
    mesh = mesh_of(welded, corners)
    facets = np.bincount(labels, minlength=number)
    sums = np.bincount(labels, weights=volumes(mesh), minlength=number)
    partners = match_edges(welded.faces, len(welded.places)).partners
    unpaired = ((partners == FREE) | (partners == SHARED)).any(axis=1)
    opened = np.bincount(labels, weights=unpaired, minlength=number)
    order = np.argsort(labels, kind="stable")
    starts = np.concatenate([[0], np.cumsum(facets)])
    found = []
    for body in range(min(number, BODIES_LISTED_MAX)):
        points = np.asarray(corners[order[starts[body] : starts[body + 1]]], np.float64).reshape(-1, 3)
        lower, upper = points.min(axis=0), points.max(axis=0)
        found.append(
            Body(
                index=body + 1,
                facets=int(facets[body]),
                volume=abs(float(sums[body])),
                lower=(float(lower[0]), float(lower[1]), float(lower[2])),
                upper=(float(upper[0]), float(upper[1]), float(upper[2])),
                closed=not opened[body],
            )
        )
    return tuple(found)


def without_bodies(welded: Welded, corners: Corners, leave_out: Sequence[int]) -> Corners:
    """The facets of the others. Refused `unknown_body`, `no_facets`."""
    labels, number = bodies_of(welded.faces, len(welded.places))
    if beyond := [index for index in leave_out if not 1 <= index <= number]:
        raise Refused(
            "unknown_body",
            f"There is no body {beyond[0]} in the file: it has {number}.",
            "Take the numbers from bodies_found of the model.",
        )
    kept = ~np.isin(labels, np.asarray(leave_out) - 1)
    if not kept.any():
        raise Refused(
            "no_facets", "All bodies of the file are left out.", "Leave out those that are no metal."
        )
    # In the layout that most formats have, for which there is machine code.
    return np.ascontiguousarray(corners[kept], np.float64)
