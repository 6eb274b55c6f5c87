"""docker-compose.yml as far as it can be tried without containers: Compose's own loader, the image's rule for its environment on the real
broker, the real registry, and each service's command against that pair.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from support.brokers import HOST, Broker, cannot_run, listens
from support.commands import TOY_DIGEST
from support.go_tools import go_program

from tutelage.deploy.local.ports import free_ports
from tutelage.deploy.local.programs import StackError, find_java, registry_home
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.group_members import group_members

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
TUTELAGE = Path(sys.executable).parent / "tutelage"
COMPOSE = "github.com/compose-spec/compose-go/v2/cmd@v2.16.2"


def loaded(*files: str | Path) -> dict[str, Any]:
    """What Compose makes of files; AssertionError with what it says if it refuses them."""
    command = [str(go_program(COMPOSE)), "-format", "json", *map(str, files)]
    done = subprocess.run(
        command, cwd=DEPLOY, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The services as Compose sees them."""
    return dict(loaded("docker-compose.yml")["services"])


def test_compose_takes_both_files_and_refuses_what_is_misspelt(tmp_path: Path) -> None:
    alone, together = (
        loaded("docker-compose.yml"),
        loaded("docker-compose.yml", "docker-compose.gpu.yml"),
    )
    assert set(alone["services"]) == set(together["services"])
    for name in ("teacher1", "teacher2"):
        (device,) = together["services"][name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
        assert (
            together["services"][name]["deploy"]["resources"]["limits"]
            == alone["services"][name]["deploy"]["resources"]["limits"]
        )
    assert together["services"]["teacher1"] != together["services"]["teacher2"]
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(
        (DEPLOY / "docker-compose.yml")
        .read_text()
        .replace("    healthcheck:\n", "    healthchek:\n", 1)
    )
    with pytest.raises(AssertionError, match="healthchek"):
        loaded(wrong)


def test_services_are_safe_by_default(compose: dict[str, Any]) -> None:
    for name, service in compose.items():
        # Ours is built here, and has no digest before.
        digest = "" if service["image"].startswith("tutelage:") else r"@sha256:[0-9a-f]{64}"
        assert re.fullmatch(rf"[a-z/-]+:v?\d+\.\d+\.\d+{digest}", service["image"]), (
            f"{name}: {service['image']}"
        )
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == [
            "no-new-privileges:true"
        ], name
        assert service["deploy"]["resources"]["limits"].keys() >= {"cpus", "memory"}, name
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", f"{name} is published to all"
        for other in service.get("depends_on", {}):
            assert compose[other].get("healthcheck"), (
                f"{name} waits for {other}, which has no health check"
            )
        if service["image"].startswith("tutelage"):
            assert service["read_only"] is True, name
        assert not service.get("privileged") and service.get("network_mode") is None, name


def test_who_asks_for_it_is_published_to_more_than_this_machine(tmp_path: Path) -> None:
    # The loader takes no variables; so these are filled in as Compose would.
    text = (DEPLOY / "docker-compose.yml").read_text()
    filled = text.replace("${TUTELAGE_BIND:-127.0.0.1}", "0.0.0.0").replace(
        "${TUTELAGE_ADVERTISED:-localhost}", "big.host"
    )
    assert filled.count("0.0.0.0:$") == text.count("    ports: ")
    (tmp_path / "wide.yml").write_text(filled)
    wide = loaded(tmp_path / "wide.yml")["services"]
    assert {port["host_ip"] for port in wide["kafka"]["ports"]} == {"0.0.0.0"}
    assert "HOST://big.host:9092" in wide["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]


def properties_of(environment: dict[str, Any]) -> dict[str, str]:
    """The broker's properties, by the rule of the image: KAFKA_ away, ___ is -, __ is _, _ is a dot
    (https://github.com/apache/kafka/blob/trunk/docker/examples/README.md)."""
    outside = {
        "KAFKA_HEAP_OPTS",
        "KAFKA_OPTS",
        "KAFKA_JMX_OPTS",
        "KAFKA_JVM_PERFORMANCE_OPTS",
        "KAFKA_LOG4J_OPTS",
    }
    found = {}
    for name, value in environment.items():
        if name.startswith("KAFKA_") and name not in outside:
            key = (
                name.removeprefix("KAFKA_")
                .lower()
                .replace("___", "-")
                .replace("__", "\0")
                .replace("_", ".")
                .replace("\0", "_")
            )
            found[key] = str(value)
    return found


def test_each_listener_is_reached_where_it_is_advertised(compose: dict[str, Any]) -> None:
    properties = properties_of(compose["kafka"]["environment"])
    listens_at, advertised = (
        dict(re.findall(r"(\w+)://([^,]*)", properties[key]))
        for key in ("listeners", "advertised.listeners")
    )
    assert set(advertised) == set(listens_at) - {"CONTROLLER"}
    # Inside the network by the service's name and port; from this machine by what is published.
    assert advertised["INTERNAL"] == "kafka:" + listens_at["INTERNAL"].rpartition(":")[2]
    (port,) = compose["kafka"]["ports"]
    assert advertised["HOST"] == f"localhost:{port['published']}"
    assert str(port["target"]) == listens_at["HOST"].rpartition(":")[2]
    for name, service in compose.items():
        for value in (service.get("environment") or {}).values():
            if re.fullmatch(r"kafka:\d+", str(value)):
                assert value == advertised["INTERNAL"], name


class Pair:
    """The broker and registry of the compose file, as processes; ports and names of containers replaced by ones of this machine."""

    def __init__(self, services: dict[str, Any], folder: Path) -> None:
        self.internal, self.host, controller, self.registry, self.management = free_ports(5)
        self.broker = Broker(folder / "kafka")
        self._replaced = {
            "kafka:19092": f"{HOST}:{self.internal}", "localhost:9092": f"{HOST}:{self.host}", "localhost:29093": f"{HOST}:{controller}",
            "INTERNAL://:19092": f"INTERNAL://{HOST}:{self.internal}", "HOST://:29092": f"HOST://{HOST}:{self.host}",
            "registry:8080": f"{HOST}:{self.registry}", "/var/lib/kafka/data": str(folder / "data"),
        }  # fmt: skip
        properties = {
            key: self.here(value)
            for key, value in properties_of(services["kafka"]["environment"]).items()
        }
        self.broker.start(properties, [self.internal, self.host])
        self._services, self._folder = services, folder
        self._registry: subprocess.Popen[bytes] | None = None
        self.start_registry()

    def here(self, value: str) -> str:
        """A setting with this machine's places in it."""
        for theirs, ours in self._replaced.items():
            value = value.replace(theirs, ours)
        return value

    def start_registry(self) -> None:
        """Start the registry with the service's environment and wait until its own health check says that it is well."""
        given = {
            name: self.here(str(value))
            for name, value in self._services["registry"]["environment"].items()
        }
        given |= {"QUARKUS_HTTP_HOST": HOST, "QUARKUS_MANAGEMENT_HOST": HOST}
        given |= {
            "QUARKUS_HTTP_PORT": str(self.registry),
            "QUARKUS_MANAGEMENT_PORT": str(self.management),
        }
        log = (self._folder / "registry.log").open("ab")
        with log:
            self._registry = subprocess.Popen(
                [find_java(), "-Xmx384m", "-jar", str(registry_home() / "quarkus-run.jar")],
                env={**os.environ, **given}, cwd=self._folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        _, *check = self._services["registry"]["healthcheck"]["test"]
        check = [part.replace("127.0.0.1/9000", f"127.0.0.1/{self.management}") for part in check]
        deadline = time.monotonic() + 120
        while subprocess.run(check, capture_output=True, timeout=10, check=False).returncode:
            assert self._registry.poll() is None, (self._folder / "registry.log").read_text()[
                -2000:
            ]
            assert time.monotonic() < deadline, "the health check never passes"
            time.sleep(0.5)

    def end_registry(self) -> None:
        """End it."""
        if self._registry is not None:
            self._registry.terminate()
            self._registry.wait(30)

    def environment(self, service: str) -> dict[str, str]:
        """A service's environment, here."""
        given = {
            name: self.here(str(value))
            for name, value in self._services[service]["environment"].items()
        }
        return {**os.environ, **given, "PYTHONUNBUFFERED": "1"}

    def begin(self, service: str, cwd: Path, port: int) -> subprocess.Popen[str]:
        """Start a service's command as it stands there, but for the metrics' port."""
        entry = self._services[service].get("entrypoint") or ["tutelage"]
        command = [*entry, *self._services[service]["command"]]
        command = [
            part.replace("0.0.0.0:9404", str(port)).replace("/data", str(cwd)) for part in command
        ]
        command = [
            {"tutelage": str(TUTELAGE), "python": sys.executable}.get(part, part)
            for part in command
        ]
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=self.environment(service),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End both."""
        self.end_registry()
        self.broker.end()


@pytest.fixture(scope="module")
def pair(compose: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """The pair, started once."""
    try:
        made = Pair(compose, tmp_path_factory.mktemp("compose"))
    except StackError as error:
        cannot_run(error)
    try:
        yield made
    finally:
        made.close()


def test_the_broker_answers_at_both_listeners_and_names_them(pair: Pair) -> None:
    for port in (pair.internal, pair.host):
        assert listens(port)
        found = AdminClient({"bootstrap.servers": f"{HOST}:{port}"}).list_topics(timeout=20).brokers
        assert [f"{broker.host}:{broker.port}" for broker in found.values()] == [f"{HOST}:{port}"]


def test_up_runs_the_toy_to_its_end_and_a_second_time(pair: Pair, tmp_path: Path) -> None:
    for attempt in range(2):
        began = {
            name: pair.begin(name, tmp_path, port)
            for name, port in zip(("student", "teacher1", "teacher2"), free_ports(3), strict=True)
        }
        said = {name: process.communicate(timeout=120) for name, process in began.items()}
        for name, process in began.items():
            assert process.returncode == 0, (attempt, name, said[name])
        assert (
            "topic teacher1: holds this run already, and all of it" in said["teacher1"][1]
        ) == bool(attempt)
        assert f"digest {TOY_DIGEST}" in said["student"][0]
        assert "1,000 rows in 16 batches" in said["student"][0]


def test_schemas_are_there_again_after_the_registry_starts_anew(pair: Pair, tmp_path: Path) -> None:
    pair.end_registry()
    pair.start_registry()
    student = pair.begin("student", tmp_path, free_ports(1)[0])
    out, err = student.communicate(timeout=120)
    assert student.returncode == 0, err
    assert f"digest {TOY_DIGEST}" in out


def test_the_services_of_the_profiles_run_too(
    pair: Pair, compose: dict[str, Any], tmp_path: Path
) -> None:
    ports = dict(
        zip(("steady-teacher1", "steady-teacher2", "steady-student"), free_ports(3), strict=True)
    )
    began = {name: pair.begin(name, tmp_path, port) for name, port in ports.items()}
    healthy = [sys.executable, *compose["steady-student"]["healthcheck"]["test"][2:]]
    try:
        deadline = time.monotonic() + 90
        for name, port in ports.items():
            check = [part.replace(":9404/livez", f":{port}/readyz") for part in healthy]
            while subprocess.run(check, capture_output=True, timeout=20, check=False).returncode:
                assert began[name].poll() is None, began[name].communicate()
                assert time.monotonic() < deadline, f"{name} never gets ready"
                time.sleep(0.3)
    finally:
        for process in began.values():
            process.terminate()
        said = {name: process.communicate(timeout=60) for name, process in began.items()}
    assert {name: process.returncode for name, process in began.items()} == dict.fromkeys(
        ports, 143
    ), said
    digits = pair.begin("digits", tmp_path, 0)
    out, err = digits.communicate(timeout=280)
    assert digits.returncode == 0, err
    assert (tmp_path / "results.md").exists() and (tmp_path / "results.png").exists(), out


@pytest.mark.timeout(900)
def test_any_number_of_replicas_can_run_and_is_told_apart(
    pair: Pair, compose: dict[str, Any], tmp_path: Path
) -> None:
    # What would keep Compose from a second container: a name, a port of the host, a file of its own.
    replica = compose["replica"]
    assert not {"container_name", "hostname", "ports", "volumes", "scale"} & set(replica)
    queries = replica["command"][replica["command"].index("--queries") + 1]
    assert queries == compose["asker"]["command"][1] + ".queries"
    replicas = [pair.begin("replica", tmp_path, port) for port in free_ports(2)]
    asker = pair.begin("asker", tmp_path, 0)
    try:
        connection = KafkaConnection(f"{HOST}:{pair.host}")
        deadline = time.monotonic() + 180
        while True:
            members = group_members(connection, "tutelage-asked", queries)
            if sorted(len(partitions) for _, _, partitions in members) == [2, 2]:
                break
            for process in (*replicas, asker):
                assert process.poll() in (None, 0), process.communicate()
            assert time.monotonic() < deadline, members
            time.sleep(0.3)
        out, err = asker.communicate(timeout=280)
        assert (asker.returncode, out) == (0, "19,200 rows have their answers\n"), err
        # They stay, and wait for the next run of queries.
        assert [each.poll() for each in replicas] == [None, None]
    finally:
        for process in (*replicas, asker):
            process.terminate()
        said = [process.communicate(timeout=60) for process in (*replicas, asker)]
    assert len({client for client, _, _ in members}) == 2, members
    assert [each.returncode for each in replicas] == [143, 143], said


def test_prometheus_looks_at_every_service_that_shows_metrics(compose: dict[str, Any]) -> None:
    import yaml

    config = yaml.safe_load((DEPLOY / "observability" / "prometheus.yml").read_text())
    targets = {
        target
        for job in config["scrape_configs"]
        for group in job.get("static_configs", [])
        for target in group["targets"]
    }
    # A service of several containers has one name with an address for each.
    targets |= {
        f"{name}:{found['port']}"
        for job in config["scrape_configs"]
        for found in job.get("dns_sd_configs", [])
        for name in found["names"]
    }
    assert targets == {
        f"{name}:9404"
        for name, service in compose.items()
        if "0.0.0.0:9404" in (service.get("command") or [])
    }
    for service in ("prometheus", "grafana"):
        for volume in compose[service]["volumes"]:
            if volume["type"] == "bind":
                assert Path(volume["source"]).exists(), volume["source"]
