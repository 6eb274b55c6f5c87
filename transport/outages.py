"""Repeats requests to brokers while they are unavailable or do not know a new topic yet."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import KafkaError

from tutelage.schemas.errors import BrokerUnavailable, TransportError, WaitTimeout
from tutelage.transport.client_errors import error_code
from tutelage.transport.waiting import Wait

Answer = TypeVar("Answer")

_AGAIN_S = 0.5
#: Transient errors: the broker returns them until a partition has a leader.
TRANSIENT = frozenset(
    (
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        # No leaders found.
        KafkaError._NOENT,
    )
)


def is_outage(error: BaseException) -> bool:
    """Whether an error is transient: brokers are unavailable, or a partition has no leader."""
    return isinstance(error, BrokerUnavailable) or (
        isinstance(error, TransportError)
        and error_code(error.__cause__) in TRANSIENT - {KafkaError.UNKNOWN_TOPIC_OR_PART}
    )


def through_outages(ask: Callable[[], Answer], wait: Wait) -> Answer:
    """Return the result of `ask`, which is called again while brokers are unavailable.

    Raises:
        TransportError: `ask` failed with an error that is not transient, or with a transient one
            until the wait was over.
    """
    while True:
        try:
            return ask()
        except TransportError as error:
            if not is_outage(error):
                raise
            try:
                wait.tick()
            except WaitTimeout as over:
                raise type(error)(f"{error}; {over}") from error
        time.sleep(_AGAIN_S)


def once_known(ask: Callable[[], Answer], wait: Wait) -> Answer:
    """Return the result of `ask` about an existing topic, called again while it is empty.

    Some brokers learn of a new topic a moment later than others.
    """
    while not (found := through_outages(ask, wait)):
        wait.tick()
        time.sleep(_AGAIN_S / 5)
    return found
