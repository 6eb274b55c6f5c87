"""A source -> who wrote it, how much it holds, statistics of its values, and its first rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tutelage.consumers.sources.base import Source
from tutelage.schemas.record import Column, Description, Ragged, Record
from tutelage.tools.encoded_keys import add_encoded, first_encoded_rows
from tutelage.tools.key_statistics import KeyStatistics, as_complex64
from tutelage.tools.survey import SAMPLE_BYTES, Survey, sample_records, survey_source


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspected:
    """What a source holds.

    Args:
        name: The source's name.
        survey: Its run, and how much of it the source holds.
        statistics: Key -> statistics of its values, from the records that were read.
        first_rows: The first rows, each as key -> value in Python's numbers and lists.
        records: The number of records that were read.
        rows: The number of rows in them.
    """

    name: str
    survey: Survey
    statistics: dict[str, KeyStatistics]
    first_rows: list[dict[str, Any]]
    records: int
    rows: int

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON-like values."""
        survey = self.survey
        keys = {
            spec.key: {
                "dtype": spec.dtype,
                "shape": list(spec.shape),
                "wire": spec.wire,
                **self.statistics[spec.key].as_dict(),
            }
            for spec in survey.info.description.specs
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
            **asdict(survey.info.stream),
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
        source: The file or topic; closed at the end.
        rows: How many of the first rows to return.
        sample_bytes: About how many bytes of records to read for the statistics; None reads all.
        timeout_s: Seconds to wait for a topic's first record.

    Returns:
        What the source holds. `survey.flaw` says where it is incomplete or damaged.

    Raises:
        WaitTimeout: The topic is empty.
        DataError: Not even the first record can be read.
    """
    try:
        survey = survey_source(source, timeout_s)
        description = survey.info.description
        statistics = {key: KeyStatistics() for key in description}
        # Opaque values cannot be calculated with.
        opaque = {spec.key for spec in description.specs if spec.wire_dtype.kind == "opaque"}
        first: list[dict[str, Any]] = []
        seen_records = seen_rows = 0
        for record in sample_records(source, survey, sample_bytes, timeout_s):
            seen_records, seen_rows = seen_records + 1, seen_rows + record.head.rows
            for key, column in record.columns.items():
                spec = description[key]
                if spec.encoding is not None:
                    add_encoded(statistics[key], spec, column, record.head)
                elif key not in opaque:
                    statistics[key].add(column)
            if len(first) < rows:
                first += _rows(record, description, rows - len(first))
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


def _rows(record: Record, description: Description, count: int) -> list[dict[str, Any]]:
    count = min(count, record.head.rows)
    columns = {
        key: _row_values(column, count)
        if description[key].encoding is None
        else first_encoded_rows(description[key], column, count, record.head)
        for key, column in record.columns.items()
    }
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
    """A row as Python's numbers; dtypes that Python lacks (bfloat16, float8, ...) are converted."""
    array = as_complex64(np.asarray(values))
    return (array if array.dtype.kind in "biufc" else array.astype(np.float64)).tolist()
