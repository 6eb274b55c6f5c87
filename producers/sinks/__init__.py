"""Where a teacher's records go: a Kafka topic, a file, memory."""
