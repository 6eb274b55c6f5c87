"""The student of the toy: merges both teachers and prints one line per sample, in order.

python run_student.py --in_path0 teacher1.avro --in_path1 teacher2.avro      offline
python run_student.py --in_topic0 teacher1 --in_topic1 teacher2              online
python run_student.py --in_path0 teacher1.avro --in_topic1 teacher2          hybrid
"""

from __future__ import annotations

import argparse
import sys

from tutelage import FileSource, KafkaSource, Source, Student
from tutelage.examples.toy.flags import exit_with, kafka_flags, positive


def flags() -> argparse.Namespace:
    """Parse the flags of the student's script."""
    parser = argparse.ArgumentParser(description="The student of the toy.")
    for index in (0, 1):
        source = parser.add_mutually_exclusive_group(required=index == 0)
        source.add_argument(
            f"--in_path{index}", metavar="FILE", help=f"read teacher {index} from an Avro file"
        )
        source.add_argument(
            f"--in_topic{index}", metavar="TOPIC", help=f"read teacher {index} from a Kafka topic"
        )
    parser.add_argument(
        "--batch_size", type=positive, default=32, help="make batches of this many rows"
    )
    parser.add_argument(
        "--merge_strategy", choices=("sum", "mean"), default="mean", help="merge `result` this way"
    )
    parser.add_argument(
        "--test_send_recv", action="store_true", help="exchange greetings with the teachers first"
    )
    parser.add_argument(
        "--timeout", type=float, default=600.0, help="wait at most this many seconds for a teacher"
    )
    kafka_flags(parser)
    return parser.parse_args()


def main() -> None:
    """Register the teachers, and print all passes of their merged knowledge."""
    given = flags()
    student = Student(merge={"result": given.merge_strategy}, timeout_s=given.timeout)
    online: list[int] = []
    for index in (0, 1):
        path, topic = getattr(given, f"in_path{index}"), getattr(given, f"in_topic{index}")
        source: Source
        if path:
            source = FileSource(path)
        elif topic:
            source = KafkaSource(
                topic, bootstrap_servers=given.bootstrap_servers, registry=given.registry
            )
        else:
            continue
        number = student.register_teacher(source)
        online += [number] if topic else []
    with student:
        if given.test_send_recv:
            student.send("hello teachers, this is the student")
            for number in online:
                print(
                    f"student received from teacher {number}: {student.recv(number)}",
                    file=sys.stderr,
                )
        print(f"knowledge: {student.description}", file=sys.stderr)
        for _ in range(student.passes):
            for batch in student.knowledge(given.batch_size):
                # Tensors are converted to lists only to be printed.
                columns = [(key, values.flatten().tolist()) for key, values in batch.items()]
                for row in range(len(columns[0][1])):
                    print(" ".join(f"{key}={values[row]}" for key, values in columns))


if __name__ == "__main__":
    exit_with(main)
