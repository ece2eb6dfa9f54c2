"""`/metrics` for Prometheus. Counters live where things happen; they are read at a scrape."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Protocol, get_args

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from pricing.facts import OpinionState
from pricing.pool import FactsPool
from server.jobs.running import Jobs, JobState
from server.observability.disk_check import DiskCheck
from server.observability.loop_monitor import BOUNDS_S, LoopMonitor
from server.observability.storage_metrics import Families, Family, StorageCollector
from storage.services.stack import Storage

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Opinions(Protocol):
    """What is counted where models are held against another program's opinion."""

    outcomes: Counter[str]

    @property
    def lag_s(self) -> float: ...


class Hot(Protocol):
    """What counts its answers."""

    answered: int


class Metrics:
    """Counts requests and renders everything."""

    def __init__(
        self,
        storage: Storage,
        pool: FactsPool,
        opinions: Opinions,
        jobs: Jobs,
        monitor: LoopMonitor,
        machine: DiskCheck,
        hot: Hot | None,
    ) -> None:
        """`hot`: what counts answers ahead of the parser."""
        self._registry = CollectorRegistry()
        self.durations: dict[tuple[str, str], Durations] = {}
        self.requests: dict[tuple[str, str, int], int] = {}
        self._registry.register(StorageCollector(storage))
        self._registry.register(
            Families(
                *_families(pool, jobs, monitor, machine),
                *_of_opinions(opinions),
                *self._of_requests(),
                Family(
                    CounterMetricFamily,
                    "facet_http_hot_answers",
                    (),
                    lambda: [((), 0 if hot is None else hot.answered)],
                ),
            )
        )

    def observer(self, route: str, method: str) -> Callable[[int, float], None]:
        """Called with the status and the seconds of each request of a route."""
        durations = self.durations.setdefault((route, method), Durations())
        requests, counts = self.requests, durations.counts

        def observed(status: int, seconds: float) -> None:
            key = (route, method, status)
            requests[key] = requests.get(key, 0) + 1
            counts[bisect_left(BUCKETS_S, seconds)] += 1
            durations.sum_s += seconds

        return observed

    def _of_requests(self) -> list[Family]:
        return [
            Family(
                CounterMetricFamily,
                "facet_http_requests",
                ("route", "method", "status"),
                self.requests.items,
            ),
            Family(
                HistogramMetricFamily,
                "facet_http_request_duration_seconds",
                ("route", "method"),
                lambda: ((labels, each.cumulative(), each.sum_s) for labels, each in self.durations.items()),
            ),
        ]

    def render(self) -> bytes:
        return generate_latest(self._registry)


class Durations:
    """Requests by how long they took, of one route: `counts` by the bucket they fall into, the last one for
    those slower than every bound."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def cumulative(self) -> list[tuple[str, float]]:
        return cumulative(BUCKETS_S, self.counts)


def cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """As Prometheus wants them: how many took at most this long."""
    return list(zip([*map(str, bounds), "+Inf"], map(float, accumulate(counts)), strict=True))


def _of_opinions(opinions: Opinions) -> list[Family]:
    outcomes = get_args(OpinionState)
    return [
        Family(GaugeMetricFamily, "facet_verification_lag_seconds", (), lambda: [((), opinions.lag_s)]),
        Family(
            CounterMetricFamily,
            "facet_verifications",
            ("outcome",),
            lambda: (((outcome,), opinions.outcomes[outcome]) for outcome in outcomes),
        ),
    ]


def _families(pool: FactsPool, jobs: Jobs, monitor: LoopMonitor, disk: DiskCheck) -> list[Family]:
    # All ways from the beginning: a series that appears with its first event hides that event.
    files, states = ("read", "refused", "stopped", "busy"), (JobState.DONE, JobState.FAILED)
    held = (("clock", monitor.by_clock), ("processor", monitor.by_processor))
    return [
        Family(GaugeMetricFamily, "facet_disk_up", (), lambda: [((), 0.0 if disk.error else 1.0)]),
        Family(GaugeMetricFamily, "facet_files_outstanding", (), lambda: [((), pool.outstanding)]),
        Family(GaugeMetricFamily, "facet_jobs_running", (), lambda: [((), jobs.running)]),
        Family(
            CounterMetricFamily,
            "facet_files",
            ("outcome",),
            lambda: (((way,), pool.ended.get(way, 0)) for way in files),
        ),
        Family(
            CounterMetricFamily,
            "facet_jobs",
            ("state",),
            lambda: (((state,), jobs.ended.get(state, 0)) for state in states),
        ),
        Family(
            HistogramMetricFamily,
            "facet_event_loop_held_seconds",
            ("by",),
            lambda: (((by,), cumulative(BOUNDS_S, each.counts), each.sum_s) for by, each in held),
        ),
    ]


METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)
