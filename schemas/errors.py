"""Every error Tutelage raises on purpose, in one tree, branched by who must act.

TutelageError
├── ConfigurationError        the caller: change the call, the flags or the file name
│   ├── BatchTooLarge         a batch would take more memory than allowed
│   ├── SinkExists            the output is there already
│   └── MergeError            keys of several teachers that cannot be merged as asked
├── SchemaError               whoever owns the schema
│   ├── DescriptionChanged    keys, dtypes or shapes differ from what the stream promised
│   ├── UnsupportedSchema     an Avro schema outside the closed shape
│   └── UnsupportedFormat     records of another version of the format
├── TransportError            whoever runs the broker, the registry or the network
│   ├── AccessDenied          who is not let in, or may not do this
│   ├── BrokerUnavailable
│   ├── RegistryUnavailable
│   ├── DeliveryFailed
│   └── RecordTooLarge
├── WaitTimeout               nobody came: the message says what was waited for
└── DataError                 the data are not what was written
    ├── CorruptData           bytes that do not decode, or fail their checksum
    ├── TruncatedData         a file or stream that ends before its end record
    ├── SequenceGap           a record is missing
    ├── RunMismatch           records of another run, partition count or schema
    ├── LengthMismatch        teachers of different length
    ├── SampleMismatch        sample ids that differ between teachers
    ├── TopicIdentityError    the topic is not the one of the checkpoint
    └── RetentionLoss         records deleted before they were read

Messages say what is wrong, where (topic, partition, offset; file, block, byte) and what to do next.
"""

from __future__ import annotations

from tutelage.schemas.printable import printable


class TutelageError(Exception):
    """Base of all errors that are Tutelage's own. `exit_code` is what the command line exits with.

    As text it is one printable line, whatever keys, names or answers of others it quotes: logs and notebooks show it as it is.
    """

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigurationError(TutelageError):
    """The call asks for something that cannot be done; nothing was written."""

    exit_code = 2


class BatchTooLarge(ConfigurationError):
    """A batch would take more memory than `Limits.batch_bytes` allows; none of it was taken."""


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
    """Records, a topic or a file of another version of the format than this Tutelage reads."""


class TransportError(TutelageError):
    """The broker, the registry or the network failed."""

    exit_code = 4


class AccessDenied(TransportError):
    """A broker or registry does not let this client in, or not do this; the message says what to look at."""


class BrokerUnavailable(TransportError):
    """No Kafka broker answered."""


class RegistryUnavailable(TransportError):
    """The schema registry did not answer, or refused."""


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


class TopicIdentityError(DataError):
    """The topic or cluster is not the one a checkpoint was taken from."""


class RetentionLoss(DataError):
    """The broker deleted records before they were read."""


class WaitTimeout(TutelageError):
    """A wait ran out; the message says what was waited for."""

    exit_code = 6
