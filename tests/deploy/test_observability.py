"""Every query of the dashboard and the alerts asks for what a real run shows, by the labels it has."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from support.asking import BATCH, Answering, queries_to, rows_of
from support.generated_docs import from_code
from support.watched_run import watched_run

from tutelage.producers.metrics import TeacherMetrics

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "observability"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "tutelage.json"
# Prometheus adds these to whatever it scrapes.
ADDED = {"job", "instance"}


def dashboard_queries() -> list[tuple[str, str, str]]:
    """Panel, query and legend of each, with the dashboard's variables as Grafana would fill them in."""
    found = []
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$__rate_interval", "1m")
            found.append(
                (
                    panel["title"],
                    re.sub(r"\$(student|teacher)", ".*", query),
                    target["legendFormat"],
                )
            )
    return found


def alert_queries() -> list[tuple[str, str, str]]:
    """Name, query and what is said, of each alert."""
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [
        (rule["alert"], rule["expr"], json.dumps(rule["annotations"]))
        for group in groups
        for rule in group["rules"]
    ]


QUERIES = dashboard_queries() + alert_queries()


def selectors(node: Any) -> Iterator[tuple[str, set[str]]]:
    """Every metric a query asks for, with the labels it asks by."""
    if isinstance(node, promql_parser.VectorSelector):
        assert node.name is not None, "every query here names its metric"
        yield node.name, {matcher.name for matcher in node.matchers.matchers}
        return
    children = [
        getattr(node, name, None) for name in ("expr", "lhs", "rhs", "vector_selector", "param")
    ]
    children += list(getattr(node, "args", None) or [])
    for child in children:
        if child is not None and not isinstance(child, (str, float, int)):
            yield from selectors(child)


@pytest.fixture(scope="module")
def shown(addresses: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Metric -> its labels, of a real teacher and student."""
    import os

    environment = {
        **os.environ,
        "TUTELAGE_BOOTSTRAP_SERVER": addresses.bootstrap_servers,
        "TUTELAGE_REGISTRY": addresses.registry,
    }
    found: dict[str, set[str]] = {}
    with watched_run(environment, "observed", tmp_path_factory.mktemp("observed")) as run:
        deadline = time.monotonic() + 60
        # The ends of partitions, and what follows from them, are there from the second look on.
        while "tutelage_consumer_lag_records" not in found and time.monotonic() < deadline:
            for port in (run.teacher, run.student):
                for sample in run.samples(port):
                    found.setdefault(sample.name, set()).update(sample.labels)
            time.sleep(0.1)
    kafka = {"bootstrap_servers": addresses.bootstrap_servers, "registry": addresses.registry}
    for family in answered("observed-queries", kafka):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def answered(topic: str, kafka: dict[str, Any]) -> list[Any]:
    """What a replica shows that has answered some queries."""
    replica = Answering(topic, kafka)
    with queries_to(topic, kafka) as queries:
        queries.write(rows_of(0))
        queries.end()
    assert replica.done().rows == BATCH
    return list(TeacherMetrics(replica.teacher).collect())


@pytest.mark.parametrize(
    ("where", "query", "said"),
    QUERIES,
    ids=[f"{where}: {query[:40]}" for where, query, _ in QUERIES],
)
def test_a_query_asks_for_what_there_is(
    where: str, query: str, said: str, shown: dict[str, set[str]]
) -> None:
    wanted = list(selectors(promql_parser.parse(query)))
    assert wanted, query
    labels: set[str] = set()
    for name, asked_by in wanted:
        assert name in shown, f"{where}: nothing shows {name}"
        assert asked_by <= shown[name] | ADDED, (
            f"{where}: {name} has no labels {asked_by - shown[name]}"
        )
        labels |= shown[name] | ADDED
    grouped = re.findall(r"\bby \(([^)]*)\)", query)
    left = {label.strip() for group in grouped for label in group.split(",")} if grouped else labels
    assert left <= labels, f"{where}: grouped by {left - labels}"
    named = set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", said))
    assert named <= left, f"{where}: says {named - left}, which its result does not have"


def test_the_dashboard_answers_the_four_questions() -> None:
    rows = [
        panel["title"]
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        if panel["type"] == "row"
    ]
    assert rows[:4] == [
        "Is the student starving?",
        "Which teacher is the slow one?",
        "How far behind?",
        "Is anything being dropped, or stuck?",
    ]


def test_every_metric_is_documented_and_every_documented_one_is_shown(
    shown: dict[str, set[str]],
) -> None:
    documented = set(
        re.findall(
            r"`(tutelage_(?:producer|consumer|checkpoint|replica)_\w+)`", from_code().metrics()
        )
    )
    families = {
        re.sub(r"_(bucket|count|sum|created)$", "", name)
        for name in shown
        if name.startswith("tutelage_")
    }
    assert documented == families


def test_a_query_for_what_is_not_there_would_be_found(shown: dict[str, set[str]]) -> None:
    with pytest.raises(AssertionError, match="nothing shows tutelage_consumer_typo"):
        test_a_query_asks_for_what_there_is(
            "planted", "rate(tutelage_consumer_typo[1m])", "", shown
        )
    with pytest.raises(AssertionError, match="has no labels"):
        test_a_query_asks_for_what_there_is(
            "planted", 'tutelage_consumer_lag_records{shard="1"}', "", shown
        )
    with pytest.raises(AssertionError, match="does not have"):
        test_a_query_asks_for_what_there_is(
            "planted", "sum by (teacher) (tutelage_consumer_lag_records)", "{{partition}}", shown
        )
