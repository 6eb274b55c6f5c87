"""Encoded vectors are the bytes that the layout says, in little memory, on every device."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.encoded import uniform_of
from support.peak_memory import peak_growth
from support.sampled_rows import read_sampled_row

from tutelage.producers.stages import projected
from tutelage.producers.stages.places import Place
from tutelage.producers.stages.projected import Vectors
from tutelage.producers.stages.vector_encoding import (
    encode_int8,
    encode_sampled,
    encode_topk,
)
from tutelage.schemas.encoded_rows import decode_int8, decode_sampled, decode_topk
from tutelage.schemas.encodings import Int8, Sampled, TopK

PLACE = Place(stream="run", pass_index=0, batch=0, first_row=0)


def logits_of(positions: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return (torch.randn(positions, vocabulary, generator=generator) * 4).to(dtype)


@given(
    st.lists(st.integers(0, 5), max_size=6),
    st.integers(1, 300) | st.sampled_from([65_537, 140_000, 270_000]),
    st.sampled_from([1, 5, 25, 63, 64, 255]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    st.sampled_from([1.0, 0.5, 3.0]),
)
@settings(deadline=None)
def test_sampled_rows_are_decoded_to_what_was_drawn(
    lengths: list[int], vocabulary: int, draws: int, dtype: torch.dtype, temperature: float
) -> None:
    positions = sum(lengths)
    logits = logits_of(positions, vocabulary, dtype)
    encoding = Sampled(draws, temperature=temperature)
    before = logits.clone()
    encoded = encode_sampled(
        Vectors(logits, None, vocabulary, "key 'k'"),
        encoding,
        None,
        torch.tensor(lengths, dtype=torch.int64),
        uniform_of(positions),
    )
    assert torch.equal(logits, before), "the model's tensor was changed"
    assert encoded.lengths is not None
    row_bytes = encoded.lengths.numpy()
    values = encoded.values.numpy()[: row_bytes.sum()]
    found = decode_sampled(values, row_bytes, encoding, vocabulary)
    assert found.lengths.tolist() == lengths
    p = torch.softmax(logits.float() / temperature, -1).double()
    share = draws * p
    counts = torch.zeros(positions, vocabulary, dtype=torch.float64)
    owners = np.repeat(np.arange(positions), found.entries)
    counts[owners, found.ids] = torch.from_numpy(found.counts).double()
    assert bool((counts >= torch.floor(share - 1e-3)).all())
    assert bool((counts <= torch.ceil(share + 1e-3)).all())
    entropy = torch.special.entr(p).sum(-1)
    assert np.allclose(found.entropy, entropy, rtol=2e-3, atol=2e-3)
    start, read = 0, []
    for size in row_bytes:
        read += read_sampled_row(
            values[start : start + size].tobytes(), draws=draws, vocabulary=vocabulary
        )
        start += size
    assert [sum(each.values()) for each in read] == [draws] * positions
    assert [id_ for each in read for id_ in each] == found.ids.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_top_k_is_the_softmax_and_the_rest_of_it(dtype: torch.dtype) -> None:
    logits = logits_of(9, 200, dtype)
    logits[0, 5:] = -math.inf
    logits[1, 7] = 60.0
    encoded = encode_topk(Vectors(logits, None, 200, "key 'k'"), TopK(12, temperature=2), None)
    assert not bool(encoded.invalid)
    found = decode_topk(encoded.values.numpy(), TopK(12), 200)
    logs = torch.log_softmax(logits.double() / 2, -1)
    best = logs.topk(12)
    assert np.allclose(found.log_probs, best.values, rtol=2e-3, atol=1e-6)
    rest = logs.clone().scatter_(1, best.indices, -math.inf).logsumexp(-1)
    assert np.allclose(found.tail, rest, rtol=1e-4)
    assert found.tail[0] == -math.inf
    finite = np.isfinite(found.log_probs)
    assert np.array_equal(np.where(finite, found.ids, 0), np.where(finite, best.indices, 0))


def test_int8_is_within_half_a_step_of_the_vector() -> None:
    values = logits_of(6, 33)
    values[2] = 0
    encoded = encode_int8(Vectors(values, None, 33, "key 'k'"), None)
    found = torch.from_numpy(decode_int8(encoded.values.numpy()))
    step = values.abs().amax(1, keepdim=True) / 127
    assert bool(((found - values).abs() <= step / 2 * 1.001).all())
    assert bool((found[2] == 0).all())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("encoding", [Sampled(5), TopK(3), Int8()])
def test_values_that_are_no_numbers_are_noticed(
    encoding: Sampled | TopK | Int8, bad: float
) -> None:
    values = logits_of(4, 9)
    values[2, 3] = bad
    vectors = Vectors(values, None, 9, "key 'k'")
    if isinstance(encoding, Sampled):
        encoded = encode_sampled(vectors, encoding, None, torch.tensor([4]), uniform_of(4))
    elif isinstance(encoding, TopK):
        encoded = encode_topk(vectors, encoding, None)
    else:
        encoded = encode_int8(vectors, None)
    assert bool(encoded.invalid)


@pytest.mark.parametrize("own_head", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_chunks_do_not_change_the_bytes(
    monkeypatch: pytest.MonkeyPatch, own_head: bool, mask: bool
) -> None:
    hidden, weight = logits_of(23, 8), logits_of(50, 8)
    head = (lambda some: some @ weight.T) if own_head else None
    values = hidden if own_head else hidden @ weight.T
    kept = torch.arange(0, 23, 2) if mask else None
    count = 12 if mask else 23
    found = []
    for chunk in (1, 600, 1 << 20):
        monkeypatch.setattr(projected, "CHUNK_BYTES", chunk)
        vectors = Vectors(values, head, 50, "key 'k'")
        sampled = encode_sampled(
            vectors, Sampled(7), kept, torch.tensor([count]), uniform_of(count)
        )
        assert sampled.lengths is not None
        parts = [sampled.values[: int(sampled.lengths.sum())]]
        parts += [encode_topk(vectors, TopK(5), kept).values, encode_int8(vectors, kept).values]
        found.append([part.reshape(-1).tolist() for part in parts])
    # A matrix product of other rows may differ in its last bits, and so may what is made of it.
    same = [np.mean(np.equal(one, other)) for one, other in zip(found[0], found[2], strict=True)]
    assert min(same) > (0.9 if own_head else 0.999999)


@pytest.mark.parametrize(
    "call",
    [
        "encode_sampled(vectors, Sampled(25), None, rows, u)",
        "encode_topk(vectors, TopK(50), None)",
    ],
)
def test_encoding_takes_at_most_two_chunks_of_memory(call: str, tmp_path: Path) -> None:
    script = f"""
import ctypes
# Freed memory goes back at once, so that what is measured is what is in use.
ctypes.CDLL(None).mallopt(-3, 1 << 20)
from tutelage.producers.stages.projected import Vectors
from tutelage.producers.stages.vector_encoding import encode_sampled, encode_topk
from tutelage.schemas.encodings import Sampled, TopK
logits = torch.randn(1500, 49_152)
def run(some):
    vectors = Vectors(some, None, 49_152, "k")
    rows, u = torch.tensor([len(some)]), torch.rand(len(some), dtype=torch.float64)
    {call}
run(logits[:8].clone())
before = peak()
run(logits)
"""
    grown, _ = peak_growth(script, tmp_path)
    assert grown <= 2 * projected.CHUNK_BYTES + (16 << 20)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_encodes_what_the_cpu_does(dtype: torch.dtype) -> None:
    logits = logits_of(200, 50_000, dtype)
    rows, uniform = torch.tensor([150, 0, 50]), uniform_of(200)
    found = []
    for device in ("cpu", "cuda"):
        vectors = Vectors(logits.to(device), None, 50_000, "key 'k'")
        sampled = encode_sampled(vectors, Sampled(25), None, rows.to(device), uniform.to(device))
        assert sampled.lengths is not None
        sizes = sampled.lengths.cpu().numpy()
        values = sampled.values.cpu().numpy()[: sizes.sum()]
        top = encode_topk(vectors, TopK(50), None).values.cpu().numpy()
        small = encode_int8(vectors, None).values.cpu().numpy()
        decoded = decode_sampled(values, sizes, Sampled(25), 50_000)
        found.append((decoded, decode_topk(top, TopK(50), 50_000), decode_int8(small)))
    here, there = found
    assert there[0].lengths.tolist() == [150, 0, 50]
    # Sums in another order move a boundary between two ids now and then.
    assert np.mean(here[0].entries == there[0].entries) > 0.95
    assert np.allclose(here[0].entropy, there[0].entropy, rtol=2e-3)
    assert np.allclose(here[1].log_probs, there[1].log_probs, atol=2e-2)
    assert np.allclose(here[1].tail, there[1].tail, rtol=1e-3)
    assert np.allclose(here[2], there[2], atol=0.3)


@pytest.mark.gpu
def test_encoding_takes_at_most_two_chunks_of_a_gpus_memory() -> None:
    logits = torch.randn(2000, 152_064, device="cuda", dtype=torch.bfloat16)
    rows, uniform = torch.tensor([2000]).cuda(), uniform_of(2000).cuda()
    vectors = Vectors(logits, None, 152_064, "key 'k'")
    for encode in (
        lambda: encode_sampled(vectors, Sampled(25), None, rows, uniform),
        lambda: encode_topk(vectors, TopK(64), None),
    ):
        encode()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        encode()
        grown = torch.cuda.max_memory_allocated() - before
        assert grown <= 2 * projected.GPU_CHUNK_BYTES + (64 << 20), grown


def test_a_small_vocabulary_takes_little_memory_too(tmp_path: Path) -> None:
    script = """
from tutelage.producers.stages.projected import Vectors
from tutelage.producers.stages.vector_encoding import encode_sampled
from tutelage.schemas.encodings import Sampled
logits = torch.randn(8192, 65)
def run(some):
    rows, u = torch.tensor([len(some)]), torch.rand(len(some), dtype=torch.float64)
    encode_sampled(Vectors(some, None, 65, "k"), Sampled(25), None, rows, u)
run(logits[:8].clone())
before = peak()
run(logits)
"""
    grown, _ = peak_growth(script, tmp_path)
    assert grown <= 160 << 20


def test_the_largest_number_of_int8_is_decoded_to_a_finite_one() -> None:
    values = torch.full((1, 2), torch.finfo(torch.float32).max)
    encoded = encode_int8(Vectors(values, None, 2, "key 'k'"), None)
    assert not bool(encoded.invalid)
    assert np.isfinite(decode_int8(encoded.values.numpy())).all()


def test_logits_of_float64_keep_their_differences() -> None:
    logits = torch.tensor([[1e9, 1e9 + 1, 1e9 + 2]], dtype=torch.float64)
    encoded = encode_topk(Vectors(logits, None, 3, "key 'k'"), TopK(3), None)
    found = decode_topk(encoded.values.numpy(), TopK(3), 3)
    assert np.allclose(found.log_probs[0], torch.log_softmax(logits, -1)[0].flip(0), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_is_drawn_does_not_depend_on_autocast(dtype: torch.dtype) -> None:
    def encoded() -> list[int]:
        vectors = Vectors(logits_of(6, 1000), None, 1000, "key 'k'")
        found = encode_sampled(vectors, Sampled(25), None, torch.tensor([6]), uniform_of(6))
        return list(found.values.tolist())

    plain = encoded()
    with torch.autocast("cpu", dtype=dtype):
        assert encoded() == plain
