"""The component of replicas: valid, safe, scaled on what KEDA knows, and no more than needed; in both overlays."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import pytest
from support import crds
from support.crds import Document, Manifests, references
from support.go_tools import GoError, go_sources
from support.manifests import parsed, unguarded, with_component
from support.registry_secrets import make_secrets

from tutelage.schemas.queries import queries_topic, replica_group

# The first time, kustomize and kubeconform are built.
pytestmark = pytest.mark.timeout(1800)
NAME = "teacher3"
RIGHTS = {
    ("topic", NAME, "Write", "Read", "Describe", "DescribeConfigs"),
    ("topic", f"{NAME}.queries", "Read", "Describe"),
    ("group", f"tutelage-{NAME}", "Read"),
}
MISSPELT = [
    "spec.scaleTargetRef.name",
    "spec.cooldownPeriod",
    "spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.policies.0.periodSeconds",
    "spec.triggers.0.authenticationRef",
]


@pytest.fixture(scope="module")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifests]:
    """Both overlays with the component."""
    try:
        crds.fetch()
    except crds.MissingTool as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must check the manifests: {error}")
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("k8s")
    return {name: with_component(name, "replicas", folder) for name in ("dev", "production")}


@pytest.fixture(params=["dev", "production"])
def built(request: pytest.FixtureRequest, overlays: dict[str, Manifests]) -> Manifests:
    """One overlay after the other."""
    return overlays[request.param]


@pytest.fixture
def trigger(built: Manifests) -> dict[str, str]:
    """The metadata of the only trigger."""
    (found,) = built.one("ScaledObject", NAME)["spec"]["triggers"]
    assert found["type"] == "kafka"
    metadata: dict[str, str] = found["metadata"]
    return metadata


def acls(user: Document) -> set[tuple[str, ...]]:
    return {
        (acl["resource"]["type"], acl["resource"]["name"], *acl["operations"])
        for acl in user["spec"]["authorization"]["acls"]
        if acl["resource"]["patternType"] == "literal"
    }


def test_every_resource_is_what_its_schema_allows(built: Manifests) -> None:
    assert crds.complaints(built) == []


@pytest.mark.parametrize("place", MISSPELT)
def test_a_misspelt_field_is_found(overlays: dict[str, Manifests], place: str) -> None:
    planted = copy.deepcopy(overlays["dev"].one("ScaledObject", NAME))
    *way, last = place.split(".")
    at: Any = planted
    for step in way:
        at = at[int(step) if step.isdigit() else step]
    at[f"{last}s"] = at.pop(last)
    (said,) = crds.complaints([planted])
    assert f"'{last}s' not allowed" in said


def documented() -> dict[str, set[str] | None]:
    """What KEDA's kafka trigger takes as metadata: name -> the values, None for any."""
    try:
        sources = go_sources(f"github.com/kedacore/keda/v2@v{crds.KEDA}")
    except GoError as error:
        pytest.skip(str(error))
    text = (sources / "pkg" / "scalers" / "kafka_scaler.go").read_text(encoding="utf-8")
    found: dict[str, set[str] | None] = {}
    for kind, tag in re.findall(r"^\s+\w+\s+(\S+)\s+`keda:\"([^\"]*)\"`", text, re.MULTILINE):
        options = dict(part.partition("=")[::2] for part in tag.split(","))
        if "triggerMetadata" in options["order"]:
            listed = set(options["enum"].split(";")) if "enum" in options else None
            found[options["name"]] = {"true", "false"} if kind == "bool" else listed
    assert {"bootstrapServers", "consumerGroup", "offsetResetPolicy"} <= set(found)
    return found


def test_the_trigger_holds_what_keda_knows(trigger: dict[str, str]) -> None:
    known = documented()
    for name, value in trigger.items():
        # Whatever is not a text is no metadata.
        assert isinstance(value, str) and name in known, name
        allowed = known[name]
        assert allowed is None or value in allowed, (name, value)
    assert "lagTreshold" not in known and known["tls"] == {"enable", "disable"}
    # These two exclude each other (Validate in kafka_scaler.go).
    assert not (
        trigger["allowIdleConsumers"] == "true" and trigger["limitToPartitionsWithLag"] == "true"
    )


def test_it_scales_on_what_has_no_answer_and_up_to_the_partitions(
    built: Manifests, trigger: dict[str, str]
) -> None:
    scaled = built.one("ScaledObject", NAME)["spec"]
    command = parsed(built.commands()[NAME])
    assert scaled["scaleTargetRef"] == {"name": NAME} and NAME in built.names("Deployment")
    assert trigger["topic"] == command["queries"] == queries_topic(command["topic"])
    assert trigger["consumerGroup"] == replica_group(command["topic"])
    queries, answers = (
        built.one("KafkaTopic", command[which])["spec"] for which in ("queries", "topic")
    )
    assert scaled["maxReplicaCount"] == queries["partitions"] == answers["partitions"]
    assert scaled["minReplicaCount"] == 0 and trigger["activationLagThreshold"] == "0"
    assert (trigger["offsetResetPolicy"], trigger["scaleToZeroOnInvalidOffset"]) == (
        "earliest",
        "false",
    )
    # What sets the number of replicas is KEDA alone.
    assert "replicas" not in built.one("Deployment", NAME)["spec"]
    assert command["stay"] and not command["create"]
    # It may ask the brokers about this topic and group, and is let in to them.
    authentication = built.one("TriggerAuthentication", NAME)["spec"]
    (user,) = authentication["configMapTargetRef"]
    assert built.one("ConfigMap", user["name"])["data"][user["key"]] == NAME
    assert {each["name"] for each in authentication["secretTargetRef"]} == {
        NAME,
        "tutelage-cluster-ca-cert",
    }
    (listener,) = built.one("Kafka", "tutelage")["spec"]["kafka"]["listeners"]
    keda = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "keda"}}}
    assert listener["networkPolicyPeers"].count(keda) == 1


def test_replicas_and_the_student_have_the_rights_that_they_need_and_no_other(
    built: Manifests,
) -> None:
    assert acls(built.one("KafkaUser", NAME)) == RIGHTS
    assert acls(built.one("KafkaUser", "student")) == {
        ("topic", f"{NAME}.queries", "Write", "DescribeConfigs"),
        ("group", "student", "Read"),
        ("group", f"tutelage-{NAME}", "Describe"),
    }


def test_pods_may_do_little_and_end_within_their_time(built: Manifests) -> None:
    pod = built.pods()[NAME]
    assert unguarded(pod) == []
    # A name for each pod is not needed, nor a volume, which only one could mount.
    assert not any("persistentVolumeClaim" in volume for volume in pod["spec"]["volumes"])
    (container,) = pod["spec"]["containers"]
    # A call of the model is waited for; a broker that is away must not delay the end for ever.
    assert pod["spec"]["terminationGracePeriodSeconds"] >= 30
    assert container["env"][0] == {"name": "KAFKA_USER", "value": NAME}
    assert built.mounted(NAME, "/etc/kafka-user") == ("secret", NAME)
    assert built.mounted(NAME, "/etc/registry-user") == ("secret", f"registry-{NAME}")
    # As the other teachers, but for what a Job has alone.
    (teacher,) = built.pods()["teacher1"]["spec"]["containers"]
    for what in ("startupProbe", "livenessProbe", "readinessProbe", "ports", "resources", "image"):
        assert container[what] == teacher[what], what


def test_production_gives_each_replica_a_gpu(overlays: dict[str, Manifests]) -> None:
    limits = {
        name: built.pods()[NAME]["spec"]["containers"][0]["resources"]["limits"]
        for name, built in overlays.items()
    }
    assert "nvidia.com/gpu" in limits["production"] and "nvidia.com/gpu" not in limits["dev"]


def test_what_replicas_name_is_there(built: Manifests, tmp_path: Path) -> None:
    ours = make_secrets(tmp_path, teachers=f"teacher1 teacher2 {NAME} student", students="")
    there = {(file.parent.name, file.name) for file in ours.glob("*/*")}
    there |= {(user, "password") for user in built.names("KafkaUser")}
    there |= {("tutelage-cluster-ca-cert", "ca.crt")}
    used = [built.one("Deployment", NAME), built.one("TriggerAuthentication", NAME)]
    secrets = {(name, key) for kind, name, key in references(used) if kind == "secret"}
    assert secrets and secrets <= there
    assert (f"registry-{NAME}", "user-info") in there
    # The student, which writes queries, may register their schema.
    users = (ours / "registry-users" / "users.properties").read_text()
    assert 'quarkus.security.users.embedded.roles."student"=sr-developer\n' in users
