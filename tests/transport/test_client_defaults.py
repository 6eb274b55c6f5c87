"""The size of a fetch: a whole number of records, so that no record is cut and sent twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.transport.client_defaults import fetch_bytes


@given(st.integers(1, 4096), st.integers(64 << 10, 8 << 20))
def test_a_fetch_of_large_records_is_a_whole_number_of_them(
    partitions: int, record_bytes: int
) -> None:
    most = fetch_bytes(partitions)
    size = fetch_bytes(partitions, record_bytes)
    assert size <= most
    if record_bytes <= most:
        assert size >= record_bytes and size % record_bytes == 0
        # A batch of the producer has at most 1 MB, or one record.
        assert most - size < max(record_bytes, 1 << 20)
    else:
        assert size == most


@pytest.mark.parametrize(("partitions", "records"), [(1, 8), (4, 8), (8, 4), (16, 2), (64, 1)])
def test_records_of_a_megabyte_and_what_surrounds_them_fit_as_often_as_it_looks(
    partitions: int, records: int
) -> None:
    record_bytes = (1 << 20) + 1500
    assert fetch_bytes(partitions, record_bytes) == records * record_bytes
    # Also before their size is known.
    assert 0 <= fetch_bytes(partitions) - records * record_bytes < 64 << 10


@given(st.integers(1, 4096), st.integers(0, (64 << 10) - 1))
def test_for_small_records_a_fetch_is_as_large_as_it_may_be(
    partitions: int, record_bytes: int
) -> None:
    assert fetch_bytes(partitions, record_bytes) == fetch_bytes(partitions)
