"""The contract both sides share: records, descriptions, Avro schemas, codec, framing, container files, errors.

Knows no torch, sockets, clients, threads or clocks. It re-exports nothing, so that a command line that only prints its help need not
load numpy.
"""
