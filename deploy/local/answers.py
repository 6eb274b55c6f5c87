"""Whether brokers and registry answer: an open port is not enough."""

from __future__ import annotations

import logging
import time
import urllib.error
import urllib.request
from http import HTTPStatus

_ASK_TIMEOUT_S = 1.0

# The client says many times a second that nobody is there yet.
_quiet = logging.getLogger("tutelage.stack_probe")
_quiet.propagate = False
_quiet.addHandler(logging.NullHandler())


def brokers_answer(bootstrap_servers: str) -> bool:
    """Whether a client is told of all brokers."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": bootstrap_servers}, logger=_quiet)
    try:
        found = admin.list_topics(timeout=_ASK_TIMEOUT_S)
    except KafkaException:
        return False
    return len(found.brokers) == len(bootstrap_servers.split(","))


def registry_answers(registry: str) -> bool:
    """Whether the registry lists its subjects."""
    try:
        with urllib.request.urlopen(f"{registry}/subjects", timeout=_ASK_TIMEOUT_S) as response:
            return bool(response.status == HTTPStatus.OK)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        time.sleep(0.1)
        return False
