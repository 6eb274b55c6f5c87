"""A registry behind HTTPS and a password or token, in front of the real one."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from security.authority import Authority
from security.doors import Door

from tutelage import KafkaSink, KafkaSource, Student, Teacher
from tutelage.deploy.local import StackAddresses
from tutelage.schemas.errors import AccessDenied, TutelageError
from tutelage.transport.http_registry import HttpRegistry

PASSWORD, TOKEN = "registry-pw-90ab", "registry-token-77fe"
BASIC = {"basic.auth.user.info": f"tutelage:{PASSWORD}"}
BEARER = {"bearer.auth.token": TOKEN}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("registry-ca"))


@pytest.fixture(scope="module")
def door(authority: Authority, addresses: StackAddresses) -> Iterator[Door]:
    basic = base64.b64encode(f"tutelage:{PASSWORD}".encode()).decode()
    made = Door(
        addresses.registry,
        *authority.issue("registry", host=True),
        {f"Basic {basic}", f"Bearer {TOKEN}"},
    )
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("settings", [BASIC, BEARER], ids=["basic", "bearer"])
def test_who_may_enter_registers_and_reads(
    settings: dict[str, str],
    door: Door,
    authority: Authority,
    addresses: StackAddresses,
    request: pytest.FixtureRequest,
) -> None:
    topic = f"door-{request.node.callspec.id}"
    registry = HttpRegistry(door.url, settings={**settings, "ssl.ca.location": str(authority.ca)})
    with Teacher(
        KafkaSink(topic, bootstrap_servers=addresses.bootstrap_servers, registry=registry)
    ) as teacher:
        teacher.write({"x": torch.arange(4)})
    student = Student(timeout_s=20)
    student.register_teacher(
        KafkaSource(topic, bootstrap_servers=addresses.bootstrap_servers, registry=registry)
    )
    with student:
        assert [batch["x"].tolist() for batch in student.knowledge(4)] == [[0, 1, 2, 3]]
    assert PASSWORD not in repr(registry) and TOKEN not in repr(registry)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"basic.auth.user.info": f"tutelage:not-{PASSWORD}"}, "HTTP 401.*basic.auth.user.info"),
        ({**BEARER, "bearer.auth.token": f"not-{TOKEN}"}, "HTTP 401.*bearer.auth"),
        ({}, "HTTP 401"),
    ],
    ids=["wrong password", "wrong token", "nothing"],
)
def test_who_may_not_is_told_so(
    settings: dict[str, str], words: str, door: Door, authority: Authority
) -> None:
    registry = HttpRegistry(door.url, settings={**settings, "ssl.ca.location": str(authority.ca)})
    with pytest.raises(AccessDenied, match=words) as told:
        registry.prepare("door-value")
    assert PASSWORD not in str(told.value) and TOKEN not in str(told.value)
    registry.close()


def test_a_registry_nobody_vouches_for_is_not_trusted(door: Door, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    for settings in ({"ssl.ca.location": str(other.ca)}, {}):
        registry = HttpRegistry(door.url, settings={**BASIC, **settings})
        with pytest.raises(
            AccessDenied, match=r"certificate that this client does not trust.*ssl\.ca\.location"
        ):
            registry.prepare("door-value")
        registry.close()


def test_a_plain_url_where_https_is_spoken_is_one_error(door: Door) -> None:
    registry = HttpRegistry(door.url.replace("https://", "http://"), settings=dict(BASIC))
    with pytest.raises(TutelageError, match="cannot be reached") as told:
        registry.prepare("door-value")
    assert PASSWORD not in str(told.value)
    registry.close()
