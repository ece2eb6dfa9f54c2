"""Settings: the one place that reads the environment. Each has a name, a default, a unit and a meaning."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")


class ConfigError(Exception):
    """A setting that cannot be used, in one line."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    port: int
    data_dir: Path
    database_url: str
    redis_url: str
    redis_prefix: str
    allow_open_servers: bool
    admin_token: str
    workers: int
    public_url: str
    log_format: str
    log_level: str
    access_log: bool
    metrics_protected: bool
    model_workers: int
    upload_bytes_max: int
    model_files_bytes: int
    model_files_days: float
    backlog_entries: int
    backlog_bytes: int
    local_bytes: int
    keepalive_s: float
    drain_s: float
    grace_s: float

    @property
    def uses_redis(self) -> bool:
        return bool(self.redis_url)

    @property
    def uses_postgresql(self) -> bool:
        return self.database_url.startswith(POSTGRESQL)

    @property
    def is_public_over_tls(self) -> bool:
        return self.public_url.startswith("https://")

    @property
    def lets_many_serve(self) -> bool:
        """Whether several processes may serve at the same time."""
        return self.uses_redis and self.uses_postgresql


POSTGRESQL = ("postgresql://", "postgres://")


class Setting(NamedTuple):
    field: str
    variable: str
    default: str
    unit: str
    meaning: str
    parse: Callable[[str], Any]
    secret: bool = False


def _text(value: str) -> str:
    return value


def _prefix(value: str) -> str:
    if not _PREFIX.fullmatch(value):
        raise ValueError("use letters, digits, dots, dashes and underscores")
    return value


def _flag(value: str) -> bool:
    if value.lower() in ("1", "true", "yes", "on"):
        return True
    if value.lower() in ("", "0", "false", "no", "off"):
        return False
    raise ValueError("use 1 or 0")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(value)

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    return _number("seconds", low, high)


def _number(unit: str, low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not low <= number <= high:
            raise ValueError(f"must be a number of {unit} from {low:g} to {high:g}")
        return number

    return parse


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return value

    return parse


SETTINGS = (
    Setting("host", "FACET_HOST", "127.0.0.1", "address", "Where to listen.", _text),
    Setting("port", "FACET_PORT", "8080", "port", "0 takes a free one.", _whole(0, 65535)),
    Setting("data_dir", "FACET_DATA_DIR", "./data", "path", "Database, log and models live here.", Path),
    Setting(
        "database_url",
        "FACET_DATABASE_URL",
        "",
        "URL",
        "Empty: SQLite in the data directory (`sqlite:///DATA_DIR/facet.db`). Else `postgresql://...`.",
        _text,
        secret=True,
    ),
    Setting(
        "redis_url",
        "FACET_REDIS_URL",
        "",
        "URL",
        "Empty: no Redis, one process. Else `redis://`, `rediss://`, `unix://`, `redis+sentinel://` or"
        " `redis+cluster://`.",
        _text,
        secret=True,
    ),
    Setting(
        "redis_prefix",
        "FACET_REDIS_PREFIX",
        "facet",
        "name",
        "What the names of all keys in Redis begin with, in braces.",
        _prefix,
    ),
    Setting(
        "allow_open_servers",
        "FACET_ALLOW_OPEN_SERVERS",
        "0",
        "0 | 1",
        "1: Redis and PostgreSQL on other machines may be used without a password, or with the default one.",
        _flag,
    ),
    Setting(
        "admin_token",
        "FACET_ADMIN_TOKEN",
        "",
        "secret",
        "When set, a token of role `admin` with this secret is valid.",
        _text,
        secret=True,
    ),
    Setting(
        "workers",
        "FACET_WORKERS",
        "1",
        "processes",
        "More than one needs Redis and PostgreSQL.",
        _whole(1, 64),
    ),
    Setting(
        "public_url",
        "FACET_PUBLIC_URL",
        "",
        "URL",
        "How customers reach the service, for links. Empty: the address of the request, which the log says"
        " each time. With `https://` the cookie of the pages is `Secure`.",
        _text,
    ),
    Setting(
        "log_format",
        "FACET_LOG_FORMAT",
        "auto",
        "text | json | auto",
        "auto: JSON unless standard error is a terminal.",
        _one_of("auto", "text", "json"),
    ),
    Setting(
        "log_level",
        "FACET_LOG_LEVEL",
        "info",
        "level",
        "debug, info, warning or error.",
        _one_of("debug", "info", "warning", "error"),
    ),
    Setting(
        "access_log",
        "FACET_ACCESS_LOG",
        "0",
        "0 | 1",
        "A line per request. Costs about as much as a cached answer does.",
        _flag,
    ),
    Setting(
        "metrics_protected",
        "FACET_METRICS_PROTECTED",
        "0",
        "0 | 1",
        "1: `/metrics` needs a token of role `admin`.",
        _flag,
    ),
    Setting(
        "model_workers",
        "FACET_MODEL_WORKERS",
        "2",
        "processes",
        "Worker processes that read models.",
        _whole(1, 64),
    ),
    Setting(
        "upload_bytes_max",
        "FACET_UPLOAD_BYTES_MAX",
        "134217728",
        "bytes",
        "The largest model accepted.",
        _whole(1024, 2**33),
    ),
    Setting(
        "model_files_bytes",
        "FACET_MODEL_FILES_BYTES",
        "10737418240",
        "bytes",
        "Kept model files, all together; the least recently requested go first.",
        _whole(2**20, 2**46),
    ),
    Setting(
        "model_files_days",
        "FACET_MODEL_FILES_DAYS",
        "730",
        "days",
        "How long a model file is kept after its last request. Its facts and prices stay.",
        _number("days", 1 / 24, 36_500),
    ),
    Setting(
        "backlog_entries",
        "FACET_BACKLOG_ENTRIES",
        "100000",
        "entries",
        "Acknowledged changes the database may lack before writes are answered 503.",
        _whole(500, 10_000_000),
    ),
    Setting(
        "backlog_bytes",
        "FACET_BACKLOG_BYTES",
        "134217728",
        "bytes",
        "The same bound in bytes.",
        _whole(2**20, 2**36),
    ),
    Setting(
        "local_bytes",
        "FACET_LOCAL_BYTES",
        "134217728",
        "bytes",
        "Orders held in this process.",
        _whole(2**20, 2**36),
    ),
    Setting(
        "keepalive_s",
        "FACET_KEEPALIVE_S",
        "75",
        "seconds",
        "An idle connection, or one that does not finish its request's headers, is closed after this.",
        _seconds(1, 3600),
    ),
    Setting(
        "drain_s",
        "FACET_DRAIN_S",
        "30",
        "seconds",
        "How long a stop waits for the database to take what it lacks; the log keeps the rest.",
        _seconds(0, 3600),
    ),
    Setting(
        "grace_s",
        "FACET_GRACE_S",
        "2",
        "seconds",
        "With Redis and PostgreSQL: how long a stopping process still answers on the connections it has, each"
        " time with `Connection: close`.",
        _seconds(0, 3600),
    ),
)


def load(environment: Mapping[str, str] | None = None, **flags: str | None) -> Settings:
    """Flags win over the environment, the environment over defaults. Raises ConfigError."""
    environment = os.environ if environment is None else environment
    _refuse_unknown(environment)
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        given = flags.get(setting.field)
        text = given if given is not None else _from_environment(setting, environment)
        name = f"--{setting.field.replace('_', '-')}" if given is not None else setting.variable
        try:
            values[setting.field] = setting.parse(text)
        except ValueError as error:
            shown = "" if setting.secret else f" {text!r}"
            raise ConfigError(f"{name}{shown}: {error}") from None
    settings = Settings(**values)
    _refuse_unsupported(settings)
    return settings


def hand_on(settings: Settings, *fields: str) -> None:
    """Put some of the settings into the environment, for the processes that this one starts."""
    for setting in SETTINGS:
        if setting.field in fields:
            os.environ[setting.variable] = str(getattr(settings, setting.field))
            os.environ.pop(f"{setting.variable}_FILE", None)


def _from_environment(setting: Setting, environment: Mapping[str, str]) -> str:
    file = environment.get(f"{setting.variable}_FILE", "") if setting.secret else ""
    if not file:
        return environment.get(setting.variable, "") or setting.default
    if environment.get(setting.variable):
        raise ConfigError(f"{setting.variable} and {setting.variable}_FILE are both set: use one")
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{setting.variable}_FILE {file}: {error}") from None


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    known = {setting.variable for setting in SETTINGS}
    known |= {f"{setting.variable}_FILE" for setting in SETTINGS if setting.secret}
    for name in environment:
        if name.startswith("FACET_") and not name.startswith("FACET_TEST_") and name not in known:
            raise ConfigError(f"{name} is not a setting of Facet: see docs/operations.md")


def _refuse_unsupported(settings: Settings) -> None:
    expected = f"sqlite:///{settings.data_dir}/facet.db"
    if settings.database_url not in ("", expected) and not settings.uses_postgresql:
        raise ConfigError(f"FACET_DATABASE_URL: use postgresql://..., or leave it empty for {expected}")
    if settings.workers != 1 and not settings.lets_many_serve:
        raise ConfigError("FACET_WORKERS: more than one process needs Redis and PostgreSQL")
    if settings.admin_token and len(settings.admin_token) < 16:
        raise ConfigError("FACET_ADMIN_TOKEN: use at least 16 characters")
