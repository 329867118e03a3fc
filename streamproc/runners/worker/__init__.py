"""The worker: its part of the tasks of a topology, on Kafka."""
