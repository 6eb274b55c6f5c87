"""`inspect` says what is inside, of whole files and of what is not whole, and its numbers are numpy's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.commands import invoke

from tutelage import FileSink, KafkaSink, Teacher
from tutelage.tools.key_statistics import BINS, KeyStatistics

NUMBERS = np.random.default_rng(5).normal(3, 2, (1000, 8)).astype(np.float32)


def taught(sink: Any, rows: int = 1000, passes: int = 1) -> None:
    """Normal numbers, half of them NaN in one key, ids, and rows of different length."""
    noisy = NUMBERS.copy()
    noisy[::2] = np.nan
    with Teacher(sink, passes=passes, rows_per_record=64, ragged_keys=["tokens"]) as teacher:
        for _ in range(passes):
            for start in range(0, rows, 100):
                at = slice(start, min(rows, start + 100))
                tokens = [torch.arange(index % 5) for index in range(at.start, at.stop)]
                teacher.write(
                    {
                        "x": NUMBERS[at],
                        "noisy": noisy[at],
                        "id": np.arange(at.start, at.stop),
                        "tokens": tokens,
                    }
                )
            teacher.end_pass()


@pytest.mark.parametrize("codec", ["null", "zstandard"])
def test_a_file_s_numbers_are_true(tmp_path: Path, codec: Any) -> None:
    taught(FileSink(tmp_path / "t.avro", codec=codec), passes=2)
    result = invoke("inspect", str(tmp_path / "t.avro"), "--json", "--rows", "2")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    holds = {name: found["holds"][name] for name in ("records", "rows", "passes_ended", "flaw")}
    assert holds == {"records": 32, "rows": 2000, "passes_ended": 2, "flaw": None}
    assert found["holds"]["nbytes"] == (tmp_path / "t.avro").stat().st_size
    x, noisy = found["keys"]["x"], found["keys"]["noisy"]
    assert (x["count"], x["nan_share"]) == (16000, 0.0)
    assert x["min"] == pytest.approx(float(NUMBERS.min())) and x["max"] == pytest.approx(
        float(NUMBERS.max())
    )
    assert x["mean"] == pytest.approx(float(NUMBERS.mean(dtype=np.float64)))
    assert sum(x["histogram"]["counts"]) == 16000 and len(x["histogram"]["counts"]) == BINS
    assert noisy["nan_share"] == 0.5
    assert found["keys"]["tokens"]["row_lengths"] == [0, 4]
    assert found["first_rows"][1]["id"] == 1 and found["first_rows"][1]["x"] == pytest.approx(
        NUMBERS[1].tolist()
    )


def test_what_people_see_is_readable(tmp_path: Path) -> None:
    taught(FileSink(tmp_path / "t.avro"))
    result = invoke(
        "inspect", str(tmp_path / "t.avro"), "--rows", "1", "--plot", str(tmp_path / "t.png")
    )
    assert result.code == 0, result.err
    assert "holds      1 of 1 passes, 1,000 rows, 16 records" in result.out
    assert "50.00%" in result.out and "▁" in result.out and "0 to 4 long" in result.out
    assert "statistics of all 1,000 rows in 16 records" in result.out
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    assert max(len(line) for line in result.out.splitlines() if "run " not in line) <= 120


@pytest.mark.parametrize(
    ("plot", "words"),
    [("t.xyz", "name a file that ends in .png"), ("nowhere/t.png", "there is no folder nowhere")],
)
def test_a_plot_that_cannot_be_written_is_said_before_anything_is_read(
    plot: str, words: str
) -> None:
    result = invoke("inspect", "not-there.avro", "--plot", plot)
    assert result.code == 2 and words in result.err


def test_a_file_that_is_cut_or_changed_is_shown_as_far_as_it_is_whole(tmp_path: Path) -> None:
    taught(FileSink(tmp_path / "t.avro"))
    data = (tmp_path / "t.avro").read_bytes()
    (tmp_path / "cut.avro").write_bytes(data[: len(data) // 2])
    found = json.loads(invoke("inspect", str(tmp_path / "cut.avro"), "--json").out)
    assert 0 < found["holds"]["rows"] < 1000 and "the file is cut" in found["holds"]["flaw"]
    assert found["looked_at"]["rows"] == found["holds"]["rows"]
    assert "not whole" in invoke("inspect", str(tmp_path / "cut.avro")).out


def test_a_large_file_is_sampled_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught(FileSink(tmp_path / "t.avro"))
    monkeypatch.setattr("tutelage.tools.survey.SAMPLE_BYTES", 20_000)
    sample = json.loads(invoke("inspect", str(tmp_path / "t.avro"), "--json").out)
    assert 1 < sample["looked_at"]["records"] < 8
    assert sample["keys"]["id"]["min"] == 0 and sample["keys"]["id"]["max"] > 500
    assert sample["holds"]["rows"] == 1000
    everything = json.loads(invoke("inspect", str(tmp_path / "t.avro"), "--json", "--all").out)
    assert everything["looked_at"]["rows"] == 1000


def test_a_topic_is_looked_into_in_order(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("inspected")
    taught(KafkaSink(topic, partitions=3, **kafka))
    flags = ("-b", kafka["bootstrap_servers"], "--registry", kafka["registry"])
    found = json.loads(invoke("inspect", f"topic:{topic}", "--json", *flags).out)
    assert (found["holds"]["records"], found["holds"]["rows"], found["looked_at"]["rows"]) == (
        16,
        1000,
        1000,
    )
    assert [part["end"] for part in found["holds"]["partitions"]] == [7, 6, 6]
    assert [row["id"] for row in found["first_rows"]] == [0, 1, 2]
    assert found["holds"]["seconds"] > 0


def test_a_topic_whose_teacher_has_not_finished_is_shown_as_far_as_it_is(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("unfinished")
    teacher = Teacher(KafkaSink(topic, partitions=2, **kafka), rows_per_record=10)
    teacher.start()
    teacher.write({"id": torch.arange(95)})
    teacher.close()
    result = invoke(
        "inspect",
        f"topic:{topic}",
        "--json",
        "-b",
        kafka["bootstrap_servers"],
        "--registry",
        kafka["registry"],
    )
    found = json.loads(result.out)
    assert (found["holds"]["rows"], found["looked_at"]["rows"], found["holds"]["passes_ended"]) == (
        90,
        90,
        0,
    )
    assert "its teacher has not finished" in found["holds"]["flaw"]


@given(
    st.lists(
        st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=0, max_size=30),
        min_size=1,
        max_size=6,
    )
)
def test_statistics_are_numpy_s_however_values_come(parts: list[list[float]]) -> None:
    found = KeyStatistics()
    for part in parts:
        found.add(np.array(part, np.float32))
    values = np.concatenate([np.array(part, np.float32) for part in parts])
    finite = values[np.isfinite(values)].astype(np.float64)
    assert (found.count, found.nan, found.infinite) == (
        values.size,
        np.isnan(values).sum(),
        np.isinf(values).sum(),
    )
    if finite.size:
        assert (found.low, found.high) == (finite.min(), finite.max())
        assert found.mean == pytest.approx(finite.mean(), rel=1e-6, abs=1e-30)
        assert found.histogram()[0].sum() == finite.size
        assert len(found.sparkline()) == BINS
    else:
        assert found.mean is None and found.sparkline() == ""


@pytest.mark.parametrize(
    "dtype",
    [
        np.bool_,
        np.uint8,
        np.int64,
        np.float16,
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn,
        np.complex64,
    ],
)
def test_every_kind_of_number_has_statistics(dtype: Any) -> None:
    found = KeyStatistics()
    found.add(np.array([[0, 1], [1, 1]]).astype(dtype))
    assert (found.low, found.high, found.mean) == (0.0, 1.0, 0.75)


def test_looking_and_copying_do_not_wait_for_torch() -> None:
    program = (
        "import sys, tutelage.cli.main, tutelage.tools.inspect\nfrom tutelage import FileSource, KafkaSource\n"
        "from tutelage import FileSink, KafkaSink\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_run_of_several_passes_that_has_not_finished_is_shown(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("passes")
    teacher = Teacher(KafkaSink(topic, partitions=2, **kafka), rows_per_record=10, passes=3)
    teacher.start()
    teacher.write({"id": torch.arange(40)})
    teacher.end_pass()
    teacher.write({"id": torch.arange(30)})
    teacher.close()
    result = invoke(
        "inspect",
        f"topic:{topic}",
        "--json",
        "-b",
        kafka["bootstrap_servers"],
        "--registry",
        kafka["registry"],
    )
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert (found["holds"]["passes_ended"], found["looked_at"]["rows"]) == (1, 70)


def test_a_topic_whose_beginning_is_gone_is_shown_all_the_same(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient

    topic = topic_name("expired")
    taught(KafkaSink(topic, partitions=1, **kafka))
    admin = AdminClient({"bootstrap.servers": kafka["bootstrap_servers"]})
    for future in admin.delete_records([TopicPartition(topic, 0, 5)]).values():
        future.result(20)
    result = invoke(
        "inspect",
        f"topic:{topic}",
        "--json",
        "-b",
        kafka["bootstrap_servers"],
        "--registry",
        kafka["registry"],
    )
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert (
        found["holds"]["partitions"] == [{"first": 5, "end": 17}] and found["holds"]["rows"] == 1000
    )
    assert "deleted offsets before 5" in found["holds"]["flaw"]


def test_what_no_number_can_be_is_null_in_json(tmp_path: Path) -> None:
    with Teacher(FileSink(tmp_path / "odd.avro")) as teacher:
        teacher.write(
            {
                "x": torch.tensor(
                    [[float("nan"), 1e308, -1e308], [float("inf"), 0, 1]], dtype=torch.float64
                )
            }
        )
    result = invoke("inspect", str(tmp_path / "odd.avro"), "--json")
    found = json.loads(result.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["first_rows"][0]["x"][0] is None
    assert sum(found["keys"]["x"]["histogram"]["counts"]) == 4


def test_a_look_keeps_no_record_in_memory() -> None:
    found = KeyStatistics()
    found.add(np.zeros((4096, 64), np.float32))
    assert all(sample.base is None for sample in found._samples)
