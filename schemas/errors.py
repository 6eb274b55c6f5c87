"""Every error Tutelage raises on purpose, in one tree, branched by who must act.

TutelageError
├── ConfigurationError        the caller: change the call, the flags or the file name
│   ├── BatchTooLarge         a batch would take more memory than allowed
│   ├── SinkExists            the output exists already
│   └── MergeError            the keys of several teachers cannot be merged as asked
├── SchemaError               whoever owns the schema
│   ├── DescriptionChanged    keys, dtypes or shapes differ from what the stream promised
│   ├── UnsupportedSchema     an Avro schema outside the closed shape
│   └── UnsupportedFormat     records of another version of the format
├── TransportError            whoever runs the broker, the registry or the network
│   ├── AccessDenied          the client is not authenticated, or not authorized
│   ├── BrokerUnavailable     no broker answered
│   ├── RegistryUnavailable   the registry did not answer, or rejected the request
│   ├── DeliveryFailed        a record could not be delivered
│   └── RecordTooLarge        a record is larger than its topic allows
├── WaitTimeout               a wait timed out: the message says what was waited for
└── DataError                 the data are not what was written
    ├── CorruptData           bytes that do not decode, or fail their checksum
    ├── TruncatedData         a file or stream that ends before its end record
    ├── SequenceGap           a record is missing
    ├── RunMismatch           records of another run, partition count or schema
    ├── LengthMismatch        teachers of different length
    ├── SampleMismatch        sample ids that differ between teachers
    ├── QueryUnanswered       a query that no teacher answered, or that ended its replicas
    ├── TopicIdentityError    the topic is not the one of the checkpoint
    └── RetentionLoss         records deleted before they were read

Messages say what is wrong, where (topic, partition, offset; file, block, byte) and what to do next.
"""

from __future__ import annotations

from tutelage.schemas.printable import printable


class TutelageError(Exception):
    """The base of Tutelage's own errors. The command line exits with `exit_code`.

    The text is one printable line, whatever keys, names and foreign answers it quotes, so that logs
    and notebooks show it as it is.
    """

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigurationError(TutelageError):
    """The call asks for something impossible; nothing was written."""

    exit_code = 2


class BatchTooLarge(ConfigurationError):
    """A batch would take more memory than `Limits.batch_bytes` allows; none was allocated."""


class SinkExists(ConfigurationError):
    """The file or topic to write holds a finished or different run."""


class MergeError(ConfigurationError):
    """Keys of several teachers cannot be merged as asked."""


class SchemaError(TutelageError):
    """A schema or description is not what it must be."""

    exit_code = 3


class DescriptionChanged(SchemaError):
    """Keys, dtypes or shapes differ from what the stream promised."""


class UnsupportedSchema(SchemaError):
    """An Avro schema that is not a knowledge schema."""


class UnsupportedFormat(SchemaError):
    """Records, a topic or a file of a version of the format that this Tutelage does not read."""


class TransportError(TutelageError):
    """The broker, the registry or the network failed."""

    exit_code = 4


class AccessDenied(TransportError):
    """A broker or registry denied access to this client; the message says what to check."""


class BrokerUnavailable(TransportError):
    """No Kafka broker answered."""


class RegistryUnavailable(TransportError):
    """The schema registry did not answer, or rejected the request."""


class DeliveryFailed(TransportError):
    """A record could not be delivered; the teacher stopped so that no gap can arise."""


class RecordTooLarge(TransportError):
    """A record exceeds the limit of its topic."""


class DataError(TutelageError):
    """What was read is not what a teacher wrote."""

    exit_code = 5


class CorruptData(DataError):
    """Bytes that do not decode, or whose checksum differs."""


class TruncatedData(DataError):
    """A file or stream that ends before its end record."""


class SequenceGap(DataError):
    """A record is missing."""


class RunMismatch(DataError):
    """A record of another run, partition count or schema."""


class LengthMismatch(DataError):
    """Teachers of different length."""


class SampleMismatch(DataError):
    """Sample ids differ between teachers at one position."""


class QueryUnanswered(DataError):
    """A query was given up because it ended its replicas, or no teacher answers such queries."""


class TopicIdentityError(DataError):
    """The topic or cluster is not the one a checkpoint was taken from."""


class RetentionLoss(DataError):
    """The broker deleted records before they were read."""


class WaitTimeout(TutelageError):
    """A wait timed out; the message says what was waited for."""

    exit_code = 6
