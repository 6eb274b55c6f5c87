"""Encodings are parsed, described and laid out as documented, and changed bytes are errors."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sampled_rows import sampled_row

from tutelage.schemas.encoded_rows import decode_int8, decode_sampled, decode_topk
from tutelage.schemas.encodings import Encoding, Int8, Sampled, TopK, parse_encoding
from tutelage.schemas.errors import ConfigurationError, DescriptionChanged, SchemaError
from tutelage.schemas.knowledge_schema import description_from_schema, schema_from_description
from tutelage.schemas.record import Description, KeySpec, check_compatible

FINGERPRINTS = st.text("abcXYZ019._-", max_size=8)
HEATS = st.floats(1e-3, 1e3)
ENCODINGS = (
    st.builds(Sampled, st.integers(1, 255), HEATS, FINGERPRINTS)
    | st.builds(TopK, st.integers(1, 1000), HEATS, FINGERPRINTS)
    | st.just(Int8())
)


@given(ENCODINGS)
def test_the_text_of_an_encoding_is_parsed_to_the_same_encoding(encoding: Encoding) -> None:
    assert parse_encoding(str(encoding)) == encoding


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        (Sampled(), "sampled:25"),
        (Sampled(50, temperature=2, tokenizer="1f3a"), "sampled:50,temperature=2.0,tokenizer=1f3a"),
        (TopK(64), "topk:64"),
        (Int8(), "int8"),
        # Which positions are sent shows in the rows' lengths.
        (Sampled(25, mask="loss_mask"), "sampled:25"),
    ],
)
def test_the_text_of_an_encoding(encoding: Encoding, text: str) -> None:
    assert str(encoding) == text


def test_a_dtype_is_no_encoding() -> None:
    assert parse_encoding("float16") is None
    assert parse_encoding("sample:25") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sampled", "lacks a number"),
        ("sampled:", "'' is no number"),
        ("sampled:many", "'many' is no number"),
        ("sampled:0", "draws is 0; it must be a whole number, from 1 to 255"),
        ("sampled:256", "from 1 to 255"),
        ("topk:0", "k is 0"),
        ("topk:12,temperature=0", "temperature is 0.0; it must be a number above 0"),
        ("topk:12,temperature=nan", "temperature is nan"),
        ("sampled:25,heat=2", "'heat=2' is no option of sampled"),
        ("sampled:25,temperature=1,temperature=2", "no option"),
        ("sampled:25,tokenizer=a b", "give its fingerprint"),
        ("int8:4", "int8 has no option"),
        ("int8,temperature=2", "int8 has no option"),
    ],
)
def test_a_wrong_text_names_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_encoding(text)


@pytest.mark.parametrize(
    ("shape", "wire", "stored"),
    [
        ((1000,), "sampled:25", (-1,)),
        ((7, 1000), "sampled:25", (-1,)),
        ((-1, 1000), "sampled:25", (-1,)),
        ((7, 1000), "topk:12", (7, 64)),
        ((-1, 1000), "topk:12", (-1, 64)),
        ((7, 3, 512), "int8", (7, 3, 516)),
        ((-1, 512), "int8", (-1, 516)),
    ],
)
def test_what_is_stored_of_a_row(
    shape: tuple[int, ...], wire: str, stored: tuple[int, ...]
) -> None:
    spec = KeySpec(key="k", dtype="bfloat16", shape=shape, wire=wire)
    assert (spec.stored.shape, spec.stored.dtype) == (stored, "uint8")
    schema = schema_from_description(Description((spec,)))
    assert description_from_schema(schema, "here")["k"] == spec


@pytest.mark.parametrize(
    ("dtype", "shape", "wire", "message"),
    [
        ("int64", (7, 1000), "sampled:25", "int64 cannot travel as 'sampled:25'; .* nothing else"),
        ("float32", (), "topk:3", "have no vectors to encode"),
        ("float32", (-1,), "int8", "have no vectors to encode"),
        ("float32", (10,), "topk:11", "11 of 10 ids cannot be kept"),
        ("float32", (-1, 3, 10), "sampled:5", r"only \[-1, vocabulary\]"),
        ("float32", (7, 1 << 25), "sampled:5", "a vocabulary of 33554432"),
        ("float32", (7, 10), "sampled:05", "cannot travel as 'sampled:05'"),
    ],
)
def test_a_key_that_cannot_be_encoded_is_an_error(
    dtype: str, shape: tuple[int, ...], wire: str, message: str
) -> None:
    with pytest.raises(SchemaError, match=message):
        KeySpec(key="k", dtype=dtype, shape=shape, wire=wire)


def test_a_key_may_change_its_draws_but_not_from_dense_to_ragged_bytes() -> None:
    def of(wire: str) -> Description:
        return Description((KeySpec(key="k", dtype="float32", shape=(7, 1000), wire=wire),))

    check_compatible(of("sampled:25"), of("sampled:50"), "topic t")
    check_compatible(of("float16"), of("topk:12"), "topic t")
    with pytest.raises(DescriptionChanged, match="sampled:25"):
        check_compatible(of("float16"), of("sampled:25"), "topic t")


GOOD = sampled_row([[(3, 20), (900, 5)], [(0, 25)]], entropies=[1.5, 0.0])


def decoded(row: bytes, draws: int = 25, vocabulary: int = 1000):  # type: ignore[no-untyped-def]
    values = np.frombuffer(row, np.uint8)
    return decode_sampled(values, np.array([len(row)]), Sampled(draws), vocabulary)


def test_a_row_of_positions_is_decoded() -> None:
    found = decoded(GOOD)
    assert found.ids.tolist() == [3, 900, 0]
    assert found.counts.tolist() == [20, 5, 25]
    assert found.entries.tolist() == [2, 1]
    assert found.entropy.tolist() == [1.5, 0.0]
    assert found.lengths.tolist() == [2]


def test_rows_without_positions_and_no_rows_are_decoded() -> None:
    empty = sampled_row([])
    values = np.frombuffer(empty + GOOD + empty, np.uint8)
    lengths = np.array([len(empty), len(GOOD), len(empty)])
    found = decode_sampled(values, lengths, Sampled(25), 1000)
    assert found.lengths.tolist() == [0, 2, 0]
    assert found.ids.tolist() == [3, 900, 0]
    nothing = decode_sampled(values[:0], lengths[:0], Sampled(25), 1000)
    assert nothing.ids.tolist() == [] == nothing.lengths.tolist()


@pytest.mark.parametrize(
    "vocabulary", [1, 300, 65_536, 65_537, 131_072, 152_064, 262_144, 262_145, 1 << 24]
)
@pytest.mark.parametrize("draws", [1, 8, 9, 25, 255])
def test_ids_of_any_vocabulary_and_any_number_of_draws_are_decoded(
    vocabulary: int, draws: int
) -> None:
    largest = vocabulary - 1
    few = [(0, draws - 1), (largest, 1)] if draws > 1 and largest else [(largest, draws)]
    positions = [[(largest, draws)], few, few]
    row = sampled_row(positions, draws=draws, vocabulary=vocabulary)
    found = decoded(row, draws=draws, vocabulary=vocabulary)
    pairs = list(zip(found.ids.tolist(), found.counts.tolist(), strict=True))
    assert pairs == [pair for entries in positions for pair in entries]
    # 3 bytes more for each id than 16 bits only where the vocabulary needs them.
    high = {True: 0, False: -(-len(pairs) * Sampled(draws).high_bits(vocabulary) // 8)}
    size = 4 + 3 * ((draws + 6) // 8 + 2) + 2 * len(pairs) + high[vocabulary <= 65_536]
    assert len(row) == size


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (sampled_row([[(3, 20), (1000, 5)]]), "id 1000 lies outside a vocabulary of 1000"),
        (sampled_row([[(900, 20), (3, 5)]]), "do not ascend"),
        (GOOD[:4] + b"\xff" + GOOD[5:], "more or fewer bytes than its entries need"),
        (GOOD[:4] + b"\0\0\0" + GOOD[7:], "more or fewer bytes than its entries need"),
        (GOOD[:-1], "more or fewer bytes than its entries need"),
        (GOOD + b"\0", "more or fewer bytes than its entries need"),
        (struct.pack("<I", 1 << 31) + GOOD[4:], "fewer bytes than its positions need"),
        (b"\1\0", "no number of positions"),
    ],
)
def test_bytes_that_are_no_sampled_row_are_an_error(row: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decoded(row)


def test_bits_behind_the_last_draw_are_an_error() -> None:
    row = bytearray(sampled_row([[(3, 20)]], draws=20))
    row[4 + 2] |= 0x80
    with pytest.raises(ValueError, match="bits for more than 20 draws"):
        decoded(bytes(row), draws=20)


@given(st.binary(max_size=60), st.integers(1, 3))
def test_any_bytes_are_a_row_or_a_value_error(row: bytes, rows: int) -> None:
    cuts = np.linspace(0, len(row), rows + 1).astype(np.int64)
    try:
        found = decode_sampled(np.frombuffer(row, np.uint8), np.diff(cuts), Sampled(25), 1 << 18)
    except ValueError:
        return
    assert int(found.counts.sum()) == 25 * len(found.entries)


def topk_vector(tail: float, entries: list[tuple[int, float]]) -> np.ndarray:
    ids = b"".join(struct.pack("<I", each)[:3] for each, _ in entries)
    logs = b"".join(struct.pack("<e", each) for _, each in entries)
    return np.frombuffer(struct.pack("<f", tail) + ids + logs, np.uint8)


def test_a_top_k_vector_is_decoded() -> None:
    found = decode_topk(topk_vector(-2.5, [(70_000, -0.25), (3, -1.5)])[None], TopK(2), 100_000)
    assert found.ids.tolist() == [[70_000, 3]]
    assert found.log_probs.tolist() == [[-0.25, -1.5]]
    assert found.tail.tolist() == [-2.5]


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (topk_vector(-1, [(10, -0.5)]), "id 10 lies outside"),
        (topk_vector(-1, [(1, 0.5)]), "above 0"),
        (topk_vector(float("nan"), [(1, -0.5)]), "not a number"),
    ],
)
def test_bytes_that_are_no_top_k_vector_are_an_error(
    vector: np.ndarray,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        decode_topk(vector, TopK(1), 10)


def test_an_int8_vector_is_decoded_and_a_wrong_scale_is_an_error() -> None:
    row = np.frombuffer(struct.pack("<f3b", 0.5, -127, 0, 4), np.uint8)
    assert decode_int8(row).tolist() == [-63.5, 0.0, 2.0]
    for scale in (-0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="a scale is negative or not finite"):
            decode_int8(np.frombuffer(struct.pack("<f3b", scale, 1, 2, 3), np.uint8))


@pytest.mark.parametrize("encoding", [Sampled(5), TopK(3)], ids=str)
def test_ragged_rows_of_several_vectors_each_are_refused(encoding: Encoding) -> None:
    with pytest.raises(SchemaError, match=r"ragged rows of shape \[-1, 2, 9\]; only"):
        encoding.stored_shape((-1, 2, 9))
