"""The flags of the three scripts, under the names Pantheon's toy gave them."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable

from tutelage import TutelageError
from tutelage.examples.toy.reader import GENERATOR_TYPES


def boolean(text: str) -> bool:
    """`true` or `false`, as Pantheon's flags are given."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def kafka_flags(parser: argparse.ArgumentParser) -> None:
    """Where broker and registry are; unless given, where the environment says, or where `tutelage stack up` puts them."""
    parser.add_argument("--bootstrap_servers")
    parser.add_argument("--registry")


def teacher_flags(description: str) -> argparse.Namespace:
    """The flags of a teacher's script."""
    parser = argparse.ArgumentParser(description=description)
    out = parser.add_mutually_exclusive_group(required=True)
    out.add_argument("--out_path", metavar="FILE", help="write an Avro file (offline)")
    out.add_argument("--out_topic", metavar="TOPIC", help="write a Kafka topic (online)")
    parser.add_argument(
        "--use_cuda",
        type=boolean,
        default=False,
        metavar="true|false",
        help="run on every CUDA device CUDA_VISIBLE_DEVICES shows",
    )
    parser.add_argument("--generator_type", choices=GENERATOR_TYPES, default="batch_generator")
    parser.add_argument("--batch_size", type=positive, default=32)
    parser.add_argument(
        "--max_n", type=positive, default=1000, help="the reader gives 0, 1, ... max_n - 1"
    )
    parser.add_argument("--serving_times", type=positive, default=1, help="passes over the reader")
    parser.add_argument(
        "--test_send_recv", action="store_true", help="exchange greetings with the student first"
    )
    parser.add_argument("--partitions", type=positive, default=None, help="of a new topic")
    parser.add_argument("--rows_per_record", type=positive, default=None)
    kafka_flags(parser)
    return parser.parse_args()


def cpu_devices() -> list[str]:
    """As many CPU devices as CPU_NUM says (the name is Paddle's)."""
    return ["cpu"] * max(1, int(os.environ.get("CPU_NUM", "1")))


def exit_with(main: Callable[[], None]) -> None:
    """Run a script: one line on stderr and an exit code for a user's mistake, nothing for Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        main()
    except TutelageError as error:
        sys.exit(_said(error))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.stderr.flush()
        os._exit(130)
    except BrokenPipeError:
        os._exit(141)


def _said(error: TutelageError) -> int:
    sys.stderr.write(f"error: {error}\n")
    return error.exit_code
