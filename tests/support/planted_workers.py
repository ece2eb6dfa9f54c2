"""Faults in workers that read models, planted by name as this module is loaded into the process they are
forked from: TEST_PLANT_WORKERS, for `tests.support.altered_server`."""

import os
from collections.abc import Callable
from typing import Any

from pricing.mesh import analysis, measures
from pricing.readers import read
from pricing.readers.corners import Contents


def _volume_times(factor: float) -> None:
    right = measures.measure

    def wrong(corners: Any) -> measures.Measures:
        found = right(corners)
        return found._replace(signed_volume=found.signed_volume * factor)

    measures.measure = wrong
    analysis.measure = wrong  # type: ignore[attr-defined]


def one_percent_more() -> None:
    """The kernel's volume is one percent too large: columns see it as well."""
    _volume_times(1.01)


def half_a_permille_more() -> None:
    """Less than columns can see."""
    _volume_times(1.0005)


def facet_dropped() -> None:
    """The reader leaves out the last facet."""
    right = read._READERS["stl-binary"]

    def wrong(body: memoryview) -> Contents:
        contents = right(body)
        return contents._replace(corners=contents.corners[:-1])

    read._READERS["stl-binary"] = wrong


FAULTS: dict[str, Callable[[], None]] = {
    fault.__name__: fault for fault in (one_percent_more, half_a_permille_more, facet_dropped)
}
FAULTS[os.environ["TEST_PLANT_WORKERS"]]()
