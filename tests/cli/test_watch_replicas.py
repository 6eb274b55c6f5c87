"""What `watch` says of replicas is what is there: the words, the screen, and a real group whose replicas stand still."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, start_http_server
from rich.console import Console
from support.answering_lesson import model
from support.asking import BATCH, PARTITIONS, ROWS, Answering, queries_to, rows_of, student_of
from support.commands import invoke

from tutelage import OnPolicy
from tutelage.cli.watch_replicas import replicas_of
from tutelage.cli.watch_screen import WatchScreen
from tutelage.consumers.metrics import StudentMetrics
from tutelage.on_policy.metrics import OnPolicyMetrics
from tutelage.producers.metrics import TeacherMetrics
from tutelage.tools.replica_view import QueriesView, ReplicaMetricsView, ReplicasView, ReplicaView
from tutelage.tools.verdicts import verdicts
from tutelage.tools.watch_view import StudentView, View

A = ReplicaView(client="a", host="10.0.0.6", partitions=[0], rate=1.5)
B = ReplicaView(client="b", host="10.0.0.7", partitions=[1], rate=2.5)
IDLE = ReplicaView(client="c", host="10.0.0.8", partitions=[], rate=0.0)
DONE = QueriesView(answered=4, end=4, rate=1.5, owner="a")
LATE = QueriesView(answered=4, end=9, rate=2.5, oldest_s=31.0, owner="b")


def view_of(replicas: list[ReplicaView] | None, *partitions: QueriesView, **more: Any) -> View:
    group = ReplicasView(
        topic="t", queries="t.queries", group="g", replicas=replicas, partitions=list(partitions)
    )
    return View(**{"topics": [], "student": None, "trouble": [], "replicas": [group], **more})


@pytest.mark.parametrize(
    ("view", "how", "said"),
    [
        (view_of([A, B], DONE, LATE), "good", "2 replicas answer t.queries (group g)"),
        (
            view_of([A, B], DONE, LATE),
            "warning",
            "5 query records wait in t.queries, the oldest for 31 s; furthest behind is partition 1 "
            "with 5, of b on 10.0.0.7",
        ),
        (view_of([A], DONE), "good", "every query of t.queries has its answer"),
        (view_of([], DONE), "plain", "no replica answers t.queries: group g has no member"),
        (
            view_of([], LATE),
            "bad",
            "group g has no member. Start one: tutelage teach MODULE:TEACHER --queries t.queries "
            "--topic t",
        ),
        (
            view_of([A, IDLE], DONE),
            "plain",
            "1 of them has no partition: t.queries has 1",
        ),
        (
            view_of([A], DONE, QueriesView(answered=0, end=1, rate=0.0, oldest_s=3.0)),
            "warning",
            "no replica owns partitions 1",
        ),
        (
            view_of([A], DONE, QueriesView(answered=0, end=1, rate=0.0, oldest_s=3.0)),
            "plain",
            "1 query record waits in t.queries, the oldest for 3 s; furthest behind is partition 1 "
            "with 1, which no replica owns",
        ),
        (view_of([]), "warning", "topic t.queries does not exist yet"),
        (
            view_of(None, replica_metrics=[ReplicaMetricsView(address="x", discarded=3)]),
            "plain",
            "3 answers were computed, but not written",
        ),
        (
            view_of(None, student=StudentView(policy_lag=1.0)),
            "plain",
            "the last batch was generated with weights 1 update old",
        ),
    ],
)
def test_what_was_seen_of_replicas_is_put_into_words(view: View, how: str, said: str) -> None:
    assert any(said in line and how == found for found, line in verdicts(view)), verdicts(view)


def shown(view: View) -> str:
    console = Console(width=200, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(replicas_of(view))
    console.file.close()
    return console.export_text()


def test_the_screen_shows_queries_replicas_and_rates() -> None:
    metrics = ReplicaMetricsView(
        address="http://a:1", queries_rate=1.25, rows_rate=5.0, tokens_rate=1234.5, rebalances=7
    )
    view = view_of([A, B, IDLE], DONE, LATE, replica_metrics=[metrics])
    lines = [line.split() for line in shown(view).splitlines()]
    assert ["1", "4", "9", "5", "31", "s", "2.5", "b"] in lines
    assert ["b", "10.0.0.7", "1", "2.5"] in lines and ["c", "10.0.0.8", "none", "0.0"] in lines
    assert ["http://a:1", "1.2", "5.0", "1,234.5", "7", "0"] in lines
    assert "nobody" in shown(view_of([], DONE, QueriesView(answered=0, end=0, rate=0.0)))
    assert "not known" in shown(view_of(None, DONE))

    async def used() -> None:
        screen = WatchScreen(lambda: view, every_s=60, title="t")
        async with screen.run_test(size=(120, 50)) as pilot:
            while screen.view is None:
                await pilot.pause(0.05)
            await pilot.pause()
            text = "\n".join(
                "".join(s.text for s in line) for line in screen.screen._compositor.render_strips()
            )
            assert "10.0.0.7" in text and "2 replicas" not in text and "3 replicas answer" in text
            await pilot.press("q")

    asyncio.run(used())


@contextmanager
def served(*collectors: Any) -> Iterator[str]:
    """Serve metrics as a user's program does, and give their address."""
    registry = CollectorRegistry()
    for each in collectors:
        registry.register(each)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def looked(kafka: dict[str, Any], *arguments: str, every: str = "0.5") -> dict[str, Any]:
    """What `watch --json` prints, which must have seen all."""
    result = invoke(
        "watch", *arguments, "--json", "--every", every,
        "-b", kafka["bootstrap_servers"], "--registry", kafka["registry"],
    )  # fmt: skip
    assert result.code == 0, result.out + result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


def said(view: dict[str, Any]) -> str:
    return "\n".join(verdict["said"] for verdict in view["verdicts"])


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not done():
        assert time.monotonic() < deadline, "what is waited for never comes"
        time.sleep(0.2)


def waiting(view: dict[str, Any]) -> int:
    (group,) = view["replicas"]
    return sum(part["end"] - part["answered"] for part in group["partitions"])


def test_a_real_group_is_seen_as_it_is(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("answered")
    go = threading.Event()

    def held(batch: dict[str, Any]) -> dict[str, Any]:
        assert go.wait(120)
        return model(batch)

    asked = 2 * BATCH // ROWS
    with queries_to(topic, kafka) as queries:
        for step in range(2):
            queries.write(rows_of(step))
        before = looked(kafka, topic)
        assert (waiting(before), before["replicas"][0]["replicas"]) == (asked, [])
        assert f"no replica answers {topic}.queries" in said(before)
        assert f"{asked} query records wait" in said(before)
        assert all(part["oldest_s"] > 0 for part in before["replicas"][0]["partitions"])
        replicas = [Answering(topic, kafka, held) for _ in range(2)]
        until(lambda: all(each.teacher.replica is not None for each in replicas))
        until(
            lambda: (
                sorted(len(each.teacher.replica.owned) for each in replicas if each.teacher.replica)
                == [2, 2]
            )
        )
        with served(TeacherMetrics(replicas[0].teacher)) as port:
            during = looked(kafka, topic, "--metrics", port)
            go.set()
            until(lambda: not waiting(looked(kafka, topic)))
            answered = looked(kafka, topic, "--metrics", port)
        queries.end()
    (group,) = during["replicas"]
    members = group["replicas"]
    assert [sorted(member["partitions"]) for member in members] != [] and sorted(
        part for member in members for part in member["partitions"]
    ) == list(range(PARTITIONS))
    owners = {part: member["client"] for member in members for part in member["partitions"]}
    assert [part["owner"] for part in group["partitions"]] == [owners[n] for n in range(PARTITIONS)]
    assert waiting(during) == asked and "2 replicas answer" in said(during)
    (port_view,) = during["replica_metrics"]
    assert (port_view["partitions"], port_view["rows_rate"]) == (2, 0.0)
    assert f"every query of {topic}.queries has its answer" in said(answered)
    assert sum(each.done().queries for each in replicas) == asked
    # Another group has answered nothing, and none but the newest run's queries wait for it.
    with queries_to(topic, kafka, new_run=True) as queries:
        queries.write(rows_of(0))
        queries.end()
    other = looked(kafka, topic, "--replicas", f"{topic}-other")
    assert waiting(other) == BATCH // ROWS + PARTITIONS
    # And of another topic's teacher.
    named = looked(kafka, topic_name("none"), "--queries", f"{topic}.queries")
    assert waiting(named) == BATCH // ROWS + PARTITIONS
    absent = looked(kafka, topic, "--queries", topic_name("absent"))
    assert "does not exist yet: no query was written" in said(absent)
    assert looked(kafka, topic_name("plain"))["replicas"] == []


def test_the_age_of_the_weights_is_shown(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("aged")
    replica = Answering(topic, kafka)
    with queries_to(topic, kafka) as queries, student_of(topic, kafka) as student:
        loop = OnPolicy(student, queries, rows_of, batch_size=BATCH, steps=4, max_policy_lag=2)
        with served(StudentMetrics(student), OnPolicyMetrics(loop)) as port:
            for step, _ in enumerate(loop):
                if step == 2:
                    seen = looked(kafka, topic, "--metrics", port)
                    generated = loop.generated_rows
    assert seen["student"]["policy_lag"] == 2.0 and generated == 4 * BATCH
    assert "weights 2 updates old" in said(seen)
    replica.done()


def test_replicas_of_several_topics_have_no_common_group() -> None:
    result = invoke("watch", "t", "u", "--replicas", "g", "--json", "-b", "127.0.0.1:1")
    assert (result.code, result.out) == (2, "")
    assert "--replicas names the group of one teacher, and 2 topics are given" in result.err
