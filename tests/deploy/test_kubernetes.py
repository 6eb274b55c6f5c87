"""The manifests as they are built: valid by the published schemas, safe, and of one piece."""

from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import pytest
from support import crds
from support.crds import Manifests, references
from support.manifests import parsed, unguarded
from support.registry_secrets import make_secrets

from tutelage.cli.secrets import is_secret
from tutelage.transport.topic_setup import unsafe_settings

# The first time, kustomize and kubeconform are built.
pytestmark = pytest.mark.timeout(1800)
OVERLAYS = Path(__file__).resolve().parents[2] / "deploy" / "k8s" / "overlays"
OWN = ["Write", "Read", "Describe", "DescribeConfigs"]
RIGHTS = {
    "teacher1": {("topic", "teacher1", "literal", *OWN)},
    "teacher2": {("topic", "teacher2", "literal", *OWN)},
    "student": {
        ("topic", "teacher", "prefix", "Read", "Describe"),
        ("group", "student", "literal", "Read"),
    },
    "registry": {
        ("topic", "kafkasql-", "prefix", *OWN),
        ("topic", "registry-events", "literal", *OWN),
        ("group", "apicurio-", "prefix", "Read"),
    },
}
# A field that nobody knows, or a value that is none, and where: kind, the way there, the new last name.
MISSPELT = [
    ("Kafka", "spec.entityOperator.topicOperator", "topicOperater"),
    ("KafkaNodePool", "spec.storage.volumes.0.size", "sice"),
    ("KafkaTopic", "spec.partitions", "partition"),
    ("KafkaUser", "spec.authorization.acls.0.operations", "operation"),
    ("Job", "spec.podReplacementPolicy", "podReplacement"),
    ("Deployment", "spec.template.spec.containers.0.livenessProbe", "liveProbe"),
    ("ScaledJob", "spec.maxReplicaCount", "maxReplicas"),
    ("ScaledJob", "spec.jobTargetRef.template.spec.containers.0.image", "picture"),
    ("TriggerAuthentication", "spec.secretTargetRef.0.parameter", "parametre"),
]


@pytest.fixture(scope="module")
def overlays() -> dict[str, Manifests]:
    """Both overlays, built."""
    try:
        crds.fetch()
    except crds.MissingTool as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must check the manifests: {error}")
        pytest.skip(str(error))
    return {name: crds.built(OVERLAYS / name) for name in ("dev", "production")}


@pytest.fixture(params=["dev", "production"])
def built(request: pytest.FixtureRequest, overlays: dict[str, Manifests]) -> Manifests:
    """One overlay after the other."""
    return overlays[request.param]


def test_every_resource_is_what_its_schema_allows(built: Manifests) -> None:
    assert len(built) > 20 and crds.complaints(built) == []


@pytest.mark.parametrize(
    ("kind", "place", "wrong"), MISSPELT, ids=[f"{kind}-{wrong}" for kind, _, wrong in MISSPELT]
)
def test_a_misspelt_field_is_found(
    overlays: dict[str, Manifests], kind: str, place: str, wrong: str
) -> None:
    planted = copy.deepcopy(overlays["production"].of(kind)[0])
    *way, last = place.split(".")
    at: Any = planted
    for step in way:
        at = at[int(step) if step.isdigit() else step]
    at[wrong] = at.pop(last)
    (said,) = crds.complaints([planted])
    assert said.startswith(f"{kind} ") and f"'{wrong}' not allowed" in said


def test_users_have_the_rights_that_are_documented_and_no_other(built: Manifests) -> None:
    found: dict[str, set[tuple[str, ...]]] = {}
    for user in built.of("KafkaUser"):
        assert user["spec"]["authentication"] == {"type": "scram-sha-512"}
        rights = found[user["metadata"]["name"]] = set()
        for acl in user["spec"]["authorization"]["acls"]:
            assert set(acl) == {"resource", "operations"}
            rights.add(
                (
                    *(acl["resource"][what] for what in ("type", "name", "patternType")),
                    *acl["operations"],
                )
            )
    assert found == RIGHTS


def test_topics_are_there_before_anybody_writes_and_safe(built: Manifests) -> None:
    brokers = built.one("KafkaNodePool", "nodes")["spec"]["replicas"]
    kafka = built.one("Kafka", "tutelage")["spec"]["kafka"]["config"]
    assert (
        kafka["auto.create.topics.enable"] == "false"
        and kafka["offsets.topic.replication.factor"] == brokers
    )
    teachers = [parsed(args) for args in built.commands().values() if args[0] == "teach"]
    written = {teacher["topic"] for teacher in teachers}
    assert written == {"teacher1", "teacher2"} and not any(
        teacher["create"] for teacher in teachers
    )
    for name in written:
        spec = built.one("KafkaTopic", name)["spec"]
        settings = {key: str(value) for key, value in spec["config"].items()}
        assert (
            spec["partitions"] == 4
            and spec["replicas"] == brokers
            and settings["cleanup.policy"] == "delete"
        )
        assert unsafe_settings(settings, spec["replicas"], brokers) == []
        assert int(settings["retention.ms"]) < int(kafka["offsets.retention.minutes"]) * 60_000
    assert unsafe_settings({**settings, "min.insync.replicas": "1"}, 3, 3) and unsafe_settings(
        settings, 1, 3
    )


def test_pods_may_do_little_and_say_how_they_are(built: Manifests) -> None:
    for name, pod in built.pods().items():
        assert unguarded(pod) == [], name
        # Whom the policies that forbid and allow are about.
        assert pod["metadata"]["labels"]["app.kubernetes.io/part-of"] == "tutelage"
    for way in (
        "securityContext.readOnlyRootFilesystem",
        "livenessProbe",
        "resources.limits",
        "image",
    ):
        worse = copy.deepcopy(built.pods()["teacher1"])
        *steps, last = way.split(".")
        at = worse["spec"]["containers"][0]
        for step in steps:
            at = at[step]
        at[last] = None
        assert unguarded(worse), way


def test_commands_are_ones_that_the_command_line_takes(built: Manifests) -> None:
    for name, args in built.commands().items():
        given = parsed(args)
        assert given["metrics_port"] == "0.0.0.0:9404" and built.ports(name) == {9404}, name
        where = (given["bootstrap_server"], given["registry"])
        assert where == ("tutelage-kafka-bootstrap:9093", "https://registry:8443/apis/ccompat/v7")
        assert built.mounted(name, str(given["command_config"].parent)) == (
            "configMap",
            "kafka-client",
        )
        if args[0] == "learn":
            assert built.mounted(name, str(given["checkpoint"].parent)) == (
                "persistentVolumeClaim",
                "student-state",
            )
        with pytest.raises(Exception, match="No such option: --metric-prot"):
            parsed([*args, "--metric-prot=1"])


def test_passwords_are_files_that_strimzi_makes_and_nothing_is_a_secret_here(
    built: Manifests,
) -> None:
    assert not built.of("Secret")
    lines = built.one("ConfigMap", "kafka-client")["data"]["client.properties"].splitlines()
    settings = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert (
        settings["security.protocol"] == "SASL_SSL"
        and settings["sasl.mechanism"] == "SCRAM-SHA-512"
    )
    assert {key: value for key, value in settings.items() if is_secret(key)} == {
        "sasl.password": "@/etc/kafka-user/password",
        "schema.registry.basic.auth.user.info": "@/etc/registry-user/user-info",
    }
    for name in built.commands():
        assert {"name": "KAFKA_USER", "value": name} in built.pods()[name]["spec"]["containers"][0][
            "env"
        ]
        assert built.mounted(name, "/etc/kafka-user") == ("secret", name)
        assert built.mounted(name, str(Path(settings["ssl.ca.location"]).parent)) == (
            "secret",
            "tutelage-cluster-ca-cert",
        )
        assert built.mounted(name, "/etc/registry-user") == ("secret", f"registry-{name}")
        assert settings["schema.registry.ssl.ca.location"] == "/etc/registry-ca/ca.crt"
        assert built.mounted(name, "/etc/registry-ca") == ("secret", "registry-ca")


def test_the_registry_speaks_tls_alone_and_knows_its_users(built: Manifests) -> None:
    (container,) = built.pods()["registry"]["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["QUARKUS_HTTP_INSECURE_REQUESTS"] == "disabled"
    assert (
        environment["QUARKUS_HTTP_AUTH_BASIC"],
        environment["APICURIO_AUTH_ROLE_BASED_AUTHORIZATION"],
    ) == ("true", "true")
    assert {"https", "management"} == {port["name"] for port in container["ports"]}
    for name, secret in {
        "QUARKUS_HTTP_SSL_CERTIFICATE_FILES": "registry-tls",
        "QUARKUS_HTTP_SSL_CERTIFICATE_KEY_FILES": "registry-tls",
        "QUARKUS_CONFIG_LOCATIONS": "registry-users",
    }.items():
        assert built.mounted("registry", str(Path(environment[name]).parent)) == ("secret", secret)
    # What the Kafka client is told to read is a file of the user's secret.
    place = re.fullmatch(
        r"\\\$\{mounted:(\S+):sasl\.jaas\.config\}",
        environment["APICURIO_KAFKA_COMMON_SASL_JAAS_CONFIG"],
    )
    assert place is not None and built.mounted("registry", place[1]) == ("secret", "registry")


def test_whatever_is_named_is_there(built: Manifests, tmp_path: Path) -> None:
    ours = make_secrets(tmp_path)
    there = {
        ("configMap", each["metadata"]["name"], key)
        for each in built.of("ConfigMap")
        for key in each["data"]
    }
    there |= {
        ("secret", user, key)
        for user in built.names("KafkaUser")
        for key in ("password", "sasl.jaas.config")
    }
    there |= {("secret", "tutelage-cluster-ca-cert", "ca.crt")}
    there |= {("secret", file.parent.name, file.name) for file in ours.glob("*/*")}
    named = set(references(list(built)))
    assert named <= there and ("secret", "registry", "sasl.jaas.config") in named
    for pod in built.pods().values():
        assert "serviceAccountName" not in pod["spec"]
        for volume in pod["spec"]["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in built.names(
                    "PersistentVolumeClaim"
                )
            elif "configMap" in volume:
                assert volume["configMap"]["name"] in built.names("ConfigMap")
            elif "secret" in volume:
                assert volume["secret"]["secretName"] in {
                    name for kind, name, _ in there if kind == "secret"
                }
    assert {
        each["metadata"]["namespace"] for each in built if each["kind"] != "Namespace"
    } == built.names("Namespace")


def test_each_has_a_password_of_its_own_and_no_other_and_the_script_is_not_run_over_them(
    tmp_path: Path,
) -> None:
    secrets = make_secrets(tmp_path)
    infos = [
        (secrets / f"registry-{name}" / "user-info").read_text()
        for name in ("teacher1", "teacher2", "student")
    ]
    users = (secrets / "registry-users" / "users.properties").read_text()
    for name, info in zip(("teacher1", "teacher2", "student"), infos, strict=True):
        user, password = info.split(":")
        assert user == name and len(password) == 48 and f'."{name}"={password}\n' in users
        role = "sr-readonly" if name == "student" else "sr-developer"
        assert f'quarkus.security.users.embedded.roles."{name}"={role}\n' in users
    assert len(set(infos)) == 3
    # The authority's key is nowhere: nobody signs another certificate that clients trust.
    assert not [file for file in tmp_path.rglob("*") if file.name == "ca.key"]
    before = {file: file.read_bytes() for file in secrets.glob("*/*")}
    with pytest.raises(AssertionError, match="registry-users"):
        make_secrets(tmp_path)
    assert {file: file.read_bytes() for file in secrets.glob("*/*")} == before


def test_who_is_called_listens_and_may_be_called(built: Manifests) -> None:
    (port,) = built.one("Service", "registry")["spec"]["ports"]
    container = built.pods()["registry"]["spec"]["containers"][0]
    assert (
        {each["name"]: each["containerPort"] for each in container["ports"]}[port["targetPort"]]
        == port["port"]
        == 8443
    )
    (listener,) = built.one("Kafka", "tutelage")["spec"]["kafka"]["listeners"]
    assert (listener["port"], listener["tls"], listener["authentication"]) == (
        9093,
        True,
        {"type": "scram-sha-512"},
    )
    assert listener["networkPolicyPeers"][0] == {
        "podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "tutelage"}}
    }
    closed = {
        name: built.one("NetworkPolicy", name)["spec"] for name in ("nothing-in", "nothing-out")
    }
    assert (
        closed["nothing-in"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
        and "egress" not in closed["nothing-out"]
    )
    opened = {
        (way, port["port"])
        for policy in built.of("NetworkPolicy")
        for way in ("ingress", "egress")
        for rule in policy["spec"].get(way, [])
        for port in rule["ports"]
    }
    assert opened == {
        ("egress", 53),
        ("egress", 9093),
        ("egress", 8443),
        ("ingress", 8443),
        ("ingress", 9404),
        ("ingress", 9000),
    }


def test_a_topic_has_one_writer_and_a_group_one_student(built: Manifests) -> None:
    scaled = built.of("ScaledJob")
    for job in [each["spec"] for each in built.of("Job")] + [
        each["spec"]["jobTargetRef"] for each in scaled
    ]:
        assert (job["parallelism"], job["completions"], job["podReplacementPolicy"]) == (
            1,
            1,
            "Failed",
        )
        assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert not built.of("ScaledObject") and {each["metadata"]["name"] for each in scaled} <= {
        "student"
    }
    assert sorted(built.commands()) == ["student", "teacher1", "teacher2"]
    assert len(built.of("Job")) + len(scaled) == 3


def test_production_starts_its_student_on_lag_and_has_accelerators(
    overlays: dict[str, Manifests],
) -> None:
    built, plain = overlays["production"], overlays["dev"]
    (scaled,) = (each["spec"] for each in built.of("ScaledJob"))
    student = parsed(built.commands()["student"])
    assert student == parsed(plain.commands()["student"])
    triggers = [each["metadata"] for each in scaled["triggers"]]
    assert scaled["maxReplicaCount"] == 1 and {each["consumerGroup"] for each in triggers} == {
        student["group"]
    }
    assert [f"topic:{each['topic']}" for each in triggers] == student["sources"]
    assert all(
        (each["tls"], each["sasl"], each["offsetResetPolicy"])
        == ("enable", "scram_sha512", "earliest")
        for each in triggers
    )
    assert {each["authenticationRef"]["name"] for each in scaled["triggers"]} == built.names(
        "TriggerAuthentication"
    )
    for name in built.commands():
        limits = [
            each.pods()[name]["spec"]["containers"][0]["resources"]["limits"]
            for each in (built, plain)
        ]
        assert "nvidia.com/gpu" in limits[0] and "nvidia.com/gpu" not in limits[1]
