"""Checks that brokers and registry answer requests: an open port is not enough."""

from __future__ import annotations

import logging
import time
import urllib.error
import urllib.request
from http import HTTPStatus

_ASK_TIMEOUT_S = 1.0

# While no broker is up, the client logs that many times a second.
_quiet = logging.getLogger("tutelage.stack_probe")
_quiet.propagate = False
_quiet.addHandler(logging.NullHandler())


def brokers_answer(bootstrap_servers: str) -> bool:
    """Whether every broker answers and lists all brokers.

    Each is asked by itself: after one was killed, the others still list it for a while.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    servers = bootstrap_servers.split(",")
    for server in servers:
        admin = AdminClient({"bootstrap.servers": server}, logger=_quiet)
        try:
            found = admin.list_topics(timeout=_ASK_TIMEOUT_S)
        except KafkaException:
            return False
        if len(found.brokers) != len(servers):
            return False
    return True


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
