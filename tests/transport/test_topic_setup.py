"""What a sink says about the topic it writes to, without a broker."""

from __future__ import annotations

import pytest

from tutelage import KafkaSink
from tutelage.schemas.codec import Encoded
from tutelage.schemas.errors import RecordTooLarge
from tutelage.schemas.record import RecordHead


@pytest.mark.parametrize(
    ("rows", "nbytes", "advice"),
    [
        (8, 2000, "rows_per_record=4 would fit"),
        (1, 2000, "a single row does not fit"),
        (3, 9000, "a single row"),
    ],
)
def test_a_record_that_is_too_large_is_told_every_way_out(
    rows: int, nbytes: int, advice: str
) -> None:
    sink = KafkaSink("t")
    sink.max_record_bytes = 1000
    head = RecordHead(run_id="run", pass_index=0, sequence=0, rows=rows, generation=0)
    with pytest.raises(RecordTooLarge, match=advice) as told:
        sink.pack(Encoded(head=head, buffers=[bytes(nbytes)], nbytes=nbytes))
    said = str(told.value)
    assert "rows_per_record=0" not in said
    assert "wire of the Teacher" in said
    assert f"topic_settings={{'max.message.bytes': {nbytes + 65536}}}" in said
