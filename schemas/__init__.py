"""The contract of both sides: records, descriptions, Avro schemas, codec, container files, errors.

Knows no torch, sockets, clients, threads or clocks. Re-exports nothing, so that a command that only
prints its help does not load numpy.
"""
