"""What storage counts, as metrics: read at a scrape."""

import math
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.observability.readiness import backlog_share, database_error
from storage.orders.filters import oldest_first
from storage.orders.order import decode_order
from storage.orders.workflow import ACTIVE
from storage.services.stack import Storage

Sample = Callable[[Storage], float]

GAUGES: dict[str, tuple[str, Sample]] = {
    "facet_log_head_position": ("Newest position of the log.", lambda s: s.tail.head),
    "facet_log_flushed_position": ("Position the database has reached.", lambda s: s.tail.flushed),
    "facet_backlog_entries": ("Acknowledged changes the database lacks.", lambda s: len(s.tail)),
    "facet_backlog_bytes": ("The same in bytes.", lambda s: s.tail.byte_count),
    "facet_backlog_share": ("How full the backlog is, 1 at its bound.", backlog_share),
    "facet_oldest_unpersisted_age_seconds": (
        "Age of the oldest change the database lacks.",
        lambda s: s.tail.age_s,
    ),
    "facet_pending_orders": (
        "Orders whose newest version the database lacks.",
        lambda s: s.tail.pending_orders,
    ),
    "facet_parked_orders": ("Orders that wait for a repair.", lambda s: len(s.tail.parked)),
    "facet_database_up": (
        "1 when the database answers and its last write went through.",
        lambda s: 0.0 if database_error(s) else 1.0,
    ),
    "facet_log_up": (
        "1 when the log can be appended to: with Redis, when Redis is there.",
        lambda s: 0.0 if s.change_log.last_error else 1.0,
    ),
    "facet_log_epoch": ("The epoch of the log, which positions belong to.", lambda s: s.change_log.epoch),
    "facet_log_age_seconds": (
        "How long ago the end of the log was last seen; what is older than a second is not shown as fresh.",
        lambda s: age_s_of(s),
    ),
    "facet_clock_difference_seconds": (
        "How far this machine's clock is ahead of the one that all processes share.",
        lambda s: s.clock.difference_s,
    ),
    "facet_flusher": (
        "1 in the process that brings the log to the database.",
        lambda s: 1.0 if s.lease.held else 0.0,
    ),
    "facet_local_orders": ("Orders in the local tier.", lambda s: len(s.reads.local.lru)),
    "facet_local_bytes": ("Bytes in the local tier.", lambda s: s.reads.local.lru.byte_count),
    "facet_views": ("Maintained lists and counts.", lambda s: len(s.reads.views.lru)),
    "facet_views_bytes": ("Bytes of maintained lists.", lambda s: s.reads.views.lru.byte_count),
    "facet_models": ("Models in the local tier.", lambda s: len(s.models.cache)),
    "facet_models_waiting": ("Model facts on their way to the database.", lambda s: len(s.models.records)),
    "facet_models_outdated": (
        "Models whose kept files are still to be read anew.",
        lambda s: len(s.models.outdated),
    ),
    "facet_models_unverified": (
        "Models that another program has still to be asked about.",
        lambda s: len(s.models.unverified),
    ),
}

COUNTERS: dict[str, tuple[str, Sample]] = {
    "facet_log_entries": ("Entries appended to the log.", lambda s: s.change_log.appended),
    "facet_log_groups": ("Groups of entries that shared one fsync.", lambda s: s.change_log.groups),
    "facet_log_joins": (
        "How often this process began to follow the log.",
        lambda s: s.change_log.status().joins,
    ),
    "facet_log_rebases": (
        "Epochs of the log that this process began.",
        lambda s: s.change_log.status().rebases,
    ),
    "facet_log_replayed_entries": (
        "Entries found in the log that the database lacked when following began.",
        lambda s: s.change_log.replayed,
    ),
    "facet_shared_hits": ("Order reads answered by Redis.", lambda s: s.reads.shared_hits),
    "facet_shared_fills": ("Orders given to Redis for others.", lambda s: s.change_log.status().fills),
    "facet_shared_fills_refused": (
        "Orders that Redis did not take, for it knew of something newer.",
        lambda s: s.change_log.status().fills_refused,
    ),
    "facet_flushed_entries": ("Entries brought to the database.", lambda s: s.write_behind.entries),
    "facet_flushed_batches": ("Batches brought to the database.", lambda s: s.write_behind.batches),
    "facet_flush_failures": ("Batches the database did not take at once.", lambda s: s.write_behind.failures),
    "facet_forks": ("Entries that claimed a version another entry has.", lambda s: s.write_behind.forks),
    "facet_local_hits": ("Order reads answered by the local tier.", lambda s: s.reads.local.lru.hits),
    "facet_local_misses": (
        "Order reads the local tier could not answer.",
        lambda s: s.reads.local.lru.misses,
    ),
    "facet_local_evictions": ("Orders evicted from the local tier.", lambda s: s.reads.local.lru.evictions),
    "facet_refused_fills": ("Loads overtaken by a change.", lambda s: s.reads.local.refused_fills),
    "facet_pending_hits": ("Order reads answered by the pending changes.", lambda s: s.reads.pending_hits),
    "facet_view_hits": ("List reads answered by a maintained list.", lambda s: s.reads.views.lru.hits),
    "facet_view_misses": ("List reads that had to load one.", lambda s: s.reads.views.lru.misses),
    "facet_model_hits": ("Model reads answered by the local tier.", lambda s: s.models.cache.hits),
    "facet_model_misses": ("Model reads the local tier could not answer.", lambda s: s.models.cache.misses),
    "facet_model_shared_hits": ("Model reads answered by a copy in Redis.", lambda s: s.models.shared_hits),
    "facet_model_computations": (
        "Models whose facts were computed.",
        lambda s: s.models.computing.computations,
    ),
    "facet_model_awaited": (
        "Models whose facts another process computed meanwhile.",
        lambda s: s.models.computing.awaited,
    ),
    "facet_model_takeovers": (
        "Computations taken over from another process that ended or failed.",
        lambda s: s.models.computing.takeovers,
    ),
    "facet_model_refusals_remembered": (
        "Uploads refused like the same bytes a moment ago, without a look at them.",
        lambda s: s.models.refusals.hits,
    ),
    "facet_model_absences_remembered": (
        "Unknown hashes answered without asking the database again.",
        lambda s: s.models.absences.hits,
    ),
    "facet_model_records_dropped": (
        "Model records dropped because too many waited.",
        lambda s: s.models.records.dropped,
    ),
}

LABELLED = {
    "facet_database_loads": "Loads from the database, by what was loaded.",
    "facet_disk_up": "1 when files can be written to the data directory.",
    "facet_orders": "Orders, by status.",
    "facet_orders_oldest_age_seconds": "Time the longest waiting order has been in its status.",
    "facet_http_requests": "Requests, by route, method and status.",
    "facet_http_hot_answers": "Requests answered from memory ahead of the parser; counted above as well.",
    "facet_http_request_duration_seconds": "Time to answer, by route and method.",
    "facet_event_loop_held_seconds": (
        "How long the event loop was held, by the clock and by its own processor time."
    ),
    "facet_files_outstanding": "Model files that workers read, or that wait for one.",
    "facet_files": "Model files given to workers, by what came of them: read, refused, stopped, busy.",
    "facet_jobs_running": "Jobs under way.",
    "facet_verification_lag_seconds": "How long the model that waited longest waits for a second opinion.",
    "facet_verifications": "Models that another program was asked about, by its answer.",
    "facet_jobs": "Jobs that ended, by state: done, failed.",
    "facet_worker_up": "1 when the worker answered the scrape, by process (with `FACET_WORKERS` only).",
}


def age_s_of(storage: Storage) -> float:
    age_s = storage.change_log.status().age_s
    return math.inf if age_s is None else age_s


class Family(NamedTuple):
    """One metric with labels. `samples`: the values of its labels, then what its kind wants."""

    kind: Any
    name: str
    labels: tuple[str, ...]
    samples: Callable[[], Iterable[tuple[Any, ...]]]


class Families(Collector):
    """Metrics that are read at a scrape."""

    def __init__(self, *families: Family) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for kind, name, labels, samples in self._families:
            family = kind(name, LABELLED[name], labels=labels)
            for values, *sample in samples():
                family.add_metric(tuple(map(str, values)), *sample)
            yield family


class StorageCollector(Families):
    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        views = storage.reads.views
        super().__init__(
            Family(
                CounterMetricFamily,
                "facet_database_loads",
                ("what",),
                lambda: (((what,), count) for what, count in database_loads(storage).items()),
            ),
            Family(
                GaugeMetricFamily,
                "facet_orders",
                ("status",),
                lambda: (((status,), count) for status, count in views.peek_all_counts().items()),
            ),
            Family(GaugeMetricFamily, "facet_orders_oldest_age_seconds", ("status",), self._oldest),
        )

    def collect(self) -> Iterator[Metric]:
        for name, (meaning, sample) in GAUGES.items():
            yield GaugeMetricFamily(name, meaning, value=sample(self._storage))
        for name, (meaning, sample) in COUNTERS.items():
            yield CounterMetricFamily(name, meaning, value=sample(self._storage))
        yield from super().collect()

    def _oldest(self) -> Iterator[tuple[Any, ...]]:
        """From the maintained lists of the orders that have waited longest: no database read."""
        now = datetime.now(UTC)
        for status in ACTIVE:
            if (body := self._storage.reads.views.peek_first(oldest_first(status))) is not None:
                waited = now - decode_order(body).status_since
                yield (status,), max(0.0, waited.total_seconds())


def database_loads(storage: Storage) -> dict[str, int]:
    return {
        "order": storage.reads.loads["order"],
        "history": storage.reads.loads["history"],
        "reference": storage.reads.loads["reference"],
        "list": storage.reads.views.loads,
        "model": storage.models.loads,
        "quote": storage.quotes.loads,
    }
