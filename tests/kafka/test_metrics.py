"""What a real teacher and student show of themselves is what is true of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from support.watched_run import BATCH, HELD_BATCHES, RECORD, ROWS, asked, watched_run


def test_metrics_and_health_tell_the_truth(
    environment: dict[str, str], topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    topic = topic_name("watched")
    with watched_run(environment, topic, tmp_path) as run:
        teacher = {"teacher": "watched", "topic": topic}
        records = ROWS // RECORD
        held = HELD_BATCHES * BATCH // RECORD
        for name, value in (
            # All but what waits for the end of the pass to be a record.
            ("records_total", records),
            ("rows_total", ROWS),
            ("partition_records_total", records),
            ("delivery_seconds_count", records),
            ("queue_records", 0),
            ("queue_bytes", 0),
            ("pass", 0),
            ("generation", 0),
        ):
            assert run.value(run.teacher, f"tutelage_producer_{name}", **teacher) == value, name
        for name in (
            "bytes_total",
            "input_wait_seconds_total",
            "forward_seconds_total",
            "encode_seconds_total",
            "write_seconds_total",
        ):
            assert run.value(run.teacher, f"tutelage_producer_{name}", **teacher) > 0, name
        for name, value in (
            ("records_total", records),
            ("rows_total", ROWS),
            ("duplicates_total", 0),
            ("zombie_records_total", 0),
            ("offset", held),
            ("lag_records", records - held),
            ("retention_headroom_records", held),
        ):
            assert run.value(run.student, f"tutelage_consumer_{name}", **teacher) == value, name
        for name in ("wait_seconds_total", "decode_seconds_total", "bytes_total"):
            assert run.value(run.student, f"tutelage_consumer_{name}", **teacher) > 0, name
        assert (
            run.value(run.student, "tutelage_consumer_lag_records", partition="1", **teacher)
            == (records - held) / 2
        )
        # Counted when they are cut, by the chunk.
        assert (
            run.value(run.student, "tutelage_consumer_delivered_rows_total") >= HELD_BATCHES * BATCH
        )
        assert run.value(run.student, "tutelage_consumer_starved_seconds_total") > 0
        assert run.value(run.student, "tutelage_checkpoint_age_seconds") > 0
        for port, doing in (
            (run.teacher, "waiting for the teacher's inputs or model"),
            (run.student, "training on a batch"),
        ):
            for path in ("/livez", "/readyz"):
                status, said = asked(port, path)
                assert (status, said.startswith(doing)) == (200, True), (path, status, said)
            assert asked(port, "/nothing") == (404, "try /metrics, /livez or /readyz\n")
            assert "process_resident_memory_bytes" in asked(port, "/metrics")[1]
