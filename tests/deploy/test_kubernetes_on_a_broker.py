"""The dev overlay's rights, settings and commands on a real broker with TLS, passwords and ACLs, and the real registry."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
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
                    resource, operations = acl["resource"], [OPERATIONS[each] for each in acl["operations"]]
                    kind, prefixed = ResourceType[resource["type"].upper()], resource["patternType"] == "prefix"
                    made.allow(owner["metadata"]["name"], kind, resource["name"], *operations, prefixed=prefixed)
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def registry(built: Manifests, kafka: Secured, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The registry with the Deployment's environment; where it is."""
    http, management = free_ports(2)
    environment = {"QUARKUS_HTTP_HOST": HOST, "QUARKUS_HTTP_PORT": str(http)}
    environment |= {"QUARKUS_MANAGEMENT_HOST": HOST, "QUARKUS_MANAGEMENT_PORT": str(management)}
    # As Strimzi writes it into the user's secret.
    login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    secret = f'{login} username="registry" password="{secured.PASSWORDS["registry"]}";'
    for each in built.pods()["registry"]["spec"]["containers"][0]["env"]:
        environment[each["name"]] = here(each["value"], kafka) if "value" in each else secret
    folder = tmp_path_factory.mktemp("registry")
    with (folder / "log").open("wb") as log:
        command = [find_java(), "-Xmx384m", "-XX:+UseSerialGC", "-jar", str(registry_home() / "quarkus-run.jar")]
        process = subprocess.Popen(command, env={**os.environ, **environment}, cwd=folder, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 300
        while not answers(f"http://{HOST}:{management}/health/ready"):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
            time.sleep(0.5)
        assert answers(f"http://{HOST}:{management}/health/live")
        yield f"http://{HOST}:{http}"
    finally:
        process.terminate()
        process.wait(30)


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
    built: Manifests, kafka: Secured, registry: str, tmp_path: Path
) -> None:
    def run(name: str) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "password").write_text(secured.PASSWORDS[name], encoding="utf-8")
        properties = here(built.one("ConfigMap", "kafka-client")["data"]["client.properties"], kafka)
        (folder / "client.properties").write_text(properties.replace("/etc/kafka-user/", f"{folder}/"), encoding="utf-8")
        places = {"/etc/tutelage/": f"{folder}/", "/state/": f"{folder}/", "http://registry:8080": registry}
        places |= {"$(RUN_ID)": built.one("ConfigMap", "run")["data"]["RUN_ID"], "0.0.0.0:9404": str(free_ports(1)[0])}
        args = [here(arg, kafka) for arg in built.commands()[name]]
        for place, ours in places.items():
            args = [arg.replace(place, ours) for arg in args]
        done = subprocess.run(
            [str(Path(sys.executable).with_name("tutelage")), *args], env={**os.environ, "KAFKA_USER": name},
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stderr}"
        # Neither the topic's settings nor anybody's rights are worth a warning.
        assert "topic teacher1: retention" not in done.stderr and "cannot be checked" not in done.stderr
        assert "not committed" not in done.stderr
        return done.stdout + done.stderr

    assert "1,000 rows" in run("teacher1") and "1,000 rows" in run("teacher2")
    # Once more, as a Job would after its node was lost: it is done.
    assert "0 rows" in run("teacher1")
    assert f"digest {TOY_DIGEST}" in run("student")
    # No lag is left, by which KEDA would start another.
    tool = Consumer({"bootstrap.servers": kafka.address("scram"), **kafka.scram("admin"), "group.id": "student"})
    try:
        for topic in ("teacher1", "teacher2"):
            (part,) = tool.committed([TopicPartition(topic, 0)], timeout=20)
            assert part.offset == tool.get_watermark_offsets(TopicPartition(topic, 0), timeout=20)[1]
    finally:
        tool.close()
    assert "0 rows" in run("student")
