"""Every way into a broker, and every way of being turned away: a line that says why, and no secret in anything that can be seen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest
import torch
from confluent_kafka.admin import AclOperation, ResourceType
from security.authority import Authority
from security.secured import PASSWORDS, SECRETS, Secured

from tutelage import KafkaSink, KafkaSource, Student, Teacher
from tutelage.transport.local_registry import LocalRegistry

LESSON = "tutelage.examples.toy.lessons:teacher1"
READ = ["verify", "topic:x"]
WRITE = ["teach", LESSON, "--topic", "x", "--delivery-timeout", "5"]
TUTELAGE = str(Path(sys.executable).parent / "tutelage")
WORDS = {
    "mutual TLS without a certificate": "certificate required",
    "mutual TLS with an expired certificate": "certificate",
    "mutual TLS with a stranger's certificate": "certificate",
    "TLS with another authority": "ssl.ca.location names the authority to trust",
    "plaintext where TLS is spoken": "security.protocol (PLAINTEXT here)",
    "plaintext where SCRAM is asked for": "security.protocol (PLAINTEXT here)",
    "no name where SCRAM is asked for": "security.protocol (SSL here)",
    "SCRAM with a wrong password": "sasl.password",
    "SCRAM with an unknown user": "sasl.password",
    "OAuth with a wrong secret": "invalid_client",
    "OAuth with an expired token": "unexpired token",
}


def good_ways(locked: Secured) -> dict[str, tuple[str, str, dict[str, str]]]:
    """What lets one in: listener, the name it has there, options."""
    return {
        "TLS": ("tls", "ANONYMOUS", locked.tls()),
        "mutual TLS": ("mtls", "teacher-of-tls", locked.mutual_tls("teacher-of-tls")),
        "SCRAM": ("scram", "teacher1", locked.scram("teacher1")),
        "OAuth": ("oauth", "oauth-teacher", locked.oauth("oauth-teacher")),
    }


def bad_ways(locked: Secured) -> dict[str, tuple[str, Callable[[], Mapping[str, str]]]]:
    """What does not."""
    stranger, key = Authority(locked.folder / "strange", "strange-ca").issue("teacher1")
    return {
        "mutual TLS without a certificate": ("mtls", locked.tls),
        "mutual TLS with an expired certificate": ("mtls", lambda: locked.mutual_tls("teacher1", expired=True)),
        "mutual TLS with a stranger's certificate": (
            "mtls", lambda: {**locked.tls(), "ssl.certificate.location": str(stranger), "ssl.key.location": str(key)},
        ),
        "TLS with another authority": ("tls", lambda: {**locked.tls(), "ssl.ca.location": str(stranger)}),
        "plaintext where TLS is spoken": ("tls", dict),
        "plaintext where SCRAM is asked for": ("scram", dict),
        "no name where SCRAM is asked for": ("scram", locked.tls),
        "SCRAM with a wrong password": ("scram", lambda: locked.scram("teacher1", PASSWORDS["student"])),
        "SCRAM with an unknown user": ("scram", lambda: {**locked.scram("teacher1"), "sasl.username": "nobody"}),
        "OAuth with a wrong secret": ("oauth", lambda: locked.oauth("oauth-teacher", SECRETS[0])),
        "OAuth with an expired token": ("oauth", lambda: locked.oauth("oauth-teacher")),
    }  # fmt: skip


@pytest.mark.parametrize("way", ["TLS", "mutual TLS", "SCRAM", "OAuth"])
def test_who_has_what_it_takes_teaches_and_learns(locked: Secured, way: str) -> None:
    listener, user, options = good_ways(locked)[way]
    topic = f"way-{listener}"
    rights = (
        AclOperation.READ,
        AclOperation.WRITE,
        AclOperation.DESCRIBE,
        AclOperation.DESCRIBE_CONFIGS,
        AclOperation.CREATE,
    )
    locked.allow(user, ResourceType.TOPIC, topic, *rights)
    registry = LocalRegistry()
    with Teacher(
        KafkaSink(
            topic, bootstrap_servers=locked.address(listener), registry=registry, options=options
        )
    ) as teacher:
        teacher.write({"x": torch.arange(10)})
    student = Student(timeout_s=20)
    student.register_teacher(
        KafkaSource(
            topic, bootstrap_servers=locked.address(listener), registry=registry, options=options
        )
    )
    with student:
        assert [batch["x"].tolist() for batch in student.knowledge(10)] == [list(range(10))]
    assert not any(
        secret in repr(thing) for secret in SECRETS for thing in (teacher, teacher.sink, student)
    )


@pytest.mark.parametrize(
    ("way", "command"),
    [
        *((way, READ) for way in WORDS),
        *(
            (way, WRITE)
            for way in (
                "SCRAM with a wrong password",
                "plaintext where TLS is spoken",
                "OAuth with an expired token",
            )
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_who_has_not_is_told_so_and_no_secret_is_shown(
    locked: Secured, way: str, command: list[str], tmp_path: Path
) -> None:
    listener, options = bad_ways(locked)[way]
    locked.tokens.lifetime_s = -60 if "expired token" in way else 300
    given = {name: value for name, value in options().items() if name != "sasl.password"}
    password = options().get("sasl.password", "")
    file = tmp_path / "client.properties"
    # The password by way of a file of its own; other secrets stand in this one.
    (tmp_path / "password").write_text(password + "\n")
    if password:
        given["sasl.password"] = f"@{tmp_path / 'password'}"
    file.write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    file.chmod(0o600)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("TUTELAGE_")
    }
    began = subprocess.Popen(
        [TUTELAGE, "-vv", *command, "-b", locked.address(listener), "-F", str(file)],
        env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    seen_by_others = " ".join(psutil.Process(began.pid).cmdline())
    out, err = began.communicate(timeout=60)
    locked.tokens.lifetime_s = 300
    assert began.returncode == 4, err
    last = err.splitlines()[-1]
    assert last.startswith("error: ") and WORDS[way] in last, last
    assert "Traceback" not in err
    assert not any(secret in text for secret in SECRETS for text in (out, err, seen_by_others))


def test_a_crash_shows_no_secret(locked: Secured, tmp_path: Path) -> None:
    (tmp_path / "crash.py").write_text(
        "from tutelage import Lesson\n"
        "def model(batch):\n    raise ZeroDivisionError('of the model')\n"
        "lesson = Lesson(model=model, inputs=[[1]], name='crash')\n"
    )
    locked.allow(
        "teacher1",
        ResourceType.TOPIC,
        "crash",
        AclOperation.WRITE,
        AclOperation.DESCRIBE,
        AclOperation.CREATE,
    )
    options = locked.scram("teacher1")
    file = tmp_path / "client.properties"
    file.write_text("".join(f"{name}={value}\n" for name, value in options.items()))
    file.chmod(0o600)
    program = (
        "from tutelage.cli import kafka_flags\nfrom tutelage import KafkaSink, Teacher\n"
        "from tutelage.transport.local_registry import LocalRegistry\nimport crash, pathlib\n"
        "kafka = kafka_flags.kafka_settings(None, None, pathlib.Path('client.properties'), [])\nprint(kafka)\n"
        f"sink = KafkaSink('crash', bootstrap_servers='{locked.address('scram')}', registry=LocalRegistry(), options=kafka.options)\n"
        "with Teacher(sink) as teacher:\n    print(teacher, sink, sink._connection)\n    teacher.serve(crash.lesson.model, crash.lesson.inputs)\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1 and "ZeroDivisionError: of the model" in done.stderr, done.stderr
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS)
