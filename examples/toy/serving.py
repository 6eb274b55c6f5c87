"""What both teachers' scripts do: open a sink, exchange greetings if asked to, serve."""

from __future__ import annotations

import argparse
import sys

from torch import nn

from tutelage import FileSink, KafkaSink, Sink, Teacher
from tutelage.examples.toy.flags import cpu_devices
from tutelage.examples.toy.reader import inputs_of


def serve(model: nn.Module, name: str, flags: argparse.Namespace) -> None:
    """Write the model's predictions for the reader's numbers to the flags' file or topic."""
    sink: Sink
    if flags.out_path:
        sink = FileSink(flags.out_path)
    else:
        sink = KafkaSink(
            flags.out_topic,
            bootstrap_servers=flags.bootstrap_servers,
            registry=flags.registry,
            partitions=flags.partitions,
        )
    inputs = f"numbers to {flags.max_n}"
    with Teacher(
        sink,
        name=name,
        inputs_fingerprint=inputs,
        passes=flags.serving_times,
        rows_per_record=flags.rows_per_record,
    ) as teacher:
        if flags.test_send_recv and flags.out_topic:
            teacher.send({"greeting": f"hello student, this is {name}"})
            print(f"{name} received: {teacher.recv()}", file=sys.stderr)
        teacher.serve(
            model,
            inputs_of(flags.generator_type, max_n=flags.max_n, batch_size=flags.batch_size),
            devices=None if flags.use_cuda else cpu_devices(),
        )
        print(f"{name}: {teacher.run.rows_written} rows written to {sink.name}", file=sys.stderr)
