"""Systematic draws are unbiased and exact; the device's bytes are what the layout says."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.peak_memory import peak_growth
from support.sampled_rows import read_sampled_row

from tutelage.producers.stages import projected
from tutelage.producers.stages.places import Place
from tutelage.producers.stages.projected import Vectors
from tutelage.producers.stages.uniforms import philox, uniforms
from tutelage.producers.stages.vector_encoding import (
    draw,
    encode_int8,
    encode_sampled,
    encode_topk,
)
from tutelage.schemas.encoded_rows import decode_int8, decode_sampled, decode_topk
from tutelage.schemas.encodings import Int8, Sampled, TopK

PLACE = Place(stream="run", pass_index=0, batch=0, first_row=0)


def distributions() -> dict[str, torch.Tensor]:
    """Logits `[vocabulary]`: peaked, flat, long-tailed, and with masked entries."""
    generator = torch.Generator().manual_seed(7)
    large = torch.randn(260_000, generator=generator)
    zipf = -1.1 * torch.arange(1, 50_001).log()
    masked = torch.randn(300, generator=generator)
    masked[::3] = -math.inf
    return {
        "peaked": torch.randn(1000, generator=generator) * 6,
        "flat": torch.zeros(37),
        "one id": torch.tensor([0.0]),
        "long tail": zipf,
        "260,000 entries": large,
        "masked": masked,
        "shifted far": torch.tensor([1e4, 1e4 + 1, 1e4 - 3]),
    }


@pytest.fixture(params=distributions())
def logits(request: pytest.FixtureRequest) -> torch.Tensor:
    return distributions()[request.param]


def uniform_of(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def counts_of(ids: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Draws `[positions, draws]` -> counts `[positions, vocabulary]`."""
    counts = torch.zeros(len(ids), vocabulary, dtype=torch.int64)
    return counts.scatter_add_(1, ids, torch.ones_like(ids))


@pytest.mark.parametrize("draws", [1, 25, 63, 255])
def test_each_count_is_the_floor_or_the_ceiling_of_its_share(
    logits: torch.Tensor, draws: int
) -> None:
    weights = torch.softmax(logits, -1).expand(40, -1)
    counts = counts_of(draw(weights, draws, uniform_of(40)), len(logits))
    expected = draws * weights.double() / weights.double().sum(-1, keepdim=True)
    assert torch.equal(counts.sum(1), torch.full((40,), draws))
    assert bool((counts >= torch.floor(expected - 1e-9)).all())
    assert bool((counts <= torch.ceil(expected + 1e-9)).all())
    assert not bool(counts[weights == 0].any()), "an id without probability was drawn"


def test_the_mean_of_many_draws_is_the_distribution(logits: torch.Tensor) -> None:
    draws, repeats = 25, 2000 if len(logits) < 10_000 else 60
    p = torch.softmax(logits.double(), -1)
    weights = torch.softmax(logits, -1).expand(repeats, -1)
    mean = counts_of(draw(weights, draws, uniform_of(repeats, 1)), len(logits)).double().mean(0)
    # A count takes two neighbouring values, so its variance is that of one Bernoulli trial.
    share = draws * p
    fraction = share - share.floor()
    error = (fraction * (1 - fraction) / repeats).sqrt()
    # 6 standard errors, and one draw in all repeats for ids that are hardly ever drawn.
    assert bool(((mean - share).abs() <= 6 * error + 2 / repeats).all())
    # Groups of rare ids are hit as often as they should be: a lost tail would show here.
    for low in (0, len(logits) // 2, 9 * len(logits) // 10):
        spread = math.sqrt(draws / repeats)
        assert abs(float(mean[low:].sum() - share[low:].sum())) <= 6 * spread


def test_a_float32_sum_of_a_long_tail_would_be_biased() -> None:
    """The trap that `draw` avoids: the same draws from float32 sums miss the tail."""
    weights = torch.ones(1, 260_000)
    weights[0, 0] = 2.0**24
    repeats, draws = 400, 255
    share = 260_000 * draws / float(weights.double().sum())

    def tail(cumulative: torch.Tensor) -> float:
        at = (torch.arange(draws) + uniform_of(repeats)[:, None]) / draws
        at = at * cumulative[-1]
        ids = torch.searchsorted(cumulative, at.to(cumulative.dtype), right=True)
        return float((ids > 0).double().sum(1).mean())

    ours = draw(weights.expand(repeats, -1), draws, uniform_of(repeats))
    assert abs(float((ours > 0).double().sum(1).mean()) - share) < 0.1 * share
    naive = np.cumsum(weights[0].numpy(), dtype=np.float32)
    assert tail(torch.from_numpy(naive)) == 0.0


def test_philox_gives_its_known_answers() -> None:
    """From the authors' Random123: examples/kat_vectors, philox4x32 10."""
    cases = [
        ([0] * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ]
    for counter, key, answer in cases:
        words = philox([torch.tensor([word]) for word in counter], key)
        assert " ".join(f"{int(word):08x}" for word in words) == answer


def test_uniforms_depend_on_the_place_alone() -> None:
    rows, positions = torch.arange(6).repeat_interleave(50), torch.arange(50).repeat(6)
    whole = uniforms(PLACE, "logits", 6, rows, positions)
    assert bool(((whole >= 0) & (whole < 1)).all())
    assert len(set(whole.tolist())) == 300
    behind = Place(stream="run", pass_index=0, batch=9, first_row=4)
    part = uniforms(behind, "logits", 2, rows[:100], positions[:100])
    assert torch.equal(part, whole[200:]), "the same rows in another batch"
    others = [
        Place(stream="run", pass_index=1, batch=0, first_row=0),
        Place(stream="another", pass_index=0, batch=0, first_row=0),
        Place(stream="run", pass_index=0, batch=0),
        Place(stream="run", pass_index=0, batch=1),
        Place(stream="run", pass_index=0, batch=1, first_row=0, rows=7),
    ]
    found = [whole, *(uniforms(place, "logits", 6, rows, positions) for place in others)]
    found.append(uniforms(PLACE, "other", 6, rows, positions))
    assert len({tuple(each.tolist()) for each in found}) == len(found) - 1
    assert torch.equal(found[4], found[5]), "both are batch 1 of rows that cannot be counted"


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
def test_uniforms_are_the_same_on_a_gpu() -> None:
    row, position = torch.arange(50).repeat_interleave(40), torch.arange(40).repeat(50)
    there = uniforms(PLACE, "logits", 50, row.cuda(), position.cuda())
    assert torch.equal(there.cpu(), uniforms(PLACE, "logits", 50, row, position))


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
