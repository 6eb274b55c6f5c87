"""The flags of the three scripts. They have the names of the flags of Pantheon's toy."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable

from tutelage import TutelageError
from tutelage.examples.toy.reader import GENERATOR_TYPES


def boolean(text: str) -> bool:
    """Parse `true` or `false`, the form of Pantheon's flags."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def positive(text: str) -> int:
    """Parse a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def kafka_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the addresses of broker and registry."""
    otherwise = "(default: from the environment, else that of `tutelage stack up`)"
    parser.add_argument(
        "--bootstrap_servers",
        metavar="HOST:PORT",
        help=f"connect to the broker at this address {otherwise}",
    )
    parser.add_argument(
        "--registry", metavar="URL", help=f"use the schema registry at this URL {otherwise}"
    )


def teacher_flags(description: str) -> argparse.Namespace:
    """Parse the flags of a teacher's script."""
    parser = argparse.ArgumentParser(description=description)
    out = parser.add_mutually_exclusive_group(required=True)
    out.add_argument("--out_path", metavar="FILE", help="write an Avro file (offline)")
    out.add_argument("--out_topic", metavar="TOPIC", help="write a Kafka topic (online)")
    parser.add_argument(
        "--use_cuda",
        type=boolean,
        default=False,
        metavar="true|false",
        help="run on every CUDA device that CUDA_VISIBLE_DEVICES shows",
    )
    parser.add_argument(
        "--generator_type",
        choices=GENERATOR_TYPES,
        default="batch_generator",
        help="read the inputs in this form",
    )
    parser.add_argument(
        "--batch_size", type=positive, default=32, help="make batches of this many rows"
    )
    parser.add_argument(
        "--max_n", type=positive, default=1000, help="read the inputs 0, 1, ... max_n - 1"
    )
    parser.add_argument(
        "--serving_times", type=positive, default=1, help="go over the inputs this many times"
    )
    parser.add_argument(
        "--test_send_recv", action="store_true", help="exchange greetings with the student first"
    )
    parser.add_argument(
        "--partitions",
        type=positive,
        default=None,
        help="create the topic with this many partitions",
    )
    parser.add_argument(
        "--rows_per_record", type=positive, default=None, help="put this many rows into a record"
    )
    kafka_flags(parser)
    return parser.parse_args()


def cpu_devices() -> list[str]:
    """As many CPU devices as the variable CPU_NUM says; its name is Paddle's."""
    return ["cpu"] * max(1, int(os.environ.get("CPU_NUM", "1")))


def exit_with(main: Callable[[], None]) -> None:
    """Run a script. An error ends it with one line on standard error and its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        main()
    except TutelageError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.stderr.flush()
        os._exit(130)
    except BrokenPipeError:
        os._exit(141)
