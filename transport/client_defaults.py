"""Our defaults for librdkafka's options. What the user gives takes precedence."""

from __future__ import annotations

PRODUCER_DEFAULTS: dict[str, object] = {
    "enable.idempotence": True,
    "acks": "all",
    # With idempotence, one request in flight per broker was 1.4 times as fast as five (study:
    # performance).
    "max.in.flight.requests.per.connection": 1,
    "linger.ms": 1,
    "batch.size": 1048576,
    "queue.buffering.max.kbytes": 65536,
    # The topic's limit is the one that counts. The sink checks it and has a better message.
    "message.max.bytes": 1000000000,
    # Never give up on a message, because that would be a gap. The sink has its own watchdog.
    "message.timeout.ms": 0,
}
CONSUMER_DEFAULTS: dict[str, object] = {
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "allow.auto.create.topics": False,
    # The default of 1000 ms stalls a full queue for a second each time (librdkafka#2879).
    "fetch.queue.backoff.ms": 2,
    "fetch.wait.max.ms": 100,
    # No group is joined, but a commit waits this long for a coordinator, which may never be found.
    # 6 s is the least allowed.
    "session.timeout.ms": 6000,
    "fetch.max.bytes": 67108864,
    "queued.max.messages.kbytes": 65536,
    "queued.min.messages": 100000,
    # The largest response, and the largest size to which a zstandard batch is unpacked: the client
    # has no other limit for that, and triples its buffer until a batch fits (librdkafka,
    # rdkafka_zstd.c). Brokers take no batch of more than 100 MiB unless told to
    # (socket.request.max.bytes).
    "receive.message.max.bytes": 335544320,
    "check.crcs": True,
}

#: One batch of messages a fetch, and none while there is one.
NOTHING_AHEAD: dict[str, object] = {"fetch.message.max.bytes": 1, "queued.min.messages": 1}

# Per partition and fetch: the fastest for few partitions (study: performance). With many, all
# together fetch at most four times as much.
_FETCH_BYTES = 8 << 20
# So that a fetch holds a whole number of records or batches of 2^n bytes and what surrounds them.
_ROOM_BYTES = 64 << 10
# Of smaller records a batch is nearly as large as a producer makes it, whatever their size.
_SMALL_BYTES = 64 << 10
_BATCH_BYTES = 1 << 20


def fetch_bytes(partitions: int, record_bytes: int = 0) -> int:
    """Return how many bytes a consumer of so many partitions fetches of each at once.

    A broker cuts what it sends of a partition at this size, in the middle of a batch if need be.
    The client drops a batch that was cut, and fetches it again. So this is a whole number of
    batches, where their size is known.

    Args:
        partitions: The partitions that are read.
        record_bytes: The size of a record in the topic; 0 if it is not known.
    """
    most = max(1 << 20, min(_FETCH_BYTES, 4 * _FETCH_BYTES // max(1, partitions))) + _ROOM_BYTES
    if not _SMALL_BYTES <= record_bytes <= most:
        return most
    batch_bytes = max(1, _BATCH_BYTES // record_bytes) * record_bytes
    return most // batch_bytes * batch_bytes
