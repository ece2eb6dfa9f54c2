"""Settings: the one place that reads the environment. Each has a name, a default, a unit and a meaning."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import msgspec

_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,64}")


class ConfigError(Exception):
    """A setting that cannot be used, in one line."""


POSTGRESQL = ("postgresql://", "postgres://")


class Setting(NamedTuple):
    """How a setting is given, and what it means. `field`: of `Settings`; `variable`: of the environment."""

    default: str
    unit: str
    meaning: str
    parse: Callable[[str], Any]
    secret: bool = False
    field: str = ""
    variable: str = ""


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


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    host: Annotated[str, Setting("127.0.0.1", "address", "Where to listen.", _text)]
    port: Annotated[int, Setting("8080", "port", "0 takes a free one.", _whole(0, 65535))]
    data_dir: Annotated[Path, Setting("./data", "path", "Database, log and models live here.", Path)]
    database_url: Annotated[
        str,
        Setting(
            "",
            "URL",
            "Empty: SQLite in the data directory (`sqlite:///DATA_DIR/facet.db`). Else `postgresql://...`.",
            _text,
            secret=True,
        ),
    ]
    redis_url: Annotated[
        str,
        Setting(
            "",
            "URL",
            "Empty: no Redis, one process. Else `redis://`, `rediss://`, `unix://`, `redis+sentinel://` or"
            " `redis+cluster://`.",
            _text,
            secret=True,
        ),
    ]
    redis_prefix: Annotated[
        str, Setting("facet", "name", "What the names of all keys in Redis begin with, in braces.", _prefix)
    ]
    allow_open_servers: Annotated[
        bool,
        Setting(
            "0",
            "0 | 1",
            "1: Redis and PostgreSQL on other machines may be used without a password, or with the"
            " default one.",
            _flag,
        ),
    ]
    admin_token: Annotated[
        str,
        Setting(
            "", "secret", "When set, a token of role `admin` with this secret is valid.", _text, secret=True
        ),
    ]
    workers: Annotated[
        int, Setting("1", "processes", "More than one needs Redis and PostgreSQL.", _whole(1, 64))
    ]
    public_url: Annotated[
        str,
        Setting(
            "",
            "URL",
            "How customers reach the service, for links. Empty: the address of the request, which the log"
            " says"
            " each time. With `https://` the cookie of the pages is `Secure`.",
            _text,
        ),
    ]
    log_format: Annotated[
        str,
        Setting(
            "auto",
            "text | json | auto",
            "auto: JSON unless standard error is a terminal.",
            _one_of("auto", "text", "json"),
        ),
    ]
    log_level: Annotated[
        str,
        Setting(
            "info", "level", "debug, info, warning or error.", _one_of("debug", "info", "warning", "error")
        ),
    ]
    access_log: Annotated[
        bool, Setting("0", "0 | 1", "A line per request. Costs about as much as a cached answer does.", _flag)
    ]
    hot_path: Annotated[
        bool,
        Setting(
            "1",
            "0 | 1",
            "What was answered before is answered ahead of aiohttp's parser. Not with an access log.",
            _flag,
        ),
    ]
    metrics_protected: Annotated[
        bool, Setting("0", "0 | 1", "1: `/metrics` needs a token of role `admin`.", _flag)
    ]
    model_workers: Annotated[
        int, Setting("2", "processes", "Worker processes that read models.", _whole(1, 64))
    ]
    upload_bytes_max: Annotated[
        int, Setting("134217728", "bytes", "The largest model accepted.", _whole(1024, 2**33))
    ]
    model_files_bytes: Annotated[
        int,
        Setting(
            "10737418240",
            "bytes",
            "Kept model files, all together; the least recently requested go first.",
            _whole(2**20, 2**46),
        ),
    ]
    model_files_days: Annotated[
        float,
        Setting(
            "730",
            "days",
            "How long a model file is kept after its last request. Its facts and prices stay.",
            _number("days", 1 / 24, 36_500),
        ),
    ]
    backlog_entries: Annotated[
        int,
        Setting(
            "100000",
            "entries",
            "Acknowledged changes the database may lack before writes are answered 503.",
            _whole(500, 10_000_000),
        ),
    ]
    backlog_bytes: Annotated[
        int, Setting("134217728", "bytes", "The same bound in bytes.", _whole(2**20, 2**36))
    ]
    local_bytes: Annotated[
        int, Setting("134217728", "bytes", "Orders held in this process.", _whole(2**20, 2**36))
    ]
    keepalive_s: Annotated[
        float,
        Setting(
            "75",
            "seconds",
            "An idle connection, or one that does not finish its request's headers, is closed after this.",
            _seconds(1, 3600),
        ),
    ]
    drain_s: Annotated[
        float,
        Setting(
            "30",
            "seconds",
            "How long a stop waits for the database to take what it lacks; the log keeps the rest.",
            _seconds(0, 3600),
        ),
    ]
    grace_s: Annotated[
        float,
        Setting(
            "2",
            "seconds",
            "With Redis and PostgreSQL: how long a stopping process still answers on the connections it has,"
            " each"
            " time with `Connection: close`.",
            _seconds(0, 3600),
        ),
    ]

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


SETTINGS = tuple(
    setting._replace(field=field.name, variable=f"FACET_{field.name.upper()}")
    for field in msgspec.structs.fields(Settings)
    for setting in get_args(field.type)[1:]
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
