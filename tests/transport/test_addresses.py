"""Where Kafka and its registry are: arguments over the environment over this machine, and every address says who named it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tutelage import KafkaSink, KafkaSource
from tutelage.schemas.errors import BrokerUnavailable, ConfigurationError, RegistryUnavailable
from tutelage.transport.addresses import (
    BOOTSTRAP_VARIABLE,
    DEFAULT_BOOTSTRAP,
    DEFAULT_REGISTRY,
    REGISTRY_VARIABLE,
    Address,
    bootstrap_address,
    registry_address,
)
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.local_registry import LocalRegistry


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (BOOTSTRAP_VARIABLE, REGISTRY_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a:1", "a:1"),
        ("a", "a"),
        (" a:1 , b:2,", "a:1,b:2"),
        (["a:1", "b:2"], "a:1,b:2"),
        (("a:1",), "a:1"),
        (["a:1,b:2", "c"], "a:1,b:2,c"),
        ("SASL_SSL://a:1", "SASL_SSL://a:1"),
        ("[::1]:9092", "[::1]:9092"),
    ],
)
def test_brokers_are_one_text_or_several(given: Any, expected: str) -> None:
    assert bootstrap_address(given) == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "empty entry"),
        ("  ,", "empty entry"),
        ([], "names no broker"),
        ((), "names no broker"),
        (["a:1", ""], "empty entry"),
        (":9092", "names no host"),
        (["a:1", ":9092"], "':9092', which names no host"),
        ("a:", "its port"),
        ("a:http", "its port"),
        ("a:0", "its port"),
        ("a:65536", "its port"),
        ("a b:1", "must be HOST:PORT"),
        ("::1:9092", "in brackets"),
        ("http://a:1", "without http://"),
        ("a:1/path", "its port"),
        (9092, "of type int"),
        (b"a:1", "of type bytes"),
        ({"a:1"}, "of type set"),
        ({"a": 1}, "of type dict"),
        (True, "of type bool"),
        (["a:1", None], "holds a NoneType"),
        ([("a", 1)], "holds a tuple"),
    ],
)
@pytest.mark.parametrize(
    "holder", [KafkaSink, KafkaSource, KafkaConnection], ids=lambda holder: holder.__name__
)
def test_what_names_no_broker_is_refused_at_the_call(holder: Any, given: Any, words: str) -> None:
    arguments = {"registry": LocalRegistry(), "bootstrap_servers": given}
    with pytest.raises(ConfigurationError, match=f"argument bootstrap_servers .*{words}"):
        holder("t", **arguments) if holder is not KafkaConnection else holder(**arguments)


def test_a_password_among_the_brokers_is_not_shown() -> None:
    with pytest.raises(ConfigurationError, match=r"sasl\.password") as told:
        bootstrap_address("me:hunter2@a:1")
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize("holder", [KafkaSink, KafkaSource], ids=lambda holder: holder.__name__)
def test_what_is_not_given_comes_from_the_environment(
    holder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def places(**arguments: Any) -> tuple[str, str]:
        made = holder("t", **arguments)._connection
        return made.where, repr(made.registry)

    default = f"{DEFAULT_BOOTSTRAP} (the default: neither bootstrap_servers nor TUTELAGE_BOOTSTRAP_SERVER is given)"
    assert places() == (default, f"HttpRegistry('{DEFAULT_REGISTRY}')")
    monkeypatch.setenv(BOOTSTRAP_VARIABLE, "env:1,env:2")
    monkeypatch.setenv(REGISTRY_VARIABLE, "http://env:8081")
    assert places() == (
        "env:1,env:2 (environment variable TUTELAGE_BOOTSTRAP_SERVER)",
        "HttpRegistry('http://env:8081')",
    )
    assert (
        places(bootstrap_servers=["given:1"], registry="http://given")[0]
        == "given:1 (argument bootstrap_servers)"
    )
    assert (
        places(bootstrap_servers="given:1", registry="http://given")[1]
        == "HttpRegistry('http://given')"
    )
    # Set and empty is not set, as for the command line.
    monkeypatch.setenv(BOOTSTRAP_VARIABLE, "")
    assert places()[0] == default


def test_a_wrong_address_in_the_environment_is_named_as_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(BOOTSTRAP_VARIABLE, ":9092")
    with pytest.raises(
        ConfigurationError,
        match="environment variable TUTELAGE_BOOTSTRAP_SERVER has the entry ':9092'",
    ):
        KafkaSink("t")
    monkeypatch.setenv(BOOTSTRAP_VARIABLE, "a:1")
    monkeypatch.setenv(REGISTRY_VARIABLE, "localhost:8081")
    with pytest.raises(
        ConfigurationError, match="environment variable TUTELAGE_REGISTRY is not a URL"
    ):
        KafkaSource("t")


def test_errors_say_who_named_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.transport.connection.BROKER_TIMEOUT_S", 0.5)
    monkeypatch.setenv(BOOTSTRAP_VARIABLE, "127.0.0.1:1")
    monkeypatch.setenv(REGISTRY_VARIABLE, "http://127.0.0.1:1")
    connection = KafkaConnection()
    with pytest.raises(
        BrokerUnavailable,
        match=r"127\.0\.0\.1:1 \(environment variable TUTELAGE_BOOTSTRAP_SERVER\)",
    ):
        connection.metadata(connection.admin(), "looking")
    with pytest.raises(
        RegistryUnavailable,
        match=r"127\.0\.0\.1:1'\) \(environment variable TUTELAGE_REGISTRY\) cannot be reached",
    ):
        connection.registry.prepare("t-value")


def test_an_option_that_names_the_brokers_is_the_address() -> None:
    made = KafkaConnection(options={"bootstrap.servers": "a:1", "linger.ms": 3})
    assert made.where == "a:1 (options['bootstrap.servers'])"
    assert KafkaConnection(options={"metadata.broker.list": "b:1"}).bootstrap_servers == "b:1"
    for also in (
        {"bootstrap_servers": "b:1"},
        {"options": {"bootstrap.servers": "a:1", "metadata.broker.list": "b:1"}},
    ):
        with pytest.raises(ConfigurationError, match="give one of them"):
            KafkaConnection(**{"options": {"bootstrap.servers": "a:1"}, **also})  # type: ignore[arg-type]  # made of parts
    with pytest.raises(
        ConfigurationError, match=r"options\['bootstrap\.servers'\] has the entry ':1'"
    ):
        KafkaConnection(options={"bootstrap.servers": ":1"})


def test_a_copy_of_an_address_keeps_who_named_it() -> None:
    again = copy.deepcopy(Address("a:1", "flag --bootstrap-server"))
    assert (again, again.origin) == ("a:1", "flag --bootstrap-server")
    assert registry_address("http://given").origin == "argument registry"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"topic": 3}, "not a topic name"),
        ({"topic": None}, "not a topic name"),
        ({"registry": 8081}, "registry is of type int"),
        ({"registry": b"http://a"}, "registry is of type bytes"),
        ({"registry": object()}, "registry is of type object"),
        ({"registry": ""}, "not a URL"),
        ({"registry": "localhost:8081"}, "not a URL"),
        ({"registry": "http://"}, "not a URL"),
        ({"registry": "http://a:port"}, "not a URL"),
        ({"registry": "ftp://a"}, "not a URL"),
        ({"options": "linger.ms=3"}, "options is of type str"),
        ({"options": [("linger.ms", 3)]}, "options is of type list"),
        ({"options": {3: 4}}, "the name of an option in options is 3"),
    ],
)
@pytest.mark.parametrize("holder", [KafkaSink, KafkaSource], ids=lambda holder: holder.__name__)
def test_arguments_of_a_wrong_kind_are_refused_at_the_call(
    holder: Any, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        holder(**{"topic": "t", **arguments})


@pytest.mark.parametrize(
    "wrong",
    [
        *({"partitions": value} for value in (0, -1, 2.0, True, "4")),
        *({"replication": value} for value in (0, -2, 1.0, "3")),
        *({"create": value} for value in ("false", None, 0)),
        *(
            {"topic_settings": value}
            for value in ("a=b", ["a"], {"retention.ms": None}, {"retention.ms": [1]}, {3: "a"})
        ),
        *(
            {"delivery_timeout_s": value}
            for value in (0, -1, float("nan"), float("inf"), "60", True)
        ),
        *({"max_ahead": value, "student_group": "g"} for value in (0, 1.5, True, "8")),
        *({"max_ahead": 8, "student_group": value} for value in ("", 3)),
        {"max_ahead": 8},
        {"student_group": "g"},
        {"student_timeout_s": 0},
        {"transactional": "no"},
    ],
    ids=str,
)
def test_arguments_of_a_sink_are_checked_at_the_call(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong)) + "|student_group"):
        KafkaSink("t", **wrong)


def test_settings_of_a_topic_may_be_numbers() -> None:
    settings: dict[str, Any] = {
        "retention.ms": 1000,
        "unclean.leader.election.enable": False,
        "cleanup.policy": "delete",
    }
    assert KafkaSink("t", topic_settings=settings)._settings.topic.settings == {
        "retention.ms": "1000",
        "unclean.leader.election.enable": "false",
        "cleanup.policy": "delete",
    }


@pytest.mark.parametrize("wrong", [{"group": ""}, {"group": 3}, {"limits": 3}, {"run": 3}], ids=str)
def test_arguments_of_a_source_are_checked_at_the_call(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        KafkaSource("t", **wrong)
