"""What is in deploy/ fits together and fits the service: settings, metrics, secrets, what Valkey is told."""

import json
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from server.config import SETTINGS, load
from server.demo.private_servers.servers import CommandFailed, ValkeyServer, ask
from server.open_servers import refuse_open_servers
from storage.redis.connection import opened
from storage.redis.endpoint import endpoint_of
from storage.redis.server_check import examine
from tests.support.processes import Clients

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ALERTS: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
PROMETHEUS: dict[str, Any] = yaml.safe_load(
    (DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
)
DASHBOARD: dict[str, Any] = json.loads(
    (DEPLOY / "grafana" / "dashboards" / "facet.json").read_text(encoding="utf-8")
)
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
FACETS = sorted(name for name, service in SERVICES.items() if "build" in service)
SECRET_VARIABLE = re.compile(r"PASSWORD|TOKEN|SECRET|_DATABASE_URL|_REDIS_URL")
EXPOSED = re.compile(r"^# TYPE (facet_\w+) (\w+)$", re.MULTILINE)


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in RULES)
    yield from (target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ()))
    yield from (annotation["expr"] for annotation in DASHBOARD["annotations"]["list"])


def names_of(text: str) -> set[str]:
    return set(re.findall(r"\bfacet_\w+", text))


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """As the script makes them."""
    shutil.copy(DEPLOY / "make-secrets.sh", tmp_path)
    subprocess.run([tmp_path / "make-secrets.sh"], check=True, capture_output=True)
    return tmp_path / "secrets"


# --- Metrics


async def test_every_metric_in_rules_and_dashboards_is_exposed(clients: Clients) -> None:
    await clients.admin.get("/v1/me")
    text = (await clients.nobody.get("/metrics")).raw.decode()
    exposed = set()
    for name, kind in EXPOSED.findall(text):
        exposed |= {f"{name}_bucket", f"{name}_count", f"{name}_sum"} if kind == "histogram" else {name}
    for expression in expressions():
        assert names_of(expression) <= exposed, expression


async def test_every_label_in_rules_and_dashboards_is_one_that_samples_have(clients: Clients) -> None:
    await clients.admin.get("/v1/me")
    text = (await clients.nobody.get("/metrics")).raw.decode()
    labels = set(re.findall(r'[{,](\w+)="', text)) | {"instance", "job", "process"}
    for expression in expressions():
        used = set(re.findall(r'(\w+)(?:=~|!~|!=|=)"', expression))
        for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
            used |= set(re.split(r",\s*", group))
        assert used <= labels, expression


async def test_every_route_in_rules_is_one(clients: Clients) -> None:
    paths = (await clients.nobody.get("/openapi.json")).json["paths"]
    for expression in expressions():
        for pattern in re.findall(r'route=~"([^"]*)"', expression):
            assert any(re.fullmatch(pattern, path) for path in paths), pattern


def test_every_alert_says_what_is_the_matter_and_how_bad_it_is() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert {"summary", "description"} <= set(rule["annotations"]), rule["alert"]


def test_expressions_close_what_they_open() -> None:
    for expression in expressions():
        for left, right in ("()", "[]", "{}"):
            assert expression.count(left) == expression.count(right), expression


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_panels_ask_the_source_that_is_provisioned() -> None:
    folder = DEPLOY / "grafana" / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text(encoding="utf-8"))
    uids = {source["uid"] for source in sources["datasources"]}
    asked = {
        target["datasource"]["uid"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())
    }
    assert asked == uids
    provider = yaml.safe_load((folder / "dashboards" / "facet.yaml").read_text(encoding="utf-8"))[
        "providers"
    ][0]
    mounted = [mount.split(":")[1] for mount in SERVICES["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted


def test_prometheus_and_the_proxy_know_every_facet() -> None:
    (job,) = PROMETHEUS["scrape_configs"]
    targets = [target for config in job["static_configs"] for target in config["targets"]]
    assert targets == [f"{name}:8080" for name in FACETS]
    assert PROMETHEUS["rule_files"] == ["alerts.yml"]
    proxy = (DEPLOY / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8")
    assert re.findall(r"^\s*server (\S+) (\S+)$", proxy, re.MULTILINE) == [
        (name, f"{name}:8080") for name in FACETS
    ]


# --- The compose file


def test_every_variable_of_facet_is_a_setting(secrets: Path) -> None:
    known = {setting.variable for setting in SETTINGS}
    known |= {f"{setting.variable}_FILE" for setting in SETTINGS if setting.secret}
    for text in (file.read_text(encoding="utf-8") for file in DEPLOY.rglob("*") if file.is_file()):
        assert set(re.findall(r"\bFACET_[A-Z_]+", text)) <= known


def test_the_settings_are_accepted_with_the_secrets_that_are_made(secrets: Path) -> None:
    for name in FACETS:
        given = {
            variable: re.sub(r"\$\{\w+:-(.*)\}", r"\1", str(value)).replace("/run/secrets", str(secrets))
            for variable, value in SERVICES[name]["environment"].items()
        }
        settings = load(given)
        refuse_open_servers(settings)
        assert settings.uses_redis
        assert settings.uses_postgresql


def test_each_facet_has_volumes_of_its_own() -> None:
    volumes = [volume for name in FACETS for volume in SERVICES[name]["volumes"]]
    assert len(FACETS) >= 2
    assert [volume.split(":")[1] for volume in volumes] == ["/data", "/machine-code"] * len(FACETS)
    assert len(set(volumes)) == len(volumes)


def test_a_stop_is_given_the_time_it_may_take() -> None:
    for name in FACETS:
        said = SERVICES[name]["environment"]
        drain_s = float(said["FACET_DRAIN_S"]) + float(said["FACET_GRACE_S"])
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= drain_s + 15


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_names_only_what_there_is(name: str) -> None:
    service = SERVICES[name]
    assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
    assert set(service["networks"]) <= set(COMPOSE["networks"])
    for mount in service.get("volumes", ()):
        source = mount.split(":")[0]
        assert source in COMPOSE["volumes"] or (source.startswith("./") and (DEPLOY / source).exists()), mount
    for other, condition in service.get("depends_on", {}).items():
        assert condition == {"condition": "service_healthy"}
        assert "healthcheck" in SERVICES[other] or other in FACETS  # theirs is in the Dockerfile
    for secret in re.findall(r"/run/secrets/(\w+)", json.dumps(service)):
        assert secret in service["secrets"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_bounded_restarted_and_of_a_named_version(name: str) -> None:
    service = SERVICES[name]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert service["restart"] == "unless-stopped"
    assert ":" in service["image"]
    assert not service["image"].endswith(":latest")


def test_nothing_is_published_beyond_this_machine_unless_asked() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(re.match(r"\$\{\w+:-127\.0\.0\.1:", port) for port in published)
    assert COMPOSE["networks"]["data"]["internal"] is True
    assert all(SERVICES[name]["networks"] == ["data"] for name in ("valkey", "postgres"))


def test_what_may_be_chosen_is_in_the_example_with_the_same_default() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    chosen = dict(re.findall(r"(?<!\$)\$\{(\w+):-([^}]*)\}", text))
    lines = (DEPLOY / ".env.example").read_text(encoding="utf-8").splitlines()
    assert chosen == dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


# --- Secrets


def test_no_secret_is_in_the_compose_file() -> None:
    for service in SERVICES.values():
        for variable, value in service.get("environment", {}).items():
            if SECRET_VARIABLE.search(variable):
                assert variable.endswith("_FILE"), variable
                assert str(value).startswith("/run/secrets/"), variable


def test_every_secret_is_made_once_and_for_its_owner(secrets: Path) -> None:
    made = {file.name: file.read_text(encoding="utf-8") for file in secrets.iterdir()}
    assert set(made) == {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert made["postgres_password"].strip() in made["database_url"]
    assert made["valkey_password"].strip() in made["redis_url"]
    subprocess.run([secrets.parent / "make-secrets.sh"], check=True, capture_output=True)
    assert made == {file.name: file.read_text(encoding="utf-8") for file in secrets.iterdir()}
    passwords = [
        made[name] for name in ("postgres_password", "valkey_password", "admin_token", "grafana_password")
    ]
    assert len(set(passwords)) == 4
    assert all(re.fullmatch(r"[0-9a-f]{64}\n", word) for word in passwords)


def test_secrets_go_neither_into_the_image_nor_into_the_repository() -> None:
    assert "deploy" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "secrets/" in (DEPLOY / ".gitignore").read_text(encoding="utf-8").splitlines()


# --- What the servers are


async def test_valkey_as_it_is_configured_keeps_what_is_acknowledged(tmp_path: Path, secrets: Path) -> None:
    lines = (DEPLOY / "valkey" / "valkey.conf").read_text(encoding="utf-8").splitlines()
    given = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    assert given.pop("include") == "/run/secrets/valkey_auth"
    assert given.pop("dir") == cast(str, SERVICES["valkey"]["volumes"][-1]).split(":")[1]
    maxmemory = SERVICES["valkey"]["command"][SERVICES["valkey"]["command"].index("--maxmemory") + 1]
    given["maxmemory"] = maxmemory.removeprefix("${VALKEY_MAXMEMORY:-").removesuffix("}")
    with ValkeyServer(tmp_path / "valkey", settings=given) as server:
        link = await opened(endpoint_of(server.url, "facet", 1.0), 1.0)
        known = await examine(link)
        await link.close()
    assert known.unfit is None
    assert not known.evicts
    assert known.durability.startswith("survives a kill of Redis and power loss")


async def test_valkey_asks_for_the_password_that_is_made(tmp_path: Path, secrets: Path) -> None:
    word, password = (secrets / "valkey_auth").read_text(encoding="utf-8").split()
    with ValkeyServer(tmp_path / "valkey") as server:
        ask(server.port, "CONFIG", "SET", word, password)
        with pytest.raises(CommandFailed):
            ask(server.port, "PING")
        url = (secrets / "redis_url").read_text(encoding="utf-8").strip()
        link = await opened(
            endpoint_of(url.replace("valkey:6379", f"127.0.0.1:{server.port}"), "facet", 1.0), 1.0
        )
        assert await link.call("PING") == b"PONG"
        await link.close()


def test_the_image_runs_as_a_user_of_its_own_and_says_when_it_is_ill() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    words = [line.split(maxsplit=1) for line in lines if line and not line.startswith(("#", " "))]
    said = dict(words)
    assert said["USER"] == "facet"
    assert said["VOLUME"] == "/data"
    assert said["EXPOSE"] == "8080"
    assert "HEALTHCHECK" in said
    copied = {rest.split()[0] for word, rest in words if word == "COPY"}
    assert {"server", "pricing", "storage", "requirements.lock"} == copied
