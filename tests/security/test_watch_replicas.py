"""`watch` on a cluster with TLS and ACLs: who may not see a group or a topic is told so, in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from confluent_kafka.admin import AclOperation, NewTopic, ResourceType
from security.secured import SECRETS, Secured
from support.commands import Result, invoke

from tutelage import KafkaSink, QueryWriter
from tutelage.transport.local_registry import LocalRegistry

TOPIC = "seen-1"


@pytest.fixture(scope="module")
def asked(locked: Secured) -> Secured:
    """Two queries and the end, which nobody answers."""
    queries = KafkaSink(
        f"{TOPIC}.queries",
        partitions=1,
        bootstrap_servers=locked.address("scram"),
        registry=LocalRegistry(),
        options=locked.scram("admin"),
    )
    with QueryWriter(queries, rows_per_record=2) as writer:
        writer.write({"x": torch.arange(4)})
        writer.end()
    locked.admin.create_topics([NewTopic("hidden-1.queries", 1, 1)])["hidden-1.queries"].result(20)
    locked.allow(
        "student",
        ResourceType.TOPIC,
        "seen",
        AclOperation.READ,
        AclOperation.DESCRIBE,
        prefixed=True,
    )
    return locked


def watched(asked: Secured, folder: Path, *arguments: str) -> tuple[Result, dict[str, Any]]:
    """What the student sees."""
    options = asked.scram("student")
    (folder / "password").write_text(options.pop("sasl.password"))
    lines = [f"{name}={value}" for name, value in options.items()]
    file = folder / "client.properties"
    file.write_text("\n".join([*lines, f"sasl.password=@{folder / 'password'}"]))
    result = invoke(
        "watch", TOPIC, "--json", "--every", "0.2", "-b", asked.address("scram"), "-F", str(file), *arguments
    )  # fmt: skip
    assert not any(secret in result.out + result.err for secret in SECRETS)
    assert "Traceback" not in result.err
    return result, json.loads(result.out)


def test_who_may_not_see_the_group_is_told_so_and_then_sees_it(
    asked: Secured, tmp_path: Path
) -> None:
    result, view = watched(asked, tmp_path)
    (said,) = view["trouble"]
    assert result.code == 1 and said.startswith(
        f"the replicas that answer {TOPIC}.queries: asking who is in group tutelage-{TOPIC} failed: "
    )
    assert "uthorization" in said and "docs/security.md" in said
    asked.allow("student", ResourceType.GROUP, f"tutelage-{TOPIC}", AclOperation.DESCRIBE)
    result, view = watched(asked, tmp_path)
    assert (result.code, view["trouble"]) == (0, [])
    (group,) = view["replicas"]
    assert (group["replicas"], group["partitions"][0]["end"]) == ([], 3)
    assert group["partitions"][0]["oldest_s"] > 0


def test_who_names_a_topic_of_queries_that_is_hidden_is_told_so(
    asked: Secured, tmp_path: Path
) -> None:
    result, view = watched(asked, tmp_path, "--queries", "hidden-1.queries")
    (said,) = view["trouble"]
    assert result.code == 1 and "hidden-1.queries" in said and "docs/security.md" in said
