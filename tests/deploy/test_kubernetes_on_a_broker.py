"""The dev overlay's rights, settings and commands on a real broker with TLS, passwords and ACLs, and the real registry."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AclOperation, NewTopic, ResourceType
from security import secured
from security.secured import Secured
from support import crds
from support.brokers import HOST
from support.commands import TOY_DIGEST
from support.crds import Manifests
from support.registry_secrets import make_secrets

from tutelage.deploy.local import StackError
from tutelage.deploy.local.ports import free_ports
from tutelage.deploy.local.programs import find_java, registry_home

pytestmark = pytest.mark.timeout(1800)
OVERLAY = Path(__file__).resolve().parents[2] / "deploy" / "k8s" / "overlays" / "dev"
OPERATIONS = {
    "Write": AclOperation.WRITE,
    "Read": AclOperation.READ,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
}


@pytest.fixture(scope="module")
def built() -> Manifests:
    """The overlay."""
    try:
        crds.fetch()
        registry_home()
    except (crds.MissingTool, StackError) as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the manifests' commands: {error}")
        pytest.skip(str(error))
    return crds.built(OVERLAY)


@pytest.fixture(scope="module")
def kafka(built: Manifests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A broker with the topics, users and rights that the operators would make."""
    with pytest.MonkeyPatch.context() as patch:
        for user in built.names("KafkaUser"):
            patch.setitem(secured.PASSWORDS, user, f"pw-of-{user}-8855")
        made = secured.secured(tmp_path_factory.mktemp("kafka"))
        try:
            for topic in built.of("KafkaTopic"):
                name, spec = topic["metadata"]["name"], topic["spec"]
                config = {key: str(value) for key, value in spec["config"].items()}
                new = NewTopic(name, spec["partitions"], spec["replicas"], config=config)
                made.admin.create_topics([new])[name].result(20)
            for owner in built.of("KafkaUser"):
                for acl in owner["spec"]["authorization"]["acls"]:
                    resource, operations = (
                        acl["resource"],
                        [OPERATIONS[each] for each in acl["operations"]],
                    )
                    kind, prefixed = (
                        ResourceType[resource["type"].upper()],
                        resource["patternType"] == "prefix",
                    )
                    made.allow(
                        owner["metadata"]["name"],
                        kind,
                        resource["name"],
                        *operations,
                        prefixed=prefixed,
                    )
            yield made
        finally:
            made.close()


@dataclass(frozen=True, kw_only=True)
class Registry:
    """Where the registry is, and the secrets that it and its clients have, each in a folder of its name."""

    url: str
    secrets: Path
    log: Path


@pytest.fixture(scope="module")
def registry(
    built: Manifests, kafka: Secured, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """The registry with the Deployment's environment, and with the secrets that are mounted."""
    https, management = free_ports(2)
    folder = tmp_path_factory.mktemp("registry")
    secrets = make_secrets(folder, names=f"DNS:registry,IP:{HOST}")
    # As Strimzi writes it into the user's secret.
    login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    (secrets / "registry").mkdir()
    (secrets / "registry" / "sasl.jaas.config").write_text(
        f'{login} username="registry" password="{secured.PASSWORDS["registry"]}";', encoding="utf-8"
    )
    environment = {
        "QUARKUS_HTTP_HOST": HOST,
        "QUARKUS_MANAGEMENT_HOST": HOST,
        "QUARKUS_MANAGEMENT_PORT": str(management),
    }
    for each in built.pods()["registry"]["spec"]["containers"][0]["env"]:
        environment[each["name"]] = mounted("registry", here(each["value"], kafka), built, secrets)
    environment["QUARKUS_HTTP_SSL_PORT"] = str(https)
    with (folder / "log").open("wb") as log:
        command = [
            find_java(),
            "-Xmx384m",
            "-XX:+UseSerialGC",
            "-jar",
            str(registry_home() / "quarkus-run.jar"),
        ]
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, cwd=folder, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 300
        while not answers(f"http://{HOST}:{management}/health/ready"):
            assert process.poll() is None and time.monotonic() < deadline, (
                folder / "log"
            ).read_text()[-2000:]
            time.sleep(0.5)
        assert answers(f"http://{HOST}:{management}/health/live")
        yield Registry(url=f"https://{HOST}:{https}", secrets=secrets, log=folder / "log")
    finally:
        process.terminate()
        process.wait(30)


def mounted(pod: str, text: str, built: Manifests, secrets: Path) -> str:
    """A text with the folders of this machine in place of those where a pod's secrets are mounted."""
    spec = built.pods()[pod]["spec"]
    for volume in spec["volumes"]:
        folder = secrets / volume.get("secret", {}).get("secretName", "-")
        for mount in spec["containers"][0]["volumeMounts"]:
            if mount["name"] == volume["name"] and folder.is_dir():
                text = text.replace(f"{mount['mountPath']}/", f"{folder}/").replace(
                    f"{mount['mountPath']}:", f"{folder}:"
                )
    return text


def answers(url: str) -> bool:
    """Whether a URL answers well."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def here(text: str, kafka: Secured) -> str:
    """A value of the manifests, with the places of this machine."""
    text = text.replace("tutelage-kafka-bootstrap:9093", kafka.address("scram"))
    return text.replace("/etc/kafka-ca/ca.crt", str(kafka.authority.ca))


def test_teachers_and_student_do_their_work_with_what_the_manifests_give_them(
    built: Manifests, kafka: Secured, registry: Registry, tmp_path: Path
) -> None:
    def run(name: str) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "password").write_text(secured.PASSWORDS[name], encoding="utf-8")
        properties = here(
            built.one("ConfigMap", "kafka-client")["data"]["client.properties"], kafka
        )
        properties = mounted(name, properties, built, registry.secrets)
        (folder / "client.properties").write_text(
            properties.replace("/etc/kafka-user/", f"{folder}/"), encoding="utf-8"
        )
        places = {
            "/etc/tutelage/": f"{folder}/",
            "/state/": f"{folder}/",
            "https://registry:8443": registry.url,
        }
        places |= {
            "$(RUN_ID)": built.one("ConfigMap", "run")["data"]["RUN_ID"],
            "0.0.0.0:9404": str(free_ports(1)[0]),
        }
        args = [here(arg, kafka) for arg in built.commands()[name]]
        for place, ours in places.items():
            args = [arg.replace(place, ours) for arg in args]
        done = subprocess.run(
            [str(Path(sys.executable).with_name("tutelage")), *args], env={**os.environ, "KAFKA_USER": name},
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stderr}"
        # Neither the topic's settings nor anybody's rights are worth a warning.
        assert (
            "topic teacher1: retention" not in done.stderr
            and "cannot be checked" not in done.stderr
        )
        assert "not committed" not in done.stderr
        return done.stdout + done.stderr

    assert "1,000 rows" in run("teacher1") and "1,000 rows" in run("teacher2")
    # Once more, as a Job would after its node was lost: it is done.
    assert "0 rows" in run("teacher1")
    assert f"digest {TOY_DIGEST}" in run("student")
    # No lag is left, by which KEDA would start another.
    tool = Consumer(
        {"bootstrap.servers": kafka.address("scram"), **kafka.scram("admin"), "group.id": "student"}
    )
    try:
        for topic in ("teacher1", "teacher2"):
            (part,) = tool.committed([TopicPartition(topic, 0)], timeout=20)
            assert (
                part.offset == tool.get_watermark_offsets(TopicPartition(topic, 0), timeout=20)[1]
            )
    finally:
        tool.close()
    assert "0 rows" in run("student")


def test_the_registry_turns_away_whom_it_does_not_know_and_lets_each_change_its_own_alone(
    built: Manifests, kafka: Secured, registry: Registry
) -> None:
    ca = str(registry.secrets / "registry-ca" / "ca.crt")
    info = {
        name: (registry.secrets / f"registry-{name}" / "user-info").read_text()
        for name in built.commands()
    }
    schema = json.dumps({"type": "record", "name": "turned_away", "fields": []})

    def asks(user: str | None, method: str, path: str, body: dict[str, str] | None = None) -> int:
        headers = {"Content-Type": "application/json"}
        if user is not None:
            headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{registry.url}{path}", data=data, method=method, headers=headers
        )
        try:
            with urllib.request.urlopen(
                request, timeout=30, context=ssl.create_default_context(cafile=ca)
            ) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    versions, config = (
        "/apis/ccompat/v7/subjects/of-teacher1-value/versions",
        "/apis/ccompat/v7/config/of-teacher1-value",
    )
    level = {"compatibility": "NONE"}
    assert asks(info["teacher1"], "POST", versions, {"schema": schema}) == 200
    assert asks(info["teacher1"], "PUT", config, {"compatibility": "FULL_TRANSITIVE"}) == 200
    assert asks(info["student"], "GET", versions) == 200
    for stranger in (None, "teacher1:wrong", "nobody:nothing"):
        for path in (
            versions,
            "/apis/ccompat/v7/subjects",
            "/apis/ccompat/v7/schemas/ids/1",
            "/apis/registry/v3/search/artifacts",
        ):
            assert asks(stranger, "GET", path) == 401, (stranger, path)
        assert asks(stranger, "POST", versions, {"schema": schema}) == 401
    for other in ("student", "teacher2"):
        assert asks(info[other], "PUT", config, level) == 403
        assert (
            asks(
                info[other],
                "POST",
                versions,
                {"schema": schema.replace("[]", '[{"name": "x", "type": "null"}]')},
            )
            == 403
        )
        assert asks(info[other], "DELETE", versions.removesuffix("/versions")) == 403
    # For all subjects, and for the registry itself, nobody may.
    for user in info.values():
        assert asks(user, "PUT", "/apis/ccompat/v7/config", level) == 403
        assert asks(user, "DELETE", "/apis/registry/v3/admin/rules") == 403
    said = registry.log.read_text()
    # No port for plain HTTP beside it, and no password in what it says.
    assert f"Listening on: {registry.url}. Management" in said
    passwords = [*secured.PASSWORDS.values(), *(each.split(":")[1] for each in info.values())]
    assert not any(password in said for password in passwords)
    with pytest.raises(OSError):
        urllib.request.urlopen(registry.url.replace("https://", "http://"), timeout=10)
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(registry.url, timeout=10)
