"""Asks the replicas of a teacher for the toy's numbers, as a student does that trains on-policy.

python -m tutelage.examples.toy.asking --topic asked --steps 600

The replicas are started beside it, as many as you like:

tutelage teach tutelage.examples.toy.lessons:asked --queries asked.queries --topic asked
"""

from __future__ import annotations

import argparse

import torch

from tutelage import KafkaSink, KafkaSource, OnPolicy, QueryWriter, Student
from tutelage.examples.toy.flags import exit_with, positive

BATCH, ROWS = 32, 4


def rows_of(step: int) -> dict[str, torch.Tensor]:
    """The rows of a step, int64 [32, 1]: their numbers."""
    return {"x": torch.arange(step * BATCH, (step + 1) * BATCH).reshape(-1, 1)}


def main(topic: str, steps: int, partitions: int) -> None:
    """Ask for the numbers of all steps, check the answers, and print how many there were."""
    sink = KafkaSink(f"{topic}.queries", partitions=partitions)
    queries = QueryWriter(sink, rows_per_record=ROWS, new_run=True)
    student = Student(sample_id="query_id")
    student.register_teacher(KafkaSource(f"{topic}.queries"))
    student.register_teacher(KafkaSource(topic))
    rows = 0
    with queries, student:
        for batch in OnPolicy(student, queries, rows_of, batch_size=BATCH, steps=steps):
            if not torch.equal(batch["result"], 2 * batch["x"] - 1):
                raise SystemExit(f"a wrong answer: {batch['result']} to {batch['x']}")
            rows += len(batch["x"])
    print(f"{rows:,} rows have their answers")


def flags() -> argparse.Namespace:
    """Parse the flags."""
    parser = argparse.ArgumentParser(description="Asks replicas for the numbers of the toy.")
    parser.add_argument("--topic", default="asked", help="read the answers from this topic")
    parser.add_argument("--steps", type=positive, default=600, help="ask in this many steps")
    parser.add_argument(
        "--partitions", type=positive, default=4, help="partitions of the topic of queries"
    )
    return parser.parse_args()


if __name__ == "__main__":
    given = flags()
    exit_with(lambda: main(given.topic, given.steps, given.partitions))
