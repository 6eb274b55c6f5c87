"""Somebody who may write one topic, or who answers as the registry, wants readers to wait, to fill their memory, or to believe them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest
from support.hostile_topics import Writer
from support.raw_server import raw_server, trickled

from faults.cluster import Cluster, Outcome, Process, one_line

pytestmark = [pytest.mark.kafka, pytest.mark.faults, pytest.mark.timeout(900)]

MIB = 1 << 20


@pytest.mark.parametrize("command", ["learn", "verify"])
def test_28_duplicates_without_end(
    running: Cluster, outcome: Outcome, tmp_path: Path, command: str
) -> None:
    """a record written again and again in place of the next one."""
    topic, enough = running.topic("flood"), threading.Event()
    writer = Writer(running.kafka(), topic, width=10)
    writer.write(range(3))

    def flood() -> None:
        while not enough.is_set():
            writer.write([1] * 20)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        reader = running.begin(command, f"topic:{topic}", "--timeout", "3", cwd=tmp_path)
        code, _, err = reader.ended(120)
    finally:
        enough.set()
        thread.join()
    assert code == 6, err
    one_line(err, "record 3 of pass 0")
    outcome.verdict = "ends in WaitTimeout"


def test_29_a_hole_before_much_else(running: Cluster, outcome: Outcome, tmp_path: Path) -> None:
    """one partition lacks its record, and the others hold 440 MiB."""
    topic = running.topic("hole")
    Writer(running.kafka(), topic, width=4 * MIB).write(range(1, 220, 2), seed=1)
    reader = running.begin("verify", f"topic:{topic}", "--timeout", "6", cwd=tmp_path)
    peak = _peak(reader)
    code, _, err = reader.ended(120)
    assert code == 6, err
    one_line(err, "partition 0, record 0 of pass 0")
    # The order's budget, the client's queue and what was fetched when either was full; the command itself takes 60 MiB.
    assert peak < 400 * MIB
    outcome.verdict = f"WaitTimeout; {peak / MIB:.0f} MiB at most"


@pytest.mark.parametrize("command", ["teach", "learn"])
def test_30_a_registry_that_trickles(
    running: Cluster, outcome: Outcome, tmp_path: Path, command: str
) -> None:
    """the registry answers a byte at a time, without end."""
    topic = running.topic("trickle")
    if command == "learn":
        assert running.teach(topic, tmp_path, seconds="0").ended()[0] == 0

    with raw_server(trickled(b"HTTP/1.1 200 OK\r\nX-Long: ", b"a")) as port:
        registry = ("--registry", f"http://127.0.0.1:{port}")
        begun = (
            running.teach(topic, tmp_path, *registry)
            if command == "teach"
            else running.learn(topic, tmp_path, *registry)
        )
        code, _, err = begun.ended(90)
    assert code == 4, err
    one_line(err, "did not answer in time")
    outcome.verdict = "exit 4 after the registry's deadline"


def _peak(process: Process) -> int:
    """The most memory that a process has until it ends."""
    peak, looked = 0, psutil.Process(process.pid)
    while process.running():
        try:
            peak = max(peak, looked.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.05)
    return peak
