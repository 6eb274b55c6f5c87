"""On-policy distillation on a real broker: queries, replicas, pacing, restarts."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.answering_lesson import answers_to, model
from support.asking import BATCH, PARTITIONS, ROWS, Answering, queries_to, rows_of, student_of
from support.replicas import Replicas, written

from tutelage import (
    ConfigurationError,
    KafkaSink,
    KafkaSource,
    OnPolicy,
    Sampled,
    SampleMismatch,
    SchemaError,
    SinkExists,
    Student,
    Teacher,
    WaitTimeout,
)

pytestmark = pytest.mark.kafka


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_a_student_trains_on_what_it_asks_in_order_and_within_the_lag(
    kafka: dict[str, Any], topic_name: Callable[[str], str], lag: int
) -> None:
    topic = topic_name("asked")
    replica = Answering(topic, kafka)
    made: list[tuple[int, int]] = []
    with queries_to(topic, kafka) as queries, student_of(topic, kafka) as student:

        def generate(step: int) -> dict[str, Any]:
            made.append((step, loop.step))
            return rows_of(step)

        loop = OnPolicy(student, queries, generate, batch_size=BATCH, steps=6, max_policy_lag=lag)
        for step, batch in enumerate(loop):
            assert loop.step == step
            assert torch.equal(batch["x"], rows_of(step)["x"])
            assert torch.equal(batch["y"], answers_to(batch["x"]))
            assert loop.policy_lag == step - int(batch["policy_version"].min()) <= lag
        assert step == 5
        assert queries.ended
    assert [each for each, _ in made] == list(range(6))
    assert all(0 <= each - updates <= lag for each, updates in made)
    assert replica.done().rows == 6 * BATCH


def test_a_restarted_student_replays_what_the_topics_hold_and_generates_only_the_rest(
    kafka: dict[str, Any], topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    topic = topic_name("replayed")
    replica = Answering(topic, kafka)
    taken: list[torch.Tensor] = []
    with queries_to(topic, kafka) as queries, student_of(topic, kafka) as student:
        loop = OnPolicy(student, queries, rows_of, batch_size=BATCH, steps=6, max_policy_lag=2)
        for batch in itertools.islice(loop, 3):
            taken.append(batch["y"].clone())
            if len(taken) == 2:
                student.save(tmp_path / "state.json")
        assert queries.rows == 5 * BATCH
    # The third step was trained on and not saved: it is given again, and not generated again.
    with queries_to(topic, kafka) as queries, student_of(topic, kafka) as student:
        student.load(tmp_path / "state.json")
        other = OnPolicy(student, queries, rows_of, batch_size=BATCH, steps=6, max_policy_lag=2)
        assert other.step == 2
        again = [batch["y"].clone() for batch in other]
        assert other.generated_rows == BATCH
    assert torch.equal(again[0], taken[2])
    assert torch.equal(torch.cat([*taken[:2], *again]), answers_to(torch.arange(6 * BATCH)))
    assert replica.done().queries == 6 * BATCH // ROWS


def test_replicas_that_die_and_come_leave_no_query_out_and_answer_none_twice(
    kafka: dict[str, Any],
    environment: dict[str, str],
    topic_name: Callable[[str], str],
    tmp_path: Path,
) -> None:
    topic, steps = topic_name("killed"), 60
    replicas = Replicas(topic, environment, tmp_path)
    slow = {"ANSWER_SLEEP_S": "0.1"}
    flags = ("--max-rows", "4")
    try:
        with queries_to(topic, kafka) as queries, student_of(topic, kafka) as student:
            first, second = (replicas.start(*flags, **slow) for _ in range(2))
            loop = OnPolicy(
                student, queries, rows_of, batch_size=BATCH, steps=steps, max_policy_lag=4
            )
            for step, batch in enumerate(loop):
                assert torch.equal(batch["x"], rows_of(step)["x"])
                assert torch.equal(batch["y"], answers_to(batch["x"]))
                if step == 10:
                    # It is thought dead after six seconds, and goes on where it was later.
                    os.kill(first.pid, signal.SIGSTOP)
                    replicas.start(*flags, **slow)
                elif step == 25:
                    second.kill()
                    replicas.start(*flags, **slow)
                elif step == 40:
                    os.kill(first.pid, signal.SIGCONT)
                elif step == 50:
                    replicas.running[2].kill()
        for each in replicas.running:
            assert each.wait(60) in (0, -signal.SIGKILL), replicas.output()
    finally:
        replicas.close()
    sequences, _ = written(topic, kafka)
    assert sequences == {
        partition: [*range(partition, steps * BATCH // ROWS, PARTITIONS), -1]
        for partition in range(PARTITIONS)
    }


def test_two_groups_that_own_the_same_partitions_answer_each_query_once_for_readers(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("doubled")
    with queries_to(topic, kafka) as queries:
        for step in range(20):
            queries.write(rows_of(step))
        queries.end()
    replicas = [Answering(topic, kafka, group=f"{topic}-{name}", max_rows=2) for name in "ab"]
    with student_of(topic, kafka) as student:
        found = torch.cat([batch["y"].clone() for batch in student.knowledge(BATCH)])
    assert torch.equal(found, answers_to(torch.arange(20 * BATCH)))
    queries_answered = sum(each.done().queries for each in replicas)
    sequences, dropped = written(topic, kafka)
    assert queries_answered >= 80
    assert dropped >= queries_answered - 80
    assert sum(len(each) for each in sequences.values()) == 80 + PARTITIONS


def test_replicas_share_the_queries_by_the_brokers_own_protocol(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("kip848")
    replicas = [Answering(topic, kafka, group_protocol="consumer") for _ in range(2)]
    with queries_to(topic, kafka) as queries, student_of(topic, kafka) as student:
        loop = OnPolicy(student, queries, rows_of, batch_size=BATCH, steps=5)
        assert [int(batch["y"][0]) for batch in loop] == [2 * BATCH * step + 1 for step in range(5)]
    assert sum(each.done().queries for each in replicas) >= 20


def test_draws_do_not_depend_on_which_queries_are_computed_together(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    def logits(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        number = batch["x"].double()[:, None, None]
        return {"logits": (number * torch.arange(40.0).double() % 7).float().expand(-1, 3, 40)}

    found = []
    for most in (2, 64):
        topic = topic_name("drawn")
        with queries_to(topic, kafka, run_id="the-same") as queries:
            for step in range(4):
                queries.write(rows_of(step))
            queries.end()
        options: dict[str, Any] = {"wire": {"logits": Sampled(5)}, "max_rows": most}
        replica = Answering(topic, kafka, logits, **options)
        with student_of(topic, kafka) as student:
            found.append([batch["logits"].dense().clone() for batch in student.knowledge(BATCH)])
        replica.done()
    assert torch.equal(torch.cat(found[0]), torch.cat(found[1]))


def test_ragged_queries_come_padded_as_a_student_would_get_them(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("ragged")

    def sums(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        inside = torch.arange(batch["ids"].shape[1])[None] < batch["ids.lengths"][:, None]
        assert not batch["ids"][~inside].any()
        return {"sum": batch["ids"].sum(1), "length": batch["ids.lengths"]}

    replica = Answering(topic, kafka, sums)
    given = [torch.arange(length) for length in (3, 0, 5, 1)]
    with queries_to(topic, kafka, ragged_keys=["ids"]) as queries:
        queries.write({"ids": given})
        queries.end()
    with student_of(topic, kafka) as student:
        (batch,) = student.knowledge(4)
    replica.done()
    assert batch["length"].tolist() == [3, 0, 5, 1]
    assert batch["sum"].tolist() == [3, 0, 10, 0]


@pytest.fixture
def asked(kafka: dict[str, Any], topic_name: Callable[[str], str]) -> Iterator[str]:
    """A topic whose queries are written and ended."""
    topic = topic_name("mistaken")
    with queries_to(topic, kafka, inputs_fingerprint="tokenizer-1") as queries:
        queries.write(rows_of(0))
        queries.end()
    yield topic


def test_a_replica_of_another_revision_is_refused(asked: str, kafka: dict[str, Any]) -> None:
    Answering(asked, kafka, revision="1").done()
    with pytest.raises(SinkExists, match="revision '1' there, '2' here.*must be of one model"):
        Answering(asked, kafka, revision="2").done()


def test_queries_of_another_tokenizer_are_refused(asked: str, kafka: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="'tokenizer-1'.*'tokenizer-2'.*another tokenizer"):
        Answering(asked, kafka, inputs_fingerprint="tokenizer-2").done()


def test_a_model_that_leaves_rows_out_is_named(asked: str, kafka: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match="differ in rows|returned 1 rows for"):
        Answering(asked, kafka, lambda batch: {"y": batch["x"][:1]}).done()


def test_an_answer_to_other_rows_is_found_by_its_id(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("exchanged")
    with queries_to(topic, kafka) as queries:
        queries.write(rows_of(0))
        queries.end()
    reader = Student()
    reader.register_teacher(KafkaSource(f"{topic}.queries", **kafka))
    with reader:
        (asked,) = reader.knowledge(BATCH)
    sink = KafkaSink(topic, partitions=PARTITIONS, **kafka)
    with Teacher(sink, rows_per_record=ROWS) as teacher:
        teacher.write({"y": asked["x"], "query_id": asked["query_id"].flip(0)})
    with student_of(topic, kafka) as student, pytest.raises(SampleMismatch, match="query_id"):
        next(iter(student.knowledge(BATCH)))


def test_without_queries_a_replica_says_what_it_waits_for(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    teacher = Teacher(KafkaSink(topic_name("silent"), **kafka))
    with pytest.raises(
        WaitTimeout, match=r"a query in topic .*\.queries .* is the student running"
    ):
        teacher.answer(model, f"{topic_name('silent')}.queries", timeout_s=0.5)


def test_rows_that_would_wait_for_others_are_refused(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    with queries_to(topic_name("odd"), kafka) as queries:
        with pytest.raises(ConfigurationError, match="3 rows were given, but a record has 2"):
            queries.write({"x": torch.arange(3)})
        queries.write({"x": torch.arange(4)})
        assert queries.rows == 4


def test_replicas_idle_until_partitions_are_theirs(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("many")
    replicas = [Answering(topic, kafka) for _ in range(PARTITIONS + 1)]
    with queries_to(topic, kafka) as queries, student_of(topic, kafka) as student:
        loop = OnPolicy(student, queries, rows_of, batch_size=BATCH, steps=5)
        assert [int(batch["x"][0]) for batch in loop] == [BATCH * step for step in range(5)]
    assert sum(each.done().queries for each in replicas) == 20
