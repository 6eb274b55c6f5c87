"""Who is in a consumer group, and which partitions each member has."""

from __future__ import annotations

from typing import Any

from confluent_kafka.admin import AdminClient

from tutelage.transport.connection import BROKER_TIMEOUT_S, KafkaConnection


def group_members(
    connection: KafkaConnection, group: str, topic: str, *, admin: AdminClient | None = None
) -> list[tuple[str, str, list[int]]]:
    """Return the client id, the host and the partitions of each member of a group.

    Args:
        connection: How the cluster is reached.
        group: The group.
        topic: The topic whose partitions are meant.
        admin: Asks; None for a client that is made for it.

    Raises:
        AccessDenied: This client may not see the group.
        TransportError: The brokers did not say.
    """
    # Kept until the answer is there: a client that is collected never answers. Not `or`: a client
    # with an empty queue is falsy.
    if admin is None:
        admin = connection.admin()
    future = admin.describe_consumer_groups([group], request_timeout=BROKER_TIMEOUT_S)[group]
    found: Any = connection.resolved(future, f"asking who is in group {group}")
    return [
        (
            str(member.client_id),
            str(member.host),
            sorted(
                part.partition
                for part in (member.assignment.topic_partitions if member.assignment else ())
                if part.topic == topic
            ),
        )
        for member in found.members
    ]
