"""Students: streams in Kafka topics, files or memory -> merged batches of torch tensors.

Users work with `Student`; everything else is reached through it.
"""
