"""The bounds of the storage layer that depend on each other or on the installation, with the relations that
must hold between them. Fixed ones stand beside the code they bound. Times in seconds, sizes in bytes.
"""

import msgspec


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    flush_batch_entries: int = 1_000
    """Entries that write-behind applies in one database transaction."""
    flush_interval_s: float = 0.100
    """How long an entry waits for company before write-behind takes it."""
    flush_retry_s: float = 0.050
    """First pause after the database refused a batch; doubles up to `flush_retry_max_s`."""
    flush_retry_max_s: float = 1.0

    flush_silence_s: float = 3.0
    """When entries wait for the database and it has not moved for this long, something is wrong with it."""

    backlog_entries: int = 100_000
    """Acknowledged entries that the database may lack before writes are refused."""
    backlog_bytes: int = 128 * 2**20
    backlog_age_s: float = 3600.0

    log_group_entries: int = 256
    """Entries that share one fsync of the log."""
    log_probe_s: float = 1.0
    """How often a log that failed is asked whether it writes again."""
    log_retention_s: float = 24 * 3600.0
    """How long entries that carry an Idempotency-Key stay in the log after they are flushed."""
    log_trim_entries: int = 5_000
    """Entries removed by one trim, so that trimming never holds up an append for long."""

    local_entries: int = 50_000
    local_bytes: int = 128 * 2**20
    absent_entries: int = 5_000
    """Ids known not to exist; apart from the rest, so that a flood of wrong ids evicts no order."""
    absent_age_s: float = 10.0

    views: int = 256
    """Maintained lists kept at once."""
    views_bytes: int = 128 * 2**20
    view_rows: int = 1_200
    """Rows that a maintained list holds from its beginning."""
    view_rows_min: int = 400
    """A shortened list is loaded again when it holds fewer rows than this and the database has more."""
    view_rows_searched: int = 450
    """Of a list that a text is looked for in: the further one looks, the longer it takes."""
    view_pages: int = 16
    """Encoded pages kept per view."""
    journal_entries: int = 4_096
    """Recent changes kept for views to catch up; an older view is loaded again."""

    warm_orders: int = 1_000
    warm_models: int = 1_000

    models_entries: int = 10_000
    popularity_entries: int = 50_000
    popularity_half_life_s: float = 7 * 86_400.0
    model_queue_entries: int = 2_000
    """Facts and counters waiting for the database. They can be recomputed: the oldest is dropped."""

    model_refusals: int = 1_000
    """Files refused lately; the same bytes are refused again without a look."""
    model_refusal_age_s: float = 60.0
    verification_rest_s: float = 2.0
    """How long the facts of a model rest before they are held against another program's, unless somebody
    waits: what its upload is for comes first."""
    model_turn_s: float = 3.0
    """How long a process that computes facts may be silent before another takes over."""
    model_wait_s: float = 120.0
    """How long a process waits for facts that another computes before it does so as well."""
    model_look_s: float = 0.02
    """First pause before it looks again for what the other found; doubles up to `model_look_max_s`."""
    model_look_max_s: float = 0.2

    take_deadline_s: float = 5.0
    """How long taking an order waits for the database before 503."""
    durability_deadline_s: float = 5.0
    """How long `Prefer: durability=database` waits."""
    log_deadline_s: float = 5.0
    """How long a change waits for the log."""
    drain_deadline_s: float = 30.0
    """How long a stop waits for the database to catch up. The log keeps what is left."""
    catch_up_s: float = 0.250
    """How long a read waits for a position that it must not be older than."""
    positions_waiting: int = 1_000
    """Requests that wait for a position at once; more are told to come back."""
    unknown_token_pause_s: float = 0.010
    """However many unknown tokens are sent: the log's end is asked for on their behalf this often at most."""

    busy_timeout_s: float = 0.200
    """How long SQLite itself waits for a lock before write-behind pauses and tries again."""
    reader_connections: int = 2
    read_deadline_s: float = 5.0

    shared_deadline_s: float = 0.75
    """How long Redis may take to answer before it counts as away; nothing waits longer for it."""
    shared_pause_s: float = 0.05
    """First pause before Redis is tried again; doubles up to `shared_pause_max_s`."""
    shared_pause_max_s: float = 0.5
    shared_idle_s: float = 0.5
    """How long a connection to Redis is left alone: then something is said on it, so that Redis does not end
    it as idle, and what Redis refuses by now, or no longer, is known without a change."""
    shared_grace_s: float = 0.25
    """How long a change waits, when a connection to Redis is lost, whether it is back at once."""
    shared_open_s: float = 5.0
    """How long a start waits for Redis before it continues without."""
    shared_ttl_s: float = 6 * 3600.0
    """How long Redis keeps an order that the database has."""
    shared_fills: int = 1_000
    """Orders waiting to be offered to Redis; more are dropped, they are only copies."""
    shared_waiting: int = 10_000
    """Changes waiting for Redis; more are refused."""
    follow_block_s: float = 0.1
    """How long a read of the log waits at its end for more."""
    follow_entries: int = 500
    """Entries read from the log at once."""
    own_append_s: float = 0.010
    """How long a process that appends at the log's end itself leaves it at that before it reads the log."""
    freshness_s: float = 0.8
    """How old, at most, what is shown may be: since the log's end was last seen."""
    visible_s: float = 0.1
    """How long an accepted change waits to become visible here before it is acknowledged anyway."""
    log_keep_entries: int = 20_000
    """Entries that Redis keeps after they are flushed, so that a process can catch up."""

    log_trim_together: int = 1_000
    """Entries trimmed from Redis at once, so that other commands do not wait long."""
    appends_in_flight: int = 2
    """Groups of changes sent to Redis before the first is answered: it works while the next is made."""

    clock_measure_s: float = 1.0
    """How often the shared clock is looked at."""
    clock_difference_s: float = 300.0
    """From this difference on, of this machine's clock from the shared one, the clock should be set."""
    pulse_s: float = 1.0
    """How often the database is asked whether it answers."""
    pulse_deadline_s: float = 1.0

    lease_s: float = 2.0
    """How long a process that brings the log to the database may be silent before another does."""
    lease_look_s: float = 0.25
    """How often the others look how far the database is, when they are not told."""
    attend_s: float = 1.0
    """How often a process says in the database that it is there."""
    attendance_s: float = 60.0
    """A process silent for this long is forgotten."""
    rebase_patience_s: float = 2.0
    """How long a new epoch of the log waits for what silent processes may still hold."""
    lease_rebase_s: float = 5.0

    number_block: int = 500
    """Order numbers leased from the database at once; a restart leaves a gap of at most two blocks."""
    decide_attempts: int = 5
    """How often a change is decided again because the order moved meanwhile."""
    undo_window_s: float = 30.0

    def __post_init__(self) -> None:
        for name, holds in self._relations().items():
            if not holds:
                raise ValueError(f"bounds: {name} does not hold")

    def _relations(self) -> dict[str, bool]:
        return {
            "flush_batch_entries <= backlog_entries": self.flush_batch_entries <= self.backlog_entries,
            "flush_retry_s <= flush_retry_max_s": self.flush_retry_s <= self.flush_retry_max_s,
            "200 <= view_rows_min < view_rows": 200 <= self.view_rows_min < self.view_rows,
            "view_rows_min < view_rows_searched": self.view_rows_min < self.view_rows_searched,
            "warm_orders <= view_rows": self.warm_orders <= self.view_rows,
            "warm_orders <= local_entries": self.warm_orders <= self.local_entries,
            "warm_models <= models_entries": self.warm_models <= self.models_entries,
            "model_look_max_s < model_turn_s < model_wait_s": self.model_look_max_s
            < self.model_turn_s
            < self.model_wait_s,
            "busy_timeout_s < take_deadline_s": self.busy_timeout_s < self.take_deadline_s,
            "follow_block_s + visible_s < freshness_s": self.follow_block_s + self.visible_s
            < self.freshness_s,
            "freshness_s < 1": self.freshness_s < 1.0,
            "log_group_entries <= journal_entries": self.log_group_entries <= self.journal_entries,
        }
