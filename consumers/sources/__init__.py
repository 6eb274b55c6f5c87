"""Where a student's records come from: a Kafka topic, a file or memory."""
