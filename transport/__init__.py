"""Kafka and the schema registry: clients, topics, runs, offsets, commits, control messages.

The only importer of `confluent_kafka`. Both sides import it; it imports only `schemas`, and no
torch.
"""
