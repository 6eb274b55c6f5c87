"""Teachers: inputs -> model on its devices -> records -> Kafka topic, file or memory. `Teacher` is what users hold."""
