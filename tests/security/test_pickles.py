"""What is pickled holds no passwords; a process that is being started gets them all the same."""

from __future__ import annotations

import copy
import multiprocessing
import pickle  # noqa: TID251 - what users' own tools do with a source
import re
from collections.abc import Callable
from typing import Any

import pytest

from tutelage import KafkaSink, KafkaSource, Student
from tutelage.schemas.errors import ConfigurationError
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.http_registry import HttpRegistry

PASSWORD = "hunter2-4711"
OPTIONS = {
    "security.protocol": "SASL_SSL",
    "sasl.username": "me",
    "sasl.password": PASSWORD,
    "ssl.key.pem": PASSWORD,
}


def registry() -> HttpRegistry:
    return HttpRegistry(
        f"https://127.0.0.1:1/?apikey={PASSWORD}",
        settings={"basic.auth.user.info": f"me:{PASSWORD}"},
    )


def source() -> KafkaSource:
    return KafkaSource("t", bootstrap_servers="127.0.0.1:1", registry=registry(), options=OPTIONS)


def student() -> Student:
    made = Student()
    made.register_teacher(source())
    return made


@pytest.mark.parametrize(
    "make",
    [
        registry,
        lambda: HttpRegistry(f"https://me:{PASSWORD}@127.0.0.1:1"),
        lambda: HttpRegistry("https://127.0.0.1:1", settings={"bearer.auth.token": PASSWORD}),
        lambda: HttpRegistry(
            "https://127.0.0.1:1", settings={"proxy": f"http://me:{PASSWORD}@127.0.0.1:2"}
        ),
        lambda: KafkaConnection("127.0.0.1:1", registry=registry(), options=OPTIONS),
        lambda: KafkaSink(
            "t", bootstrap_servers="127.0.0.1:1", registry=registry(), options=OPTIONS
        ),
        source,
        student,
    ],
    ids=["registry", "user in URL", "token", "proxy", "connection", "sink", "source", "student"],
)
def test_a_pickle_holds_no_password(make: Callable[[], Any]) -> None:
    made = make()
    pickled = pickle.dumps(made)
    assert PASSWORD.encode() not in pickled
    # A second round, of what has none any more, changes nothing.
    assert PASSWORD.encode() not in pickle.dumps(pickle.loads(pickled))  # noqa: S301 - made here


def test_what_was_pickled_says_what_it_lacks_when_it_is_used() -> None:
    copied = pickle.loads(pickle.dumps(registry()))  # noqa: S301 - made here
    with pytest.raises(
        ConfigurationError, match=r"basic\.auth\.user\.info, the query of its URL is missing"
    ):
        copied.connect()
    connection = pickle.loads(pickle.dumps(source())).connection  # noqa: S301 - made here
    with pytest.raises(ConfigurationError, match=r"sasl\.password, ssl\.key\.pem is missing"):
        connection.admin()


def test_what_has_no_secrets_is_pickled_whole() -> None:
    plain = KafkaConnection(
        "127.0.0.1:1", registry=HttpRegistry("https://127.0.0.1:1"), options={"client.rack": "a"}
    )
    copied = pickle.loads(pickle.dumps(plain))  # noqa: S301 - made here
    copied.registry.connect()
    copied.registry.close()
    client = copied.admin()
    del client


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_in_this_process_keeps_its_secrets(copied: Callable[[Any], Any]) -> None:
    made = copied(registry())
    made.connect()
    made.close()
    assert copied(source().connection)._options == OPTIONS


def _seen_by_child(made: KafkaSource, answers: Any) -> None:
    asked = made.connection.registry
    assert isinstance(asked, HttpRegistry)
    found = made.connection._options["sasl.password"], asked._settings["basic.auth.user.info"]
    answers.put(found == (PASSWORD, f"me:{PASSWORD}"))


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_process_that_is_started_has_the_secrets(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    answers = context.Queue()
    child = context.Process(target=_seen_by_child, args=(source(), answers))
    child.start()
    assert answers.get(timeout=120)
    child.join(60)
    assert child.exitcode == 0


def test_a_password_shows_in_no_repr() -> None:
    shown = "".join(map(repr, (registry(), source(), source().connection, student())))
    assert not re.search(PASSWORD, shown)
