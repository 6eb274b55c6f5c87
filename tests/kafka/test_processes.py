"""Real processes, real signals: commands and the toy's scripts, killed, interrupted, started in any order."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.jars import JARS

from tutelage.transport.connection import KafkaConnection
from tutelage.transport.topic_admin import KafkaTopic

pytestmark = pytest.mark.kafka
Names = Callable[[str], str]
LESSON = f"{Path(__file__).parent / 'slow_lesson.py'}:lesson"
ROWS = 2000


def begin(*arguments: str, environment: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    """Start `tutelage` with these arguments."""
    command = [str(Path(sys.executable).parent / "tutelage"), *arguments]
    return subprocess.Popen(
        command, env=environment, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str], timeout_s: float = 90) -> tuple[int, str, str]:
    """Exit code, output and errors of a process that must end."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out, err


def await_records(kafka: dict[str, Any], topic: str, count: int) -> None:
    """Wait until a topic holds so many messages."""
    asked = KafkaTopic(KafkaConnection(kafka["bootstrap_servers"]), topic)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if sum(asked.end_offsets(asked.partitions())) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"{topic} does not fill")


def test_a_teacher_killed_again_and_again_ends_with_the_same_run(
    kafka: dict[str, Any], environment: dict[str, str], topic_name: Names, tmp_path: Path
) -> None:
    topic = topic_name("killed")
    whole = begin(
        "teach",
        LESSON,
        "--out",
        "whole.avro",
        environment={**environment, "LESSON_SECONDS": "0"},
        cwd=tmp_path,
    )
    student = begin(
        "learn",
        f"topic:{topic}",
        "--json",
        "--batch-size",
        "32",
        environment=environment,
        cwd=tmp_path,
    )
    for held in (10, 40, 70):
        teacher = begin(
            "teach",
            LESSON,
            "--topic",
            topic,
            "--partitions",
            "3",
            environment=environment,
            cwd=tmp_path,
        )
        await_records(kafka, topic, held)
        teacher.kill()
        assert ended(teacher)[0] == -signal.SIGKILL
    code, _, err = ended(
        begin("teach", LESSON, "--topic", topic, environment=environment, cwd=tmp_path)
    )
    assert code == 0, err
    (written,) = re.findall(r"continuing a run in pass 0, after ([\d,]+) rows", err)
    assert 0 < int(written.replace(",", "")) <= ROWS
    assert ended(whole)[0] == 0
    code, out, err = ended(student)
    assert code == 0, err
    offline = ended(
        begin(
            "learn",
            "whole.avro",
            "--json",
            "--batch-size",
            "32",
            environment=environment,
            cwd=tmp_path,
        )
    )
    learned, replayed = json.loads(out), json.loads(offline[1])
    assert learned["rows"] == ROWS
    assert learned["digest"] == replayed["digest"]
    verified = json.loads(
        ended(begin("verify", f"topic:{topic}", "--json", environment=environment, cwd=tmp_path))[1]
    )
    assert (verified["whole"], verified["records"], verified["duplicates"]) == (True, ROWS // 20, 0)


def test_a_student_killed_goes_on_from_its_checkpoint(
    environment: dict[str, str], topic_name: Names, tmp_path: Path
) -> None:
    topic = topic_name("student")
    code, _, err = ended(
        begin(
            "teach",
            LESSON,
            "--topic",
            topic,
            environment={**environment, "LESSON_SECONDS": "0"},
            cwd=tmp_path,
        )
    )
    assert code == 0, err
    (tmp_path / "student.py").write_text(
        "import os, time\n"
        "def train(batches):\n"
        "    for batch in batches:\n"
        "        with open('seen.txt', 'a') as file:\n"
        "            file.write(' '.join(map(str, batch['x'].tolist())) + '\\n')\n"
        "        time.sleep(0.02)\n"
    )
    arguments = (
        "learn",
        f"topic:{topic}",
        "--train",
        "student.py:train",
        "--checkpoint",
        "c.json",
        "--checkpoint-every",
        "1",
        "--batch-size",
        "16",
    )
    seen = tmp_path / "seen.txt"
    for lines in (20, 60):
        student = begin(*arguments, environment=environment, cwd=tmp_path)
        deadline = time.monotonic() + 60
        while (
            not seen.exists() or len(seen.read_text().splitlines()) < lines
        ) and time.monotonic() < deadline:
            time.sleep(0.01)
        student.kill()
        ended(student)
    code, _, err = ended(begin(*arguments, environment=environment, cwd=tmp_path))
    assert code == 0, err
    batches = [tuple(map(int, line.split())) for line in seen.read_text().splitlines()]
    # The batch that was under way when the student died comes again, whole; no other does, and none is missing.
    unique = list(dict.fromkeys(batches))
    assert [x for batch in unique for x in batch] == list(range(ROWS))
    assert len(batches) - len(unique) <= 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("learn", "topic:nobody-writes-this"),
        ("record", "nobody-writes-this", "a.avro"),
        ("teach", LESSON, "--out", "slow.avro"),
        ("teach", LESSON, "--topic", "TOPIC"),
    ],
)
def test_ctrl_c_ends_any_command_within_two_seconds(
    arguments: tuple[str, ...], environment: dict[str, str], topic_name: Names, tmp_path: Path
) -> None:
    arguments = tuple(
        topic_name("interrupted") if argument == "TOPIC" else argument for argument in arguments
    )
    process = begin(
        "-v", *arguments, environment={**environment, "LESSON_SECONDS": "0.1"}, cwd=tmp_path
    )
    assert process.stderr is not None
    for line in process.stderr:
        # It works, or waits and says so.
        if "rows per record" in line or "waiting for" in line:
            break
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert time.monotonic() - began < 2
    assert code == 130, err
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err


def test_waiting_is_said_and_ends(environment: dict[str, str], tmp_path: Path) -> None:
    code, out, err = ended(
        begin(
            "learn",
            "topic:nobody-writes-this",
            "--timeout",
            "3",
            environment=environment,
            cwd=tmp_path,
        )
    )
    assert (code, out) == (6, "")
    lines = err.splitlines()
    assert lines[0].startswith("waiting for topic nobody-writes-this at 127.0.0.1")
    assert lines[-1].startswith("error: waited 3 s for topic nobody-writes-this")


def test_a_registry_that_is_away_or_hangs_is_one_line(
    environment: dict[str, str], topic_name: Names, tmp_path: Path
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        for url, words in (
            ("http://127.0.0.1:1", "cannot be reached"),
            (f"http://user:hunter2@127.0.0.1:{port}", "did not answer in time"),
        ):
            topic = topic_name("registry")
            config = tmp_path / "client.properties"
            config.write_text(f"schema.registry.url={url}\n")
            config.chmod(0o600)
            without = {
                name: value for name, value in environment.items() if name != "TUTELAGE_REGISTRY"
            }
            began = time.monotonic()
            code, _, err = ended(
                begin(
                    "teach",
                    LESSON,
                    "--topic",
                    topic,
                    "-F",
                    str(config),
                    environment=without,
                    cwd=tmp_path,
                )
            )
            assert code == 4
            assert words in err.splitlines()[-1]
            assert err.splitlines()[-1].startswith("error: ")
            assert "Traceback" not in err
            assert "hunter2" not in err
            assert time.monotonic() - began < 30


@pytest.mark.parametrize("verbose", ["-v", "-vv"])
def test_a_registry_s_key_shows_nowhere_however_much_is_said(
    verbose: str, environment: dict[str, str], topic_name: Names, tmp_path: Path
) -> None:
    topic = topic_name("key")
    environment["TUTELAGE_REGISTRY"] += "?apikey=hunter2"
    for command in (
        ("teach", LESSON, "--topic", topic),
        ("learn", f"topic:{topic}", "--timeout", "30"),
    ):
        process = begin(verbose, *command, environment=environment, cwd=tmp_path)
        code, out, err = ended(process)
        assert code == 0, err
        assert "HTTP Request" in err
        assert "hunter2" not in out + err
    environment["TUTELAGE_REGISTRY"] = "http://127.0.0.1:1/apis?apikey=hunter2"
    code, out, err = ended(
        begin(
            verbose,
            "teach",
            LESSON,
            "--topic",
            topic_name("key"),
            environment=environment,
            cwd=tmp_path,
        )
    )
    assert code == 4
    assert (
        "127.0.0.1:1/apis') (environment variable TUTELAGE_REGISTRY) cannot be reached"
        in err.splitlines()[-1]
    )
    assert "hunter2" not in out + err


def script(
    toy: Path, name: str, *arguments: str, environment: dict[str, str]
) -> subprocess.Popen[str]:
    command = [sys.executable, str(toy / name), *arguments]
    return subprocess.Popen(
        command, env=environment, cwd=toy, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_toy_says_the_same_offline_online_and_hybrid(
    toy: Path, environment: dict[str, str], topic_name: Names, tmp_path: Path
) -> None:
    files = [str(tmp_path / f"t{index}.avro") for index in (0, 1)]
    topics = [topic_name("toy0"), topic_name("toy1")]
    environment = {**environment, "CPU_NUM": "2"}

    def learn(*arguments: str) -> subprocess.Popen[str]:
        return script(toy, "run_student.py", *arguments, environment=environment)

    # Online with the student first, greetings included; offline meanwhile.
    online = learn(
        "--in_topic0",
        topics[0],
        "--in_topic1",
        topics[1],
        "--test_send_recv",
        "--merge_strategy",
        "sum",
    )
    started = [
        script(
            toy,
            "run_teacher1.py",
            "--out_path",
            files[0],
            "--batch_size",
            "7",
            environment=environment,
        ),
        script(
            toy,
            "run_teacher2.py",
            "--out_path",
            files[1],
            "--generator_type",
            "sample_generator",
            environment=environment,
        ),
        script(
            toy,
            "run_teacher2.py",
            "--out_topic",
            topics[1],
            "--test_send_recv",
            "--batch_size",
            "1000",
            environment=environment,
        ),
        script(
            toy,
            "run_teacher1.py",
            "--out_topic",
            topics[0],
            "--test_send_recv",
            "--partitions",
            "3",
            environment=environment,
        ),
    ]
    for process in started:
        code, _, err = ended(process)
        assert code == 0, err
    code, first, err = ended(online)
    assert code == 0, err
    assert "hello student, this is teacher2" in err
    offline = learn(
        "--in_path0",
        files[0],
        "--in_path1",
        files[1],
        "--merge_strategy",
        "sum",
        "--batch_size",
        "5",
    )
    hybrid = learn(
        "--in_path0",
        files[0],
        "--in_topic1",
        topics[1],
        "--merge_strategy",
        "sum",
        "--batch_size",
        "64",
    )
    outputs = [first, ended(offline)[1], ended(hybrid)[1]]
    assert outputs[0] == outputs[1] == outputs[2]
    lines = outputs[0].splitlines()
    assert len(lines) == 1000
    assert lines[5] == "x=5 2x-1=9 result=20 2x+1=11"


def test_avro_tools_reads_a_recorded_file(
    environment: dict[str, str], topic_name: Names, tmp_path: Path
) -> None:
    from tutelage.deploy.local.programs import find_java, maven_artifact

    topic = topic_name("tools")
    assert (
        ended(
            begin(
                "teach",
                "tutelage.examples.toy.lessons:teacher1",
                "--topic",
                topic,
                environment=environment,
                cwd=tmp_path,
            )
        )[0]
        == 0
    )
    assert ended(begin("record", topic, "a.avro", environment=environment, cwd=tmp_path))[0] == 0
    jar = maven_artifact("org.apache.avro:avro-tools:1.12.2", "avro-tools", JARS)
    command = [find_java(), "-jar", str(next(jar.glob("*.jar"))), "tojson", "a.avro"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    records = [json.loads(line) for line in done.stdout.strip().split("\n")]
    assert sum(record["rows"] for record in records) == 1000
    assert records[-1]["end"]["tutelage.End"]["rows"] == 1000
    assert records[0]["k_2x_u2d_1"]["shape"][1:] == [1]


def test_topics_are_made_as_the_contract_needs_them(
    kafka: dict[str, Any], environment: dict[str, str], topic_name: Names, tmp_path: Path
) -> None:
    topic = topic_name("settings")
    assert (
        ended(
            begin(
                "teach",
                "tutelage.examples.toy.lessons:teacher1",
                "--topic",
                topic,
                environment=environment,
                cwd=tmp_path,
            )
        )[0]
        == 0
    )
    asked = KafkaTopic(KafkaConnection(kafka["bootstrap_servers"]), topic)
    assert asked.settings()["cleanup.policy"] == "delete"
    assert asked.settings()["max.message.bytes"] == str(16 << 20)
    assert asked.partitions() == 4
    assert os.environ.get("TUTELAGE_CONFIG") is None
