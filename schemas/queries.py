"""The names that queries and their answers share. Knows no broker."""

from __future__ import annotations

#: The key under which every row of queries has a number that stands for its content, int64. Its
#: answer repeats it.
QUERY_ID = "query_id"
#: The key under which every row of answers says what became of its query, int8: one of the numbers
#: below. Students read it and leave it out of their batches.
QUERY_STATUS = "query_status"
#: It was answered; it is another teacher's; it was given up, because it ended too many replicas.
#: The other keys of a row that was not answered hold zeros, or a row without elements.
ANSWERED, NOT_MINE, GIVEN_UP = 0, 1, 2
#: The key under which a query says with which weights its rows were made, int64: how many updates
#: the student had made.
POLICY_VERSION = "policy_version"


def queries_topic(topic: str) -> str:
    """The topic of the queries that the teacher of `topic` answers."""
    return f"{topic}.queries"


def replica_group(topic: str) -> str:
    """The consumer group of the replicas that answer to `topic`, unless they were told another."""
    return f"tutelage-{topic}"
