"""Counts of several teachers are added exactly; what cannot be added is refused by name."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.encoded import POSITIONS, VOCABULARY, learn, logits_of, same, target_of, topic_of
from support.sampled_rows import sampled_row

from tutelage import MemorySink, MemorySource, MemoryTopic, Ragged, Student, Teacher
from tutelage.consumers.losses.evaluation import check_tokenizer
from tutelage.consumers.stages.sparse_merge import SparseKey, count_factors
from tutelage.consumers.stages.strategies import parse_strategy
from tutelage.schemas.errors import (
    BatchTooLarge,
    ConfigurationError,
    CorruptData,
    LengthMismatch,
    MergeError,
)
from tutelage.schemas.limits import Limits
from tutelage.schemas.record import KeySpec

ROWS = 17


def test_counts_of_teachers_are_added_in_any_order() -> None:
    topics = [topic_of(logits_of(ROWS, seed), "sampled:25", run_id=str(seed)) for seed in range(3)]
    targets = [target_of(list(order), "mean") for order in permutations(topics)]
    assert all(same(targets[0], each) for each in targets[1:])
    alone = [target_of([topic]) for topic in topics]
    assert targets[0].draws == 75
    summed = torch.stack([each.dense().double() * 25 for each in alone]).sum(0)
    assert torch.equal((targets[0].dense().double() * 75).round(), summed.round())
    entropies = [each.entropy for each in alone if each.entropy is not None]
    assert targets[0].entropy is not None
    assert torch.allclose(targets[0].entropy, torch.stack(entropies).mean(0), atol=1e-6)


@given(
    st.integers(1, 200), st.integers(1, 200), st.sampled_from(["0.5,0.5", "0.7,0.3", "1,0", "3,5"])
)
@settings(max_examples=30, deadline=None)
def test_weights_and_draws_give_each_teacher_its_share(
    first: int, other: int, weights: str
) -> None:
    topics = [
        topic_of(logits_of(3, seed), f"sampled:{draws}", run_id=str(seed))
        for seed, draws in enumerate((first, other))
    ]
    merged = target_of(topics, f"weighted_mean:{weights}")
    again = target_of(topics[::-1], f"weighted_mean:{','.join(weights.split(',')[::-1])}")
    assert same(merged, again)
    share = [float(each) for each in weights.split(",")]
    parts = [
        weight / sum(share) * target_of([topic]).dense().double()
        for weight, topic in zip(share, topics, strict=True)
    ]
    expected = torch.stack(parts).sum(0)
    assert torch.allclose(merged.dense().double(), expected, atol=1e-6)
    assert merged.counts is not None
    assert int(merged.counts.sum()) == merged.draws * merged.positions
    assert bool((merged.counts > 0).all())


def test_factors_are_whole_numbers_in_the_ratio_of_weights_and_draws() -> None:
    specs = [
        KeySpec(key="k", dtype="float32", shape=(10,), wire=f"sampled:{draws}")
        for draws in (25, 50)
    ]
    assert count_factors("k", parse_strategy("k", "mean"), specs) == [2, 1]
    assert count_factors("k", parse_strategy("k", "weighted_mean:0.7,0.3"), specs) == [14, 3]
    assert count_factors("k", parse_strategy("k", "weighted_mean:0,1"), specs) == [0, 1]
    for weights, message in (
        ("0.123456789,1", "ratio of whole numbers"),
        ("-0.5,1", "0 or more"),
    ):
        with pytest.raises(MergeError, match=message):
            count_factors("k", parse_strategy("k", f"weighted_mean:{weights}"), specs)


@pytest.mark.parametrize(
    ("wires", "merge", "message"),
    [
        (["topk:12", "topk:12"], "mean", "top-k lists cannot be merged.*sampled:DRAWS"),
        (["sampled:25", "topk:12"], "mean", "top-k lists cannot be merged"),
        (["sampled:25", "float16"], "mean", "sampled and dense distributions cannot be merged"),
        (["sampled:25", "sampled:25"], "sum", "sum is not defined for sampled distributions"),
        (["sampled:25", "sampled:25"], "stack", "stack is not defined"),
        (
            ["sampled:25", "sampled:25,temperature=2"],
            "mean",
            "temperature 1.0 of t0, temperature 2",
        ),
        (
            ["sampled:25,tokenizer=ab", "sampled:25,tokenizer=cd"],
            "mean",
            "tokenizer ab of t0, tokenizer cd of t1",
        ),
        (["sampled:25", "sampled:25"], None, "say how to merge it"),
    ],
)
def test_what_cannot_be_merged_is_refused_before_the_first_batch(
    wires: list[str], merge: str | None, message: str
) -> None:
    topics = [
        topic_of(logits_of(4, seed), wire, name=f"t{seed}") for seed, wire in enumerate(wires)
    ]
    with pytest.raises(MergeError, match=message):
        next(learn(topics, merge={"logits": merge} if merge else None))


def test_other_vocabularies_are_refused_by_name() -> None:
    topics = [topic_of(logits_of(4, 0, size), "sampled:25", name=f"t{size}") for size in (300, 301)]
    with pytest.raises(
        MergeError, match="a vocabulary of 300 of t300, a vocabulary of 301 of t301"
    ):
        next(learn(topics, merge={"logits": "mean"}))


def test_first_takes_the_first_teachers_list_whatever_the_others_have() -> None:
    topics = [topic_of(logits_of(4, 0), "topk:12"), topic_of(logits_of(4, 1), "float16")]
    assert same(target_of(topics, "first"), target_of(topics[:1]))


def test_a_merge_names_the_tokenizer_that_is_known_and_whether_all_named_it() -> None:
    topics = [
        topic_of(logits_of(4, 0), "sampled:25"),
        topic_of(logits_of(4, 1), "sampled:25,tokenizer=ab"),
    ]
    for strategy, of_all in (("mean", False), ("first", True)):
        target = target_of(topics[::-1], strategy)
        assert (target.tokenizer, target.tokenizer_of_all) == ("ab", of_all)
    merged = target_of(topics, "mean")
    with pytest.raises(ConfigurationError, match="a teacher of the target names no tokenizer"):
        check_tokenizer(merged, "ab")
    with pytest.raises(ConfigurationError, match="'ab', the student has 'other'"):
        check_tokenizer(merged, "other")


def ragged_topic(lengths: list[int], wire: str, seed: int = 0) -> MemoryTopic:
    logits = logits_of(sum(lengths), seed)[:, 0]
    topic = MemoryTopic()
    with Teacher(MemorySink(topic), name=f"t{seed}", wire={"logits": wire}) as teacher:
        values = Ragged(logits.numpy(), np.array(lengths))
        teacher.write({"logits": values, "row": torch.arange(len(lengths))})
    return topic


@pytest.mark.parametrize("wire", ["sampled:25", "topk:12"])
def test_rows_of_different_length_have_their_lengths_beside_them(wire: str) -> None:
    lengths = [3, 0, 5, 1, 2]
    topic = ragged_topic(lengths, wire)
    batches = list(learn([topic], 2))
    assert [batch["logits"].lengths.tolist() for batch in batches] == [[3, 0], [5, 1], [2]]
    assert [batch["logits.lengths"].tolist() for batch in batches] == [[3, 0], [5, 1], [2]]
    assert {batch["logits"].shape for batch in batches} == {(-1,)}
    whole = next(learn([topic], 5))["logits"]
    assert same(whole, type(whole).cat([batch["logits"] for batch in batches]))


def test_teachers_whose_rows_differ_in_length_are_not_merged() -> None:
    topics = [ragged_topic([3, 2], "sampled:25", 0), ragged_topic([3, 1], "sampled:25", 1)]
    with pytest.raises(LengthMismatch, match=r"row 1: t0 has 2 positions, t1 1"):
        next(learn(topics, merge={"logits": "mean"}))


def test_a_row_that_is_not_what_its_encoding_says_is_an_error_with_its_place() -> None:
    """A checksum does not help where a program wrote other ids: they are checked as well."""
    row = sampled_row([[(1, 20), (300, 5)]] * POSITIONS)
    columns = Ragged(np.frombuffer(row * 4, np.uint8), np.full(4, len(row)))
    spec = KeySpec(key="logits", dtype="float32", shape=(POSITIONS, VOCABULARY), wire="sampled:25")
    key = SparseKey("logits", ["t"], [spec], parse_strategy("logits", "first"), pad_left=False)
    with pytest.raises(
        CorruptData,
        match=r"key 'logits', rows 8 to 11 of t: id 300 lies outside a vocabulary of 300",
    ):
        key.target([[columns]], 8)
    short = sampled_row([[(1, 25)]])
    columns = Ragged(np.frombuffer(short, np.uint8), np.array([len(short)]))
    with pytest.raises(CorruptData, match="does not have the 5 positions of its key"):
        key.target([[columns]], 0)


def test_a_batch_of_encoded_rows_has_the_size_of_its_bytes_not_of_its_vocabulary() -> None:
    """40 rows of dense logits would take 2 GB."""
    logits = torch.zeros(40, 1, 1).expand(40, 1, 1)
    topic = MemoryTopic()
    wide = torch.randn(1, 4, 100_000)
    with Teacher(MemorySink(topic), wire={"logits": "sampled:25"}) as teacher:
        for row in range(len(logits)):
            teacher.write({"logits": wide, "row": torch.tensor([row])})
    small = Limits(batch_bytes=1 << 20)
    student = Student(limits=small)
    student.register_teacher(MemorySource(topic))
    with student:
        assert sum(len(batch["logits"]) for batch in student.knowledge(40)) == 40
    tiny = Student(limits=Limits(batch_bytes=1 << 14))
    tiny.register_teacher(MemorySource(topic))
    with tiny, pytest.raises(BatchTooLarge, match="logits"):
        list(tiny.knowledge(40))


@pytest.mark.parametrize("wires", [("float16", "sampled:25"), ("sampled:25", "topk:12")])
def test_first_reads_the_first_teacher_alone_whatever_it_sends(wires: tuple[str, str]) -> None:
    topics = [topic_of(logits_of(4, 0), wires[0]), topic_of(logits_of(4, 1), wires[1])]
    (batch,) = learn(topics, merge={"logits": "first"})
    (alone,) = learn(topics[:1])
    if isinstance(batch["logits"], torch.Tensor):
        assert torch.equal(batch["logits"], alone["logits"])
    else:
        assert same(batch["logits"], alone["logits"])


def test_a_sampled_key_is_no_sample_id() -> None:
    student = Student(sample_id="logits")
    student.register_teacher(MemorySource(topic_of(logits_of(4), "sampled:25")))
    with student, pytest.raises(MergeError, match="an id is sent as it is, without an encoding"):
        next(student.knowledge(2))
