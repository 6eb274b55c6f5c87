"""The contract both sides share: records, schemas, codec, framing, registry, container files, errors.

Knows no torch, and no threads; the Kafka client only in its `kafka_*` files and the registry. `producers` and `consumers` import it;
it imports neither. It re-exports nothing, so that a command line that only prints its help need not load numpy.
"""
