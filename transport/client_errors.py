"""Errors of the Kafka client: their codes, messages and what to do about them."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from tutelage.schemas.printable import printable

#: The broker knows the client, but does not authorize the request.
DENIED = frozenset(
    (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    )
)
NEEDS_ACL = "Its user needs an ACL for that: docs/security.md lists them"


def error_code(error: BaseException | None) -> int | None:
    """Return the code of a Kafka error; None for other errors."""
    inner = error.args[0] if isinstance(error, KafkaException) and error.args else None
    return inner.code() if isinstance(inner, KafkaError) else None


def access_advice(reason: str) -> str:
    """What to do about a rejected connection, by the client's message."""
    if "certificate verify failed" in reason or "broker certificate" in reason:
        return (
            "Its certificate is expired, for another host, or not signed by an authority that this "
            "client trusts: ssl.ca.location names the authority to trust"
        )
    if "ssl" in reason.lower() and "SASL" not in reason:
        return (
            "Check security.protocol and the ssl.* options: does this listener speak TLS, and does "
            "it "
            "require a certificate?"
        )
    if "OAUTHBEARER" in reason:
        return "Check sasl.oauthbearer.*: token endpoint, client id and secret (docs/security.md)"
    return (
        "Check security.protocol, sasl.mechanism, sasl.username and sasl.password "
        "(docs/security.md)"
    )


def describe(error: BaseException | KafkaError) -> str:
    """Return a Kafka error's message, without the C struct around it."""
    inner = error.args[0] if isinstance(error, KafkaException) and error.args else error
    return printable((inner.str() if isinstance(inner, KafkaError) else str(inner)).rstrip("."))
