"""A source -> who wrote it, how much it holds, what its values are like, and its first rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tutelage.consumers.sources.base import Source
from tutelage.schemas.record import Column, Ragged, Record
from tutelage.tools.key_statistics import KeyStatistics, as_complex64
from tutelage.tools.survey import SAMPLE_BYTES, Survey, sample_records, survey_source


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspected:
    """What is inside a source.

    Args:
        name: The source's.
        survey: Its run, and how much of it is there.
        statistics: Key -> what its values are like, of the records that were looked at.
        first_rows: Its first rows, key -> value as Python's numbers and lists.
        records: Records that were looked at.
        rows: Their rows.
    """

    name: str
    survey: Survey
    statistics: dict[str, KeyStatistics]
    first_rows: list[dict[str, Any]]
    records: int
    rows: int

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        survey = self.survey
        keys = {
            spec.key: {
                "dtype": spec.dtype,
                "shape": list(spec.shape),
                "wire": spec.wire,
                **self.statistics[spec.key].as_dict(),
            }
            for spec in survey.opened.description.specs
        }
        holds = {
            "records": survey.records,
            "rows": survey.rows,
            "nbytes": survey.nbytes,
            "passes_ended": survey.passes_ended,
            "seconds": survey.seconds,
            "flaw": survey.flaw,
            "partitions": [{"first": low, "end": end} for low, end in survey.partitions],
        }
        return {
            "source": self.name,
            **asdict(survey.opened.stream),
            "holds": holds,
            "runs": [asdict(run) for run in survey.runs],
            "looked_at": {"records": self.records, "rows": self.rows},
            "keys": keys,
            "first_rows": self.first_rows,
        }


def inspect(
    source: Source,
    *,
    rows: int = 3,
    sample_bytes: int | None = SAMPLE_BYTES,
    timeout_s: float = 10.0,
) -> Inspected:
    """Look into a file or topic.

    Args:
        source: What to look into; closed at the end.
        rows: First rows to give.
        sample_bytes: Bytes of records to read for the statistics, about; None reads all.
        timeout_s: Seconds to wait for a topic's first record.

    Returns:
        What is inside. What is not whole is said in `survey.flaw`.

    Raises:
        WaitTimeout: The topic holds nothing.
        DataError: Not even its first record can be read.
    """
    try:
        survey = survey_source(source, timeout_s)
        statistics = {key: KeyStatistics() for key in survey.opened.description}
        # Packed values cannot be calculated with.
        opaque = {
            spec.key for spec in survey.opened.description.specs if spec.wire_dtype.kind == "opaque"
        }
        first: list[dict[str, Any]] = []
        seen_records = seen_rows = 0
        for record in sample_records(source, survey, sample_bytes, timeout_s):
            seen_records, seen_rows = seen_records + 1, seen_rows + record.head.rows
            for key, column in record.columns.items():
                if key not in opaque:
                    statistics[key].add(column)
            if len(first) < rows:
                first += _rows(record, rows - len(first))
    finally:
        source.close()
    return Inspected(
        name=source.name,
        survey=survey,
        statistics=statistics,
        first_rows=first,
        records=seen_records,
        rows=seen_rows,
    )


def _rows(record: Record, count: int) -> list[dict[str, Any]]:
    count = min(count, record.head.rows)
    columns = {key: _row_values(column, count) for key, column in record.columns.items()}
    return [{key: values[row] for key, values in columns.items()} for row in range(count)]


def _row_values(column: Column, count: int) -> list[Any]:
    if isinstance(column, Ragged):
        stops = np.cumsum(column.lengths[:count])
        return [
            _plain(column.values[stop - length : stop])
            for stop, length in zip(stops, column.lengths, strict=False)
        ]
    return [_plain(column[row]) for row in range(count)]


def _plain(values: Any) -> Any:
    """A row as Python's numbers; what numpy alone knows (bfloat16, float8, half complex numbers) as floats or complex numbers."""
    array = as_complex64(np.asarray(values))
    return (array if array.dtype.kind in "biufc" else array.astype(np.float64)).tolist()
