"""Settings: what each may be, where it comes from, and that a mistake is one line that names it."""

from pathlib import Path

import msgspec
import pytest

from server.config import SETTINGS, ConfigError, Settings, load

SECRET = "a-secret-of-enough-characters"


def test_without_anything_every_setting_has_its_default() -> None:
    settings = load({})
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8080, 1)
    assert settings.data_dir == Path("./data")
    assert settings.upload_bytes_max == 128 * 2**20


def test_every_field_has_one_setting_and_every_setting_a_meaning() -> None:
    fields = {field.name for field in msgspec.structs.fields(Settings)} - {"demo"}
    assert [setting.field for setting in SETTINGS if setting.field in fields] == [s.field for s in SETTINGS]
    assert len({setting.variable for setting in SETTINGS}) == len(SETTINGS) == len(fields)
    for setting in SETTINGS:
        assert setting.variable == f"FACET_{setting.field.upper()}"
        assert setting.unit
        assert setting.meaning
        setting.parse(setting.default)


def test_flags_win_over_the_environment_and_that_over_defaults() -> None:
    assert load({"FACET_PORT": "1"}).port == 1
    assert load({"FACET_PORT": "1"}, port="2").port == 2
    assert load({"FACET_PORT": ""}).port == 8080


def test_a_secret_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    assert load({"FACET_ADMIN_TOKEN_FILE": str(file)}).admin_token == SECRET


WRONG: list[tuple[dict[str, str], str]] = [
    ({"FACET_PORT": "65536"}, "FACET_PORT"),
    ({"FACET_PORT": "-1"}, "FACET_PORT"),
    ({"FACET_PORT": "http"}, "FACET_PORT"),
    ({"FACET_PORT": "٨٠"}, "FACET_PORT"),
    ({"FACET_PORT": "9" * 5_000}, "FACET_PORT"),
    ({"FACET_WORKERS": "0"}, "FACET_WORKERS"),
    ({"FACET_WORKERS": "2"}, "FACET_WORKERS"),
    ({"FACET_KEEPALIVE_S": "nan"}, "FACET_KEEPALIVE_S"),
    ({"FACET_KEEPALIVE_S": "inf"}, "FACET_KEEPALIVE_S"),
    ({"FACET_DRAIN_S": "-1"}, "FACET_DRAIN_S"),
    ({"FACET_LOG_LEVEL": "loud"}, "FACET_LOG_LEVEL"),
    ({"FACET_ACCESS_LOG": "maybe"}, "FACET_ACCESS_LOG"),
    ({"FACET_UPLOAD_BYTES_MAX": "1 GB"}, "FACET_UPLOAD_BYTES_MAX"),
    ({"FACET_BACKLOG_ENTRIES": "499"}, "FACET_BACKLOG_ENTRIES"),
    ({"FACET_REDIS_PREFIX": "a b"}, "FACET_REDIS_PREFIX"),
    ({"FACET_DATABASE_URL": "mysql://x"}, "FACET_DATABASE_URL"),
    ({"FACET_ADMIN_TOKEN": "short"}, "FACET_ADMIN_TOKEN"),
    ({"FACET_ADMIN_TOKEN_FILE": "/nowhere/at/all"}, "FACET_ADMIN_TOKEN_FILE"),
    ({"FACET_ADMIN_TOKEN": SECRET, "FACET_ADMIN_TOKEN_FILE": "/x"}, "FACET_ADMIN_TOKEN"),
    ({"FACET_PROT": "8080"}, "FACET_PROT"),
    ({"FACET_PORT_FILE": "/x"}, "FACET_PORT_FILE"),
]


@pytest.mark.parametrize(("environment", "named"), WRONG, ids=lambda value: str(value)[:40])
def test_a_mistake_is_one_line_that_names_the_setting(environment: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(environment)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_wrong_flag_is_named_as_a_flag() -> None:
    with pytest.raises(ConfigError, match=r"--port '70000': must be a whole number from 0 to 65535"):
        load({}, port="70000")


def test_a_secret_is_never_in_the_message(tmp_path: Path) -> None:
    for environment in (
        {"FACET_ADMIN_TOKEN": "hunter2"},
        {"FACET_DATABASE_URL": "mysql://u:hunter2@h/d"},
    ):
        with pytest.raises(ConfigError) as refused:
            load(environment)
        assert "hunter2" not in str(refused.value)


def test_the_url_of_the_embedded_database_may_be_spelled_out() -> None:
    assert load({"FACET_DATABASE_URL": "sqlite:///data/facet.db", "FACET_DATA_DIR": "data"}).port == 8080


def test_variables_of_the_tests_and_of_others_are_left_alone() -> None:
    assert load({"FACET_TEST_MODELS": "/x", "PORT": "1", "facet_port": "2"}).port == 8080
