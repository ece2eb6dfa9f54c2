"""`/metrics` for Prometheus. Counters live where things happen; they are read at a scrape."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pricing.pool import FactsPool
from server.jobs.running import Jobs, JobState
from server.observability.disk_check import DiskCheck
from server.observability.loop_monitor import BOUNDS_S, Held, LoopMonitor
from server.observability.storage_metrics import LABELLED, StorageCollector
from storage.services.stack import Storage

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counts requests and renders everything."""

    def __init__(
        self, storage: Storage, pool: FactsPool, jobs: Jobs, monitor: LoopMonitor, machine: DiskCheck
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_MachineCollector(machine))
        self._registry.register(StorageCollector(storage))
        self._registry.register(_WorkCollector(pool, jobs))
        self._registry.register(_LoopCollector(monitor))
        self._registry.register(_RequestCollector(self))
        self.durations: dict[tuple[str, str], Durations] = {}
        self.requests: dict[tuple[str, str, int], int] = {}

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


class _MachineCollector(Collector):
    def __init__(self, machine: DiskCheck) -> None:
        self._machine = machine

    def collect(self) -> Iterator[Metric]:
        name = "facet_disk_up"
        yield GaugeMetricFamily(name, LABELLED[name], 0.0 if self._machine.error else 1.0)


class _RequestCollector(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        name = "facet_http_requests"
        family = CounterMetricFamily(name, LABELLED[name], labels=("route", "method", "status"))
        for (route, method, status), count in self._metrics.requests.items():
            family.add_metric((route, method, str(status)), count)
        yield family
        yield self._durations()

    def _durations(self) -> Metric:
        name = "facet_http_request_duration_seconds"
        family = HistogramMetricFamily(name, LABELLED[name], labels=("route", "method"))
        for labels, durations in self._metrics.durations.items():
            family.add_metric(labels, durations.cumulative(), durations.sum_s)
        return family


class _WorkCollector(Collector):
    """What takes its time: files in the workers, jobs."""

    def __init__(self, pool: FactsPool, jobs: Jobs) -> None:
        self._pool = pool
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        for name, now in (
            ("facet_files_outstanding", self._pool.outstanding),
            ("facet_jobs_running", self._jobs.running),
        ):
            yield GaugeMetricFamily(name, LABELLED[name], value=now)
        yield self._ended("facet_files", "outcome", ("read", "refused", "stopped", "busy"), self._pool.ended)
        yield self._ended("facet_jobs", "state", (JobState.DONE, JobState.FAILED), self._jobs.ended)

    def _ended(self, name: str, label: str, ways: Sequence[str], counts: Mapping[Any, int]) -> Metric:
        family = CounterMetricFamily(name, LABELLED[name], labels=(label,))
        for way in ways:  # from the beginning: a series that appears with its first event hides that event
            family.add_metric((str(way),), counts.get(way, 0))
        return family


class _LoopCollector(Collector):
    def __init__(self, monitor: LoopMonitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        name = "facet_event_loop_held_seconds"
        family = HistogramMetricFamily(name, LABELLED[name], labels=("by",))
        for by, held in self._held().items():
            family.add_metric((by,), cumulative(BOUNDS_S, held.counts), held.sum_s)
        yield family

    def _held(self) -> dict[str, Held]:
        return {"clock": self._monitor.by_clock, "processor": self._monitor.by_processor}


METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)
