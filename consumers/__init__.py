"""Students: Kafka topic, file or memory -> ordered, aligned, merged batches of torch tensors. `Student` is what users hold."""
